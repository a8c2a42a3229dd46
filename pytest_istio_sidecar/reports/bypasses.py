"""A report of bypasses in lines for people.

Knows how the rows are laid out. Does not know how they were found. Invariant: what is not by design
stands first.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from pytest_istio_sidecar.checks.bypass.bypasses import BypassReport, with_rules
from pytest_istio_sidecar.checks.bypass.rows import BypassRow, rows_of
from pytest_istio_sidecar.reports.colour import Paint, Style, plain


def render_bypasses(
    report: BypassReport,
    *,
    expected: bool,
    unread: Sequence[str] = (),
    width: int = 80,
    paint: Paint = plain,
) -> str:
    """Lines for a terminal: what gets by, each with the rule that lets it.

    Args:
        expected: whether there was an expectation; without one nothing is by design.
        unread: what was not read, though something was taken for it.
        width: columns; only a rule may be longer.
    """
    titles: dict[str, tuple[str, Style]] = {
        "no": ("NOT BY DESIGN" if expected else "WITHOUT ENVOY", "red"),
        "cannot be told": ("CANNOT BE TOLD", "yellow"),
        "reviewed": ("reviewed", "yellow"),
        "yes": ("by design", "green"),
    }
    rows = rows_of(with_rules(report))
    lines: list[str] = []
    for by_design, title in titles.items():
        section = [row for row in rows if row.by_design == by_design]
        if section:
            lines += [paint(*title), *_section(section, width)]
    if not lines:
        lines.append("nothing gets by without Envoy")
    lines += ["", "rules cannot show:"]
    for sentence in dict.fromkeys((*report.unseen, *unread)):
        lines += textwrap.wrap(sentence, width, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def _section(rows: Sequence[BypassRow], width: int) -> Iterator[str]:
    column = max(len(row.packets) for row in rows)
    beside = column + max(len(row.let_by) for row in rows) + 4 <= width
    for row in rows:
        if beside:
            yield f"  {row.packets:<{column}}  {row.let_by}"
        else:
            yield f"  {row.packets}"
            yield f"      {row.let_by}"
        for reason in row.conditions[:2]:
            yield from textwrap.wrap(reason, width, initial_indent="    ", subsequent_indent="      ")
