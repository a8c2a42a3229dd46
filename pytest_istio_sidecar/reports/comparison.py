"""Rules beside the ones expected, as a table: what is missing, extra, moved, changed, never reached.

Knows the layout of style and how long runs of equal rules are folded. Does not know how rules were
paired. Invariant: a chain without a difference takes no line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from pytest_istio_sidecar.checks.comparison.alignment import AlignedChain, Change, Line
from pytest_istio_sidecar.checks.comparison.comparison import Comparison
from pytest_istio_sidecar.reports.path import short_rule

_SIGNS = {
    Change.SAME: " ",
    Change.MISSING: "-",
    Change.EXTRA: "+",
    Change.MOVED: "~",
    Change.CHANGED: "*",
    Change.NEVER_REACHED: "!",
}
_FOLDED = 3
"""Equal rules in a row from which on the ones in the middle are folded into one line."""
_COLUMNS = 76
"""Of a terminal, without what pytest puts in front of each line."""
_LINES = 40
"""Lines of a chain at most; a chain of ten thousand foreign rules is not a message."""


def render_comparison(comparison: Comparison) -> list[str]:
    """The lines of every chain that differs: expected rules on the left and where they are on the right.

    Where some rule is too long for that, where they are stands first in every chain.
    """
    tables = [_Drawn(chain) for chain in comparison.chains if chain.differs]
    beside = all(table.columns <= _COLUMNS for table in tables)
    lines: list[str] = []
    for table in tables:
        lines += ["", *table.lines(beside=beside)] if lines else table.lines(beside=beside)
    return lines


def comparison_fields(comparison: Comparison) -> dict[str, Any]:
    """For JSON.

    Raises:
        Undecided: the observed rules do not tell what becomes of some packet.
    """
    return {
        "equal_text": comparison.equal_text,
        "equivalent": comparison.equivalent,
        "differences": [
            {
                "kind": str(each.kind),
                "family": each.family,
                "table": each.table,
                "chain": each.chain,
                "expected": each.line.expected.text if each.line.expected else None,
                "observed": each.line.observed.text if each.line.observed else None,
            }
            for each in comparison.differences
        ],
        "effects": [effect.to_dict() for effect in comparison.effects],
        "foreign": [
            {"owner": each.owner, "places": list(each.places), "rules": each.count, "matters": each.matters}
            for each in comparison.foreign
        ],
        "assumptions": list(comparison.assumptions),
    }


class _Drawn:
    """One chain as a table.

    Attributes:
        columns: what it takes with rules and where they are beside each other.
    """

    def __init__(self, chain: AlignedChain) -> None:
        self._chain = chain
        rows = list(_rows(chain.lines))
        self._shown, self._left = rows[:_LINES], len(rows) - _LINES
        self._width = max((len(text) for _, text, here in self._shown if here), default=0)
        self._here = max((len(here) for _, _, here in self._shown), default=0)
        self.columns = self._width + self._here + 6

    def lines(self, *, beside: bool) -> list[str]:
        """Its lines; not `beside`: what fills a terminal's line stands last, torn from no number."""
        chain, width = self._chain, self._width
        hangs = [str(chain.backend)] if chain.backend is not None else []
        hangs += [chain.hangs] if chain.hangs else []
        where = f"{chain.place} ({', '.join(hangs)})" if hangs else chain.place
        lines = (
            [f"    {where:<{width}}  here"]
            if beside
            else [f"    {where}", f"         {'here':<{self._here}}"]
        )
        if chain.policy_differs:
            lines.append(f"  * policy {chain.expected_policy}  {chain.observed_policy}")
        for sign, text, here in self._shown:
            row = f"{text:<{width}}  {here}" if beside else f"{text[:5]}{here:<{self._here}}  {text[5:]}"
            lines.append(f"  {sign} {row}")
        return [
            *(line.rstrip() for line in lines),
            *([f"    and {self._left} more"] if self._left > 0 else []),
        ]


def _rows(lines: Sequence[Line]) -> Iterator[tuple[str, str, str]]:
    kinds = {line.change for line in lines}
    if len(lines) > _FOLDED and kinds in ({Change.MISSING}, {Change.EXTRA}):
        yield from _row(lines[0], lines)
        yield _SIGNS[lines[0].change], f"...  {len(lines) - 2} more", ""
        yield from _row(lines[-1], lines)
        return
    for same, group in groupby(lines, key=lambda line: line.change is Change.SAME):
        run = list(group)
        first, last = run[0].expected, run[-1].expected
        if same and len(run) > _FOLDED and first is not None and last is not None:
            yield from _row(run[0], lines)
            yield " ", f"...  {first.number + 1} to {last.number - 1} as expected", ""
            yield from _row(run[-1], lines)
        else:
            for line in run:
                yield from _row(line, lines)


def _row(line: Line, lines: Sequence[Line]) -> Iterator[tuple[str, str, str]]:
    number = str(line.expected.number) if line.expected is not None else ""
    yield _SIGNS[line.change], f"{number:>3}  {short_rule(line.expected or line.rule)}", _here(line, lines)
    if line.change is Change.CHANGED:
        yield " ", f"now  {short_rule(line.rule)}", ""


def _here(line: Line, lines: Sequence[Line]) -> str:
    if line.observed is None:
        return "missing"
    number = f"{line.observed.number}"
    match line.change:
        case Change.EXTRA:
            return f"{number}  not expected"
        case Change.CHANGED:
            return f"{number}  changed"
        case Change.NEVER_REACHED:
            by = f", shadowed by {line.shadowed_by}" if line.shadowed_by else ""
            return f"{number}  never reached{by}"
        case Change.MOVED:
            return f"{number}  moved {_way(line, lines)}"
    return number


def _way(moved: Line, lines: Sequence[Line]) -> str:
    """Past how many of the rules that both sides have a rule has moved."""
    there, here = moved.expected, moved.observed
    if there is None or here is None:
        return ""
    pairs = [
        (line.expected.number, line.observed.number)
        for line in lines
        if line.expected is not None and line.observed is not None
    ]
    above = sum(old < there.number and new > here.number for old, new in pairs)
    below = sum(old > there.number and new < here.number for old, new in pairs)
    count, direction = (above, "up") if above >= below else (below, "down")
    return f"{direction} by {'one rule' if count == 1 else f'{count} rules'}"
