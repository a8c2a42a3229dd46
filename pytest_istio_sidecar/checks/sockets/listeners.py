"""Does Envoy, or the agent, listen where the rules send traffic, and is every listener fed?

Knows how a listener compares with a wish, and with the end of a packet's path. Does not know how either was
read. Invariant: one finding for each kind of missing a listener, shown by one packet; of the agent only
notices, as no packet gets by Envoy where it does not listen.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Sequence

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.arguments import refuse_direction, refuse_port
from pytest_istio_sidecar.checks.cause import cause_of
from pytest_istio_sidecar.checks.finding import Finding, Kind, Severity
from pytest_istio_sidecar.checks.tracing import (
    addressed_families,
    assumptions,
    captured,
    decided,
    of_pod,
)
from pytest_istio_sidecar.checks.wording import describe
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.listeners import Direction, Listener
from pytest_istio_sidecar.netfilter.model import Rules
from pytest_istio_sidecar.netfilter.namespace.sockets import Socket, TransportName, takes
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate, Host, inbound
from pytest_istio_sidecar.netfilter.trace.trace import Trace

_MEANT = (ports.READINESS, ports.TELEMETRY, ports.TUNNEL)
"""Excluded ports that Envoy serves by design (istio.io "Ports used by Istio"), the last with HBONE."""
_TRANSPORTS: tuple[TransportName, ...] = ("tcp", "udp")


def check_listener(
    listeners: Sequence[Listener], port: int, *, direction: str | None = None
) -> list[Finding]:
    """Whether Envoy has a listener on a port, for traffic of a direction.

    Args:
        direction: "inbound" or "outbound"; None: whichever.

    Raises:
        UsageProblem: this is no port, or no direction.
    """
    refuse_port(port)
    refuse_direction(direction)
    wanted = f"a listener on :{port}" + (f" for {direction} traffic" if direction else "")
    purpose = f" ({ports.PURPOSE[port]})" if port in ports.PURPOSE else ""
    here = [listener for listener in listeners if listener.port == port]
    if here and (direction is None or any(listener.direction == direction for listener in here)):
        return []
    if here:
        failure = messages.OTHER_DIRECTION(
            port=port, direction=here[0].direction or "unsaid", wanted=direction
        )
    else:
        failure = messages.NOT_LISTENING(port=port)
    return [
        Finding(
            kind=Kind.LISTENER,
            failure=failure,
            wanted=wanted + purpose,
            got=_bound(listeners),
        )
    ]


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
        UsageProblem: these are no rules.
    """
    host = host or Host()
    findings: dict[str, Finding] = {}
    fed: set[int] = set()
    for trace in captured(rules, host, "tcp"):
        if ports.is_dns(trace.packet.destination_port, trace.destination.port):
            continue
        fed.add(trace.destination.port or 0)
        problem = _problem(trace, listeners, host)
        if problem is not None and problem not in findings:
            findings[problem] = Finding(
                kind=Kind.LISTENER,
                failure=messages.NOT_TAKEN(
                    packet=describe(trace.packet),
                    destination=trace.destination,
                    reason=problem,
                    pod=of_pod(rules),
                ),
                wanted=f"a listener of Envoy for {_direction(trace, host) or 'such'} traffic "
                f"at {trace.destination}",
                got=_bound(listeners),
                trace=trace,
                cause=cause_of(trace, rules),
                assumptions=assumptions(rules, trace.packet.family),
            )
    return [
        *findings.values(),
        *_unfed(listeners, fed, rules),
        *_served_though_excluded(listeners, rules, host),
        *(_unanswered(rules, sockets, host) if sockets is not None else ()),
    ]


def _problem(trace: Trace, listeners: Sequence[Listener], host: Host) -> str | None:
    """Why no listener takes the packet, as the end of a sentence; None: one does."""
    here = [listener for listener in listeners if _is_bound(listener, trace.destination)]
    if not here:
        same_port = [other for other in listeners if other.port == trace.destination.port]
        if same_port:
            where = Endpoint(same_port[0].address, same_port[0].port)
            return f"Envoy does not listen: it is bound to {where} only"
        return "Envoy does not listen"
    direction = _direction(trace, host)
    if direction is not None and all(listener.direction not in (direction, None) for listener in here):
        return f"Envoy listens for {here[0].direction} traffic, and this is {direction}"
    if trace.fate is Fate.TPROXIED and all(listener.transparent is False for listener in here):
        return "Envoy's listener takes no packet for another address: its socket is not transparent"
    if trace.fate is not Fate.TPROXIED and all(listener.original_destination is False for listener in here):
        return "Envoy's listener does not ask where the connection was going"
    return None


