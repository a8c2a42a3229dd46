"""Starting an embedded pod's first process, and talking to it.

Knows the pod's command line, its start and its control socket. Does not know what
is asked of a pod. Invariant: whatever interrupts a start ends what was started.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_istio_sidecar.environments.embedded import init, messages
from pytest_istio_sidecar.environments.embedded.namespaces import explain_failed_unshare
from pytest_istio_sidecar.environments.embedded.specification import Specification
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.failure import Advice, Fact, Failure, advise
from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.machine.lease import Lease, write_supervisor
from pytest_istio_sidecar.machine.process import ProcessIdentity

COMMAND_SECONDS = 10.0
"""For a command in the pod; they take milliseconds."""

_ADVICE = (
    Advice(
        "unable to initialize table",
        "the kernel has not loaded that table, and loads it for nobody but the machine's root",
        "sudo modprobe -a iptable_nat ip6table_nat",
    ),
    Advice(
        "Could not fetch rule set generation id",
        "the kernel has no nf_tables, or does not let this user at it",
        "sudo modprobe nf_tables",
    ),
    Advice(
        "setresuid failed: Invalid argument",
        "this user namespace has no user 1000 or 1337",
        "run as the machine's root, or give the container a whole range of user ids",
    ),
)


class PodRunner:
    """Runs commands in the pod, by its first process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def run(self, argv: Sequence[str], *, timeout: float, text: str = "") -> CommandResult:
        """Run one command; `text` is its standard input."""
        answer = self.control({"operation": "run", "argv": list(argv), "input": text, "timeout": timeout})
        status = answer["exit_status"]
        return CommandResult(
            argv=tuple(argv),
            exit_status=status if isinstance(status, int) else None,
            stdout=str(answer["stdout"]),
            stderr=str(answer["stderr"]),
            seconds=float(str(answer["seconds"])),
        )

    def control(self, request: Mapping[str, object]) -> Mapping[str, object]:
        """Ask the pod's first process for one operation.

        Raises:
            EnvironmentProblem: it has gone, or one of its programs has ended.
        """
        patience = float(str(request["timeout"])) + COMMAND_SECONDS
        try:
            with self.connect(patience) as connection, connection.makefile("rwb") as stream:
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                answer: dict[str, object] = json.loads(stream.readline())
        except (OSError, ValueError) as problem:
            words = self._last_words("pod")
            cause = "" if words else "it was stopped, or the process it was started for has ended"
            raise EnvironmentProblem(messages.NO_ANSWER(problem=problem, cause=cause, facts=words)) from None
        ended = answer["ended"]
        if isinstance(ended, list) and ended:
            words = [word for text in ended for word in self._last_words(str(text).partition(" ")[0])]
            raise EnvironmentProblem(messages.BROKEN(programs=", ".join(ended), facts=words))
        return answer

    def _last_words(self, name: str) -> list[Fact]:
        """The end of what a program of the pod has written; nothing where it wrote nothing."""
        try:
            said = (self._directory / f"{name}.err").read_text(errors="backslashreplace").splitlines()
        except OSError:
            said = []
        return [(name, "\n".join(said[-3:]))] if said else []

    def connect(self, patience: float) -> socket.socket:
        """Open the pod's control socket, by its directory: a socket's path holds 107 bytes only."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(patience)
        try:
            descriptor = os.open(self._directory, os.O_PATH)
            try:
                connection.connect(f"/proc/self/fd/{descriptor}/control")
            finally:
                os.close(descriptor)
        except OSError:
            connection.close()
            raise
        return connection


_STARTED: dict[ProcessIdentity, int] = {}
"""The `unshare` of each pod that this process started, by the pod's first process."""


def end_pod(supervisor: ProcessIdentity) -> None:
    """End a pod; returns when all its processes have ended. One that has ended already is no fault."""
    supervisor.end()
    child = _STARTED.pop(supervisor, None)
    if child is not None:
        _wait_for_end(child)


