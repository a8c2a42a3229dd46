"""What a diagram says of its paths.

Knows how to walk a diagram. Does not make any. Invariant: paths are disjoint and cover the space.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence

from pytest_istio_sidecar.netfilter.diagram.diagram import LEAF, Box, Node
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval


def branches(node: Node, within: Sequence[Interval] = ()) -> Iterator[tuple[tuple[Interval, ...], Node]]:
    """Each kid of a node once, with all intervals that lead to it.

    Args:
        within: only the values in these, ascending and apart; all where none is given.
    """
    highs, kids = node.highs, node.kids
    leading: dict[Node, list[Interval]] = {}
    for first, last in within or ((0, highs[-1]),):
        start, place = first, bisect_left(highs, first)
        while highs[place] < last:
            leading.setdefault(kids[place], []).append((start, highs[place]))
            start = highs[place] + 1
            place += 1
        leading.setdefault(kids[place], []).append((start, last))
    for kid, intervals in leading.items():
        yield tuple(intervals), kid


def paths(node: Node) -> Iterator[tuple[Box, frozenset[Hashable]]]:
    """Every path with what it answers: disjoint boxes that cover the space."""
    trail: Box = {}

    def walk(node: Node) -> Iterator[tuple[Box, frozenset[Hashable]]]:
        if node.level == LEAF:
            yield dict(trail), node.answers
            return
        for intervals, kid in branches(node):
            trail[node.level] = intervals
            yield from walk(kid)
        del trail[node.level]

    yield from walk(node)


def paths_within(node: Node, box: Box) -> Iterator[tuple[Box, frozenset[Hashable]]]:
    """As `paths`, for the points of a box."""
    trail = dict(box)

    def walk(node: Node) -> Iterator[tuple[Box, frozenset[Hashable]]]:
        if node.level == LEAF:
            yield dict(trail), node.answers
            return
        asked = box.get(node.level)
        for intervals, kid in branches(node, asked or ()):
            trail[node.level] = intervals
            yield from walk(kid)
        if asked is None:
            trail.pop(node.level, None)
        else:
            trail[node.level] = asked

    yield from walk(node)
