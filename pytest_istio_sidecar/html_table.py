"""Values as small HTML tables, for notebooks that ask a value for `_repr_html_`.

Knows how a table is written. Does not know what the values mean, nor reports. Invariant: every text
is escaped, as rules and names come from a pod, and a colour is the notebook's own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape


def html_table(
    title: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    marked: Collection[int] = (),
    notes: Iterable[str] = (),
) -> str:
    """A titled table as a fragment of HTML.

    Args:
        marked: numbers of the rows that stand out, from 0.
        notes: sentences below the table.
    """
    body = "".join(_row(row, marked=number in marked) for number, row in enumerate(rows))
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    below = "<br/>".join(map(escape, notes))
    return (
        f"<div><b>{escape(title)}</b>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"
    )


def _row(cells: Sequence[str], *, marked: bool) -> str:
    name = "mark" if marked else "span"
    return f"<tr>{''.join(f'<td><{name}>{escape(cell)}</{name}></td>' for cell in cells)}</tr>"
