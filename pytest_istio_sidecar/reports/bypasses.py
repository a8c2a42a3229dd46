"""A report of bypasses in lines for people.

Knows how the classes are laid out. Does not know how they were found. Invariant: what is not by design
stands first, and each line names a rule or says that a policy lets the packets by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pytest_istio_sidecar.checks.bypasses import BypassReport
from pytest_istio_sidecar.checks.found_bypass import FoundBypass


def render_bypasses(report: BypassReport, *, expected: bool) -> str:
    """Lines for a terminal: what gets by, each with the rule that lets it.

    Args:
        expected: whether there was an expectation; without one nothing is by design.
    """
    found = (*report.inbound, *report.outbound)
    designed = [held for held in found if held.by_design]
    lines: list[str] = []
    if report.unexpected:
        lines += _section("NOT BY DESIGN" if expected else "WITHOUT ENVOY", report.unexpected)
    if report.conditional:
        lines += _section("CANNOT BE TOLD", report.conditional)
    if designed:
        lines += _section("by design", designed)
    if not lines:
        lines.append("nothing gets by without Envoy")
    lines += ["", "rules cannot show:", *(f"  {sentence}" for sentence in report.unseen)]
    return "\n".join(lines)


def _section(title: str, found: Iterable[FoundBypass]) -> Iterator[str]:
    yield title
    told: dict[str, FoundBypass] = {}
    for held in found:
        told.setdefault(held.text, held)
    width = min(max(map(len, told)), 56)
    for text, held in told.items():
        rules = held.rules
        by = "policy" if not rules else rules[0].text
        more = f" (and {len(rules) - 1} more)" if len(rules) > 1 else ""
        yield f"  {text:<{width}}  {by}{more}"
        for reason in held.conditions[:2]:
            yield f"    {reason}"
