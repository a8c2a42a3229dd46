"""A command run in a pod, and what came of it.

Knows how a result looks and how a failed one is told. Does not know how a
command gets into a pod: each environment has a `Runner` of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_istio_sidecar.failure import Fact

NOT_FOUND = 127
"""Exit status of a command that is not there, as a shell gives it (POSIX, 2.8.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What one command left behind.

    Attributes:
        argv: the command as it was run.
        exit_status: None: it was killed when its time was up.
        stdout, stderr: both streams, whole.
        seconds: how long it ran.
    """

    argv: tuple[str, ...]
    exit_status: int | None
    stdout: str
    stderr: str
    seconds: float

    @property
    def succeeded(self) -> bool:
        return self.exit_status == 0

    @property
    def missing(self) -> bool:
        """Whether the pod has no such program."""
        return self.exit_status == NOT_FOUND

    @property
    def file(self) -> str:
        """Name of the file that keeps what it said; who became root for it makes no difference."""
        return "_".join(word.strip("-") for word in self.argv if word != "sudo") + ".txt"

    def facts(self) -> list[Fact]:
        """For a message: what ran, how it ended, what it said."""
        ended = "no end" if self.exit_status is None else f"exit {self.exit_status}"
        said = "\n".join(self.stderr.strip().splitlines()[:5]) or "(nothing)"
        return [("ran", f"{' '.join(self.argv)}   {ended} after {self.seconds:.1f} s"), ("stderr", said)]


def kept(results: Iterable[CommandResult]) -> dict[str, str]:
    """What commands said, by the names of the files that keep it."""
    files: dict[str, str] = {}
    for result in results:
        files[result.file] = result.stdout
        if result.stderr:
            files[f"{result.file.removesuffix('.txt')}.stderr.txt"] = result.stderr
    return files


class Runner(Protocol):
    """Runs commands in the network namespace of one pod."""

    def run(self, argv: Sequence[str], *, timeout: float) -> CommandResult:
        """Run one command and wait for its end, `timeout` seconds at most.

        Raises:
            EnvironmentProblem: the pod could not be reached. A command that fails is a result.
        """
        ...
