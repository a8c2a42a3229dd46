"""Does the agent listen where packets come to it?

Knows its port, and that DNS may be sent to it. Does not know Envoy's listeners. Invariant: only
notices: whoever does not listen, no packet gets by Envoy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.finding import Finding, Kind, Severity
from pytest_istio_sidecar.checks.tracing import addressed_families, captured, decided, describe, of_pod
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.netfilter.model import Rules
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate, Host, inbound
from pytest_istio_sidecar.netfilter.sockets import Socket, TransportName
from pytest_istio_sidecar.netfilter.trace.trace import Trace

_PROTOCOLS: tuple[TransportName, ...] = ("tcp", "udp")


def unanswered(rules: Rules, sockets: Collection[Socket], host: Host) -> Iterator[Finding]:
    """What comes where no socket takes it: to the agent's port, which rules leave out, and DNS.

    What the rules do not leave or send to the agent is not asked of it.

    Raises:
        Undecided: the rules do not show what becomes of some packet.
    """
    addressed = dict(addressed_families(rules, host))
    for family, own in addressed.items():
        way = decided(rules, inbound(ports.AGENT, family=family, destination=own), host)
        left_out = way.fate is Fate.UNCHANGED and way.deciding_rule is not None
        if left_out and not _listens(sockets, "tcp", Endpoint(own, ports.AGENT)):
            failure = messages.AGENT_SILENT(packet=describe(way.packet), pod=of_pod(rules))
            yield _notice(failure, way, "tcp", sockets)
    for protocol in _PROTOCOLS:
        for way in captured(rules, host, protocol, destination_port=ports.DOMAIN):
            if not ports.is_dns(way.packet.destination_port, way.destination.port):
                continue
            if way.packet.family in addressed and not _listens(sockets, protocol, way.destination):
                failure = messages.DNS_UNANSWERED(
                    protocol=protocol, destination=way.destination, pod=of_pod(rules)
                )
                yield _notice(failure, way, protocol, sockets)
                break


def _notice(failure: Failure, way: Trace, protocol: TransportName, sockets: Collection[Socket]) -> Finding:
    return Finding(
        severity=Severity.NOTICE,
        kind=Kind.LISTENER,
        failure=failure,
        wanted=f"a {protocol} socket at {way.destination}",
        got=_listening(sockets, protocol),
        trace=way,
    )


def _listens(sockets: Collection[Socket], protocol: TransportName, destination: Endpoint) -> bool:
    return any(held.takes(protocol, destination) for held in sockets)


def _listening(sockets: Collection[Socket], protocol: TransportName) -> str:
    held = sorted({(held.port, str(held.address)) for held in sockets if held.protocol == protocol})
    return ", ".join(f"{protocol} {address}:{port}" for port, address in held) or f"no {protocol} socket"
