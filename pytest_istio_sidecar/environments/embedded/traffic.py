"""Requests in an embedded pod, and how Envoy's own log shows them.

Knows how the pod's first process sends one, who the answerers are, and how to wait for Envoy's log.
Invariant: "Envoy did not see it" is only said after a request sent to Envoy later has turned up in the
log that Envoy writes in order.
"""

from __future__ import annotations

import ipaddress
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pytest_istio_sidecar.environments.embedded.envoy import parse_access_log, with_token
from pytest_istio_sidecar.environments.embedded.namespaces import CLIENT_ADDRESSES, POD_ADDRESSES
from pytest_istio_sidecar.environments.embedded.pod_process import COMMAND_SECONDS, PodRunner
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.observation import EnvoySighting, RequestKind
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.netfilter.packet import Endpoint
from pytest_istio_sidecar.readers.traffic import (
    HTTPBIN_PORT,
    Exchange,
    Response,
    Traffic,
    own_end,
    request_to,
)

ECHO_PORT = 8080
"""Where the client answers what leaves the pod."""

_ANSWER_SECONDS = 5.0
_LOG_SECONDS = 5.0
_POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedTraffic(Traffic):
    """Sends requests in one embedded pod.

    Attributes:
        access_log: the file that Envoy writes.
    """

    runner: PodRunner
    access_log: Path
    seconds: ClassVar[float] = COMMAND_SECONDS

    def _destination(self, kind: RequestKind, family: Family) -> Endpoint:
        address, port = {
            "inbound": (POD_ADDRESSES[family][0], HTTPBIN_PORT),
            "outbound": (CLIENT_ADDRESSES[family], ECHO_PORT),
            "localhost": ("127.0.0.1" if family == 4 else "::1", HTTPBIN_PORT),
        }[kind]
        return Endpoint(ipaddress.ip_address(address), port)

    def _exchange(self, kind: RequestKind, destination: Endpoint, token: str, uid: int, gid: int) -> Exchange:
        begin = self.access_log.stat().st_size
        answer = self._ask("client" if kind == "inbound" else "pod", destination, token, uid, gid)
        sightings, marker_seen = self._watch_log(token, begin)
        received = str(answer["received"])
        return Exchange(
            local=own_end(answer["local"]),
            received=received,
            error=str(answer["error"]) or ("" if received else "the connection was closed without an answer"),
            sightings=sightings,
            marker_seen=marker_seen,
        )

    def _ask(
        self, network: str, destination: Endpoint, token: str, uid: int, gid: int
    ) -> Mapping[str, object]:
        return self.runner.control(
            {
                "operation": "exchange",
                "network": network,
                "address": str(destination.address),
                "port": destination.port,
                "uid": uid,
                "gid": gid,
                "payload": request_to(destination, token),
                "timeout": _ANSWER_SECONDS,
            }
        )

    def _watch_log(self, token: str, begin: int) -> tuple[tuple[EnvoySighting, ...], bool]:
        """Read the log until a marker sent now is in it: what came before the marker is in it then."""
        marker = os.urandom(8).hex()
        readiness = Endpoint(ipaddress.ip_address("127.0.0.1"), ports.READINESS)
        self._ask("pod", readiness, marker, 0, 0)
        deadline = time.monotonic() + _LOG_SECONDS
        while True:
            with self.access_log.open("rb") as log:
                log.seek(begin)
                sightings = parse_access_log(log.read().decode(errors="backslashreplace"))
            marker_seen = bool(with_token(sightings, marker))
            if marker_seen or time.monotonic() > deadline:
                return with_token(sightings, token), marker_seen
            time.sleep(_POLL_SECONDS)

    def _answerer(
        self, response: Response, exchange: Exchange, destination: Endpoint
    ) -> tuple[str | None, int | None]:
        # Through Envoy a body comes in chunks: the JSON object stands between its outer braces.
        body = response.body
        try:
            answer = json.loads(body[body.index("{") : body.rindex("}") + 1])
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            if "answered_by" in answer:
                return str(answer["answered_by"]), int(answer["port"])
            if {"args", "headers", "origin", "url"} <= answer.keys():
                return "httpbin", HTTPBIN_PORT
        if exchange.sightings and exchange.received:
            return "envoy", exchange.sightings[-1].listener_address.port
        return None, destination.port if exchange.received else None
