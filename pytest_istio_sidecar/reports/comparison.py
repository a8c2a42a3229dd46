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
    """The lines of every chain that differs."""
    lines: list[str] = []
    for chain in comparison.chains:
        if chain.differs:
            lines += ["", *render_chain(chain)] if lines else render_chain(chain)
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


def render_chain(chain: AlignedChain) -> list[str]:
    """One chain: expected rules on the left, where they are on the right."""
    where = chain.place
    beside = [str(chain.backend)] if chain.backend is not None else []
    beside += [chain.hangs] if chain.hangs else []
    where += f" ({', '.join(beside)})" if beside else ""
    rows = list(_rows(chain.lines))
    shown, left = rows[:_LINES], len(rows) - _LINES
    width = max((len(text) for _, text, here in shown if here), default=0)
    wide = max((len(here) for _, _, here in shown), default=0)
    policy = [f"  * policy {chain.expected_policy}  {chain.observed_policy}"] if chain.policy_differs else []
    if width + wide + 6 <= _COLUMNS:
        lines = [f"    {where:<{width}}  here", *policy]
        lines += [f"  {sign} {text:<{width}}  {here}".rstrip() for sign, text, here in shown]
    else:
        # Rules that fill a terminal's line stand last, so that nothing is torn from its number.
        lines = [f"    {where}", f"         {'here':<{wide}}", *policy]
        lines += [f"  {sign} {text[:5]}{here:<{wide}}  {text[5:]}".rstrip() for sign, text, here in shown]
    return [*(line.rstrip() for line in lines), *([f"    and {left} more"] if left > 0 else [])]


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
