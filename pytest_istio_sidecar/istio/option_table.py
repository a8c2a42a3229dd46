"""The options of istio-iptables, a row each: what one may hold, and how a pod asks for it.

Knows names, flags, variables, annotations and releases. Does not know what rules come of an option, nor
how a pod is read. A new option is a row here, its keyword in `OptionFields`, and what `rules` makes of it.

Source: istio/istio tools/istio-iptables/pkg/cmd/root.go, tools/common/config, cni/pkg/plugin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import messages, ports
from pytest_istio_sidecar.istio import option_kinds as kinds
from pytest_istio_sidecar.istio.versions import Number

Several = str | int | Sequence[str | int]
"""A list as Istio writes it ("80,8080", "*", ""), or a sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What is known of one option.

    Attributes:
        name: its field's.
        default: what it holds unset, which is what the injection template passes; None: what it is then
            depends on the release, on who installs the rules, or on the pod.
        kind: what it may hold.
        flags: of istio-iptables; a long one names a variable too.
        other_variables: of istio-iptables, that have another name than its flag's.
        annotations: of a pod, of which istio-cni heeds the last that is there.
        since: the release that began with it; in an older one it changes nothing.
        program_default: what istio-iptables takes where neither flag nor variable says anything; None: as
            unset. Templates always say it.
        words: with which a pod asks for it, where they are neither the annotation nor a variable of another
            name; "": none.
    """

    name: str
    default: str | bool | None
    kind: kinds.Kind
    flags: tuple[str, ...] = ()
    other_variables: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()
    since: Number = (1, 5, 0)
    program_default: str | None = None
    words: str | None = None

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of istio-iptables that set it; a later one counts more.

        Those of its flags come of themselves: `--proxy-uid` is PROXY_UID (pkg/flag, BindEnv; viper's
        AutomaticEnv before 1.21).
        """
        long = (flag for flag in self.flags if flag.startswith("--"))
        own = (flag.removeprefix("--").replace("-", "_").upper() for flag in long)
        return (*own, *self.other_variables)

    @property
    def asked_by(self) -> str:
        """How messages name what a pod asks with: an annotation without its prefix, or a variable."""
        if self.words is not None:
            return self.words
        names = (*self.annotations, *self.other_variables, self.name)
        return names[0].rpartition("/")[2]


