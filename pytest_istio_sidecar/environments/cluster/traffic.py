"""One real request to or from a pod of a cluster, and what the kernel saw of it.

Knows how to send one from the client pod or as any user of the pod under test, and how its
connection is found in the pod's connection tracking. Does not judge. Invariant: where a
connection went is said from the kernel's own entry for that very connection, or not at all.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_istio_sidecar.environments.cluster import messages
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.listeners import Direction
from pytest_istio_sidecar.istio.observation import (
    CounterChange,
    Observation,
    RequestKind,
    TrackedConnection,
)
from pytest_istio_sidecar.netfilter.packet import Endpoint, IPAddress
from pytest_istio_sidecar.readers.command import CommandResult, Runner
from pytest_istio_sidecar.readers.exec import Exec
from pytest_istio_sidecar.readers.tables import read_counters

APPLICATION_ID = 1000
"""User and group that a request is sent by when none is given."""
HTTP_PORT = 80
"""Where httpbin listens, in the pod under test and in the client pod."""

_ANSWER_SECONDS = 5.0
_COMMAND_SECONDS = 20.0
_PATHS = {ports.READINESS: "/healthz/ready", ports.TELEMETRY: "/stats/prometheus"}
_CONNTRACK = "/proc/net/nf_conntrack"

_CLIENT = """
import json, socket, sys
address, port, payload, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
told = {"local": None, "received": "", "error": ""}
try:
    connection = socket.create_connection((address, port), seconds)
    told["local"] = connection.getsockname()[:2]
    connection.sendall(payload.encode())
    data = b""
    while True:
        chunk = connection.recv(65536)
        if not chunk:
            break
        data += chunk
        if len(data) > 1 << 20:
            break
    told["received"] = data.decode("latin-1")
except OSError as problem:
    told["error"] = str(problem)
    told["refused"] = isinstance(problem, ConnectionRefusedError)
print(json.dumps(told))
"""
"""For any Python 3 of a client image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTraffic:
    """Sends requests to and from one pod.

    Attributes:
        runner: root in the pod's network namespace.
        client: runs a command in the client pod, which has a Python and serves httpbin.
        pod: how messages name the pod under test.
        address, client_address: of the two pods.
        application_port: where the pod's application listens.
        listeners: direction of Envoy's capturing listeners, by port.
    """

    runner: Runner
    client: Exec
    pod: str
    address: IPAddress
    client_address: IPAddress
    application_port: int
    listeners: Mapping[int, Direction]

    def send(self, kind: RequestKind, port: int | None, uid: int, gid: int) -> Observation:
        """Send one request and look its connection up."""
        token = os.urandom(8).hex()
        destination = self._destination(kind, port)
        before = read_counters(self.runner, timeout=_COMMAND_SECONDS)
        told = (
            self._from_client(destination, token)
            if kind == "inbound"
            else self._from_pod(destination, token, uid, gid)
        )
        refused = bool(told.get("refused"))
        # Of a refused connection the kernel keeps no entry (nf_conntrack_proto_tcp.c).
        tracked = None if refused else self._tracked(told, destination)
        after = read_counters(self.runner, timeout=_COMMAND_SECONDS)
        status, head, body = _response(str(told["received"]))
        who, answered_port = _answerer(status, head, body, told, destination, tracked)
        return Observation(
            kind=kind,
            pod=self.pod,
            token=token,
            uid=uid,
            gid=gid,
            source=_local(told),
            destination=destination,
            answered_by=who,
            answered_port=answered_port,
            status=status,
            answer=body[:500],
            error=str(told["error"]),
            sightings=(),
            marker_seen=False,
            refused=refused,
            tracked=tracked,
            counters=_changes(before, after),
        )

    def _destination(self, kind: RequestKind, port: int | None) -> Endpoint:
        address: IPAddress = ipaddress.ip_address("127.0.0.1")
        usual = self.application_port
        if kind == "inbound":
            address = self.address
        elif kind == "outbound":
            address, usual = self.client_address, HTTP_PORT
        return Endpoint(address, usual if port is None else port)

    def _from_client(self, destination: Endpoint, token: str) -> Mapping[str, object]:
        payload = _payload(destination, token)
        argv = ["python3", "-c", _CLIENT, str(destination.address), str(destination.port), payload]
        result = self.client([*argv, f"{_ANSWER_SECONDS:g}"], timeout=_COMMAND_SECONDS)
        try:
            told: Mapping[str, object] = json.loads(result.stdout)
        except ValueError:
            raise _not_sent(result, "the client pod") from None
        return told

    def _from_pod(self, destination: Endpoint, token: str, uid: int, gid: int) -> Mapping[str, object]:
        """With curl as that user: the images of sidecars have no Python."""
        as_user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        path = _PATHS.get(destination.port or 0, "/anything")
        curl = ["curl", "--silent", "--show-error", "--include", "--max-time", f"{_ANSWER_SECONDS:g}"]
        curl += ["--header", f"x-request-token: {token}", "--write-out", "\\n%{local_ip} %{local_port}"]
        result = self.runner.run([*as_user, *curl, f"http://{destination}{path}"], timeout=_COMMAND_SECONDS)
        if result.missing or result.exit_status in (None, 126):
            raise _not_sent(result, self.pod)
        received, _, local = result.stdout.rpartition("\n")
        words = local.split()
        return {
            "local": [words[0], int(words[1])] if len(words) == 2 and words[1] != "0" else None,
            "received": received,
            "error": result.stderr.strip().removeprefix("curl: "),
            "refused": result.exit_status == 7,
        }

    def _tracked(self, told: Mapping[str, object], destination: Endpoint) -> TrackedConnection | None:
        """The kernel's entry for the connection; None where there is none, or it cannot be read."""
        local = _local(told)
        deadline = time.monotonic() + 2.0
        while True:
            result = self.runner.run(["cat", _CONNTRACK], timeout=_COMMAND_SECONDS)
            if not result.succeeded:
                raise EnvironmentProblem(messages.CONNECTIONS_NOT_READ(pod=self.pod, facts=result.facts()))
            found = _find(result.stdout, local, destination, self.listeners)
            if found is not None or time.monotonic() > deadline:
                return found
            time.sleep(0.1)


