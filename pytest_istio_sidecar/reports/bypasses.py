"""A report of bypasses in lines for people.

Knows how the rows are laid out. Does not know how they were found. Invariant: what is not by design
stands first.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from pytest_istio_sidecar.checks.bypass.bypasses import BypassReport, with_rules
from pytest_istio_sidecar.checks.bypass.rows import ByDesign, BypassRow, rows_of
from pytest_istio_sidecar.reports.colour import Paint, Style, plain

Titles = Mapping[ByDesign, tuple[str, Style]]
"""What stands above the classes of each standing, in this order."""


def titles_of(
    *, expected: bool, allowed: bool = False, listed: bool = False, by: Sequence[str] = ()
) -> Titles:
    """What classes are called.

    Args:
        expected: whether there was an expectation; without one nothing is by design.
        allowed: whether some were allowed for this once.
        listed: whether the project's list was given.
        by: which of the two have something that gets by: "allowed", "reviewed".
    """
    said = {(True, False): "NOT ALLOWED", (False, True): "NOT REVIEWED", (False, False): "WITHOUT ENVOY"}
    open_ = said.get((allowed, listed), "NEITHER ALLOWED NOR REVIEWED")
    return {
        "no": ("NOT BY DESIGN" if expected else open_, "red"),
        "cannot be told": ("CANNOT BE TOLD", "yellow"),
        "accepted": ("accepted", "yellow"),
        "moved": ("taken for Envoy's", "yellow"),
        "reviewed": (" or ".join(by) or "reviewed", "yellow"),
        "yes": ("by design", "green"),
    }


def render_bypasses(
    report: BypassReport,
    *,
    titles: Titles,
    unread: Sequence[str] = (),
    width: int = 80,
    paint: Paint = plain,
) -> str:
    """Lines for a terminal: what gets by, each with the rule that lets it.

    Args:
        unread: what was not read, though something was taken for it.
        width: columns; only a rule may be longer.
    """
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
    column = max(len(_packets(row)) for row in rows)
    beside = column + max(len(row.let_by) for row in rows) + 4 <= width
    for _, group in groupby(_by_what_lets_by(rows), key=lambda row: row.conditions if beside else _kind(row)):
        alike = list(group)
        if beside:
            yield from (f"  {_packets(row):<{column}}  {row.let_by}" for row in alike)
        else:
            yield from (f"  {_packets(row)}" for row in alike)
            yield f"      {alike[0].let_by}"
        for reason in alike[0].conditions[:2]:
            yield from textwrap.wrap(reason, width, initial_indent="    ", subsequent_indent="      ")


def _packets(row: BypassRow) -> str:
    return f"{row.packets} ({', '.join(row.asked)})" if row.asked else row.packets


def _by_what_lets_by(rows: Sequence[BypassRow]) -> list[BypassRow]:
    """Rows of one direction that the same rules let by together, in the order of their first."""
    firsts: dict[tuple[object, ...], int] = {}
    for number, row in enumerate(rows):
        firsts.setdefault(_kind(row), number)
    return sorted(rows, key=lambda row: firsts[_kind(row)])


def _kind(row: BypassRow) -> tuple[object, ...]:
    return "inbound" in row.packets.split(), row.let_by, row.conditions
