"""Closed intervals of whole numbers, and sets of values made of them.

Knows how sets are joined, cut and turned round. Does not know what the numbers are: ports, addresses, ids,
values of a diagram's level. Invariant: what is returned is ascending, with gaps between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Interval = tuple[int, int]


def joined(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same values as ascending intervals with gaps between them."""
    merged: list[Interval] = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def outside(intervals: Sequence[Interval], top: int) -> tuple[Interval, ...]:
    """What 0 to `top` has beside these intervals, which are ascending and apart."""
    left = []
    start = 0
    for low, high in intervals:
        if low > start:
            left.append((start, low - 1))
        start = high + 1
    if start <= top:
        left.append((start, top))
    return tuple(left)


def common(one: Sequence[Interval], other: Sequence[Interval]) -> tuple[Interval, ...]:
    """The values of both."""
    shared = []
    i = j = 0
    while i < len(one) and j < len(other):
        low, high = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if low <= high:
            shared.append((low, high))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return tuple(shared)
