"""A report of bypasses in lines for people.

Knows how the classes are laid out. Does not know how they were found. Invariant: what is not by design
stands first, and each line names a rule or says that a policy lets the packets by.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from pytest_istio_sidecar.checks.bypass.bypasses import BypassReport
from pytest_istio_sidecar.checks.bypass.found_bypass import FoundBypass
from pytest_istio_sidecar.reports.colour import Paint, plain


def render_bypasses(report: BypassReport, *, expected: bool, width: int = 80, paint: Paint = plain) -> str:
    """Lines for a terminal: what gets by, each with the rule that lets it.

    Args:
        expected: whether there was an expectation; without one nothing is by design.
        width: columns; only a rule may be longer.
    """
    found = (*report.inbound, *report.outbound)
    designed = [held for held in found if held.by_design]
    lines: list[str] = []
    if report.unexpected:
        title = paint("NOT BY DESIGN" if expected else "WITHOUT ENVOY", "red")
        lines += _section(title, report.unexpected, width)
    if report.conditional:
        lines += _section(paint("CANNOT BE TOLD", "yellow"), report.conditional, width)
    if designed:
        lines += _section(paint("by design", "green"), designed, width)
    if not lines:
        lines.append("nothing gets by without Envoy")
    lines += ["", "rules cannot show:"]
    for sentence in report.unseen:
        lines += textwrap.wrap(sentence, width, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def _section(title: str, found: Iterable[FoundBypass], width: int) -> Iterator[str]:
    yield title
    told: dict[str, FoundBypass] = {}
    for held in found:
        told.setdefault(held.text, held)
    column = max(map(len, told))
    beside = column + max(len(_by(held)) for held in told.values()) + 4 <= width
    for text, held in told.items():
        if beside:
            yield f"  {text:<{column}}  {_by(held)}"
        else:
            yield f"  {text}"
            yield f"      {_by(held)}"
        for reason in held.conditions[:2]:
            yield from textwrap.wrap(reason, width, initial_indent="    ", subsequent_indent="      ")


def _by(held: FoundBypass) -> str:
    rules = held.rules
    more = f" (and {len(rules) - 1} more)" if len(rules) > 1 else ""
    return f"{rules[0].text if rules else 'policy'}{more}"
