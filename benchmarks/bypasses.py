"""From typed rules to every class of packets that gets by: Istio's table, and large ones.

The large ones have kube-proxy's shape. What it takes is held against parsing the same rules: a small table by
this package, a large one by jc, from what a kernel lists of it. Memory is the most that a process of its own
had at any time, from the text on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from math import log
from pathlib import Path

from measure import Row, median, milliseconds, paired
from rulesets import kube_proxy, listed

from pytest_istio_sidecar import bypasses, expected_ruleset, parse_iptables_save, render_save

OF_ITS_PARSE = 12
"""Times as long as parsing Istio's table, at most."""
OF_JC = 0.75
"""The same of jc and a large table."""
BESIDE_JC = (5_000, 10_000)
BEYOND = (20_000, 50_000)
ROUNDS, SHORT_ROUNDS = 5, 41
MEGABYTES, MEASURED_AT = 300, 10_000


def rows() -> Iterator[Row]:
    yield _of_istio()
    spent: dict[int, float] = {}
    for rules in BESIDE_JC:
        row, spent[rules] = _beside_jc(rules)
        yield row
    for rules in BEYOND:
        spent[rules] = _seconds(rules)
        yield Row(
            work=f"bypasses of {rules:,} rules of kube-proxy's shape", measured=milliseconds(spent[rules])
        )
    least, most = min(spent), max(spent)
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


def _of_istio() -> Row:
    text = render_save(expected_ruleset("1.8.3"))
    ruleset = parse_iptables_save(text)
    pair = paired(lambda: bypasses(ruleset), lambda: parse_iptables_save(text), rounds=SHORT_ROUNDS)
    return Row(
        work="bypasses of Istio 1.8.3's table",
        measured=milliseconds(pair.ours),
        against=f"parsing it: {milliseconds(pair.theirs)}",
        ratio=pair.times_theirs,
        target=f"≤ {OF_ITS_PARSE} × the time",
        holds=pair.times_theirs <= OF_ITS_PARSE,
    )


def _beside_jc(rules: int) -> tuple[Row, float]:
    """Its row, and the seconds."""
    import jc  # not for the process whose memory is measured

    listings = listed(kube_proxy(rules))
    ruleset = parse_iptables_save(listings.save)
    pair = paired(
        lambda: bypasses(ruleset),
        lambda: jc.parse("iptables", listings.verbose, quiet=True),
        rounds=ROUNDS,
    )
    row = Row(
        work=f"bypasses of {rules:,} rules of kube-proxy's shape",
        measured=milliseconds(pair.ours),
        against=f"jc's parse of -L -n -v: {milliseconds(pair.theirs)}",
        ratio=pair.times_theirs,
        target=f"≤ {OF_JC} × the time",
        holds=pair.times_theirs <= OF_JC,
    )
    return row, pair.ours


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
