"""A text file that the user names.

Knows that it may not be readable, nor be text, and how text is encoded. Does not know what is in it.
Invariant: what was read in another encoding than UTF-8 is said to be.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.machine import messages


def text_of(path: Path) -> str:
    """Its text.

    Raises:
        UsageProblem: it cannot be read, or is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise UsageProblem(messages.GIVEN_NOT_READ(file=path, problem=reason)) from None


_BEGINNINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    b"\x1f\x8b": "compressed with gzip",
    b"PK\x03\x04": "a zip archive",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\x7fELF": "a program",
}
"""What a file is that begins so."""
_ZEROS = 0.4
"""Share of every second byte from which on these are the halves of UTF-16 that ASCII leaves empty."""


_BYTES_OF_ASCII = re.compile(rb"[\n\x20-\x7e]{12}")
"""In UTF-16 six characters of Asia in a row; in UTF-8 any line of a listing."""


class NotText(ValueError):
    """Bytes that are no text which can be read.

    Attributes:
        what: they are instead.
        line: the first that cannot be read, from 1, and its text, where most of it is text; else 0 and "".
    """

    def __init__(self, what: str, line: int = 0, text: str = "") -> None:
        super().__init__(what)
        self.what, self.line, self.text = what, line, text


def decoded(content: bytes) -> tuple[str, str]:
    """A text in UTF-8, or in UTF-16 with its mark, as PowerShell writes it; and what is to be said of it.

    Raises:
        NotText: it is neither.
    """
    beginning = next((what for start, what in _BEGINNINGS.items() if content.startswith(start)), "")
    if beginning:
        raise NotText(f"this is {beginning}")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        if _BYTES_OF_ASCII.search(content):
            raise NotText("this is UTF-16 with text of another encoding in it")
        try:
            return content.decode("utf-16"), "it is UTF-16, as PowerShell writes it, and was read as that"
        except UnicodeDecodeError:
            raise NotText("this is UTF-16 that breaks off, or was changed") from None
    if b"\0" in content:
        shares = sorted(content[side::2].count(0) / max(len(content) // 2, 1) for side in (0, 1))
        halves = shares[0] < _ZEROS <= shares[1] and len(content) > len("#\0#\0")
        raise NotText("this is UTF-16 without its mark" if halves else "this is binary data")
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start)
        text = content.splitlines()[line].decode(errors="replace")
        if text.count("\ufffd") > len(text) // 4:
            raise NotText("this is binary data") from None
        raise NotText("this line has a character in another encoding", line + 1, text) from None
