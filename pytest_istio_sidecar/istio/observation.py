"""What was observed of one real request.

Knows the kinds of evidence and which of them decides. Does not know how they
were got. Invariant: that Envoy saw a request rests on Envoy's own log, that it did
not on a later request being in that log while this one is not; or both rest on the
kernel's entry for this very connection, which tells where it was delivered, or on its
refusal, as a listener would have taken it. Rule counters are shown beside, and decide
nothing: other traffic moves them too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_istio_sidecar.istio.listeners import Direction
from pytest_istio_sidecar.netfilter.packet import Endpoint

RequestKind = Literal["inbound", "outbound", "localhost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoySighting:
    """A request in Envoy's access log.

    Attributes:
        token: the one it carried; "" when it carried none.
        listener, direction: which of Envoy's listeners took it; only capturing ones have a direction.
        original_destination: where the connection was going, as the kernel told Envoy.
        listener_address: where it arrived.
        downstream: who sent it, as Envoy saw it.
        status: of the response.
        flags: Envoy's response flags, e.g. "UF" where the upstream could not be reached.
        line: the log's own line.
    """

    token: str
    listener: str
    direction: Direction | None
    original_destination: Endpoint
    listener_address: Endpoint
    downstream: Endpoint
    status: int = 0
    flags: str = ""
    line: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedConnection:
    """The kernel's entry for a connection (nf_conntrack): where it was delivered.

    Attributes:
        answers_from: source of the answers, which is who really has the connection.
        direction: of the capturing listener there; None where none is, and nothing was redirected.
        line: the entry itself.
        shared_with: a socket there that is not Envoy's and may have taken it; "": none was seen.
    """

    answers_from: Endpoint
    direction: Direction | None
    line: str = ""
    shared_with: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterChange:
    """A rule whose packet counter moved while the request was made."""

    rule: str
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One request and all that was seen of it.

    Attributes:
        kind: from a neighbour, to a neighbour, or from the pod to itself.
        pod: how messages name the pod.
        token: the header value by which it is found again.
        uid, gid: of the process that sent it.
        source: its own end of the connection; None when no connection came about.
        destination: where it was sent.
        answered_by: "httpbin", "echo", "stand-in", "envoy" or "agent"; "kernel" where it refused the
            connection as nobody listens there; None when nobody known answered.
        answered_port: the port of who answered.
        status: of the HTTP response; None when there was none.
        answer: the body of the response, cut to 500 characters.
        error: why there was no answer; "" when there was one.
        sightings: where Envoy's log has its token.
        marker_seen: whether a request sent to Envoy afterwards stands in the log, which proves
            that what is missing there was not merely late.
        refused: the connection was refused: nothing listens where the kernel delivered it.
        tracked: the kernel's entry for the connection, where that was looked up.
        counters: rules whose counters moved meanwhile.
    """

    kind: RequestKind
    pod: str
    token: str
    uid: int
    gid: int
    source: Endpoint | None
    destination: Endpoint
    answered_by: str | None
    answered_port: int | None
    status: int | None
    answer: str
    error: str
    sightings: tuple[EnvoySighting, ...]
    marker_seen: bool
    refused: bool = False
    tracked: TrackedConnection | None = None
    counters: tuple[CounterChange, ...] = ()

    @property
    def capture(self) -> EnvoySighting | None:
        """Envoy's record of having captured the request."""
        return next((seen for seen in self.sightings if seen.direction is not None), None)

    @property
    def captured_by(self) -> Direction | None:
        """The direction of the listener that captured it; None means "not captured" only when `decided`."""
        if self.capture is not None:
            return self.capture.direction
        return None if self.tracked is None else self.tracked.direction

    @property
    def decided(self) -> bool:
        """Whether the evidence tells if Envoy captured the request."""
        return self.capture is not None or self.marker_seen or self.refused or self.tracked is not None

    @property
    def delivered_elsewhere(self) -> Endpoint | None:
        """Where the kernel delivered it, if not where it was sent."""
        if self.tracked is None or self.tracked.answers_from == self.destination:
            return None
        return self.tracked.answers_from

    @property
    def request(self) -> str:
        """The request in a few words."""
        way = (
            f"{self.source} > {self.destination}"
            if self.source
            else f"to {self.destination}, never connected"
        )
        return f"tcp {way}, uid {self.uid} gid {self.gid}"

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Labelled evidence, in the order to show it."""
        lines = [("request", self.request)]
        if self.answered_by == "kernel":
            lines.append(("answered", "by the kernel, which refused the connection: nothing listens there"))
        elif self.answered_by:
            status = f", {self.status}" if self.status is not None else ""
            lines.append(("answered", f"by {self.answered_by} on port {self.answered_port}{status}"))
        else:
            lines.append(("answered", f"by nobody known: {self.error or self.answer[:60] or 'no data'}"))
        if self.capture is not None:
            seen = self.capture
            flags = f" {seen.flags}" if seen.flags else ""
            lines += [
                (
                    "envoy",
                    f"{seen.listener} took it at {seen.listener_address}, answered {seen.status}{flags}",
                ),
                ("", f"original destination {seen.original_destination}, sender {seen.downstream}"),
            ]
        elif self.refused:
            lines.append(("kernel", "refused it: nothing listens where it was delivered, so Envoy does not"))
        elif self.tracked is not None:
            lines.append(("kernel", _delivered(self.tracked, self.destination)))
        elif self.sightings:
            seen = self.sightings[0]
            lines.append(
                ("envoy", f"answered on {seen.listener_address} itself; no capturing listener saw it")
            )
        elif self.marker_seen:
            lines.append(("envoy", "did not see it; a later request is in its log"))
        else:
            lines.append(("envoy", "its log shows neither this request nor the one sent to check the log"))
        for change in self.counters:
            lines.append(("counter", f"{change.before} -> {change.after}  {change.rule}"))
        return tuple(lines)


def _delivered(tracked: TrackedConnection, destination: Endpoint) -> str:
    if tracked.answers_from == destination:
        return f"delivered the connection to {destination} itself"
    if tracked.shared_with:
        return f"delivered the connection to {tracked.answers_from}, where it may be {tracked.shared_with}'s"
    who = f", Envoy's {tracked.direction} listener" if tracked.direction else ", where no listener captures"
    return f"delivered the connection to {tracked.answers_from}{who}"
