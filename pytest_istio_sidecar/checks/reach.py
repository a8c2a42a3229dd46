"""Do the rules send traffic to where Envoy listens, and is every listener fed?

Knows how the end of a packet's way compares with listeners. Does not know how either was
read. Invariant: one finding for each way of missing a listener, shown by one packet.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Sequence

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.agent import unanswered
from pytest_istio_sidecar.checks.comparison.cause import cause_of
from pytest_istio_sidecar.checks.finding import Finding, Kind, Severity
from pytest_istio_sidecar.checks.tracing import (
    addressed_families,
    assumptions,
    captured,
    decided,
    describe,
    of_pod,
)
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.listeners import Direction, Listener
from pytest_istio_sidecar.netfilter.model import Rules
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate, Host, inbound
from pytest_istio_sidecar.netfilter.sockets import Socket, takes
from pytest_istio_sidecar.netfilter.trace.trace import Trace

_MEANT = (ports.READINESS, ports.TELEMETRY, ports.TUNNEL)
"""Excluded ports that Envoy serves by design (istio.io "Ports used by Istio"), the last with HBONE."""


def check_rules_reach_listeners(
    rules: Rules,
    listeners: Sequence[Listener],
    *,
    host: Host | None = None,
    sockets: Collection[Socket] | None = None,
) -> list[Finding]:
    """Whether every TCP packet that the rules capture comes to a listener of Envoy that can take it.

    A listener can take a packet when it is bound to its port, to an address it reaches, for its
    direction; what TPROXY hands over also needs a transparent socket (ip(7), IP_TRANSPARENT).
    What Envoy sends to its own pod is inbound traffic. The agent's sockets are
    no listeners of Envoy: whether it listens on its port, where the rules leave that to it, and where DNS
    is sent to it, is told by `sockets`.

    Args:
        host: the namespace's interfaces and addresses.
        sockets: those that listen in the pod; None: the agent is not asked about.

    Returns:
        Violations; and a notice for each capturing listener that no rule feeds, for each port that the
        rules leave to the application and Envoy serves all the same, for an agent that does not listen
        on its port, and for DNS that nobody answers.

    Raises:
        Undecided: the rules do not show what becomes of some packet.
    """
    host = host or Host()
    findings: dict[str, Finding] = {}
    fed: set[int] = set()
    for way in captured(rules, host, "tcp"):
        if ports.is_dns(way.packet.destination_port, way.destination.port):
            continue
        fed.add(way.destination.port or 0)
        problem = _problem(way, listeners, host)
        if problem is not None and problem not in findings:
            findings[problem] = Finding(
                kind=Kind.LISTENER,
                failure=messages.NOT_TAKEN(
                    packet=describe(way.packet),
                    destination=way.destination,
                    reason=problem,
                    pod=of_pod(rules),
                ),
                wanted=f"a listener of Envoy for {_direction(way, host) or 'such'} traffic "
                f"at {way.destination}",
                got=_bound(listeners),
                trace=way,
                cause=cause_of(way, rules),
                assumptions=assumptions(rules, way.packet.family),
            )
    return [
        *findings.values(),
        *_unfed(listeners, fed, rules),
        *_served_though_excluded(listeners, rules, host),
        *(unanswered(rules, sockets, host) if sockets is not None else ()),
    ]


def _problem(way: Trace, listeners: Sequence[Listener], host: Host) -> str | None:
    """Why no listener takes the packet, as the end of a sentence; None: one does."""
    here = [listener for listener in listeners if _is_bound(listener, way.destination)]
    if not here:
        same_port = [held for held in listeners if held.port == way.destination.port]
        if same_port:
            where = Endpoint(same_port[0].address, same_port[0].port)
            return f"Envoy does not listen: it is bound to {where} only"
        return "Envoy does not listen"
    direction = _direction(way, host)
    if direction is not None and all(listener.direction not in (direction, None) for listener in here):
        return f"Envoy listens for {here[0].direction} traffic, and this is {direction}"
    if way.fate is Fate.TPROXIED and all(listener.transparent is False for listener in here):
        return "Envoy's listener takes no packet for another address: its socket is not transparent"
    if way.fate is not Fate.TPROXIED and all(listener.original_destination is False for listener in here):
        return "Envoy's listener does not ask where the connection was going"
    return None


def _direction(way: Trace, host: Host) -> Direction | None:
    """Whose listener is meant; None: either, for what others than Envoy send to their own pod.

    Istio lets most of that by, and sends some to the outbound listener (port 53 where it captures DNS).
    """
    packet = way.packet
    if packet.hook == "PREROUTING":
        return "inbound"
    if not host.is_local(ipaddress.ip_address(packet.destination)):
        return "outbound"
    return "inbound" if ports.PROXY_ID in (packet.uid, packet.gid) else None


def _is_bound(listener: Listener, destination: Endpoint) -> bool:
    return any(takes(held, destination) for held in listener.endpoints)


def _unfed(listeners: Sequence[Listener], fed: set[int], rules: Rules) -> Iterator[Finding]:
    for listener in listeners:
        if listener.original_destination and listener.direction is not None and listener.port not in fed:
            yield Finding(
                severity=Severity.NOTICE,
                kind=Kind.LISTENER,
                failure=messages.UNFED(direction=listener.direction, port=listener.port, pod=of_pod(rules)),
            )


def _served_though_excluded(listeners: Sequence[Listener], rules: Rules, host: Host) -> Iterator[Finding]:
    """Ports that Envoy serves and no rule redirects, but the capturing ones and those that Istio means so."""
    serving = [listener for listener in listeners if not listener.original_destination]
    for family, own in addressed_families(rules, host):
        for port in sorted({held.port for listener in serving for held in listener.endpoints if held.port}):
            here = Endpoint(own, port)
            if port in _MEANT or not any(_is_bound(listener, here) for listener in serving):
                continue
            way = decided(rules, inbound(port, family=family, destination=own), host)
            if way.fate is Fate.UNCHANGED:
                yield Finding(
                    severity=Severity.NOTICE,
                    kind=Kind.LISTENER,
                    failure=messages.SERVED_ALL_THE_SAME(
                        packet=describe(way.packet), port=port, pod=of_pod(rules)
                    ),
                    trace=way,
                )


def _bound(listeners: Sequence[Listener]) -> str:
    places = [f"{Endpoint(held.address, held.port)} {held.direction or ''}".rstrip() for held in listeners]
    return ", ".join(places) or "no listener at all"
