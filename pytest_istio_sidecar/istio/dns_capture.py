"""Rules of DNS capture: the application's questions go to the agent instead of the server.

Knows what each release does for udp and tcp, and with conntrack's zones. Does not know
whether a pod asked for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.options import split
from pytest_istio_sidecar.istio.release import ONE_LAYOUT_SINCE, Installation

ENVOY_SINCE = (1, 6, 0)
"""udp goes to Envoy on 15013."""
AGENT_SINCE = (1, 7, 0)
"""udp goes to the agent on 15053, addresses rewritten both ways; or still to Envoy, by choice: 1.7."""
TCP_SINCE = (1, 8, 0)
"""tcp too, for every server (istio/istio#27081)."""
SERVERS_SINCE = (1, 9, 0)
"""Only the servers of resolv.conf, redirected; nothing loops (istio/istio#30647, #30700)."""
ALL_SINCE = (1, 11, 0)
"""All servers by choice, for istio-cni (istio/istio#32416); each half in a conntrack zone of its own."""
GROUPS_SINCE = (1, 14, 0)
"""Groups that are not captured keep their udp as well (istio/istio#37057)."""
SOURCE_SINCE = (1, 20, 0)
"""Answers are told by the server's address as source, no longer as destination (istio/istio#46937)."""
OUTPUT_CHAIN_SINCE = (1, 23, 0)
"""udp goes through ISTIO_OUTPUT instead of OUTPUT itself."""
OWN_CHAIN_SINCE = (1, 25, 0)
"""Everything is in ISTIO_OUTPUT_DNS; without a server nothing is captured (istio/istio#53998)."""
_ENVOY, _AGENT = map(str, ports.DNS)
_QUESTION = "-p udp -m udp --dport 53 "
_TO_AGENT = f"-j REDIRECT --to-ports {_AGENT}"


def splits_loopback(told: Installation) -> bool:
    """Whether port 53 is left out of what processes may send over lo."""
    return told.number >= SERVERS_SINCE and _captures(told)


def through_redirect(told: Installation) -> bool:
    """Whether tcp is sorted out in ISTIO_REDIRECT: 1.8."""
    return TCP_SINCE <= told.number < SERVERS_SINCE and _captures(told)


def tcp_of_every_server(told: Installation) -> None:
    told.append("nat", "ISTIO_REDIRECT", f"-p tcp -m tcp --dport 53 {_TO_AGENT}")


def tcp(told: Installation) -> None:
    """What stands before the application's own addresses are let go."""
    if not splits_loopback(told):
        return
    if told.number >= OWN_CHAIN_SINCE:
        _own_chain(told)
        return
    for to in _servers(told):
        told.output(f"{to}-p tcp -m tcp --dport 53 {_TO_AGENT}")


def udp(told: Installation) -> None:
    """What stands after everything of tcp; up to 1.24."""
    if told.number < ENVOY_SINCE or told.number >= OWN_CHAIN_SINCE or not _captures(told):
        return
    if told.number < AGENT_SINCE:
        for gid in split(told.options.proxy_gid):
            if gid != "0":
                told.append("nat", "OUTPUT", f"{_QUESTION}-m owner --gid-owner {gid} -j RETURN")
        told.append("nat", "OUTPUT", f"{_QUESTION}-j REDIRECT --to-ports {_ENVOY}")
        return
    chain = "OUTPUT"
    if told.number >= OUTPUT_CHAIN_SINCE:
        chain = "ISTIO_OUTPUT"
        told.append("nat", "OUTPUT", "-p udp -j ISTIO_OUTPUT")
        told.append("raw", "OUTPUT", "-p udp -j ISTIO_OUTPUT")
    for owner in _proxies(told):
        told.append("nat", chain, f"{_QUESTION}{owner}-j RETURN")
    if told.number < SERVERS_SINCE:
        to = _AGENT if told.options.redirect_dns else _ENVOY
        told.append("nat", chain, f"{_QUESTION}-j DNAT --to-destination 127.0.0.1:{to}")
        told.append("nat", "POSTROUTING", f"-p udp -m udp --dport {to} -j SNAT --to-source 127.0.0.1")
        return
    if told.number >= GROUPS_SINCE:
        for groups in told.uncaptured_groups():
            told.append("nat", chain, f"{_QUESTION}{groups}-j RETURN")
    for to in _servers(told):
        told.append("nat", chain, f"{to}{_QUESTION}{_TO_AGENT}")
    if told.number >= ALL_SINCE:
        _zones(told, chain, answers="PREROUTING")


def _own_chain(told: Installation) -> None:
    told.append("raw", "OUTPUT", "-j ISTIO_OUTPUT_DNS")
    servers = list(_servers(told))
    if servers:
        told.output("-j ISTIO_OUTPUT_DNS")
    for protocol in ("tcp", "udp"):
        for to in servers:
            told.append("nat", "ISTIO_OUTPUT_DNS", f"{to}-p {protocol} -m {protocol} --dport 53 {_TO_AGENT}")
    if servers:
        told.append("raw", "PREROUTING", "-j ISTIO_INBOUND")
    _zones(told, "ISTIO_OUTPUT_DNS", answers="ISTIO_INBOUND")


def _zones(told: Installation, chain: str, *, answers: str) -> None:
    """The agent's questions and the server's answers in zone 1, the application's in zone 2."""
    for owner in _proxies(told):
        told.append("raw", chain, f"{_QUESTION}{owner}-j CT --zone 1")
        told.append("raw", chain, f"-p udp -m udp --sport {_AGENT} {owner}-j CT --zone 2")
    for to in _servers(told):
        told.append("raw", chain, f"{to}{_QUESTION}-j CT --zone 2")
        by = to.replace("-d ", "-s ") if told.number >= SOURCE_SINCE else to
        told.append("raw", answers, f"{by}-p udp -m udp --sport 53 -j CT --zone 1")


def _captures(told: Installation) -> bool:
    options = told.options
    if options.dns_by_envoy and told.family == 4 and AGENT_SINCE <= told.number < TCP_SINCE:
        return True
    if not options.redirect_dns or (told.family == 6 and told.number < ONE_LAYOUT_SINCE):
        return False
    servers = options.dns_servers_v4 + options.dns_servers_v6
    return told.number < OWN_CHAIN_SINCE or bool(options.capture_all_dns or servers)


def _proxies(told: Installation) -> Iterator[str]:
    for uid in split(told.options.proxy_uid):
        yield f"-m owner --uid-owner {uid} "
    for gid in split(told.options.proxy_gid):
        yield f"-m owner --gid-owner {gid} "


def _servers(told: Installation) -> Iterator[str]:
    """Matches of the captured servers; one that matches all."""
    if told.options.capture_all_dns and told.number >= ALL_SINCE:
        yield ""
        return
    servers, length = (
        (told.options.dns_servers_v4, 32) if told.family == 4 else (told.options.dns_servers_v6, 128)
    )
    for server in split(servers):
        yield f"-d {server}/{length} "
