"""Words of iptables-save text, quotes resolved.

Knows xtables' quoting: a word may stand in double quotes, a backslash inside takes the next
character as it is, and a quoted word may hold line ends. A quote inside a bare word means
nothing. Does not know what a word means. Invariant: the time taken is linear in the text.
"""

from __future__ import annotations

import re

LINE = 16 * 1024
"""Characters a line may have, with those that its quotes take in; a comment has at most 255 bytes."""

# ASCII blanks only: a chain's name may hold a no-break space, which str.split() would split at.
_WORD = re.compile(
    r'[ \t\r]*(?:([^ \t\r\n"][^ \t\r\n]*)|"((?:[^"\\]|\\.)*)"(?=[ \t\r\n]|\Z)|(?=\n|\Z))', re.DOTALL
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Quoted(str):
    """A word that stood in quotes, and so is no option whatever it looks like."""

    __slots__ = ()


class OpenQuote(ValueError):
    """A quote that the text does not close."""


def words(line: str) -> list[str]:
    """Words of a whole line.

    Raises:
        OpenQuote: a quote that is not closed.
        ValueError: a control character outside of quotes.
    """
    if line.isascii() and line.isprintable():
        if '"' not in line:
            return line.split()
        before, _, rest = line.partition('"')
        text, _, after = rest.partition('"')
        # One quoted word, which most lines with a comment have, needs no scan.
        if before[-1:] == " " and after[:1] == " " and '"' not in after and "\\" not in text:
            return [*before.split(), Quoted(text), *after.split()]
    pieces, consumed = scan(line)
    if consumed < len(line):
        raise ValueError("the line ends before its pieces do")
    return pieces


def scan(text: str) -> tuple[list[str], int]:
    """Words from the beginning of a text to the first line end outside of quotes, and where that is.

    Raises:
        ValueError: as for `words`.
    """
    pieces: list[str] = []
    position = 0
    while True:
        word = _WORD.match(text, position)
        if word is None:
            raise OpenQuote("a quote is never closed")
        position = word.end()
        bare, quoted = word.groups()
        if bare is not None:
            if not bare.isprintable() and _CONTROL.search(bare):
                raise ValueError("a control character outside of quotes")
            pieces.append(bare)
        elif quoted is not None:
            pieces.append(Quoted(_ESCAPED.sub(r"\1", quoted) if "\\" in quoted else quoted))
        else:
            return pieces, position