def _option(
    default: str | bool | None,
    kind: kinds.Kind,
    flags: str = "",
    *,
    variables: str = "",
    annotations: str = "",
    **more: object,
) -> Any:
    """A row: what `Option` has but for the name; several flags, variables or annotations are one text."""
    row = {
        "default": default,
        "kind": kind,
        "flags": tuple(flags.split()),
        "other_variables": tuple(variables.split()),
        "annotations": tuple(annotations.split()),
    }
    return field(default=default, metadata={**row, **more})


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionValues:
    """A value of every option.

    Raises:
        UsageProblem: one that istio-iptables or iptables-restore would refuse.
    """

    # fmt: off
    proxy_port: str = _option(str(ports.OUTBOUND), kinds.envoy_port, "-p --envoy-port")
    """Envoy's port for outbound connections."""
    inbound_capture_port: str = _option(str(ports.INBOUND), kinds.envoy_port, "-z --inbound-capture-port")
    """Envoy's port for inbound ones."""
    inbound_tunnel_port: str = _option(
        str(ports.TUNNEL), kinds.port, "-e --inbound-tunnel-port", since=(1, 7, 0))
    """The port that is left to the HBONE tunnel."""
    proxy_uid: str = _option(str(ports.PROXY_ID), kinds.users, "-u --proxy-uid")
    """Users whose packets may leave; empty: 1337."""
    proxy_gid: str = _option(str(ports.PROXY_ID), kinds.groups, "-g --proxy-gid")
    """Groups whose packets may leave; empty: as the users."""
    inbound_interception_mode: str = _option(
        "REDIRECT", kinds.one_of("REDIRECT", "TPROXY", "NONE"), "-m --istio-inbound-interception-mode",
        annotations="sidecar.istio.io/interceptionMode")
    """REDIRECT, TPROXY, or NONE: the pod has no rules."""
    inbound_tproxy_mark: str = _option(str(ports.PROXY_ID), kinds.mark, "-t --istio-inbound-tproxy-mark")
    """The mark of packets that TPROXY takes."""
    inbound_tproxy_route_table: str = _option(
        "133", kinds.routing_table, "-r --istio-inbound-tproxy-route-table")
    """The routing table in which what bears the mark is looked up."""
    inbound_ports_include: str = _option(
        kinds.ALL, kinds.ports_or_all, "-b --istio-inbound-ports",
        annotations="traffic.sidecar.istio.io/includeInboundPorts", program_default="")
    """Captured inbound ports, all, or none."""
    inbound_ports_exclude: str | None = _option(
        None, kinds.ports_beside, "-d --istio-local-exclude-ports",
        annotations="traffic.sidecar.istio.io/excludeInboundPorts", program_default="")
    """Inbound ports left out when all are captured. None: the template's for the release, as Istio's own
    must stay reachable; "+8443": these and that one, as where a pod's annotation asks for it."""
    outbound_ip_ranges_include: str = _option(
        kinds.ALL, kinds.ranges_or_all, "-i --istio-service-cidr",
        annotations="traffic.sidecar.istio.io/includeOutboundIPRanges", program_default="")
    """Captured destinations in CIDR, all, or none."""
    outbound_ip_ranges_exclude: str = _option(
        "", kinds.ranges, "-x --istio-service-exclude-cidr",
        annotations="traffic.sidecar.istio.io/excludeOutboundIPRanges")
    """Destinations in CIDR that are left alone."""
    outbound_ports_include: str = _option(
        "", kinds.ports, "-q --istio-outbound-ports",
        annotations="traffic.sidecar.istio.io/includeOutboundPorts", since=(1, 7, 0))  # istio/istio#23941
    """Outbound ports that are captured whatever the destination."""
    outbound_ports_exclude: str | None = _option(
        None, kinds.ports, "-o --istio-local-outbound-ports-exclude",
        annotations="traffic.sidecar.istio.io/excludeOutboundPorts")
    """Outbound ports that are left alone. None: none, and with istio-cni the agent's."""
    kube_virt_interfaces: str = _option(
        "", kinds.interfaces, "-k --kube-virt-interfaces",
        annotations="traffic.sidecar.istio.io/kubevirtInterfaces istio.io/reroute-virtual-interfaces")
    """Interfaces whose inbound traffic is a virtual machine's outbound."""
    exclude_interfaces: str = _option(
        "", kinds.interfaces, "-c --istio-exclude-interfaces",
        annotations="traffic.sidecar.istio.io/excludeInterfaces",
        since=(1, 11, 3))  # istio/istio#34832, #35003
    """Interfaces that are left alone in both directions."""
    owner_groups_include: str = _option(
        kinds.ALL, kinds.captured_groups, variables="ISTIO_OUTBOUND_OWNER_GROUPS",
        since=(1, 14, 0))  # istio/istio#37057
    """Groups whose outbound traffic is captured, by number or name, or all."""
    owner_groups_exclude: str = _option(
        "", kinds.owner_groups, variables="ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", since=(1, 14, 0))
    """Groups whose outbound traffic is not; they count only where all are included."""
    host_ipv4_loopback_cidr: str = _option(
        "127.0.0.1/32", kinds.loopback_range, variables="ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
        since=(1, 21, 0))  # istio/istio#48045
    """What counts as this host."""
    redirect_dns: bool = _option(
        False, kinds.truth, "--redirect-dns", words="ISTIO_META_DNS_CAPTURE", since=(1, 6, 0))
    """DNS goes to the agent (in 1.6 DNS_CAPTURE asks for it, and it goes to Envoy; in 1.7 DNS_AGENT does)."""
    dns_by_envoy: bool = _option(
        False, kinds.truth, words="ISTIO_META_DNS_CAPTURE without DNS_AGENT", since=(1, 7, 0))
    """Of 1.7 only: DNS goes to Envoy's 15013, unless `redirect_dns` has it go to the agent
    (ISTIO_META_DNS_CAPTURE, whatever its value)."""
    capture_all_dns: bool | None = _option(
        None, kinds.truth, "--capture-all-dns", since=(1, 11, 0))  # istio/istio#32416
    """All DNS, not only what goes to the servers of resolv.conf. None: with istio-cni."""
    dns_servers_v4: str = _option("", kinds.ipv4_addresses)
    """The IPv4 servers of resolv.conf."""
    dns_servers_v6: str = _option("", kinds.ipv6_addresses)
    """The IPv6 ones."""
    drop_invalid: bool = _option(
        False, kinds.truth, "--drop-invalid", variables="INVALID_DROP", since=(1, 12, 2))  # istio/istio#36566
    """Drop what conntrack calls INVALID."""
    enable_ipv6: bool | None = _option(None, kinds.truth, words="")
    """Whether ip6tables is programmed. None: where IPv6 rules are asked for, yes."""
    mode: Literal["init", "cni"] = _option("init", kinds.one_of("init", "cni"), words="")
    """init, or cni: installed by istio-cni, whose defaults are others."""
    # fmt: on

    def __post_init__(self) -> None:
        for option in OPTIONS:
            value = getattr(self, option.name)
            if value is not option.default:
                object.__setattr__(self, option.name, option.kind(option.name, value))
        if self.proxy_port == self.inbound_capture_port:
            raise UsageProblem(messages.SAME_PORT(port=self.proxy_port))
        if not self.proxy_uid:
            object.__setattr__(self, "proxy_uid", str(ports.PROXY_ID))
        if not self.proxy_gid:
            object.__setattr__(self, "proxy_gid", self.proxy_uid)


OPTIONS = tuple(Option(name=row.name, **row.metadata) for row in fields(OptionValues))


class OptionFields(TypedDict, total=False):
    """The fields of `IstioOptions`, for functions that take them as keywords."""

    proxy_port: str | int
    inbound_capture_port: str | int
    inbound_tunnel_port: str | int
    proxy_uid: Several
    proxy_gid: Several
    inbound_interception_mode: str
    inbound_tproxy_mark: str | int
    inbound_tproxy_route_table: str | int
    inbound_ports_include: Several
    inbound_ports_exclude: Several | None
    outbound_ip_ranges_include: Several
    outbound_ip_ranges_exclude: Several
    outbound_ports_include: Several
    outbound_ports_exclude: Several | None
    kube_virt_interfaces: Several
    exclude_interfaces: Several
    owner_groups_include: Several
    owner_groups_exclude: Several
    host_ipv4_loopback_cidr: str
    redirect_dns: bool
    dns_by_envoy: bool
    capture_all_dns: bool | None
    dns_servers_v4: Several
    dns_servers_v6: Several
    drop_invalid: bool
    enable_ipv6: bool | None
    mode: Literal["init", "cni"]
