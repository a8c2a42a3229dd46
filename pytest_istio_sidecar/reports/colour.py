"""Colour on a terminal, where it is wanted.

Knows ECMA-48's codes and https://no-color.org. Does not know what deserves a colour.
Invariant: without a terminal, or with NO_COLOR, text stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, TextIO

Style = Literal["bold", "red", "green", "yellow", "faint"]
Paint = Callable[[str, Style | None], str]
_CODES = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "faint": "2"}


def painter(stream: TextIO) -> Paint:
    """A function that gives a text one style, on this stream."""
    wanted = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return _paint if wanted else plain


def plain(text: str, style: Style | None) -> str:  # noqa: ARG001 - as every painter
    """The text as it is."""
    return text


def _paint(text: str, style: Style | None) -> str:
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if text and style else text