def bring_up_pod(
    command: Sequence[str], specification: Specification, lease: Lease, timeout: float
) -> tuple[ProcessIdentity, dict[str, float]]:
    """Start the pod's first process and wait until it serves; returns it and the seconds of each part."""
    lease.directory.mkdir(mode=0o700)
    file = lease.directory / "pod.json"
    file.write_text(json.dumps(specification))
    owner = lease.owner.open()
    if owner is None:
        raise EnvironmentProblem(messages.POD_OWNER_ENDED(pid=lease.owner.pid))
    ours, theirs = socket.socketpair()
    child = None
    try:
        with (lease.directory / "pod.err").open("wb") as errors:
            # Not subprocess: its objects complain when the process outlives them, and this one may
            # be ended by another process than the one that started it.
            child = os.posix_spawn(
                command[0],
                [
                    *command,
                    *(sys.executable, "-I", "-S", init.__file__),
                    *(str(file), str(theirs.fileno()), str(owner)),
                ],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, errors.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
                    # Onto itself: kept open across exec (POSIX.1-2024, posix_spawn_file_actions_adddup2).
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), theirs.fileno()),
                    (os.POSIX_SPAWN_DUP2, owner, owner),
                ],
                setsigdef=[signal.SIGPIPE],
                # Ctrl-C in the terminal is for who asked for the pod, who then ends it in good order.
                setsid=True,
            )
        theirs.close()
        parts = _wait_until_ready(ours, lease.directory, timeout)
        supervisor = _supervisor(lease.directory)
        write_supervisor(lease.directory, supervisor)
        ours.sendall(b"!")
    except BaseException:
        ours.close()  # which ends the pod
        if child is not None:
            _wait_for_end(child)
        raise
    finally:
        ours.close()
        theirs.close()
        os.close(owner)
    _STARTED[supervisor] = child
    return supervisor, parts


def _wait_until_ready(status: socket.socket, directory: Path, timeout: float) -> dict[str, float]:
    parts: dict[str, float] = {}
    deadline = time.monotonic() + timeout + 2  # the pod keeps to its time itself, and says what it waits for
    heard = b""
    while True:
        status.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            chunk = status.recv(65536)
        except TimeoutError:
            last = ", ".join(parts) or "nothing"
            raise EnvironmentProblem(messages.NOT_READY(seconds=timeout, parts=last)) from None
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            raise EnvironmentProblem(_why_it_ended(directory, bool(parts)))
        *lines, heard = (heard + chunk).split(b"\n")
        for line in lines:
            fact = json.loads(line)
            if "problem" in fact:
                failure = messages.NOT_MADE(problem=fact["problem"], facts=map(tuple, fact["facts"]))
                raise EnvironmentProblem(failure.advised(advise(str(failure), _ADVICE)))
            if "ready" in fact:
                return parts
            parts[fact["part"]] = float(fact["seconds"])


def _why_it_ended(directory: Path, began: bool) -> Failure:
    errors = (directory / "pod.err").read_text(errors="backslashreplace")
    if not began and "Traceback" not in errors and "failed to execute" not in errors:
        return explain_failed_unshare(errors)
    return messages.ENDED_EARLY(facts=[("stderr", "\n".join(errors.splitlines()[-5:]))])


def _supervisor(directory: Path) -> ProcessIdentity:
    """The pod's first process as it is numbered out here: its socket tells (SO_PEERCRED, socket(7))."""
    with PodRunner(directory).connect(COMMAND_SECONDS) as connection:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    identity = ProcessIdentity.of(struct.unpack("3i", credentials)[0])
    if identity is None:
        raise EnvironmentProblem(messages.ENDED_AT_ONCE())
    return identity


def _wait_for_end(child: int) -> None:
    """Collect a child, which is about to end; kill it when it does not."""
    descriptor = os.pidfd_open(child)
    try:
        if not select.select([descriptor], [], [], 5)[0]:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)
    os.waitpid(child, 0)
