"""Elements of HTML and SVG, escaped unless they are elements themselves.

Knows how a tag is written. Does not know any document. Invariant: text that is no
`Markup` is escaped, so that a name or a rule read from a pod is never taken for a tag.
"""

from __future__ import annotations

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
