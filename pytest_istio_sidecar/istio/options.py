"""The options of istio-iptables: what a pod asks istio-init for.

Knows their names, what they may hold and what they stand for unset. Does not know what
rules come of them, nor where a pod keeps them. Invariant: what Istio would refuse is refused here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Literal, Self, TypedDict

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import messages

Network = IPv4Network | IPv6Network
Several = str | int | Sequence[str | int]
"""A list as Istio writes it ("80,8080", "*", ""), or a sequence."""

ALL = "*"
_MOST_GROUPS = 64
"""Owner groups that istio-iptables includes at most (tools/common/config/validation.go)."""
_GROUPS = {
    "root": 0, "daemon": 1, "bin": 2, "sys": 3, "adm": 4, "tty": 5, "disk": 6, "lp": 7, "mail": 8,
    "news": 9, "uucp": 10, "man": 12, "proxy": 13, "kmem": 15, "dialout": 20, "fax": 21, "voice": 22,
    "cdrom": 24, "floppy": 25, "tape": 26, "sudo": 27, "audio": 29, "dip": 30, "www-data": 33,
    "backup": 34, "operator": 37, "list": 38, "irc": 39, "src": 40, "shadow": 42, "utmp": 43,
    "video": 44, "sasl": 45, "plugdev": 46, "staff": 50, "games": 60, "users": 100,
    "nogroup": 65534, "istio-proxy": 1337,
}  # fmt: skip
"""Groups that the proxy image knows by name: those of Debian and Ubuntu (package base-passwd,
group.master), and its own. iptables-restore looks names up in there."""
_MODES = ("REDIRECT", "TPROXY", "NONE")
_RANGE = re.compile(r"(\d{1,5})(?::(\d{1,5}))?")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class IstioOptions:
    """What `istio-iptables` is told; unset, what the injection template passes.

    Every list is held as Istio writes it, whatever it was given as.

    Attributes:
        proxy_port: Envoy's port for outbound connections (`-p`).
        inbound_capture_port: Envoy's port for inbound ones (`-z`).
        inbound_tunnel_port: left to the HBONE tunnel (`-e`; 1.7).
        proxy_uid, proxy_gid: whose packets may leave (`-u`, `-g`); a list.
        inbound_interception_mode: REDIRECT, TPROXY, or NONE: the pod has no rules (`-m`).
        inbound_tproxy_mark, inbound_tproxy_route_table: of TPROXY (`-t`, `-r`).
        inbound_ports_include: captured inbound ports, all, or none (`-b`).
        inbound_ports_exclude: left out when all are captured (`-d`). None: the template's for the
            release, as Istio's own ports must stay reachable.
        outbound_ip_ranges_include, outbound_ip_ranges_exclude: destinations in CIDR (`-i`, `-x`).
        outbound_ports_include: captured whatever their destination (`-q`; 1.7).
        outbound_ports_exclude: left alone (`-o`). None: the mode's own.
        kube_virt_interfaces: whose inbound traffic is a virtual machine's outbound (`-k`).
        exclude_interfaces: left alone in both directions (`-c`; 1.11.3).
        owner_groups_include, owner_groups_exclude: groups whose outbound traffic is captured
            (ISTIO_OUTBOUND_OWNER_GROUPS and …_EXCLUDE; 1.14). The second counts only where the
            first is "*".
        host_ipv4_loopback_cidr: what counts as this host (ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR; 1.21).
        redirect_dns: DNS goes to the agent (ISTIO_META_DNS_CAPTURE; in 1.6 DNS_CAPTURE, and to Envoy; in
            1.7 DNS_AGENT).
        dns_by_envoy: of 1.7 only: DNS goes to Envoy's 15013, unless `redirect_dns` has it go to the agent
            (ISTIO_META_DNS_CAPTURE, whatever its value).
        capture_all_dns: all of it, not only what goes to the servers of resolv.conf (1.11).
            None: the mode's own.
        dns_servers_v4, dns_servers_v6: the servers of resolv.conf.
        drop_invalid: drop what conntrack calls INVALID (INVALID_DROP; 1.12.2).
        enable_ipv6: whether ip6tables is programmed. None: where IPv6 rules are asked for, yes.
        mode: "cni": installed by istio-cni, whose defaults are others (cni/pkg/plugin).

    Raises:
        UsageProblem: a value that istio-iptables or iptables-restore would refuse.

    Source: istio/istio tools/istio-iptables/pkg/cmd/root.go, tools/common/config.
    """

    proxy_port: str = "15001"
    inbound_capture_port: str = "15006"
    inbound_tunnel_port: str = "15008"
    proxy_uid: str = "1337"
    proxy_gid: str = "1337"
    inbound_interception_mode: str = "REDIRECT"
    inbound_tproxy_mark: str = "1337"
    inbound_tproxy_route_table: str = "133"
    inbound_ports_include: str = ALL
    inbound_ports_exclude: str | None = None
    outbound_ip_ranges_include: str = ALL
    outbound_ip_ranges_exclude: str = ""
    outbound_ports_include: str = ""
    outbound_ports_exclude: str | None = None
    kube_virt_interfaces: str = ""
    exclude_interfaces: str = ""
    owner_groups_include: str = ALL
    owner_groups_exclude: str = ""
    host_ipv4_loopback_cidr: str = "127.0.0.1/32"
    redirect_dns: bool = False
    dns_by_envoy: bool = False
    capture_all_dns: bool | None = None
    dns_servers_v4: str = ""
    dns_servers_v6: str = ""
    drop_invalid: bool = False
    enable_ipv6: bool | None = None
    mode: Literal["init", "cni"] = field(default="init")

    def __post_init__(self) -> None:
        for name in _NAMES:
            value = getattr(self, name)
            if isinstance(_DEFAULTS[name], bool) or name in ("capture_all_dns", "enable_ipv6"):
                if not isinstance(value, bool | None):
                    raise UsageProblem(messages.NOT_A_TRUTH(option=name, value=value))
            elif value is not None:
                object.__setattr__(self, name, _joined(name, value))
        self._refuse()

    def _refuse(self) -> None:
        if not self.proxy_uid:
            object.__setattr__(self, "proxy_uid", "1337")
        if not self.proxy_gid:
            object.__setattr__(self, "proxy_gid", self.proxy_uid)
        if self.inbound_interception_mode not in _MODES:
            raise UsageProblem(
                messages.NO_MODE_OF_CAPTURE(known=", ".join(_MODES), value=self.inbound_interception_mode)
            )
        if self.mode not in ("init", "cni"):
            raise UsageProblem(messages.NO_MODE(value=self.mode))
        for name in ("proxy_port", "inbound_capture_port", "inbound_tunnel_port"):
            _port(name, getattr(self, name))
        for name in ("inbound_ports_include", "inbound_ports_exclude", "outbound_ports_include",
                     "outbound_ports_exclude"):  # fmt: skip
            value = getattr(self, name)
            if name == "inbound_ports_include" and value == ALL:
                continue
            for port in split(value or ""):
                _port(name, port)
        for name in ("inbound_tproxy_mark", "inbound_tproxy_route_table"):
            _number(name, getattr(self, name), 2**32 - 1)
        for identity in split(self.proxy_uid):
            _number("proxy_uid", identity, 2**32 - 2)
        for identity in split(self.proxy_gid):
            _number("proxy_gid", identity, 2**32 - 2)
        for name in ("kube_virt_interfaces", "exclude_interfaces"):
            for interface in split(getattr(self, name)):
                if len(interface) > 15 or not re.fullmatch(r"[^\s/]+", interface):
                    raise UsageProblem(messages.NO_INTERFACE(option=name, text=interface))
        if self.outbound_ip_ranges_exclude == ALL:
            raise UsageProblem(messages.EXCLUDES_ALL())
        groups = split(self.owner_groups_include)
        if self.owner_groups_include != ALL and len(groups) > _MOST_GROUPS:
            raise UsageProblem(messages.TOO_MANY_GROUPS(count=len(groups), most=_MOST_GROUPS))
        for name in ("owner_groups_include", "owner_groups_exclude"):
            if getattr(self, name) != ALL:
                group_ids(getattr(self, name), option=name)
        loopback = cidr(self.host_ipv4_loopback_cidr)
        if loopback is None or loopback.version != 4 or not loopback.is_loopback or loopback.prefixlen < 8:
            raise UsageProblem(messages.NO_LOOPBACK(value=self.host_ipv4_loopback_cidr))
        for version, name in ((4, "dns_servers_v4"), (6, "dns_servers_v6")):
            for server in split(getattr(self, name)):
                try:
                    fits = ip_address(server).version == version
                except ValueError:
                    fits = False
                if not fits:
                    raise UsageProblem(messages.NO_SERVER(option=name, server=server, family=version))

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Options by name.

        Raises:
            UsageProblem: a name that is none of an option; the nearest is told.
        """
        for name in given:
            if name not in _NAMES:
                near = difflib.get_close_matches(name, _NAMES, n=1)
                hint = f"; {near[0]}?" if near else ""
                raise UsageProblem(messages.NO_SUCH_OPTION(option=name, hint=hint, known=", ".join(_NAMES)))
        return cls(**given)

    @classmethod
    def from_pairs(cls, pairs: Iterable[str]) -> Self:
        """Options as they are written on a command line: "inbound_ports_exclude=15090,8443".

        Raises:
            UsageProblem: no NAME=VALUE, or no option of that name or value.
        """
        found: dict[str, str | bool] = {}
        for text in pairs:
            name, equals, value = text.partition("=")
            if not equals:
                raise UsageProblem(messages.NOT_NAME_VALUE(text=text))
            found[name.strip()] = {"true": True, "false": False}.get(value, value)
        return cls.of(found)

    @classmethod
    def from_pod(cls, pod: Mapping[str, Any]) -> Self:
        """The options that a pod was injected with.

        The servers of its resolv.conf are not in it, unless its `dnsConfig` names them: where
        `lacks_servers` tells that they count, give them with `with_servers`.

        Args:
            pod: as the API server returns it in JSON. What its init container was told counts;
                where istio-cni did the work, its annotations and the sidecar's variables.

        Raises:
            UsageProblem: this is no pod, it has no sidecar, or Istio would refuse a value.
        """
        from pytest_istio_sidecar.istio.pod_options import fields_of_pod

        return cls(**fields_of_pod(pod))

    @classmethod
    def from_init_arguments(
        cls, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Self:
        """The options on a command line of istio-iptables.

        Args:
            arguments: with or without the program's name.
            environment: its variables.

        Raises:
            UsageProblem: a flag that istio-iptables does not have, or one without its value.
        """
        from pytest_istio_sidecar.istio.pod_options import fields_of_arguments

        return cls(**fields_of_arguments(arguments, environment or {}))

    @property
    def lacks_servers(self) -> bool:
        """Whether DNS is captured for the servers of resolv.conf only, and none is known."""
        named = self.dns_servers_v4 or self.dns_servers_v6
        return self.redirect_dns and self.mode == "init" and not self.capture_all_dns and not named

    def with_servers(self, servers: Iterable[str]) -> Self:
        """The same, with the servers of resolv.conf.

        Raises:
            UsageProblem: one is no IP address.
        """
        v4: list[str] = []
        v6: list[str] = []
        for server in servers:
            (v6 if ":" in server else v4).append(server)
        return replace(self, dns_servers_v4=v4, dns_servers_v6=v6)  # type: ignore[arg-type]

    def pairs(self) -> tuple[str, ...]:
        """What `from_pairs` makes the same options of."""
        return tuple(
            f"{name}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in self.changed().items()
        )

    def changed(self) -> dict[str, str | bool]:
        """What differs from the options unset, by name."""
        return {
            name: value
            for name in _NAMES
            if (value := getattr(self, name)) is not None and value != _DEFAULTS[name]
        }


_DEFAULTS: dict[str, Any] = {held.name: held.default for held in fields(IstioOptions)}
_NAMES = tuple(_DEFAULTS)


def split(text: str) -> tuple[str, ...]:
    """The members of a list as Istio writes it; empty ones do not count (config.Split)."""
    return tuple(part for part in text.split(",") if part)


def cidr(text: str) -> Network | None:
    """A range in CIDR, without the host's bits; None where it is none ("10.0.0.1" is not)."""
    if not re.fullmatch(r"[^/]+/\d+", text):
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def unmapped(network: Network) -> Network:
    """An IPv4 range in the notation of IPv6 (RFC 4291, 2.5.5.2) in its own; any other unchanged."""
    address = network.network_address
    if isinstance(address, IPv6Address) and address.ipv4_mapped and network.prefixlen >= 96:
        return IPv4Network((address.ipv4_mapped, network.prefixlen - 96))
    return network


def is_loopback(text: str) -> bool:
    """Whether the address of a range in CIDR is a loopback one."""
    address = ip_address(text.partition("/")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def group_ids(text: str, *, option: str = "owner groups") -> tuple[str, ...]:
    """Groups as numbers, as iptables-save writes them.

    Raises:
        UsageProblem: a name that the proxy's image does not know.
    """
    found = []
    for group in split(text):
        if group in _GROUPS:
            found.append(str(_GROUPS[group]))
        elif re.fullmatch(r"\d{1,10}", group) and int(group) < 2**32 - 1:
            found.append(str(int(group)))
        else:
            raise UsageProblem(messages.NO_GROUP(option=option, group=group))
    return tuple(found)


def _joined(name: str, value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return ",".join(str(part) for part in (sorted(value) if isinstance(value, set) else value))
    raise UsageProblem(messages.NO_OPTION_TEXT(option=name, value=value))


def _port(name: str, text: str) -> None:
    found = _RANGE.fullmatch(text)
    if found is None or any(int(part) > 65535 for part in found.groups() if part):
        raise UsageProblem(messages.NO_PORT(option=name, text=text))
    if found[2] and int(found[1]) > int(found[2]):
        raise UsageProblem(messages.PORTS_REVERSED(option=name, text=text))


def _number(name: str, text: str, most: int) -> None:
    try:
        fits = 0 <= int(text, 0) <= most
    except ValueError:
        fits = False
    if not fits:
        raise UsageProblem(messages.NO_OPTION_NUMBER(option=name, text=text, most=most))
