"""Rules of DNS capture: the application's questions go to the agent instead of the server.

Knows what each release does for udp and tcp, and with conntrack's zones. Does not know
whether a pod asked for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.option_kinds import split
from pytest_istio_sidecar.istio.option_table import OptionValues
from pytest_istio_sidecar.istio.release import ONE_LAYOUT_SINCE, Installation
from pytest_istio_sidecar.istio.versions import Number

AGENT_SINCE = (1, 7, 0)
"""udp goes to the agent on 15053, addresses rewritten both ways; or still to Envoy on 15013, as in 1.6, by
choice: 1.7."""
TCP_SINCE = (1, 8, 0)
"""tcp too, for every server (istio/istio#27081)."""
SERVERS_SINCE = (1, 9, 0)
"""Only the servers of resolv.conf, redirected; nothing loops (istio/istio#30647, #30700)."""
ZONES_SINCE = (1, 11, 0)
"""Each half is in a conntrack zone of its own (istio/istio#32416)."""
SOURCE_SINCE = (1, 20, 0)
"""Answers are recognised by the server's address as source, no longer as destination (istio/istio#46937)."""
OUTPUT_CHAIN_SINCE = (1, 23, 0)
"""udp goes through ISTIO_OUTPUT instead of OUTPUT itself."""
OWN_CHAIN_SINCE = (1, 25, 0)
"""Everything is in ISTIO_OUTPUT_DNS; without a server nothing is captured (istio/istio#53998)."""
_ENVOY, _AGENT = map(str, ports.DNS)
_QUESTION = "-p udp -m udp --dport 53 "
_TO_AGENT = f"-j REDIRECT --to-ports {_AGENT}"


def proxies(number: Number, options: OptionValues) -> dict[str, int]:
    """The port of the proxy that a release sends DNS to, by protocol; none where it captures none."""
    if options.redirect_dns:
        port = ports.DNS[number >= AGENT_SINCE]
        return dict.fromkeys(("udp", "tcp") if number >= TCP_SINCE else ("udp",), port)
    return {"udp": ports.DNS[0]} if options.dns_by_envoy and number < TCP_SINCE else {}


def splits_loopback(installation: Installation) -> bool:
    """Whether port 53 is left out of what processes may send over lo."""
    return installation.number >= SERVERS_SINCE and _captures(installation)


def through_redirect(installation: Installation) -> bool:
    """Whether tcp is sorted out in ISTIO_REDIRECT: 1.8."""
    return TCP_SINCE <= installation.number < SERVERS_SINCE and _captures(installation)


def tcp_of_every_server(installation: Installation) -> None:
    installation.append("nat", "ISTIO_REDIRECT", f"-p tcp -m tcp --dport 53 {_TO_AGENT}")


def tcp(installation: Installation) -> None:
    """What stands before the application's own addresses are let go."""
    if not splits_loopback(installation):
        return
    if installation.number >= OWN_CHAIN_SINCE:
        _own_chain(installation)
        return
    for to in _servers(installation):
        installation.output(f"{to}-p tcp -m tcp --dport 53 {_TO_AGENT}")


def udp(installation: Installation) -> None:
    """What stands after everything of tcp; up to 1.24."""
    if installation.number >= OWN_CHAIN_SINCE or not _captures(installation):
        return
    if installation.number < AGENT_SINCE:
        for gid in split(installation.options.proxy_gid):
            if gid != "0":
                installation.append("nat", "OUTPUT", f"{_QUESTION}-m owner --gid-owner {gid} -j RETURN")
        installation.append("nat", "OUTPUT", f"{_QUESTION}-j REDIRECT --to-ports {_ENVOY}")
        return
    chain = "OUTPUT"
    if installation.number >= OUTPUT_CHAIN_SINCE:
        chain = "ISTIO_OUTPUT"
        installation.append("nat", "OUTPUT", "-p udp -j ISTIO_OUTPUT")
        installation.append("raw", "OUTPUT", "-p udp -j ISTIO_OUTPUT")
    for owner in _proxies(installation):
        installation.append("nat", chain, f"{_QUESTION}{owner}-j RETURN")
    if installation.number < SERVERS_SINCE:
        to = _AGENT if installation.options.redirect_dns else _ENVOY
        installation.append("nat", chain, f"{_QUESTION}-j DNAT --to-destination 127.0.0.1:{to}")
        installation.append("nat", "POSTROUTING", f"-p udp -m udp --dport {to} -j SNAT --to-source 127.0.0.1")
        return
    for groups in installation.uncaptured_groups():
        installation.append("nat", chain, f"{_QUESTION}{groups}-j RETURN")
    for to in _servers(installation):
        installation.append("nat", chain, f"{to}{_QUESTION}{_TO_AGENT}")
    if installation.number >= ZONES_SINCE:
        _zones(installation, chain, answers="PREROUTING")


def _own_chain(installation: Installation) -> None:
    installation.append("raw", "OUTPUT", "-j ISTIO_OUTPUT_DNS")
    servers = list(_servers(installation))
    if servers:
        installation.output("-j ISTIO_OUTPUT_DNS")
    for protocol in ("tcp", "udp"):
        for to in servers:
            installation.append(
                "nat", "ISTIO_OUTPUT_DNS", f"{to}-p {protocol} -m {protocol} --dport 53 {_TO_AGENT}"
            )
    if servers:
        installation.append("raw", "PREROUTING", "-j ISTIO_INBOUND")
    _zones(installation, "ISTIO_OUTPUT_DNS", answers="ISTIO_INBOUND")


def _zones(installation: Installation, chain: str, *, answers: str) -> None:
    """The agent's questions and the server's answers in zone 1, the application's in zone 2."""
    for owner in _proxies(installation):
        installation.append("raw", chain, f"{_QUESTION}{owner}-j CT --zone 1")
        installation.append("raw", chain, f"-p udp -m udp --sport {_AGENT} {owner}-j CT --zone 2")
    for to in _servers(installation):
        installation.append("raw", chain, f"{to}{_QUESTION}-j CT --zone 2")
        by = to.replace("-d ", "-s ") if installation.number >= SOURCE_SINCE else to
        installation.append("raw", answers, f"{by}-p udp -m udp --sport 53 -j CT --zone 1")


def _captures(installation: Installation) -> bool:
    options = installation.options
    if options.dns_by_envoy and installation.family == 4 and installation.number < TCP_SINCE:
        return True
    if not options.redirect_dns or (installation.family == 6 and installation.number < ONE_LAYOUT_SINCE):
        return False
    servers = options.dns_servers_v4 + options.dns_servers_v6
    return installation.number < OWN_CHAIN_SINCE or bool(options.capture_all_dns or servers)


def _proxies(installation: Installation) -> Iterator[str]:
    for uid in split(installation.options.proxy_uid):
        yield f"-m owner --uid-owner {uid} "
    for gid in split(installation.options.proxy_gid):
        yield f"-m owner --gid-owner {gid} "


def _servers(installation: Installation) -> Iterator[str]:
    """Matches of the captured servers; one that matches all."""
    if installation.options.capture_all_dns:
        yield ""
        return
    servers, length = (
        (installation.options.dns_servers_v4, 32)
        if installation.family == 4
        else (installation.options.dns_servers_v6, 128)
    )
    for server in split(servers):
        yield f"-d {server}/{length} "
