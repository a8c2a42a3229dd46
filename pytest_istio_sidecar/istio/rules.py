"""The rules that Istio's own builder installs, as a ruleset.

Knows what each release does with its options, and since when. Does not know how rules are
judged. Invariant: every ruleset made here equals, rule for rule and in order, what a kernel
reads back after that release's istio-init has run.

Rules are written as iptables-save writes them. Read `_describe` from top to bottom: it is the order
in which istio-iptables goes (tools/istio-iptables/pkg/capture/run.go; cmd/run.go up to 1.11).
DNS capture and TPROXY have modules of their own.
"""

from __future__ import annotations

from typing import Unpack

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import dns_capture, messages, ports, tproxy
from pytest_istio_sidecar.istio.builder import RuleBuilder
from pytest_istio_sidecar.istio.options import (
    ALL,
    IstioOptions,
    OptionFields,
    cidr,
    is_loopback,
    split,
    unmapped,
)
from pytest_istio_sidecar.istio.release import ONE_LAYOUT_SINCE, Installation, in_effect, installs_rules
from pytest_istio_sidecar.istio.versions import Number, known_release, number_of
from pytest_istio_sidecar.netfilter.model import Backend, Family, Ruleset

OWN_INBOUND_PORT_SINCE = (1, 6, 0)
"""A list of included inbound ports is sent to 15006 like all of them; before, to 15001."""
TUNNEL_SINCE = (1, 7, 0)
"""15008 is left to the tunnel (istio/istio#25392, 7405e49a014)."""
OUTBOUND_PORTS_SINCE = (1, 7, 0)
"""Outbound ports can be included (istio/istio#23941)."""
LOOPBACK_RANGE_SINCE = (1, 7, 0)
"""An included loopback range takes out the rules that let a process talk to itself (istio/istio#24143)."""
OUTBOUND_PORTS_IPV6_SINCE = ((1, 9, 6), (1, 10, 2))
"""Outbound ports are included in IPv6 too; the fix came to 1.9 after 1.10 had branched off."""
EXCLUDED_INTERFACES_SINCE = (1, 11, 3)
"""Interfaces can be left alone (istio/istio#34832, #35003)."""
DROP_INVALID_SINCE = (1, 12, 2)
"""What conntrack calls INVALID can be dropped (istio/istio#36566)."""
SSH_UNTIL = (1, 13, 0)
"""22 is no longer excluded by a fixed rule: virtual machines exclude it themselves (istio/istio#36312)."""
OWNER_GROUPS_SINCE = (1, 14, 0)
"""Capture can be limited to groups (istio/istio#37057)."""
TUNNEL_TO_SELF_SINCE = (1, 18, 0)
"""What the proxy sends to its own pod's 15008 is not redirected (istio/istio#43414, 57f3b2bab3c)."""
LAST_RETURN_UNTIL = (1, 23, 0)
"""A RETURN after included ranges, which changed nothing, is gone (istio/istio#51352, fa8b7af93f8)."""
DROP_CHAIN_SINCE = (1, 24, 0)
"""INVALID is dropped in a chain of Istio's, so that it can be taken out again (istio/istio#50328)."""
EVERY_PROTOCOL_SINCE = (1, 25, 0)
"""OUTPUT sends every protocol to ISTIO_OUTPUT, whose redirects are of tcp still; excluded outbound ports
are excluded for udp too (istio/istio#53998, f4d72e7fc52)."""
NF_TABLES_SINCE = (1, 25, 4)
"""istio-init writes into nf_tables where nothing is in the legacy back end yet (istio/istio#55281)."""
IPV6_NOTATION_SINCE = (1, 16, 0)
"""An IPv4 range in the notation of IPv6 (::ffff:10.0.0.0/104) is IPv6; before, it was IPv4."""
SHOWN_NF_TABLES_SINCE = (1, 31, 0)
"""The image's iptables is that of nf_tables (istio/istio#59193)."""
BAD_RANGES_UNTIL = (1, 27, 0)
"""A range that is none was passed over with a message; now istio-iptables ends on it."""

ERAS = ("1.8.3", "1.5.10", "1.6.14", "1.17.8", "1.24.6", "1.30.3")
"""A release of each set of default rules, the lab's first."""


def expected_ruleset(
    version: str,
    *,
    family: Family = 4,
    options: IstioOptions | None = None,
    **given: Unpack[OptionFields],
) -> Ruleset:
    """What istio-init of a release installs.

    Args:
        version: a release of Istio, "1.8.3". One that is not known, be it by its suffix, has the rules
            of the newest known one before it; the ruleset's `source` says so.
        family: 4, or 6.
        options: what it is told; None: `given`, else what the injection template passes. An
            option that the release does not have yet changes nothing.

    Raises:
        UsageProblem: a version that is none, or older than 1.5; a family that is neither 4 nor 6; options
            that Istio refuses.
    """
    if options is not None and given:
        raise UsageProblem(messages.OPTIONS_TWICE())
    if family not in (4, 6):
        raise UsageProblem(messages.NO_FAMILY(family=family))
    number = _number(version)
    asked_for = IstioOptions.of(given) if options is None else options
    builder = RuleBuilder(family)
    if installs_rules(asked_for, family):
        _describe(Installation(number, in_effect(number, asked_for), builder))
    known = known_release(version)
    source = f"Istio {version}" if version == known else f"Istio {version}, with the rules of {known}"
    told = (word for pair in asked_for.pairs() for word in ("--option", pair))
    origin = ("--istio-version", version, *told)
    return builder.ruleset(backend=backend(version), source=source, origin=origin)


