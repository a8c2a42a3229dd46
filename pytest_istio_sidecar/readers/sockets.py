"""The sockets that listen in a pod.

Knows the files that show them. Does not know which there should be.
"""

from __future__ import annotations

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.netfilter.sockets import Socket, TransportName, parse_sockets
from pytest_istio_sidecar.readers import messages
from pytest_istio_sidecar.readers.runner import Runner

_FILES: tuple[tuple[TransportName, str], ...] = (
    ("tcp", "/proc/net/tcp"),
    ("tcp", "/proc/net/tcp6"),
    ("udp", "/proc/net/udp"),
    ("udp", "/proc/net/udp6"),
)
_ABSENT = "No such file"


def read_sockets(runner: Runner, *, timeout: float, pod: str = "") -> tuple[Socket, ...]:
    """Read which sockets of a pod's network namespace wait for connections or datagrams.

    A kernel without IPv6 has no list of its sockets.

    Raises:
        EnvironmentProblem: they could not be read.
        ParseError: a file has something else.
    """
    sockets: list[Socket] = []
    for protocol, path in _FILES:
        result = runner.run(["cat", path], timeout=timeout)
        if path.endswith("6") and _ABSENT in result.stderr:
            continue
        if not result.succeeded:
            raise EnvironmentProblem(messages.SOCKETS_NOT_READ(pod=pod or "the pod", facts=result.facts()))
        sockets += parse_sockets(protocol, result.stdout)
    return tuple(sockets)
