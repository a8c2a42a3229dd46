"""What a message to the user consists of, and how every one is laid out.

Knows a first line that stands on its own, labelled facts in a column, then cause, fix and note. Does
not know any single message: each package has its own in a module `messages`. Invariant: text is wrapped
between words at `WIDTH`; what a program printed stays as it was.

Named tuples, as every start of pytest makes these classes: a dataclass takes five times as long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from string import Formatter
from textwrap import wrap
from typing import NamedTuple

WIDTH = 96
"""Columns of a message at most, except for what may not be broken: a rule, a path, a program's output."""
_columns = [WIDTH]
"""What messages are laid out for, the innermost last."""
LABEL = 9
"""Columns of a label, with what separates it from its value."""

Fact = tuple[str, str]
"""A label and its value, which may have several lines."""

IN_THE_TEXT = "the message says what is expected"
"""`Message.help` of a message whose first line already has what helps."""


class Advice(NamedTuple):
    """What a text that some program printed means, and what helps.

    Attributes:
        seen: a regular expression that finds it, line by line.
    """

    seen: str
    cause: str
    fix: str


def advise(text: str, known: Iterable[Advice]) -> Advice | None:
    """The first advice whose text is seen; what stops a program stands before what it only remarks."""
    return next((advice for advice in known if re.search(advice.seen, text, re.MULTILINE)), None)


class Failure(NamedTuple):
    """A message, filled in; as text it is laid out.

    Attributes:
        summary: one sentence that stands on its own.
        facts: labelled evidence, in the order to show it.
        cause: what usually brings it about, or did.
        fix: what helps; further lines keep their indentation.
        note: what follows from it that is easily missed.
        code: of its `Message`; "" for text of somebody else's.
    """

    summary: str
    facts: tuple[Fact, ...] = ()
    cause: str = ""
    fix: str = ""
    note: str = ""
    code: str = ""

    def advised(self, advice: Advice | None) -> Failure:
        """The same with what a program's own text tells of it."""
        return self if advice is None else self._replace(cause=advice.cause, fix=advice.fix)

    def and_facts(self, facts: Iterable[Fact]) -> Failure:
        """The same with further evidence."""
        return self._replace(facts=(*self.facts, *facts))

    def with_evidence_of(self, other: Failure) -> Failure:
        """This sentence with all else of another failure, which it follows from."""
        return other._replace(summary=self.summary, code=self.code)

    def __str__(self) -> str:
        column = max([LABEL, *(len(label) + 1 for label, _ in self.facts)])
        facts = [line for label, value in self.facts for line in lay_out(label, value, column, whole=True)]
        closing = [
            line
            for label, value in (("cause", self.cause), ("fix", self.fix), ("note", self.note))
            for line in lay_out(label, value, column)
        ]
        return "\n".join(
            [self.summary, *([""] if facts else []), *facts, *([""] if closing else []), *closing]
        )


class Message(NamedTuple):
    """A message that users can get. Calling it with the values of its fields makes a `Failure`.

    Attributes:
        code: short and stable: docs and tools name the message by it. A code is never used again.
        summary, cause, fix, note: as in `Failure`, with fields in braces as `str.format` has them.
        help: what helps, where the message has no line for it.
    """

    code: str
    summary: str
    cause: str = ""
    fix: str = ""
    note: str = ""
    help: str = ""

    def __call__(self, *, facts: Iterable[Fact] = (), **fields: object) -> Failure:
        """The message with these values.

        Raises:
            KeyError: a field has no value.
        """
        return Failure(
            summary=self.summary.format(**fields),
            facts=tuple(facts),
            cause=self.cause.format(**fields),
            fix=self.fix.format(**fields),
            note=self.note.format(**fields),
            code=self.code,
        )

    @property
    def fields(self) -> frozenset[str]:
        """Names of the values it takes."""
        texts = (self.summary, self.cause, self.fix, self.note)
        return frozenset(name for text in texts for _, name, _, _ in Formatter().parse(text) if name)


@contextmanager
def laid_out_for(columns: int | None) -> Iterator[None]:
    """Within it messages are laid out for a terminal that is narrower than `WIDTH`."""
    _columns.append(max(min(columns or WIDTH, WIDTH), 2 * LABEL))
    try:
        yield
    finally:
        _columns.pop()


def lay_out(label: str, value: str, column: int = LABEL, *, whole: bool = False) -> list[str]:
    """Lines of `  label    value`, the value's further lines aligned under the first; none without a value.

    Args:
        column: the columns of the label.
        whole: whether lines stay as they are, however long.
    """
    if not value:
        return []
    lines: list[str] = []
    for line in value.splitlines():
        lines += [line] if whole else wrapped(line, _columns[-1] - column - 2) or [""]
    labels: Sequence[str] = [label, *[""] * (len(lines) - 1)]
    return [f"  {name:<{column}}{line}".rstrip() for name, line in zip(labels, lines, strict=True)]


def fitted(text: str, columns: int) -> list[str]:
    """The lines of a message for a narrow terminal: those that are longer are broken between words.

    Prose that was wrapped at `WIDTH` is wrapped anew. What a line goes on with stands under its value: behind
    its label, or as far in as the line begins.
    """
    lines: list[str] = []
    for line in _unwrapped(text.splitlines(), columns):
        indent = min(_value_at(line), columns // 2)
        lines += wrapped(line, columns, indent=" " * indent) if len(line) > columns else [line]
    return lines


def _unwrapped(lines: Iterable[str], columns: int) -> list[str]:
    """Lines of prose as they were before they were wrapped, where they do not fit; tables stay."""
    joined: list[str] = []
    last = ""
    for line in lines:
        value = line.lstrip()
        goes_on = (
            bool(value)
            and len(last) > columns
            and len(last) + 1 + len(value.partition(" ")[0]) > WIDTH
            and len(line) - len(value) == _value_at(joined[-1])
            and "  " not in last[_value_at(last) :] + value
        )
        if goes_on:
            joined[-1] += f" {value}"
        else:
            joined.append(line)
        last = line
    return joined


def _value_at(line: str) -> int:
    """The column at which a line's value begins."""
    label = re.match(r"  \S+(?: \S+)* {2,}|\s*", line)
    return label.end() if label is not None else 0


def wrapped(text: str, width: int, *, indent: str = "", whole_words: bool = True) -> list[str]:
    """A line as several, broken between words.

    Args:
        indent: what all lines but the first begin with.
        whole_words: whether a word longer than a line stays whole all the same.
    """
    return wrap(
        text, width, subsequent_indent=indent, break_long_words=not whole_words, break_on_hyphens=False
    )
