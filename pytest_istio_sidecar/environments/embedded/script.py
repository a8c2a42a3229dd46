"""A shell script of the user's, to be run in an embedded pod.

Knows what can be run of a file. Does not run it.
"""

from __future__ import annotations

from pathlib import Path

from pytest_istio_sidecar.environments.embedded import messages
from pytest_istio_sidecar.errors import EnvironmentProblem

_SCRIPT_BYTES = 100 << 10
"""Of one argument Linux takes 128 KiB (execve(2), MAX_ARG_STRLEN)."""


def read_script(file: Path) -> str:
    """A shell script of a user's.

    Raises:
        EnvironmentProblem: it cannot be read, or is too long for a command line.
    """
    try:
        script = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or "it is no text in UTF-8"
        raise EnvironmentProblem(messages.SETUP_UNREADABLE(file=file, problem=reason)) from None
    if len(script.encode()) > _SCRIPT_BYTES or "\0" in script:
        raise EnvironmentProblem(
            messages.SETUP_UNREADABLE(file=file, problem="it is no shell script, or too long")
        )
    return script
