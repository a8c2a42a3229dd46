"""Verdicts on a pod as a whole, which every test of it would end in: one test tells, the others are skipped.

Knows which test tells, whichever worker runs it. Does not know how the verdict is reached. Invariant: a test
is skipped only where another one of the same run has ended in the verdict; run again, that one does again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_istio_sidecar.errors import IstioSidecarError, Undecided, VerdictAgainst
from pytest_istio_sidecar.plugin.workers import run_of

if TYPE_CHECKING:
    import pytest

    from pytest_istio_sidecar.checks.finding import Finding

UNDECIDED = "verdict"
"""Phase given to the report of a test that reached no verdict: pytest shows it as an error."""
_ABOUT = "_istio_about"


def ask(check: Callable[[], Sequence[Finding]], *, about: str) -> Sequence[Finding]:
    """What a check of a whole pod or workload finds.

    Args:
        about: what it is about; of tests that end in a verdict about the same one tells.

    Raises:
        IstioSidecarError: it can tell nothing.
    """
    try:
        return check()
    except IstioSidecarError as problem:
        raise told_once(problem, about=about) from None


def against(findings: Sequence[Finding], *, about: str) -> None:
    """Raise the verdict that these findings are.

    Raises:
        VerdictAgainst: there are any.
    """
    if findings:
        from pytest_istio_sidecar.reports.verdict import raise_against

        try:
            raise_against(findings)
        except VerdictAgainst as verdict:
            raise told_once(verdict, about=about) from None


def told_once(problem: IstioSidecarError, *, about: str) -> IstioSidecarError:
    """The same problem, so that one test tells it."""
    setattr(problem, _ABOUT, about)
    return problem


def settle(item: pytest.Item, report: pytest.TestReport, raised: BaseException | None) -> None:
    """Make of a set-up that ended so the test's own verdict, or a skip where another test has told it."""
    about = getattr(raised, _ABOUT, "")
    if report.when != "setup" or not about:
        return
    first = run_of(item.config).first_to_tell(about, item.nodeid)
    if first != item.nodeid:
        path, line, _ = item.location
        report.outcome = "skipped"
        report.longrepr = (
            path,
            (line or 0) + 1,
            f"Skipped: one verdict is on all of this, and told by {first}",
        )
    elif isinstance(raised, VerdictAgainst):
        report.when = "call"
    elif isinstance(raised, Undecided):
        report.when = UNDECIDED  # type: ignore[assignment]
