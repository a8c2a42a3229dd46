"""What comes over a websocket of exec, and how the command ended.

Knows the protocol v4.channel.k8s.io. Does not know how the websocket was opened, nor what was run. Invariant:
an end that was never told is an error, not a status.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

from pytest_istio_sidecar.environments.cluster import messages
from pytest_istio_sidecar.environments.cluster.api_problems import ApiProblem, ApiUnreachable
from pytest_istio_sidecar.machine.command import NOT_FOUND
from pytest_istio_sidecar.machine.state_file import Json

STDOUT, STDERR, STATUS = 1, 2, 3
"""Channels of the protocol (k8s.io/kubernetes, remotecommand/constants.go)."""


def websocket_error() -> type[Exception]:
    """What a websocket raises, beside OSError."""
    from websocket import WebSocketException

    return WebSocketException


def listen(socket: Any, deadline: float, where: str) -> tuple[dict[int, str], Json | None]:
    """Everything a command says on its channels; its status, None when the deadline came first."""
    from websocket import WebSocketTimeoutException

    heard = {STDOUT: bytearray(), STDERR: bytearray(), STATUS: bytearray()}
    status: Json | None = None
    while True:
        socket.settimeout(max(deadline - time.monotonic(), 0.05))
        try:
            _, frame = socket.recv_data()
        except (WebSocketTimeoutException, TimeoutError):
            break
        except (OSError, websocket_error()) as problem:
            raise _broke(where, str(problem)) from None
        if not frame or frame[0] not in heard:
            if heard[STATUS]:
                break
            if not frame:
                raise _broke(where, "closed before the command's end was told")
            continue
        heard[frame[0]] += frame[1:]
        if frame[0] == STATUS:
            with contextlib.suppress(ValueError):
                status = json.loads(heard[STATUS])
                break
    return {channel: bytes(data).decode(errors="backslashreplace") for channel, data in heard.items()}, status


def _broke(where: str, said: str) -> ApiUnreachable:
    return ApiUnreachable(messages.COMMAND_BROKE(place=where, said=said), passing=True)


def exit_status(status: Json, stderr: str, where: str) -> tuple[int, str]:
    """The exit status out of the v1.Status on the status channel (KEP: remotecommand v4)."""
    if status.get("status") == "Success":
        return 0, stderr
    message = str(status.get("message", ""))
    if any(text in message for text in ("executable file not found", "no such file or directory")):
        return NOT_FOUND, stderr or message
    for cause in (status.get("details") or {}).get("causes", []):
        if cause.get("reason") == "ExitCode":
            return int(cause["message"]), stderr
    # The runtime could not start it just now (runc on a busy node: "read init-p: connection reset by peer").
    passing = any(text in message for text in ("connection reset by peer", "temporarily unavailable"))
    raise ApiProblem(messages.COMMAND_NOT_RUN(place=where, reason=message), said=message, passing=passing)
