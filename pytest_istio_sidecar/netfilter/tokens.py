"""Words of iptables-save text, quotes resolved.

Knows xtables' quoting: double quotes, a backslash before `"`, `'` and itself,
and that a quoted comment may hold a newline. Does not know what a word means.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_istio_sidecar.errors import ParseError


def logical_lines(text: str, source: str | None) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1; one that ends inside quotes goes on in the next.

    Raises:
        ParseError: a quote that never ends.
    """
    begun = 0
    held = ""
    for number, line in enumerate(text.split("\n"), 1):
        if not held and '"' not in line:
            yield number, line.rstrip("\r")
            continue
        held = f"{held}\n{line}" if held else line
        begun = begun or number
        if not _ends_inside_quotes(held):
            yield begun, held
            held, begun = "", 0
    if held:
        raise ParseError("a quote is never closed", source=source, line=begun, text=held)


def words(line: str) -> list[str]:
    """Split a line at blanks outside quotes and resolve the quotes."""
    if '"' not in line and "\\" not in line:
        return line.split()
    found: list[str] = []
    word: list[str] = []
    quoted = begun = False
    characters = iter(line)
    for character in characters:
        if character.isspace() and not quoted:
            if begun:
                found.append("".join(word))
            word, begun = [], False
            continue
        begun = True
        if character == '"':
            quoted = not quoted
        elif character == "\\" and quoted:
            word.append(next(characters, ""))
        else:
            word.append(character)
    if begun:
        found.append("".join(word))
    return found


def _ends_inside_quotes(text: str) -> bool:
    quoted = escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = quoted
        elif character == '"':
            quoted = not quoted
    return quoted
