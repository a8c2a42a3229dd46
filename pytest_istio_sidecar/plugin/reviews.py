"""A project's list of reviewed bypasses, out of its file: for the suite and for the command line.

Knows that a file may not be readable. Does not know what is in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_istio_sidecar.checks.bypass.reviewed import ReviewedBypass


def read_list(path: Path | None) -> tuple[ReviewedBypass, ...]:
    """The entries of a list; None: there is none, and nothing is reviewed.

    Raises:
        UsageProblem: it cannot be read, or is no such list.
    """
    if path is None:
        return ()
    from pytest_istio_sidecar.checks.bypass.reviewed import parse_reviewed_bypasses
    from pytest_istio_sidecar.checks.messages import LIST_NOT_READ
    from pytest_istio_sidecar.errors import UsageProblem

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise UsageProblem(LIST_NOT_READ(place=path, problem=reason)) from None
    return parse_reviewed_bypasses(text, source=str(path))
