"""Requests to and from a pod of a cluster, and what the kernel saw of them.

Knows how to send one from the client pod or as any user of the pod under test, and how its
connection is found in the pod's connection tracking. Invariant: where a connection went is said from
the kernel's own entry for that very connection, or not at all.
"""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from pytest_istio_sidecar.environments.cluster import messages
from pytest_istio_sidecar.errors import EnvironmentProblem, ParseError
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.listeners import Direction
from pytest_istio_sidecar.istio.observation import RequestKind, TrackedConnection
from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.netfilter.namespace.sockets import foreign_taker
from pytest_istio_sidecar.netfilter.packet import Endpoint, IPAddress
from pytest_istio_sidecar.readers.exec import Exec
from pytest_istio_sidecar.readers.sockets import read_sockets
from pytest_istio_sidecar.readers.traffic import (
    HTTPBIN_PORT,
    TOKEN_HEADER,
    Exchange,
    Response,
    Traffic,
    own_end,
    path_at,
    request_to,
)

_ANSWER_SECONDS = 5.0
_COMMAND_SECONDS = 20.0
_CONNTRACK = "/proc/net/nf_conntrack"

_CLIENT = """
import json, socket, sys
address, port, payload, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
answer = {"local": None, "received": "", "error": ""}
try:
    connection = socket.create_connection((address, port), seconds)
    answer["local"] = connection.getsockname()[:2]
    connection.sendall(payload.encode())
    data = b""
    while True:
        chunk = connection.recv(65536)
        if not chunk:
            break
        data += chunk
        if len(data) > 1 << 20:
            break
    answer["received"] = data.decode("latin-1")
except OSError as problem:
    answer["error"] = str(problem)
    answer["refused"] = isinstance(problem, ConnectionRefusedError)
print(json.dumps(answer))
"""
"""For any Python 3 of a client image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTraffic(Traffic):
    """Sends requests to and from one pod.

    Attributes:
        client: runs a command in the client pod, which has a Python and serves httpbin.
        address, client_address: of the two pods.
        application_port: where the pod's application listens.
        listeners: direction of Envoy's capturing listeners, by port.
    """

    client: Exec
    address: IPAddress
    client_address: IPAddress
    application_port: int
    listeners: Mapping[int, Direction]
    seconds: ClassVar[float] = _COMMAND_SECONDS

    def _destination(self, kind: RequestKind, family: Family) -> Endpoint:  # noqa: ARG002 - a pod has one
        if kind == "inbound":
            return Endpoint(self.address, self.application_port)
        if kind == "outbound":
            return Endpoint(self.client_address, HTTPBIN_PORT)
        return Endpoint(ipaddress.ip_address("127.0.0.1"), self.application_port)

    def _exchange(self, kind: RequestKind, destination: Endpoint, token: str, uid: int, gid: int) -> Exchange:
        sent = (
            self._from_client(destination, token)
            if kind == "inbound"
            else self._from_pod(destination, token, uid, gid)
        )
        # Of a refused connection the kernel keeps no entry (nf_conntrack_proto_tcp.c).
        return sent if sent.refused else replace(sent, tracked=self._tracked(sent.local, destination))

    def _from_client(self, destination: Endpoint, token: str) -> Exchange:
        argv = ["python3", "-c", _CLIENT, str(destination.address), str(destination.port)]
        argv += [request_to(destination, token), f"{_ANSWER_SECONDS:g}"]
        result = self.client(argv, timeout=_COMMAND_SECONDS)
        try:
            answer: Mapping[str, object] = json.loads(result.stdout)
        except ValueError:
            raise _not_sent(result, "the client pod") from None
        return Exchange(
            local=own_end(answer["local"]),
            received=str(answer["received"]),
            error=str(answer["error"]),
            refused=bool(answer.get("refused")),
        )

    def _from_pod(self, destination: Endpoint, token: str, uid: int, gid: int) -> Exchange:
        """With curl as that user: the images of sidecars have no Python."""
        as_user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        curl = ["curl", "--silent", "--show-error", "--include", "--max-time", f"{_ANSWER_SECONDS:g}"]
        curl += ["--header", f"{TOKEN_HEADER}: {token}", "--write-out", "\\n%{local_ip} %{local_port}"]
        url = f"http://{destination}{path_at(destination)}"
        result = self.runner.run([*as_user, *curl, url], timeout=_COMMAND_SECONDS)
        if result.missing or result.exit_status in (None, 126):
            raise _not_sent(result, self.pod)
        received, _, local = result.stdout.rpartition("\n")
        words = local.split()
        return Exchange(
            local=own_end([words[0], int(words[1])]) if len(words) == 2 and words[1] != "0" else None,
            received=received,
            error=result.stderr.strip().removeprefix("curl: "),
            refused=result.exit_status == 7,
        )

    def _tracked(self, local: Endpoint | None, destination: Endpoint) -> TrackedConnection | None:
        """The kernel's entry for the connection; None where there is none."""
        deadline = time.monotonic() + 2.0
        while True:
            result = self.runner.run(["cat", _CONNTRACK], timeout=_COMMAND_SECONDS)
            if not result.succeeded:
                raise EnvironmentProblem(messages.CONNECTIONS_NOT_READ(pod=self.pod, facts=result.facts()))
            tracked = _find(result.stdout, local, destination, self.listeners)
            if tracked is not None or time.monotonic() > deadline:
                return tracked if tracked is None or tracked.direction is None else self._unshared(tracked)
            time.sleep(0.1)

    def _unshared(self, tracked: TrackedConnection) -> TrackedConnection:
        """The same, as Envoy's only where no other socket may have taken it (what cannot be read is none)."""
        try:
            sockets = read_sockets(self.runner, timeout=_COMMAND_SECONDS, pod=self.pod)
        except (EnvironmentProblem, ParseError):
            return tracked
        other = foreign_taker(sockets, tracked.answers_from, self.listeners)
        if other is None:
            return tracked
        held = ", ".join(map(str, other.processes or ())) or f"another process of user {other.uid}"
        return replace(tracked, direction=None, shared_with=held)

    def _answerer(
        self, response: Response, exchange: Exchange, destination: Endpoint
    ) -> tuple[str | None, int | None]:
        if exchange.refused:
            return "kernel", destination.port
        if response.status is None:
            return None, None
        if '"headers"' in response.body and '"origin"' in response.body:
            return "httpbin", HTTPBIN_PORT
        of_envoy = "server: envoy" in response.head or "server: istio-envoy" in response.head
        if of_envoy or "envoy_" in response.body:
            return "envoy", exchange.tracked.answers_from.port if exchange.tracked else destination.port
        return "agent" if destination.port == ports.AGENT else None, destination.port


def _find(
    table: str, local: Endpoint | None, destination: Endpoint, listeners: Mapping[int, Direction]
) -> TrackedConnection | None:
    """The newest entry of the connection: by both ends, or by its destination where the sender tells none."""
    wanted = re.compile(
        rf"src=(?P<source>\S+) dst={re.escape(str(destination.address))} "
        rf"sport=(?P<sport>\d+) dport={destination.port} .*?"
        r"src=(?P<address>\S+) dst=\S+ sport=(?P<port>\d+) dport=\d+"
    )
    newest = None
    for line in table.splitlines():
        entry = wanted.search(line) if " tcp " in line else None
        if entry is None or (local is not None and int(entry["sport"]) != local.port):
            continue
        port = int(entry["port"])
        redirected = (entry["address"], port) != (str(destination.address), destination.port)
        newest = TrackedConnection(
            answers_from=Endpoint(ipaddress.ip_address(entry["address"]), port),
            direction=listeners.get(port) if redirected else None,
            line=line,
        )
        if local is not None:
            break
    return newest


def _not_sent(result: CommandResult, where: str) -> EnvironmentProblem:
    return EnvironmentProblem(messages.NOT_SENT(pod=where, facts=result.facts()))
