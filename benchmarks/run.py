"""Every benchmark that has a peer or a target, as one table, and as JSON.

    make bench

Needs root or a user namespace, since listings and answers come from this machine's kernel.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "kernel")]

import parse  # noqa: E402
from kernel_testbed import why_impossible  # noqa: E402
from measure import Row, machine  # noqa: E402

RESULTS = HERE / "last-run.json"
COLUMNS = ("work", "measured", "against", "ratio", "target", "")


def main() -> int:
    if why := why_impossible():
        print(f"bench: {why}", file=sys.stderr)
        return 3
    rows = []
    for program in (parse,):
        for row in program.rows():
            print(f"bench: {row.work}: {row.measured}", file=sys.stderr, flush=True)
            rows.append(row)
    told = machine()
    document = {"machine": told, "rows": [asdict(row) for row in rows]}
    RESULTS.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(", ".join(f"{name} {value}" for name, value in told.items()))
    print(_table(rows))
    return 0 if all(row.holds for row in rows) else 1


def _table(rows: list[Row]) -> str:
    """As Markdown reads it, in columns that a terminal reads too."""
    cells = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join((lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]))


def _cells(row: Row) -> tuple[str, ...]:
    verdict = ("met" if row.holds else "MISSED") if row.target else ""
    ratio = "" if row.ratio is None else f"{row.ratio:,.2f} ×"
    return row.work, row.measured, row.against, ratio, row.target, verdict


if __name__ == "__main__":
    sys.exit(main())
