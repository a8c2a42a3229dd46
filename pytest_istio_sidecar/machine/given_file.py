"""A text file that the user names.

Knows that it may not be readable. Does not know what is in it.
"""

from __future__ import annotations

from pathlib import Path

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.machine import messages


def text_of(path: Path) -> str:
    """Its text.

    Raises:
        UsageProblem: it cannot be read, or is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise UsageProblem(messages.GIVEN_NOT_READ(file=path, problem=reason)) from None
