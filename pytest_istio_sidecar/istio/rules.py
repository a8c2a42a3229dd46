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
from pytest_istio_sidecar.istio.option_kinds import ALL, cidr, is_loopback, split, unmapped
from pytest_istio_sidecar.istio.option_table import OptionFields, OptionValues
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.release import ONE_LAYOUT_SINCE, Installation, in_effect, installs_rules
from pytest_istio_sidecar.istio.versions import Number, known_release, number_of
from pytest_istio_sidecar.netfilter.model import Backend, Family, Ruleset

OWN_INBOUND_PORT_SINCE = (1, 6, 0)
"""A list of included inbound ports is sent to 15006 like all of them; before, to 15001."""
TUNNEL_SINCE = (1, 7, 0)
"""15008 is left to the tunnel (istio/istio#25392, 7405e49a014)."""
LOOPBACK_RANGE_SINCE = (1, 7, 0)
"""An included loopback range takes out the rules that let a process talk to itself (istio/istio#24143)."""
OUTBOUND_PORTS_IPV6_SINCE = ((1, 9, 6), (1, 10, 2))
"""Outbound ports are included in IPv6 too; the fix came to 1.9 after 1.10 had branched off."""
SSH_UNTIL = (1, 13, 0)
"""22 is no longer excluded by a fixed rule: virtual machines exclude it themselves (istio/istio#36312)."""
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
        options: what istio-init is given; None: `given`, else what the injection template passes. An
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
    words = (word for pair in asked_for.pairs() for word in ("--option", pair))
    origin = ("--istio-version", version, *words)
    return builder.ruleset(backend=backend(version), source=source, origin=origin)


def inbound_ports(version: str, options: IstioOptions) -> tuple[int, int]:
    """The ports that a release sends inbound packets to: by REDIRECT, and by TPROXY.

    Raises:
        UsageProblem: no release.
    """
    number = _number(version)
    return int(_redirect_port(number, options)), int(tproxy.port(number, options))


def dns_ports(version: str, options: IstioOptions) -> dict[str, int]:
    """The port that a release sends captured DNS to, by protocol; none where it captures none.

    Raises:
        UsageProblem: no release.
    """
    return dns_capture.proxies(_number(version), options)


def passed_over(version: str, options: IstioOptions) -> tuple[tuple[str, str], ...]:
    """Ranges that are none, of which this release says so in its log only: the option of each, and its text.

    Raises:
        UsageProblem: no release.
    """
    if _number(version) >= BAD_RANGES_UNTIL:
        return ()
    names = ("outbound_ip_ranges_include", "outbound_ip_ranges_exclude")
    return tuple(
        (name, text)
        for name in names
        for text in split(getattr(options, name))
        if getattr(options, name) != ALL and cidr(text) is None
    )


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


def _describe(installation: Installation) -> None:
    """Every rule, in the order in which istio-iptables makes them."""
    _excluded_interfaces(installation)
    _virtual_machines(installation)
    if installation.options.drop_invalid:
        _drop_invalid(installation)
    if installation.number >= TUNNEL_SINCE:
        installation.append(
            "nat",
            "ISTIO_INBOUND",
            f"-p tcp -m tcp --dport {installation.options.inbound_tunnel_port} -j RETURN",
        )
    if dns_capture.through_redirect(installation):
        dns_capture.tcp_of_every_server(installation)
    _redirects(installation)
    _inbound(installation)
    _outbound(installation)
    if installation.intercepts_by_tproxy:
        tproxy.marks(installation)


def _excluded_interfaces(installation: Installation) -> None:
    tproxy_asked_for = installation.options.inbound_interception_mode == "TPROXY"
    for table in ("nat", "mangle") if tproxy_asked_for else ("nat",):
        for interface in installation.listed("exclude_interfaces"):
            installation.append(table, "PREROUTING", f"-i {interface} -j RETURN")
            installation.append(table, "OUTPUT", f"-o {interface} -j RETURN")


def _virtual_machines(installation: Installation) -> None:
    """What comes from a virtual machine's interface is not inbound; `_included` redirects it."""
    if installation.family == 6 and installation.number < (1, 8, 0):
        return
    for interface in installation.listed("kube_virt_interfaces"):
        installation.builder.insert("nat", "PREROUTING", f"-i {interface} -j RETURN")


def _drop_invalid(installation: Installation) -> None:
    own = installation.number >= DROP_CHAIN_SINCE
    target = "ISTIO_DROP" if own else "DROP"
    installation.append("mangle", "PREROUTING", f"-m conntrack --ctstate INVALID -j {target}")
    if own:
        installation.append("mangle", "ISTIO_DROP", "-j DROP")


def _redirects(installation: Installation) -> None:
    installation.append(
        "nat", "ISTIO_REDIRECT", f"-p tcp -j REDIRECT --to-ports {installation.options.proxy_port}"
    )
    port = _redirect_port(installation.number, installation.options)
    installation.append("nat", "ISTIO_IN_REDIRECT", f"-p tcp -j REDIRECT --to-ports {port}")


def _redirect_port(number: Number, options: OptionValues) -> str:
    own = options.inbound_ports_include == ALL or number >= OWN_INBOUND_PORT_SINCE
    return options.inbound_capture_port if own else options.proxy_port


def _inbound(installation: Installation) -> None:
    """Ports that stay outside the mesh, then everything else; or a list of ports and nothing else."""
    included = installation.options.inbound_ports_include
    if not included:
        return
    table = "nat"
    if installation.intercepts_by_tproxy:
        table = "mangle"
        tproxy.chains(installation)
    installation.append(table, "PREROUTING", "-p tcp -j ISTIO_INBOUND")
    if included != ALL:
        for port in installation.listed("inbound_ports_include"):
            _capture(installation, table, f"-p tcp -m tcp --dport {port}")
        return
    fixed = [str(ports.SSH)] if installation.number < SSH_UNTIL else []
    for port in (*fixed, *installation.listed("inbound_ports_exclude")):
        installation.append(table, "ISTIO_INBOUND", f"-p tcp -m tcp --dport {port} -j RETURN")
    _capture(installation, table, "-p tcp")


