"""Is one packet redirected to Envoy, or let by, as wanted?

Knows how a fate compares with a wish. Does not know a chain from another.
Invariant: a packet whose fate is unknown raises `Undecided`; it is never a finding.
"""

from __future__ import annotations

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.comparison.cause import cause_of
from pytest_istio_sidecar.checks.finding import Finding, Kind
from pytest_istio_sidecar.checks.tracing import CAPTURED, assumptions, decided, describe, of_pod
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.istio.ports import INBOUND, OUTBOUND, PURPOSE
from pytest_istio_sidecar.netfilter.model import Rules
from pytest_istio_sidecar.netfilter.packet import Fate, Host, Packet
from pytest_istio_sidecar.netfilter.trace.trace import Trace


def check_redirected(
    nat: Rules, packet: Packet, to: int | None = None, *, host: Host | None = None
) -> list[Finding]:
    """Whether the packet is sent to the local port `to`.

    Args:
        to: None: Envoy's port for the packet's hook, 15006 at PREROUTING and 15001 at OUTPUT. Rules do not
            tell which ports a pod's options moved: name those.

    Raises:
        Undecided: the rules do not show what becomes of it.
    """
    if to is None:
        to = INBOUND if packet.hook == "PREROUTING" else OUTBOUND
    way = decided(nat, packet, host)
    port = way.destination.port
    if way.fate in CAPTURED and port == to:
        return []
    wrong_port = way.fate in CAPTURED
    return [
        Finding(
            kind=Kind.REDIRECT if wrong_port or way.fate is Fate.DROPPED else Kind.BYPASS,
            failure=messages.WRONG_PORT(packet=describe(packet), port=port, wanted=to, pod=of_pod(nat))
            if wrong_port
            else _reaches(way, of_pod(nat)),
            wanted=f"REDIRECT to :{to}{_purpose(to)}",
            got=_got(way),
            trace=way,
            cause=cause_of(way, nat),
            assumptions=assumptions(nat, packet.family),
        )
    ]


def check_not_redirected(nat: Rules, packet: Packet, *, host: Host | None = None) -> list[Finding]:
    """Whether the packet keeps its destination: it must meet no proxy.

    Raises:
        Undecided: the rules do not show what becomes of it.
    """
    way = decided(nat, packet, host)
    if way.fate is Fate.UNCHANGED:
        return []
    verb = "is dropped" if way.fate is Fate.DROPPED else f"is sent to :{way.destination.port}"
    return [
        Finding(
            kind=Kind.REDIRECT,
            failure=messages.NOT_UNTOUCHED(packet=describe(packet), outcome=verb, pod=of_pod(nat)),
            wanted="destination unchanged",
            got=_got(way),
            trace=way,
            cause=cause_of(way, nat),
            assumptions=assumptions(nat, packet.family),
        )
    ]


check_bypasses = check_not_redirected
"""The name of `check_not_redirected` before; goes with 1.0."""


def _reaches(way: Trace, pod: str) -> Failure:
    packet = describe(way.packet)
    if way.fate is Fate.DROPPED:
        return messages.DROPPED(packet=packet, pod=pod)
    if way.packet.hook == "PREROUTING":
        return messages.REACHED_PAST_ENVOY(packet=packet, pod=pod)
    return messages.LEFT_PAST_ENVOY(packet=packet, pod=pod)


def _got(way: Trace) -> str:
    if way.fate is Fate.UNCHANGED:
        return f"destination unchanged, {way.destination}"
    if way.fate is Fate.DROPPED:
        return "the kernel drops it"
    return f"{way.fate} to {way.destination}{_purpose(way.destination.port)}"


def _purpose(port: int | None) -> str:
    return f" ({PURPOSE[port]})" if port in PURPOSE else ""
