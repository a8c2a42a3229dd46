"""Is one packet redirected to Envoy, or let by, as wanted?

Knows how a fate compares with a wish. Does not know a chain from another.
Invariant: a packet whose fate is unknown raises `Undecided`; it is never a finding.
"""

from __future__ import annotations

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.arguments import refuse_port
from pytest_istio_sidecar.checks.cause import cause_of
from pytest_istio_sidecar.checks.finding import Finding, Kind
from pytest_istio_sidecar.checks.tracing import assumptions, decided, of_pod, refuse_assumed, stays
from pytest_istio_sidecar.checks.wording import describe
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
        UsageProblem: this is no packet, or no port.
    """
    if to is not None:
        refuse_port(to)
    trace = decided(nat, packet, host)
    if to is None:
        to = INBOUND if packet.hook == "PREROUTING" else OUTBOUND
    port = trace.destination.port
    if port == to:
        refuse_assumed(trace, nat)
    if stays(trace) and port == to:
        return []
    wrong_port = stays(trace)
    return [
        Finding(
            kind=Kind.REDIRECT if wrong_port or trace.fate is Fate.DROPPED else Kind.BYPASS,
            failure=messages.WRONG_PORT(packet=describe(packet), port=port, wanted=to, pod=of_pod(nat))
            if wrong_port
            else _reaches(trace, of_pod(nat)),
            wanted=f"sent to :{to}{_purpose(to)}",
            got=_got(trace),
            trace=trace,
            cause=cause_of(trace, nat),
            assumptions=assumptions(nat, packet.family),
        )
    ]


def check_not_redirected(nat: Rules, packet: Packet, *, host: Host | None = None) -> list[Finding]:
    """Whether the packet keeps its destination: it must meet no proxy.

    Raises:
        Undecided: the rules do not show what becomes of it.
    """
    trace = decided(nat, packet, host)
    if trace.fate is Fate.UNCHANGED:
        return []
    where = f":{trace.destination.port}" if stays(trace) else trace.destination
    verb = f"is {trace.outcome}" if trace.fate is Fate.DROPPED else f"is sent to {where}"
    return [
        Finding(
            kind=Kind.REDIRECT,
            failure=messages.NOT_UNTOUCHED(packet=describe(packet), outcome=verb, pod=of_pod(nat)),
            wanted="destination unchanged",
            got=_got(trace),
            trace=trace,
            cause=cause_of(trace, nat),
            assumptions=assumptions(nat, packet.family),
        )
    ]


check_bypasses = check_not_redirected
"""The name of `check_not_redirected` before; goes with 1.0."""


def _reaches(trace: Trace, pod: str) -> Failure:
    packet = describe(trace.packet)
    if trace.fate is Fate.DROPPED:
        return messages.DROPPED(packet=packet, outcome=trace.outcome, pod=pod)
    if trace.fate is Fate.TRANSLATED:
        return messages.SENT_ELSEWHERE(packet=packet, destination=trace.destination, port="", pod=pod)
    if trace.packet.hook == "PREROUTING":
        return messages.REACHED_PAST_ENVOY(packet=packet, pod=pod)
    return messages.LEFT_PAST_ENVOY(packet=packet, pod=pod)


def _got(trace: Trace) -> str:
    if trace.fate is Fate.UNCHANGED:
        return f"destination unchanged, {trace.destination}"
    if trace.fate is Fate.DROPPED:
        return f"it is {trace.outcome}"
    return f"{trace.fate} to {trace.destination}{_purpose(trace.destination.port)}"


def _purpose(port: int | None) -> str:
    return f" ({PURPOSE[port]})" if port in PURPOSE else ""
