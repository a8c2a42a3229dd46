"""Times that can be trusted on a machine that others use: pairs in turn, medians, ratios.

Knows how a piece of work is timed and how a row of the table is written. Does not know what
is timed. Invariant: two times are compared only where both were taken in one run, in turn.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROUNDS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        work: what is done.
        measured: the figure, with its unit.
        against: the peer and its figure; "" where the target is a bound.
        ratio: to the peer, as the target's words say: so many times as fast, or so many times the time
            (without a target the first); None where there is no peer.
        target: what is asked, in words; "" where nothing is: the figure is told all the same.
        holds: whether the target is met.
    """

    work: str
    measured: str
    against: str = ""
    ratio: float | None = None
    target: str = ""
    holds: bool = True


def seconds(work: Callable[[], object]) -> float:
    """CPU time of one call; what it returns, and what others left, is gone before the clock starts."""
    gc.collect()
    begin = time.process_time()
    result = work()
    spent = time.process_time() - begin
    del result
    return spent


def median(work: Callable[[], object], *, rounds: int = ROUNDS) -> float:
    """Median CPU time, after one call that is not counted."""
    work()
    return statistics.median(seconds(work) for _ in range(rounds))


def paired(ours: Callable[[], object], theirs: Callable[[], object], *, rounds: int = ROUNDS) -> Pair:
    """Both in turn, after one call of each that is not counted."""
    ours(), theirs()
    taken = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return Pair(
        ours=statistics.median(mine for mine, _ in taken),
        theirs=statistics.median(other for _, other in taken),
        ratio=statistics.median(other / mine for mine, other in taken),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Medians in seconds, and the median of the ratios theirs/ours of each pair."""

    ours: float
    theirs: float
    ratio: float

    @property
    def times_theirs(self) -> float:
        """Ours as so many times the other's time."""
        return 1 / self.ratio


def milliseconds(taken: float) -> str:
    return f"{taken * 1000:,.{1 if taken < 0.1 else 0}f} ms"


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
