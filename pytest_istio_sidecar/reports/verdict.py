"""Findings as the exception that fails a test.

Knows which exception a finding becomes. Does not know how it is worded (`message`).
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_istio_sidecar.checks.finding import Finding, Kind, violations
from pytest_istio_sidecar.errors import (
    BypassError,
    ListenerMismatch,
    NotIntercepted,
    RedirectError,
    RuleSetMismatch,
    VerdictAgainst,
)
from pytest_istio_sidecar.reports.message import render_findings

_ERRORS: dict[Kind, type[VerdictAgainst]] = {
    Kind.BYPASS: BypassError,
    Kind.REDIRECT: RedirectError,
    Kind.RULES: RuleSetMismatch,
    Kind.LISTENER: ListenerMismatch,
    Kind.TRAFFIC: NotIntercepted,
}


def raise_against(findings: Sequence[Finding]) -> None:
    """Raise the verdict that findings are, where any is against.

    Raises:
        VerdictAgainst: of the class that its first finding's kind stands for.
    """
    against = violations(findings)
    if against:
        error = _ERRORS[against[0].kind](render_findings(against))
        error.findings = tuple(against)
        raise error
