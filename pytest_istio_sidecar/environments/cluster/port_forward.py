"""HTTP to a port of a pod's loopback, through the API server's port-forward.

Knows the protocol of its websocket (v4.channel.k8s.io) and lets `http.client` speak over it. Does not know
what is asked. Invariant: nothing is run in the pod, nothing listens on this machine, and nothing
outlives the answer. The official client's own port-forward opens without a deadline, and
leaves a thread to whoever forgets it.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import time
from typing import TYPE_CHECKING, Any

from pytest_istio_sidecar.environments.cluster import messages
from pytest_istio_sidecar.environments.cluster.api import KubernetesApi, websocket_error
from pytest_istio_sidecar.environments.cluster.api_problems import ApiUnreachable
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.machine.command import CommandResult

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_DATA, _ERROR = 0, 1
"""Channels of the one port. The first frame of either has the port's number, in two bytes.

Source: k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go.
"""


def get_from_pod(
    api: KubernetesApi, *, namespace: str, pod: str, port: int, path: str, timeout: float
) -> CommandResult:
    """GET a path from a port of a pod.

    Returns:
        The answer's body as standard output; exit status 0 for HTTP 200, 1 where nobody listens on
        that port or answers otherwise, None where the answer was not whole when its time was up.

    Raises:
        ApiProblem: the API server does not forward.
    """
    argv = ("port-forward", str(port), "GET", path)
    where = f"{namespace}/{pod}"
    resource = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}"

    def failing(reason: str) -> Failure:
        return messages.NOT_FORWARDED(port=port, pod=where, reason=reason)

    def attempt(seconds: float) -> CommandResult:
        begin = time.monotonic()
        socket = api.open_websocket(resource, failing, seconds)
        stream = _Stream(socket, begin + seconds)
        status: int | None = 1
        said, body = "", b""
        try:
            # Envoy refuses a request without Host, and closes after the answer when asked to.
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            socket.send_binary(bytes([_DATA]) + request.encode())
            answer = http.client.HTTPResponse(stream)  # type: ignore[arg-type]
            answer.begin()
            body = answer.read()
            status, said = int(answer.status != 200), "" if answer.status == 200 else f"HTTP {answer.status}"
        except TimeoutError:
            status, said = None, f"no answer within {seconds:.0f} s"
        except (http.client.HTTPException, OSError, websocket_error()) as problem:
            if not stream.refused:
                raise ApiUnreachable(
                    messages.FORWARD_BROKE(port=port, pod=where, problem=problem), passing=True
                ) from None
            said = stream.refused
        finally:
            with contextlib.suppress(OSError, websocket_error()):
                socket.close(timeout=1)
        return CommandResult(
            argv=argv,
            exit_status=status,
            stdout=body.decode(errors="backslashreplace"),
            stderr=said,
            seconds=time.monotonic() - begin,
        )

    return api.persist(attempt, timeout)


class _Stream(io.RawIOBase):
    """What the pod's port sends, as the socket that `http.client` reads from.

    Attributes:
        refused: what the node said where it could not connect to the port.
    """

    def __init__(self, socket: Any, deadline: float) -> None:
        self._socket = socket
        self._deadline = deadline
        self._data = b""
        self._numbered: set[int] = set()
        self.refused = ""

    def makefile(self, *_: object) -> io.BufferedReader:
        """As a socket has it."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Wait for data; 0 at the end of it.

        Raises:
            TimeoutError: none came in time.
        """
        from websocket import ABNF, WebSocketConnectionClosedException, WebSocketTimeoutException

        view = memoryview(buffer).cast("B")
        while not self._data:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            try:
                kind, frame = self._socket.recv_data()
            except WebSocketTimeoutException:
                raise TimeoutError from None
            except WebSocketConnectionClosedException:
                return 0
            if kind == ABNF.OPCODE_CLOSE:
                return 0
            self._take(frame)
        count = min(len(view), len(self._data))
        view[:count], self._data = self._data[:count], self._data[count:]
        return count

    def _take(self, frame: bytes) -> None:
        channel, data = frame[0], frame[1:]
        if channel not in self._numbered:
            self._numbered.add(channel)
            data = data[2:]
        if channel == _ERROR and data:
            self.refused += data.decode(errors="replace").strip()
        elif channel == _DATA:
            self._data += data
