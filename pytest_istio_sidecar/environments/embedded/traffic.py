"""One real request in an embedded pod, and all that is seen of it.

Knows how to send one, who the answerers are, and how to wait for Envoy's log.
Does not judge. Invariant: "Envoy did not see it" is only said after a request sent
to Envoy later has turned up in the log that Envoy writes in order.
"""

from __future__ import annotations

import ipaddress
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_istio_sidecar.environments.embedded.envoy import parse_access_log, with_token
from pytest_istio_sidecar.environments.embedded.envoy_configuration import TOKEN_HEADER
from pytest_istio_sidecar.environments.embedded.namespaces import CLIENT_ADDRESSES, POD_ADDRESSES
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.observation import CounterChange, EnvoySighting, Observation, RequestKind
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.netfilter.packet import Endpoint

APPLICATION_ID = 1000
"""User and group of httpbin, and of the sender of a request when none is given."""
HTTPBIN_PORT = 80
ECHO_PORT = 8080
"""Where the client answers what leaves the pod."""

_PATHS = {ports.READINESS: "/healthz/ready", ports.TELEMETRY: "/stats/prometheus"}
_ANSWER_SECONDS = 5.0
_LOG_SECONDS = 5.0
_POLL_SECONDS = 0.005

Control = Callable[[Mapping[str, object]], Mapping[str, object]]
"""Asks the pod's first process for one operation and returns its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Sends requests in one embedded pod.

    Attributes:
        control: the pod's first process.
        access_log: the file that Envoy writes.
        counters: reads every rule and its packet counter, in order.
        pod: how messages name the pod.
    """

    control: Control
    access_log: Path
    counters: Callable[[], list[tuple[str, int]]]
    pod: str

    def send(self, kind: RequestKind, port: int | None, uid: int, gid: int, family: Family) -> Observation:
        """Send one request and wait for the evidence."""
        token = os.urandom(8).hex()
        destination = _destination(kind, port, family)
        log_begin = self.access_log.stat().st_size
        before = self.counters()
        told = self._exchange(
            "client" if kind == "inbound" else "pod",
            destination,
            token,
            uid,
            gid,
        )
        sightings, marker_seen = self._watch_log(token, log_begin)
        after = self.counters()
        received = str(told["received"])
        status, body = _response(received)
        who, answered_port = _answerer(body, received, destination, sightings)
        local = told["local"]
        return Observation(
            kind=kind,
            pod=self.pod,
            token=token,
            uid=uid,
            gid=gid,
            source=Endpoint(ipaddress.ip_address(local[0]), local[1]) if isinstance(local, list) else None,
            destination=destination,
            answered_by=who,
            answered_port=answered_port,
            status=status,
            answer=body[:500],
            error=str(told["error"]) or ("" if received else "the connection was closed without an answer"),
            sightings=sightings,
            marker_seen=marker_seen,
            counters=tuple(
                CounterChange(rule=rule, before=old, after=new)
                for (rule, old), (_, new) in zip(before, after, strict=False)
                if old != new
            ),
        )

    def _exchange(
        self, network: str, destination: Endpoint, token: str, uid: int, gid: int
    ) -> Mapping[str, object]:
        path = _PATHS.get(destination.port or 0, "/anything")
        request = (
            f"GET {path} HTTP/1.1\r\nhost: {destination}\r\n{TOKEN_HEADER}: {token}\r\n"
            "connection: close\r\n\r\n"
        )
        return self.control(
            {
                "operation": "exchange",
                "network": network,
                "address": str(destination.address),
                "port": destination.port,
                "uid": uid,
                "gid": gid,
                "payload": request,
                "timeout": _ANSWER_SECONDS,
            }
        )

    def _watch_log(self, token: str, begin: int) -> tuple[tuple[EnvoySighting, ...], bool]:
        """Read the log until a marker sent now is in it: what came before the marker is in it then."""
        marker = os.urandom(8).hex()
        readiness = Endpoint(ipaddress.ip_address("127.0.0.1"), ports.READINESS)
        self._exchange("pod", readiness, marker, 0, 0)
        deadline = time.monotonic() + _LOG_SECONDS
        while True:
            with self.access_log.open("rb") as log:
                log.seek(begin)
                sightings = parse_access_log(log.read().decode(errors="backslashreplace"))
            marker_seen = bool(with_token(sightings, marker))
            if marker_seen or time.monotonic() > deadline:
                return with_token(sightings, token), marker_seen
            time.sleep(_POLL_SECONDS)


def _destination(kind: RequestKind, port: int | None, family: Family) -> Endpoint:
    address, usual = {
        "inbound": (POD_ADDRESSES[family][0], HTTPBIN_PORT),
        "outbound": (CLIENT_ADDRESSES[family], ECHO_PORT),
        "localhost": ("127.0.0.1" if family == 4 else "::1", HTTPBIN_PORT),
    }[kind]
    return Endpoint(ipaddress.ip_address(address), usual if port is None else port)


def _response(received: str) -> tuple[int | None, str]:
    """Status and body of an HTTP response; neither where it is none."""
    head, _, body = received.partition("\r\n\r\n")
    words = head.split(maxsplit=2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        return None, received
    return int(words[1]), body


def _answerer(
    body: str, received: str, destination: Endpoint, sightings: tuple[EnvoySighting, ...]
) -> tuple[str | None, int | None]:
    """Who answered, by what the answer says of itself, and on which port of its own."""
    # Through Envoy a body comes in chunks: the JSON object stands between its outer braces.
    try:
        told = json.loads(body[body.index("{") : body.rindex("}") + 1])
    except ValueError:
        told = None
    if isinstance(told, dict):
        if "answered_by" in told:
            return str(told["answered_by"]), int(told["port"])
        if {"args", "headers", "origin", "url"} <= told.keys():
            return "httpbin", HTTPBIN_PORT
    if sightings and received:
        return "envoy", sightings[-1].listener_address.port
    return None, destination.port if received else None
