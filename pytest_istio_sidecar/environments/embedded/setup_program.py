"""Runs a command in an embedded pod whose programs may go on when it has ended, within limits.

    setup_program.py OUT ERR SECONDS COMMAND [ARGUMENT ...]

Runs as a program there, with the standard library alone, and prints JSON: what went wrong, "" where nothing
did, and the end of what the command wrote to its errors. Knows nothing of what the command is for.
Invariant: what it writes goes to files, so that programs it leaves running keep nobody waiting; one that
fails leaves none of its own group.
"""

# ruff: noqa: PTH123

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

_LARGEST = 1 << 20
"""Bytes of output, of each kind."""
_END = 1 << 16
"""Bytes of errors that are printed."""


def main(out: str, err: str, seconds: str, *argv: str) -> None:
    """Run the command, and print what became of it."""
    with open(out, "wb") as output, open(err, "w+b") as errors:
        files = output.fileno(), errors.fileno()
        outcome = run(argv, files, float(seconds))
        size = os.fstat(files[1]).st_size
        said = os.pread(files[1], _END, max(0, size - _END)).decode(errors="backslashreplace")
    sys.stdout.write(json.dumps({"outcome": outcome, "stderr": said}))


def run(argv: Sequence[str], files: tuple[int, int], seconds: float) -> str:
    """Run the command with its output in these files; "" where it succeeded."""
    deadline = time.monotonic() + seconds
    out, err = files
    try:
        command = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd="/", start_new_session=True
        )
    except OSError as problem:
        return f"{argv[0]}: {problem.strerror}"
    outcome = None
    while outcome is None:
        try:
            status = command.wait(0.05)
            outcome = f"exit status {status}" if status else ""
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                outcome = f"it was not done after {seconds} s"
            elif max(os.fstat(file).st_size for file in files) > _LARGEST:
                outcome = f"it wrote more than {_LARGEST >> 20} MiB"
    if outcome:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
    return outcome


if __name__ == "__main__":
    main(*sys.argv[1:])
