"""The words of nft's text form, and a place among them.

Knows quotes, comments, handles and line ends. Does not know what words mean. Invariant: every character but
blanks and comments is of one token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

LINE_END = "\n"
HANDLE = "#"
"""The kind of a token that is the number of a handle (`nft -a`)."""

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\f\v]+|\\\n)
    |(?P<end>\n)
    |\#[ \t]*handle[ \t]+(?P<handle>[0-9]{1,20})[^\n]*
    |(?P<comment>\#[^\n]*)
    |"(?P<quoted>[^"\n]*)"
    |(?P<word>@(?:ll|nh|th|ih),[0-9]{1,9},[0-9]{1,9}|[{}();,]|[^\s{}();,"\#]+)
    """,
    re.VERBOSE,
)


class Token(NamedTuple):
    """A word.

    Attributes:
        kind: "word", "quoted", `LINE_END` or `HANDLE`.
        text: without quotes.
    """

    kind: str
    text: str
    line: int


class NotUnderstood(Exception):
    """Words that nft does not print so, as far as is known here."""


class NoToken(Exception):
    """A character that begins no token."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def tokens_of(text: str) -> list[Token]:
    """Every token of a text.

    Raises:
        NoToken: a quote that is not closed.
    """
    tokens: list[Token] = []
    line, place = 1, 0
    match = _TOKEN.match
    while place < len(text):
        token = match(text, place)
        if token is None:
            raise NoToken(line)
        place = token.end()
        kind = token.lastgroup
        if kind == "word":
            tokens.append(Token("word", token[0], line))
        elif kind == "quoted":
            tokens.append(Token("quoted", token["quoted"], line))
        elif kind == "end":
            tokens.append(Token(LINE_END, "", line))
            line += 1
        elif kind == "handle":
            tokens.append(Token(HANDLE, token["handle"], line))
        elif kind == "blank" and "\n" in token[0]:
            line += 1
    return tokens


class Words:
    """Tokens, and a place among them."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.place = 0

    @property
    def left(self) -> bool:
        return self.place < len(self.tokens)

    @property
    def next(self) -> str:
        """The next word; "" at the end, and where a quoted string follows."""
        token = self.tokens[self.place] if self.left else None
        return token.text if token is not None and token.kind == "word" else ""

    @property
    def after_next(self) -> str:
        """The word behind the next."""
        return self.tokens[self.place + 1].text if self.place + 1 < len(self.tokens) else ""

    @property
    def line(self) -> int:
        """The line of the next token; at the end, of the last."""
        return self.tokens[min(self.place, len(self.tokens) - 1)].line if self.tokens else 0

    def take(self) -> Token:
        """The next token.

        Raises:
            NotUnderstood: there is none.
        """
        if not self.left:
            raise NotUnderstood("the text ends here")
        self.place += 1
        return self.tokens[self.place - 1]

    def word(self) -> str:
        """The next token's text."""
        return self.take().text

    def takes(self, *words: str) -> bool:
        """Whether these words follow, which are then taken."""
        end = self.place + len(words)
        following = self.tokens[self.place : end]
        if [token.text for token in following] != list(words) or any(t.kind != "word" for t in following):
            return False
        self.place = end
        return True

    def expect(self, word: str) -> None:
        """Take this word.

        Raises:
            NotUnderstood: another one follows.
        """
        if not self.takes(word):
            raise NotUnderstood(f"expected {word!r}")

    def skip_ends(self) -> None:
        """Past ends of lines, and handles."""
        while self.left and self.tokens[self.place].kind in (LINE_END, HANDLE):
            self.place += 1

    def number(self) -> int:
        """The next word as a number.

        Raises:
            NotUnderstood: it is none.
        """
        text = self.word()
        try:
            return int(text, 0)
        except ValueError:
            raise NotUnderstood(f"{text!r} is no number") from None


def text_of(tokens: Sequence[Token]) -> str:
    """Tokens as text again, on one line."""
    words = [f'"{token.text}"' if token.kind == "quoted" else token.text for token in tokens if token.text]
    return " ".join(words).replace(" ,", ",").replace(" ;", ";")