def _direction(trace: Trace, host: Host) -> Direction | None:
    """Whose listener is meant; None: either, for what others than Envoy send to their own pod.

    Istio lets most of that by, and sends some to the outbound listener (port 53 where it captures DNS).
    """
    packet = trace.packet
    if packet.hook == "PREROUTING":
        return "inbound"
    if not host.is_local(ipaddress.ip_address(packet.destination)):
        return "outbound"
    return "inbound" if ports.PROXY_ID in (packet.uid, packet.gid) else None


def _is_bound(listener: Listener, destination: Endpoint) -> bool:
    return any(takes(endpoint, destination) for endpoint in listener.endpoints)


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
    served = {endpoint.port for listener in serving for endpoint in listener.endpoints}
    for family, own in addressed_families(rules, host):
        for port in sorted(filter(None, served)):
            here = Endpoint(own, port)
            if port in _MEANT or not any(_is_bound(listener, here) for listener in serving):
                continue
            trace = decided(rules, inbound(port, family=family, destination=own), host)
            if trace.fate is Fate.UNCHANGED:
                yield Finding(
                    severity=Severity.NOTICE,
                    kind=Kind.LISTENER,
                    failure=messages.SERVED_ALL_THE_SAME(
                        packet=describe(trace.packet), port=port, pod=of_pod(rules)
                    ),
                    trace=trace,
                )


def _bound(listeners: Sequence[Listener]) -> str:
    return ", ".join(map(_describe, listeners)) or "no listener at all"


def _describe(listener: Listener) -> str:
    where = Endpoint(listener.address, listener.port)
    return f"{where} {listener.direction or ''}".rstrip()


def _unanswered(rules: Rules, sockets: Collection[Socket], host: Host) -> Iterator[Finding]:
    """What comes where no socket takes it: to the agent's port, which rules leave out, and DNS.

    What the rules do not leave or send to the agent is not asked of it.

    Raises:
        Undecided: the rules do not show what becomes of some packet.
    """
    addressed = dict(addressed_families(rules, host))
    for family, own in addressed.items():
        trace = decided(rules, inbound(ports.AGENT, family=family, destination=own), host)
        left_out = trace.fate is Fate.UNCHANGED and trace.deciding_rule is not None
        if left_out and not _listens(sockets, "tcp", Endpoint(own, ports.AGENT)):
            failure = messages.AGENT_SILENT(packet=describe(trace.packet), pod=of_pod(rules))
            yield _notice(failure, trace, "tcp", sockets)
    for protocol in _TRANSPORTS:
        for trace in captured(rules, host, protocol, destination_port=ports.DOMAIN):
            if not ports.is_dns(trace.packet.destination_port, trace.destination.port):
                continue
            if trace.packet.family in addressed and not _listens(sockets, protocol, trace.destination):
                failure = messages.DNS_UNANSWERED(
                    protocol=protocol, destination=trace.destination, pod=of_pod(rules)
                )
                yield _notice(failure, trace, protocol, sockets)
                break


def _notice(failure: Failure, trace: Trace, protocol: TransportName, sockets: Collection[Socket]) -> Finding:
    return Finding(
        severity=Severity.NOTICE,
        kind=Kind.LISTENER,
        failure=failure,
        wanted=f"a {protocol} socket at {trace.destination}",
        got=_sockets(sockets, protocol),
        trace=trace,
    )


def _listens(sockets: Collection[Socket], protocol: TransportName, destination: Endpoint) -> bool:
    return any(socket.takes(protocol, destination) for socket in sockets)


def _sockets(sockets: Collection[Socket], protocol: TransportName) -> str:
    places = sorted({(socket.port, str(socket.address)) for socket in sockets if socket.protocol == protocol})
    return ", ".join(f"{protocol} {address}:{port}" for port, address in places) or f"no {protocol} socket"
