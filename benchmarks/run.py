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

import trace  # noqa: E402

import all_ports  # noqa: E402
import bypasses  # noqa: E402
import parse  # noqa: E402
import plugin_import  # noqa: E402
from kernel_testbed import why_impossible  # noqa: E402
from measure import machine  # noqa: E402
from table import in_words  # noqa: E402

RESULTS = HERE / "last-run.json"


def main() -> int:
    if why := why_impossible():
        print(f"bench: {why}", file=sys.stderr)
        return 3
    rows = []
    for program in (parse, trace, bypasses, all_ports, plugin_import):
        for row in program.rows():
            print(f"bench: {row.work}: {row.measured}", file=sys.stderr, flush=True)
            rows.append(row)
    document = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    RESULTS.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(in_words(document))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