def _capture(installation: Installation, table: str, packets: str) -> None:
    if table == "mangle":
        tproxy.capture(installation, packets)
    else:
        installation.append("nat", "ISTIO_INBOUND", f"{packets} -j ISTIO_IN_REDIRECT")


def _outbound(installation: Installation) -> None:
    """Who may leave without Envoy, what Envoy sends to its own pod, and what is captured."""
    everything = installation.number >= EVERY_PROTOCOL_SINCE
    installation.append("nat", "OUTPUT", "-j ISTIO_OUTPUT" if everything else "-p tcp -j ISTIO_OUTPUT")
    for port in installation.listed("outbound_ports_exclude"):
        installation.output(f"-p tcp -m tcp --dport {port} -j RETURN")
        if everything:
            installation.output(f"-p udp -m udp --dport {port} -j RETURN")
    installation.output(f"-s {installation.passthrough} -o lo -j RETURN")
    for identity in installation.listed("proxy_uid"):
        _proxy(installation, "uid", identity)
    for identity in installation.listed("proxy_gid"):
        _proxy(installation, "gid", identity)
    for groups in installation.uncaptured_groups():
        installation.output(f"{groups}-j RETURN")
    dns_capture.tcp(installation)
    installation.output(f"-d {installation.loopback} -j RETURN")
    for network in _ranges(installation, "outbound_ip_ranges_exclude"):
        installation.output(f"{_to(network)}-j RETURN")
    if _includes_outbound_ports(installation):
        for port in installation.listed("outbound_ports_include"):
            installation.output(f"-p tcp -m tcp --dport {port} -j ISTIO_REDIRECT")
    _included(installation)
    dns_capture.udp(installation)


def _proxy(installation: Installation, kind: str, identity: str) -> None:
    """A proxy's user or group: captured on lo as inbound, let go elsewhere.

    A packet on lo never reaches the group's first two: the user's three have returned or
    redirected it already, unless DNS capture or an included loopback range let it through.
    """
    own = f"-m owner --{kind}-owner {identity}"
    others = f"-m owner ! --{kind}-owner {identity}"
    but = _but_for_the_tunnel(installation, kind)
    installation.output(f"! -d {installation.loopback} -o lo {but}{own} -j ISTIO_IN_REDIRECT")
    if not _includes_loopback(installation):
        but = "-p tcp -m tcp ! --dport 53 " if dns_capture.splits_loopback(installation) else ""
        installation.output(f"-o lo {but}{others} -j RETURN")
    installation.output(f"{own} -j RETURN")


def _but_for_the_tunnel(installation: Installation, kind: str) -> str:
    to_dns = kind == "uid" and dns_capture.splits_loopback(installation)
    if installation.number < TUNNEL_TO_SELF_SINCE:
        return "-p tcp -m tcp ! --dport 53 " if to_dns else ""
    tunnel = installation.options.inbound_tunnel_port
    if to_dns:
        return f"-p tcp -m multiport ! --dports 53,{tunnel} "
    return f"-p tcp -m tcp ! --dport {tunnel} "


def _includes_loopback(installation: Installation) -> bool:
    if installation.number < LOOPBACK_RANGE_SINCE or (
        installation.family == 6 and installation.number < ONE_LAYOUT_SINCE
    ):
        return False
    included = split(installation.options.outbound_ip_ranges_include)
    return any(is_loopback(text) for text in included if cidr(text) is not None)


def _includes_outbound_ports(installation: Installation) -> bool:
    if installation.family == 4 or installation.number >= (1, 11, 0):
        return True
    return any(
        installation.number[:2] == since[:2] and installation.number >= since
        for since in OUTBOUND_PORTS_IPV6_SINCE
    )


def _ranges(installation: Installation, name: str) -> list[str]:
    """The ranges of this family in an option, as iptables-save writes them."""
    networks = []
    for text in split(getattr(installation.options, name)):
        network = cidr(text)
        if network is not None and installation.number < IPV6_NOTATION_SINCE:
            network = unmapped(network)
        if network is None:
            if installation.number >= BAD_RANGES_UNTIL:
                raise UsageProblem(messages.NO_RANGE(option=name, text=text))
        elif network.version == installation.family:
            networks.append(str(network))
    return networks


def _to(network: str) -> str:
    return "" if network.endswith("/0") else f"-d {network} "


def _included(installation: Installation) -> None:
    """What is captured after all exceptions, and the same for what virtual machines send."""
    machines = installation.listed("kube_virt_interfaces")
    if installation.options.outbound_ip_ranges_include == ALL:
        installation.output("-j ISTIO_REDIRECT")
        target = (
            "RETURN"
            if installation.family == 6 and installation.number < ONE_LAYOUT_SINCE
            else "ISTIO_REDIRECT"
        )
        for interface in machines:
            installation.builder.insert("nat", "PREROUTING", f"-i {interface} -j {target}")
        return
    networks = _ranges(installation, "outbound_ip_ranges_include")
    for network in networks:
        for interface in machines:
            installation.builder.insert(
                "nat", "PREROUTING", f"{_to(network)}-i {interface} -j ISTIO_REDIRECT"
            )
        installation.output(f"{_to(network)}-j ISTIO_REDIRECT")
    if networks and installation.number < LAST_RETURN_UNTIL:
        installation.output("-j RETURN")
