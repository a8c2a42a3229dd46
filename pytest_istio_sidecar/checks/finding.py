"""What a check found, before anybody words it.

Knows the parts of a verdict: what was wanted, what is, and the evidence.
Does not know how they are laid out: that is `reports`. Invariant: the summary
is one sentence that stands on its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pytest_istio_sidecar.netfilter.model import Rule
from pytest_istio_sidecar.netfilter.trace.trace import Trace


class Severity(StrEnum):
    """VIOLATION fails a test; NOTICE is told and fails nothing."""

    VIOLATION = "violation"
    NOTICE = "notice"


class Kind(StrEnum):
    """What the verdict is about."""

    BYPASS = "bypass"
    REDIRECT = "redirect"
    RULES = "rules"
    LISTENER = "listener"
    TRAFFIC = "traffic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be, or is worth knowing.

    Attributes:
        summary: one sentence, with the packet or rule and what becomes of it.
        wanted, got: the two sides, in a few words each.
        trace: of the packet that shows it, where a packet does.
        rule: the rule it is about, where it is about one.
        facts: more labelled evidence, in the order to show it.
        cause: why, in one sentence, where the evidence tells.
        assumptions: what was taken from an expectation because the listing does not show it.
    """

    severity: Severity = Severity.VIOLATION
    kind: Kind
    summary: str
    wanted: str = ""
    got: str = ""
    trace: Trace | None = None
    rule: Rule | None = None
    facts: tuple[tuple[str, str], ...] = ()
    cause: str = ""
    assumptions: tuple[str, ...] = ()


def violations(findings: Iterable[Finding]) -> list[Finding]:
    """Those that fail a test."""
    return [finding for finding in findings if finding.severity is Severity.VIOLATION]
