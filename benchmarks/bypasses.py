"""From typed rules to every class of packets that gets by: Istio's table, and large ones.

The large ones have kube-proxy's shape. Memory is the most that a process of its own had at any time,
from the text on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from math import log
from pathlib import Path

from measure import Row, median, milliseconds
from rulesets import kube_proxy

from pytest_istio_sidecar import bypasses, expected_ruleset, parse_iptables_save

TARGETS = {5_000: 0.3, 10_000: 0.6}
GROWTH = (5_000, 10_000, 20_000, 50_000)
ROUNDS = 5
MEGABYTES, MEASURED_AT = 300, 10_000


def rows() -> Iterator[Row]:
    istio = expected_ruleset("1.8.3")
    taken = median(lambda: bypasses(istio))
    yield Row(
        work="bypasses of Istio 1.8.3's table",
        measured=milliseconds(taken),
        target="≤ 5 ms",
        holds=taken <= 0.005,
    )
    spent: dict[int, float] = {}
    for rules in GROWTH:
        spent[rules] = _seconds(rules)
        bound = TARGETS.get(rules)
        yield Row(
            work=f"bypasses of {rules:,} rules of kube-proxy's shape",
            measured=milliseconds(spent[rules]),
            target="" if bound is None else f"≤ {bound * 1000:.0f} ms",
            holds=bound is None or spent[rules] <= bound,
        )
    least, most = GROWTH[0], GROWTH[-1]
    grown = spent[most] / spent[least]
    linearithmic = most * log(most) / (least * log(least))
    yield Row(
        work=f"bypasses of {most:,} rules beside {least:,}",
        measured=f"{grown:.1f} × the time",
        against=f"n log n: {linearithmic:.1f} ×",
        ratio=linearithmic / grown,
        target="≥ 0.67 × (near n log n)",
        holds=linearithmic / grown >= 0.67,
    )
    peak = _megabytes()
    yield Row(
        work=f"parse and bypasses of {MEASURED_AT:,} rules: peak memory of the process",
        measured=f"{peak:.0f} MB",
        target=f"≤ {MEGABYTES} MB",
        holds=peak <= MEGABYTES,
    )


def _seconds(rules: int) -> float:
    ruleset = parse_iptables_save(kube_proxy(rules))
    return median(lambda: bypasses(ruleset), rounds=ROUNDS)


def _megabytes() -> float:
    done = subprocess.run(
        [sys.executable, __file__, "peak"],
        input=kube_proxy(MEASURED_AT),
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[1] / "tests" / "kernel")},
    )
    return float(done.stdout)


if __name__ == "__main__":
    bypasses(parse_iptables_save(sys.stdin.read()))
    # Not getrusage: its peak (ru_maxrss) counts what started this process too (fs/exec.c, exec_mmap).
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
