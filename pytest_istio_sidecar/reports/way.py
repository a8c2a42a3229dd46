"""A packet's way as plain values, for every form of report.

Knows which parts of a trace people and programs are shown. Does not know how a form
lays them out. Invariant: JSON all through, as ways travel from workers to who reports.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from pytest_istio_sidecar.checks.tracing import CAPTURED
from pytest_istio_sidecar.checks.wording import describe
from pytest_istio_sidecar.istio.ports import DNS, PURPOSE
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate
from pytest_istio_sidecar.netfilter.trace.trace import Trace
from pytest_istio_sidecar.reports.message import describe_fields, outcome_of
from pytest_istio_sidecar.reports.path import PathLine, path_of
from pytest_istio_sidecar.reports.replay import replay_command

End = Literal["proxy", "application", "network", "nowhere", "unknown"]


class Way(TypedDict):
    """A packet's way through a pod.

    Attributes:
        title: packet and fate in one line.
        direction: of the packet: into the pod, or from one of its processes.
        sender: who sent it.
        end: what it comes to first after the rules.
        listener: what listens there, where the rules redirect; "" elsewhere.
        replay: the command that repeats the trace; "" where no file holds the rules.
    """

    title: str
    direction: Literal["inbound", "outbound"]
    packet: str
    sender: str
    fate: str
    destination: str
    end: End
    listener: str
    path: list[PathLine]
    reasons: list[str]
    replay: str


def way_of(trace: Trace) -> Way:
    """The way that a trace tells of."""
    return Way(
        title=f"{describe(trace.packet)}: {outcome_of(trace)}",
        direction="inbound" if trace.packet.hook == "PREROUTING" else "outbound",
        packet=describe_fields(trace.packet),
        sender=_sender(trace),
        fate=str(trace.fate),
        destination=str(trace.destination),
        end=_end(trace),
        listener=_listener(trace),
        path=path_of(trace),
        reasons=list(trace.reasons),
        replay=replay_command(trace),
    )


def _sender(trace: Trace) -> str:
    packet = trace.packet
    source = Endpoint(packet.source, packet.source_port)  # type: ignore[arg-type]
    if packet.hook == "PREROUTING":
        return f"{source}, a neighbour on the network"
    owner = f", uid {packet.uid} gid {packet.gid}" if packet.uid is not None else ""
    return f"{source}, a process of the pod{owner}"


def _end(trace: Trace) -> End:
    if trace.fate is Fate.UNKNOWN:
        return "unknown"
    if trace.fate is Fate.DROPPED:
        return "nowhere"
    if trace.fate in CAPTURED and trace.host.is_local(trace.destination.address):
        return "proxy"
    return "application" if trace.host.is_local(trace.destination.address) else "network"


def _listener(trace: Trace) -> str:
    if _end(trace) != "proxy":
        return ""
    port = trace.destination.port
    if port is None:
        return "listener"
    purpose = "DNS proxy" if port in DNS else PURPOSE.get(port)
    return f"{purpose} :{port}" if purpose else f":{port}, which is no port that Istio uses"
