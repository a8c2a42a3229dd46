"""A run of the benchmarks as people read it: the machine, and a table.

Knows the form of last-run.json. Does not know what was measured. README shows the last run in this form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("Work", "Measured", "Against", "Ratio", "Target", "")


def in_words(run: Mapping[str, Any]) -> str:
    """As Markdown reads it, in columns that a terminal reads too."""
    machine = ", ".join(f"{name} {value}" for name, value in run["machine"].items())
    cells = [COLUMNS, *map(_cells, run["rows"])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    ruler = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join((machine, "", lines[0], ruler, *lines[1:]))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    verdict = ("met" if row["holds"] else "MISSED") if row["target"] else ""
    ratio = "" if row["ratio"] is None else f"{row['ratio']:,.{2 if row['ratio'] >= 0.1 else 3}f} ×"
    return row["work"], row["measured"], row["against"], ratio, row["target"], verdict
