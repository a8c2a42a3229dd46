"""The sockets that listen in a pod, and the processes that hold them.

Knows the files that show them; a process of another container is not seen from this one. Does not know which
there should be.
"""

from __future__ import annotations

from dataclasses import replace

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.netfilter.namespace.sockets import Process, Socket, TransportName, parse_sockets
from pytest_istio_sidecar.readers import messages
from pytest_istio_sidecar.readers.runner import Runner

_FILES: tuple[tuple[TransportName, str], ...] = (
    ("tcp", "/proc/net/tcp"),
    ("tcp", "/proc/net/tcp6"),
    ("udp", "/proc/net/udp"),
    ("udp", "/proc/net/udp6"),
)
_ABSENT = "No such file"
_EACH = (
    "for p in /proc/[0-9]*; do ls -l $p/fd 2>/dev/null | grep -q socket: || continue; "
    'echo "$p $(cat $p/comm)"; ls -l $p/fd 2>/dev/null | grep -o "socket:[[][0-9]*"; done'
)
_HOLDERS = ["sh", "-c", _EACH]
"""Of each process that can be seen and has sockets its name, then the inodes of those (proc(5))."""


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
    return _held(sockets, runner.run(_HOLDERS, timeout=timeout))


def _held(sockets: list[Socket], listing: CommandResult) -> tuple[Socket, ...]:
    """The same with the processes that hold them, as far as these can be seen."""
    holders: dict[int, list[Process]] = {}
    process = None
    for line in listing.stdout.splitlines():
        path, _, name = line.partition(" ")
        if path.startswith("/proc/") and path.removeprefix("/proc/").isdecimal():
            process = Process(int(path.removeprefix("/proc/")), name)
        elif process is not None and path.startswith("socket:[") and path[8:].isdecimal():
            holders.setdefault(int(path[8:]), []).append(process)
    if not any(socket.inode in holders for socket in sockets):
        return tuple(sockets)
    return tuple(
        replace(socket, processes=tuple(sorted(set(holders.get(socket.inode or 0, ())))))
        for socket in sockets
    )