def _payload(destination: Endpoint, token: str) -> str:
    path = _PATHS.get(destination.port or 0, "/anything")
    return (
        f"GET {path} HTTP/1.1\r\nhost: {destination}\r\nx-request-token: {token}\r\nconnection: close\r\n\r\n"
    )


def _local(told: Mapping[str, object]) -> Endpoint | None:
    local = told["local"]
    return Endpoint(ipaddress.ip_address(local[0]), local[1]) if isinstance(local, list) else None


def _find(
    table: str, local: Endpoint | None, destination: Endpoint, listeners: Mapping[int, Direction]
) -> TrackedConnection | None:
    """The newest entry of the connection: by both ends, or by its destination where the sender tells none."""
    wanted = re.compile(
        rf"src=(?P<source>\S+) dst={re.escape(str(destination.address))} "
        rf"sport=(?P<sport>\d+) dport={destination.port} .*?"
        r"src=(?P<address>\S+) dst=\S+ sport=(?P<port>\d+) dport=\d+"
    )
    found = None
    for line in table.splitlines():
        entry = wanted.search(line) if " tcp " in line else None
        if entry is None or (local is not None and int(entry["sport"]) != local.port):
            continue
        port = int(entry["port"])
        redirected = (entry["address"], port) != (str(destination.address), destination.port)
        found = TrackedConnection(
            answers_from=Endpoint(ipaddress.ip_address(entry["address"]), port),
            direction=listeners.get(port) if redirected else None,
            line=line,
        )
        if local is not None:
            break
    return found


def _response(received: str) -> tuple[int | None, str, str]:
    head, _, body = received.replace("\r\n", "\n").partition("\n\n")
    words = head.split(maxsplit=2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        return None, "", received
    return int(words[1]), head.lower(), body


def _answerer(
    status: int | None,
    head: str,
    body: str,
    told: Mapping[str, object],
    destination: Endpoint,
    tracked: TrackedConnection | None,
) -> tuple[str | None, int | None]:
    """Who answered, by what the answer says of itself, and on which port."""
    if told.get("refused"):
        return "kernel", destination.port
    if status is None:
        return None, None
    if '"headers"' in body and '"origin"' in body:
        return "httpbin", HTTP_PORT
    if "server: envoy" in head or "server: istio-envoy" in head or "envoy_" in body:
        return "envoy", tracked.answers_from.port if tracked else destination.port
    return "agent" if destination.port == ports.AGENT else None, destination.port


def _changes(
    before: Sequence[tuple[str, int]], after: Sequence[tuple[str, int]]
) -> tuple[CounterChange, ...]:
    return tuple(
        CounterChange(rule=rule, before=old, after=new)
        for (rule, old), (_, new) in zip(before, after, strict=False)
        if old != new
    )


def _not_sent(result: CommandResult, where: str) -> EnvironmentProblem:
    return EnvironmentProblem(messages.NOT_SENT(pod=where, facts=result.facts()))
