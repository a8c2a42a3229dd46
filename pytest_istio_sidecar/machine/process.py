"""Processes of this machine: which one is meant, whether it lives, and how to end it.

Invariant: a process is its number and its start time together, so that a number
that the kernel has given away again never gets a stranger killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_istio_sidecar.errors import EnvironmentProblem

SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
"""Where iptables and its like live, which Debian leaves out of an ordinary user's PATH."""


PROCESS = {"pid": int, "started": int}
"""The shape of a process that is written down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """One process for good.

    Attributes:
        pid: its number, which the kernel gives away again.
        started: its start, in clock ticks since boot: field 22 of /proc/PID/stat (proc(5)).
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The process that has this number now; None when there is none, or only its remains."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        # The name, which may hold anything, ends at the last bracket; state is the field after it.
        return None if fields[0] in (b"Z", b"X") else cls(pid=pid, started=int(fields[19]))

    @classmethod
    def read(cls, written: Mapping[str, int]) -> ProcessIdentity:
        """The one that is written down so."""
        return cls(pid=written["pid"], started=written["started"])

    @property
    def alive(self) -> bool:
        return ProcessIdentity.of(self.pid) == self

    def open(self) -> int | None:
        """A pidfd of the process, which stays its own whatever becomes of the number; None: it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive:
            return descriptor
        os.close(descriptor)
        return None

    def end(self, *, patience: float = 5.0) -> None:
        """Ask the process to end, and kill it after `patience` seconds; returns when it has ended.

        Raises:
            EnvironmentProblem: it outlived SIGKILL by as long.
        """
        descriptor = self.open()
        if descriptor is None:
            return
        try:
            for wish in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, wish)
                if select.select([descriptor], [], [], patience)[0]:
                    return
        finally:
            os.close(descriptor)
        raise EnvironmentProblem(f"process {self.pid} did not end {patience:g} s after it was killed")


def find_program(name: str) -> str | None:
    """The path of a program, looked for on PATH and in the system's directories."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