def backend(version: str) -> Backend:
    """The back end that istio-init of this release writes in a clean namespace.

    Releases up to 1.21 run plain `iptables-restore`, which is the legacy one in their images; later
    ones ask which back end holds rules already (tools/istio-iptables/pkg/dependencies,
    DetectIptablesVersion).
    """
    return Backend.NF_TABLES if _number(version) >= NF_TABLES_SINCE else Backend.LEGACY


def shown_by_image(version: str) -> Backend:
    """The back end that `iptables` shows in the proxy image of this release (docker/Dockerfile.base)."""
    return Backend.NF_TABLES if _number(version) >= SHOWN_NF_TABLES_SINCE else Backend.LEGACY


def _number(version: str) -> Number:
    number = number_of(version)
    if number < (1, 5, 0):
        raise UsageProblem(messages.RELEASE_TOO_OLD(version=version))
    return number


def _describe(told: Installation) -> None:
    """Every rule, in the order in which istio-iptables makes them."""
    _excluded_interfaces(told)
    _virtual_machines(told)
    if told.options.drop_invalid and told.number >= DROP_INVALID_SINCE:
        _drop_invalid(told)
    if told.number >= TUNNEL_SINCE:
        told.append(
            "nat", "ISTIO_INBOUND", f"-p tcp -m tcp --dport {told.options.inbound_tunnel_port} -j RETURN"
        )
    if dns_capture.through_redirect(told):
        dns_capture.tcp_of_every_server(told)
    _redirects(told)
    _inbound(told)
    _outbound(told)
    if told.intercepts_by_tproxy:
        tproxy.marks(told)


def _excluded_interfaces(told: Installation) -> None:
    if told.number < EXCLUDED_INTERFACES_SINCE:
        return
    tproxy_asked_for = told.options.inbound_interception_mode == "TPROXY"
    for table in ("nat", "mangle") if tproxy_asked_for else ("nat",):
        for interface in told.listed("exclude_interfaces"):
            told.append(table, "PREROUTING", f"-i {interface} -j RETURN")
            told.append(table, "OUTPUT", f"-o {interface} -j RETURN")


def _virtual_machines(told: Installation) -> None:
    """What comes from a virtual machine's interface is not inbound; `_included` redirects it."""
    if told.family == 6 and told.number < (1, 8, 0):
        return
    for interface in told.listed("kube_virt_interfaces"):
        told.builder.insert("nat", "PREROUTING", f"-i {interface} -j RETURN")


def _drop_invalid(told: Installation) -> None:
    own = told.number >= DROP_CHAIN_SINCE
    target = "ISTIO_DROP" if own else "DROP"
    told.append("mangle", "PREROUTING", f"-m conntrack --ctstate INVALID -j {target}")
    if own:
        told.append("mangle", "ISTIO_DROP", "-j DROP")


def _redirects(told: Installation) -> None:
    told.append("nat", "ISTIO_REDIRECT", f"-p tcp -j REDIRECT --to-ports {told.options.proxy_port}")
    everything = told.options.inbound_ports_include == ALL
    own = everything or told.number >= OWN_INBOUND_PORT_SINCE
    port = told.options.inbound_capture_port if own else told.options.proxy_port
    told.append("nat", "ISTIO_IN_REDIRECT", f"-p tcp -j REDIRECT --to-ports {port}")


def _inbound(told: Installation) -> None:
    """Ports that stay outside the mesh, then everything else; or a list of ports and nothing else."""
    included = told.options.inbound_ports_include
    if not included:
        return
    table = "nat"
    if told.intercepts_by_tproxy:
        table = "mangle"
        tproxy.chains(told)
    told.append(table, "PREROUTING", "-p tcp -j ISTIO_INBOUND")
    if included != ALL:
        for port in told.listed("inbound_ports_include"):
            _capture(told, table, f"-p tcp -m tcp --dport {port}")
        return
    fixed = [str(ports.SSH)] if told.number < SSH_UNTIL else []
    for port in (*fixed, *told.listed("inbound_ports_exclude")):
        told.append(table, "ISTIO_INBOUND", f"-p tcp -m tcp --dport {port} -j RETURN")
    _capture(told, table, "-p tcp")


def _capture(told: Installation, table: str, packets: str) -> None:
    if table == "mangle":
        tproxy.capture(told, packets)
    else:
        told.append("nat", "ISTIO_INBOUND", f"{packets} -j ISTIO_IN_REDIRECT")


