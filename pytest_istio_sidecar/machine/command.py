"""Commands of this machine: kind, kubectl, docker, istioctl.

Knows how to run one with a deadline, show its output as it comes, and end all
that it started. Does not know what a command is for. Invariant: whatever ends the
wait (the deadline, Ctrl-C), nothing of the command goes on running.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from pytest_istio_sidecar.failure import Fact

NOT_FOUND = 127
"""Exit status of a command that is not there, as a shell gives it (POSIX, 2.8.2)."""
_GRACE_SECONDS = 10.0
"""For a command to end in good order, and then for what it started."""
_OUTPUT_LIMIT = 16 * 2**20
"""Characters of one stream that are kept; no command here says more in earnest."""


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
        """Name of the file that keeps what it said; who became root for it makes no difference.

        A line for the shell is called what it is told to call itself (sh(1), -c).
        """
        words = [word for word in self.argv if word != "sudo"]
        if words[:2] == ["sh", "-c"]:
            words = words[3:]
        return "_".join(word.strip("-").replace("/", "-") for word in words) + ".txt"

    def facts(self) -> list[Fact]:
        """For a message: what ran, how it ended, what it said."""
        ended = "no end" if self.exit_status is None else f"exit {self.exit_status}"
        said = "\n".join(self.stderr.strip().splitlines()[:5]) or "(nothing)"
        return [("ran", f"{' '.join(self.argv)}   {ended} after {self.seconds:.1f} s"), ("stderr", said)]


def kept(results: Iterable[CommandResult]) -> dict[str, str]:
    """What commands said, by the names of the files that keep it.

    One that is not there has no file for what it said: it is not to be taken for one that said nothing.
    """
    files: dict[str, str] = {}
    for result in results:
        if not result.missing:
            files[result.file] = result.stdout
        if result.stderr:
            files[f"{result.file.removesuffix('.txt')}.stderr.txt"] = result.stderr
    return files


def run_command(
    argv: Sequence[str],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    text: str = "",
    on_line: Callable[[str], None] | None = None,
) -> CommandResult:
    """Run a command to its end, `timeout` seconds at most.

    Args:
        environment: variables beside those of this process.
        text: its standard input.
        on_line: told every line of either stream as it comes.

    Returns:
        The result: exit status 127 where there is no such program, None where it was ended
        because its time was up.
    """
    begin = time.monotonic()
    streams: dict[str, list[str]] = {"stdout": [], "stderr": []}
    try:
        # Input from a file: a pipe that nobody reads would hold us up beyond any deadline.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as source:
            source.write(text)
            source.seek(0)
            process = subprocess.Popen(
                argv,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="backslashreplace",
                env={**os.environ, **(environment or {})},
                # A group of its own: what the command starts ends with it, and Ctrl-C comes to us alone.
                start_new_session=True,
            )
    except OSError as problem:
        return CommandResult(
            argv=tuple(argv), exit_status=NOT_FOUND, stdout="", stderr=str(problem), seconds=0.0
        )
    readers = [
        threading.Thread(target=_collect, args=(stream, streams[name], on_line), daemon=True)
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr))
    ]
    try:
        for reader in readers:
            reader.start()
        status: int | None = process.wait(timeout)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        _end_group(process)
    for reader in readers:
        reader.join(_GRACE_SECONDS)
    return CommandResult(
        argv=tuple(argv),
        exit_status=status,
        stdout="".join(streams["stdout"]),
        stderr="".join(streams["stderr"]),
        seconds=time.monotonic() - begin,
    )


def _collect(stream: IO[str] | None, kept: list[str], on_line: Callable[[str], None] | None) -> None:
    if stream is None:
        return
    size = 0
    with stream:
        for line in stream:
            size += len(line)
            if size <= _OUTPUT_LIMIT:
                kept.append(line)
            if on_line is not None and line.strip():
                on_line(line.strip())


def _end_group(process: subprocess.Popen[str]) -> None:
    """End the command and everything of its session.

    Only the command is told to end. What it had begun may finish first: an engine whose client dies while
    it makes a container makes it all the same, a moment after everybody has looked for what is left.
    """
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    deadline = time.monotonic() + _GRACE_SECONDS
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            if process.poll() is None:
                break
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
