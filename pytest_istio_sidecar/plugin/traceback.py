"""What pytest shows around a message of this package: no more than helps, broken between words.

Knows the parts of pytest's own report of a failure. Does not know what a message says. Invariant: no word of
the message is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_istio_sidecar.failure import fitted

if TYPE_CHECKING:
    import pytest

_MARK = "E   "
"""Stands before each line of an exception's text."""


def tidy(report: pytest.TestReport, *, of_suite: bool, columns: int | None) -> None:
    """Leave out the shipped suite's source, and fit the message into a terminal.

    Args:
        of_suite: whether the test is the suite's: its source and arguments tell its users nothing.
        columns: of the terminal; None: there is none, and a line stays one.
    """
    entries = getattr(getattr(report.longrepr, "reprtraceback", None), "reprentries", [])
    for entry in list(entries):
        lines = list(getattr(entry, "lines", ()))
        begin = next((place for place, line in enumerate(lines) if line.startswith(_MARK)), None)
        if begin is None:
            if of_suite:
                entries.remove(entry)  # a frame of the suite's own between the test and the message
            continue
        # Where pytest shows no source, it marks the first line of a message only.
        marks = [line[: len(_MARK)] for line in lines[begin : begin + 2]]
        text = [line[len(_MARK) :] for line in lines[begin:]]
        # A message stands as far in as the source above it.
        margin = len(text[0]) - len(text[0].lstrip())
        source = lines[:begin]
        if of_suite:
            source, entry.reprfuncargs = [], None
        left = " " * (0 if of_suite else margin)
        shown = [line[margin:] for line in text]
        if columns is not None:
            shown = fitted("\n".join(shown), columns - len(_MARK) - len(left))
        entry.lines = [
            *source,
            *(f"{marks[0 if place == 0 else -1]}{left}{line}" for place, line in enumerate(shown)),
        ]
