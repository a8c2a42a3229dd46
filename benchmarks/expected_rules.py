"""How long it takes to make the expected rules of every recorded release and scenario.

    python benchmarks/expected_rules.py

Each run makes all rulesets of tests/data/istio-init-tables.json.gz in a process of its own, so that
nothing is remembered from the run before; rules that two releases share are parsed once in each.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

RUNS = 7
TESTS = Path(__file__).parents[1] / "tests" / "unit" / "istio"
ONE_RUN = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_expected_rules import expected_ruleset, recorded, scenarios
asked = [
    (state, int(key[-1]), scenarios()[key[:-3]])
    for state, results in recorded()["results"].items()
    for key in results
]
begin = time.process_time()
for version, family, options in asked:
    expected_ruleset(version, family=family, options=options)
print(len(asked), time.process_time() - begin)
"""


def main() -> None:
    """Print the number of rulesets, and the CPU time of all of them."""
    seconds = []
    for _ in range(RUNS):
        done = subprocess.run(
            [sys.executable, "-c", ONE_RUN, str(TESTS)],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        count, took = done.stdout.split()
        seconds.append(float(took))
    print(f"{count} rulesets: median {statistics.median(seconds):.2f} s of CPU, worst {max(seconds):.2f} s")


if __name__ == "__main__":
    main()
