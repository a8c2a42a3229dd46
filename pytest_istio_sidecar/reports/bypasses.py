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


def render_bypasses(report: BypassReport, *, expected: bool, width: int = 80, paint: Paint = plain) -> str:
    """Lines for a terminal: what gets by, each with the rule that lets it.

    Args:
        expected: whether there was an expectation; without one nothing is by design.
        width: columns; only a rule may be longer.
    """
    titles: dict[str, tuple[str, Style]] = {
        "no": ("NOT BY DESIGN" if expected else "WITHOUT ENVOY", "red"),
        "cannot be told": ("CANNOT BE TOLD", "yellow"),
        "accepted": ("accepted", "yellow"),
        "moved": ("taken for Envoy's", "yellow"),
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
    for sentence in report.unseen:
        lines += textwrap.wrap(sentence, width, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def _section(rows: Sequence[BypassRow], width: int) -> Iterator[str]:
    told = [f"{row.packets} ({', '.join(row.asked)})" if row.asked else row.packets for row in rows]
    column = max(map(len, told))
    beside = column + max(len(row.let_by) for row in rows) + 4 <= width
    for row, packets in zip(rows, told, strict=True):
        if beside:
            yield f"  {packets:<{column}}  {row.let_by}"
        else:
            yield f"  {packets}"
            yield f"      {row.let_by}"
        for reason in row.conditions[:2]:
            yield from textwrap.wrap(reason, width, initial_indent="    ", subsequent_indent="      ")
