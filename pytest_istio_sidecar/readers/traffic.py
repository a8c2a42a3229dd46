"""One real request to or from a pod, and all that is seen of it: what is the same wherever the pod is.

Knows what is sent, and puts together what was observed. Does not know how a request comes to be sent, nor
what shows where it was delivered; does not judge. Invariant: rules' counters are read around each request.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import ClassVar, get_args

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.observation import (
    CounterChange,
    EnvoySighting,
    Observation,
    RequestKind,
    TrackedConnection,
)
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.netfilter.packet import Endpoint
from pytest_istio_sidecar.readers import messages
from pytest_istio_sidecar.readers.runner import Runner
from pytest_istio_sidecar.readers.tables import read_counters

APPLICATION_ID = 1000
"""User and group of httpbin, and of the sender of a request when none is given."""
HTTPBIN_PORT = 80
_LAST_ID = 0xFFFFFFFE
"""The kernel takes the one after for nobody."""
TOKEN_HEADER = "x-istio-sidecar-token"  # noqa: S105 - marks a request, protects nothing

_PATHS = {ports.READINESS: "/healthz/ready", ports.TELEMETRY: "/stats/prometheus"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What became of one request.

    Attributes:
        local: the sender's end of the connection; None when none came about.
        received: all that came back.
        error: why nothing did.
        refused: by the kernel, as nobody listens there.
        sightings, marker_seen, tracked: as of `Observation`.
    """

    local: Endpoint | None
    received: str
    error: str
    refused: bool = False
    sightings: tuple[EnvoySighting, ...] = ()
    marker_seen: bool = False
    tracked: TrackedConnection | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What came back, as HTTP; without status all of it is the body."""

    status: int | None
    head: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic(ABC):
    """Sends requests to and from one pod.

    Attributes:
        pod: how messages name it.
        runner: root in its network namespace.
        seconds: that a command there may take.
    """

    pod: str
    runner: Runner
    seconds: ClassVar[float]

    def send(
        self, kind: RequestKind, port: int | None, uid: int, gid: int, family: Family = 4
    ) -> Observation:
        """Send one request, to the usual port of its kind when None, and gather what was seen of it.

        Raises:
            EnvironmentProblem: it could not be sent, or not be looked for.
        """
        token = os.urandom(8).hex()
        usual = self._destination(kind, family)
        destination = usual if port is None else Endpoint(usual.address, port)
        before = read_counters(self.runner, timeout=self.seconds)
        exchange = self._exchange(kind, destination, token, uid, gid)
        after = read_counters(self.runner, timeout=self.seconds)
        response = _response(exchange.received)
        who, answered_port = self._answerer(response, exchange, destination)
        return Observation(
            kind=kind,
            pod=self.pod,
            token=token,
            uid=uid,
            gid=gid,
            source=exchange.local,
            destination=destination,
            answered_by=who,
            answered_port=answered_port,
            status=response.status,
            answer=response.body[:500],
            error=exchange.error,
            sightings=exchange.sightings,
            marker_seen=exchange.marker_seen,
            refused=exchange.refused,
            tracked=exchange.tracked,
            counters=_changes(before, after),
        )

    @abstractmethod
    def _destination(self, kind: RequestKind, family: Family) -> Endpoint:
        """Where a request of this kind goes when nothing else is asked for."""

    @abstractmethod
    def _exchange(self, kind: RequestKind, destination: Endpoint, token: str, uid: int, gid: int) -> Exchange:
        """Send the request that `request_to` writes, and look for what shows where it was delivered."""

    @abstractmethod
    def _answerer(
        self, response: Response, exchange: Exchange, destination: Endpoint
    ) -> tuple[str | None, int | None]:
        """Who answered, by what the answer says of itself, and on which port of its own."""


def refuse_request(kind: object, *, port: object, uid: object, gid: object, family: object) -> None:
    """Refuse what is no request before anything is sent: a port beyond 65535 would be sent to another one.

    Args:
        port, uid, gid: None: the usual one.

    Raises:
        UsageProblem: the message names what is accepted.
    """
    known = get_args(RequestKind)
    if kind not in known:
        raise UsageProblem(messages.NO_REQUEST_KIND(kind=kind, known=", ".join(known)))
    if type(family) is not int or family not in get_args(Family):
        raise UsageProblem(messages.NO_REQUEST_FAMILY(family=family))
    for field, value, lowest, highest in (
        ("port", port, 1, 0xFFFF),
        ("uid", uid, 0, _LAST_ID),
        ("gid", gid, 0, _LAST_ID),
    ):
        if value is not None and not (type(value) is int and lowest <= value <= highest):
            raise UsageProblem(
                messages.NO_REQUEST_NUMBER(field=field, value=value, lowest=lowest, highest=highest)
            )


def own_end(name: object) -> Endpoint | None:
    """The sender's end, as a socket's name in JSON; null where no connection came about."""
    return Endpoint(ip_address(name[0]), name[1]) if isinstance(name, list) else None


def path_at(destination: Endpoint) -> str:
    """The path that who listens there answers."""
    return _PATHS.get(destination.port or 0, "/anything")


def request_to(destination: Endpoint, token: str) -> str:
    """A request, as it is sent."""
    lines = (f"GET {path_at(destination)} HTTP/1.1", f"host: {destination}", f"{TOKEN_HEADER}: {token}")
    return "\r\n".join([*lines, "connection: close", "", ""])


def _response(received: str) -> Response:
    head, _, body = received.replace("\r\n", "\n").partition("\n\n")
    words = head.split(maxsplit=2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        return Response(status=None, head="", body=received)
    return Response(status=int(words[1]), head=head.lower(), body=body)


def _changes(
    before: Sequence[tuple[str, int]], after: Sequence[tuple[str, int]]
) -> tuple[CounterChange, ...]:
    return tuple(
        CounterChange(rule=rule, before=old, after=new)
        for (rule, old), (_, new) in zip(before, after, strict=False)
        if old != new
    )