def _outbound(told: Installation) -> None:
    """Who may leave without Envoy, what Envoy sends to its own pod, and what is captured."""
    everything = told.number >= EVERY_PROTOCOL_SINCE
    told.append("nat", "OUTPUT", "-j ISTIO_OUTPUT" if everything else "-p tcp -j ISTIO_OUTPUT")
    for port in told.listed("outbound_ports_exclude"):
        told.output(f"-p tcp -m tcp --dport {port} -j RETURN")
        if everything:
            told.output(f"-p udp -m udp --dport {port} -j RETURN")
    told.output(f"-s {told.passthrough} -o lo -j RETURN")
    for identity in told.listed("proxy_uid"):
        _proxy(told, "uid", identity)
    for identity in told.listed("proxy_gid"):
        _proxy(told, "gid", identity)
    if told.number >= OWNER_GROUPS_SINCE:
        for groups in told.uncaptured_groups():
            told.output(f"{groups}-j RETURN")
    dns_capture.tcp(told)
    told.output(f"-d {told.loopback} -j RETURN")
    for network in _ranges(told, "outbound_ip_ranges_exclude"):
        told.output(f"{_to(network)}-j RETURN")
    if told.number >= OUTBOUND_PORTS_SINCE and _includes_outbound_ports(told):
        for port in told.listed("outbound_ports_include"):
            told.output(f"-p tcp -m tcp --dport {port} -j ISTIO_REDIRECT")
    _included(told)
    dns_capture.udp(told)


def _proxy(told: Installation, kind: str, identity: str) -> None:
    """A proxy's user or group: captured on lo as inbound, let go elsewhere.

    A packet on lo never reaches the group's first two: the user's three have returned or
    redirected it already, unless DNS capture or an included loopback range opened a way.
    """
    own = f"-m owner --{kind}-owner {identity}"
    others = f"-m owner ! --{kind}-owner {identity}"
    told.output(f"! -d {told.loopback} -o lo {_but_for_the_tunnel(told, kind)}{own} -j ISTIO_IN_REDIRECT")
    if not _includes_loopback(told):
        but = "-p tcp -m tcp ! --dport 53 " if dns_capture.splits_loopback(told) else ""
        told.output(f"-o lo {but}{others} -j RETURN")
    told.output(f"{own} -j RETURN")


def _but_for_the_tunnel(told: Installation, kind: str) -> str:
    to_dns = kind == "uid" and dns_capture.splits_loopback(told)
    if told.number < TUNNEL_TO_SELF_SINCE:
        return "-p tcp -m tcp ! --dport 53 " if to_dns else ""
    tunnel = told.options.inbound_tunnel_port
    if to_dns:
        return f"-p tcp -m multiport ! --dports 53,{tunnel} "
    return f"-p tcp -m tcp ! --dport {tunnel} "


def _includes_loopback(told: Installation) -> bool:
    if told.number < LOOPBACK_RANGE_SINCE or (told.family == 6 and told.number < ONE_LAYOUT_SINCE):
        return False
    included = split(told.options.outbound_ip_ranges_include)
    return any(is_loopback(text) for text in included if cidr(text) is not None)


def _includes_outbound_ports(told: Installation) -> bool:
    if told.family == 4 or told.number >= (1, 11, 0):
        return True
    return any(told.number[:2] == since[:2] and told.number >= since for since in OUTBOUND_PORTS_IPV6_SINCE)


def _ranges(told: Installation, name: str) -> list[str]:
    """The ranges of this family in an option, as iptables-save writes them."""
    found = []
    for text in split(getattr(told.options, name)):
        network = cidr(text)
        if network is not None and told.number < IPV6_NOTATION_SINCE:
            network = unmapped(network)
        if network is None:
            if told.number >= BAD_RANGES_UNTIL:
                raise UsageProblem(messages.NO_RANGE(option=name, text=text))
        elif network.version == told.family:
            found.append(str(network))
    return found


def _to(network: str) -> str:
    return "" if network.endswith("/0") else f"-d {network} "


def _included(told: Installation) -> None:
    """What is captured after all exceptions, and the same for what virtual machines send."""
    machines = told.listed("kube_virt_interfaces")
    if told.options.outbound_ip_ranges_include == ALL:
        told.output("-j ISTIO_REDIRECT")
        target = "RETURN" if told.family == 6 and told.number < ONE_LAYOUT_SINCE else "ISTIO_REDIRECT"
        for interface in machines:
            told.builder.insert("nat", "PREROUTING", f"-i {interface} -j {target}")
        return
    networks = _ranges(told, "outbound_ip_ranges_include")
    for network in networks:
        for interface in machines:
            told.builder.insert("nat", "PREROUTING", f"{_to(network)}-i {interface} -j ISTIO_REDIRECT")
        told.output(f"{_to(network)}-j ISTIO_REDIRECT")
    if networks and told.number < LAST_RETURN_UNTIL:
        told.output("-j RETURN")
