"""Elements of HTML and SVG, escaped unless they are elements themselves.

Knows how a tag is written. Does not know any document. Invariant: text that is no
`Markup` is escaped, so that a name or a rule read from a pod is never taken for a tag.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape

_VOID = frozenset({"meta", "rect", "path", "br"})
"""Tags that hold nothing: in HTML without an end, in SVG closed at once."""


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float) -> Markup:
    """One element. `class_` stands for class, `_` in an attribute's name for `-`."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items()
    )
    if name in _VOID:
        return Markup(f"<{name}{given}/>")
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def join(*children: str) -> Markup:
    """Elements and texts, one after the other."""
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(child, quote=False) for child in children)
    )


def html_table(
    title: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    marked: Collection[int] = (),
    notes: Iterable[str] = (),
) -> Markup:
    """A titled table, for notebooks that ask a value for `_repr_html_`; its colours are the notebook's own.

    Args:
        marked: numbers of the rows that stand out, from 0.
        notes: sentences below the table.
    """
    head = tag("tr", *(tag("th", text, scope="col") for text in heads))
    body = (
        tag("tr", *(tag("td", tag("mark" if number in marked else "span", cell)) for cell in row))
        for number, row in enumerate(rows)
    )
    below = [part for note in notes for part in (tag("br"), note)][1:]
    return tag("div", tag("b", title), tag("table", tag("thead", head), tag("tbody", *body)), *below)
