"""What a diagram says of single points, of paths and of the whole space.

Knows how to walk a diagram. Does not make any. Invariant: paths are disjoint and cover the space, and
volumes are exact.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Mapping, Sequence

from pytest_istio_sidecar.netfilter.diagram.diagram import LEAF, Box, Node
from pytest_istio_sidecar.netfilter.intervals import Interval


def answers_at(node: Node, point: Mapping[int, int]) -> frozenset[Hashable]:
    """What a diagram answers at one point, given by its value on each level that is tested."""
    while node.level != LEAF:
        node = node.kids[bisect_left(node.highs, point[node.level])]
    return node.answers


def volume(node: Node, tops: Sequence[int]) -> dict[frozenset[Hashable], int]:
    """How many points each set of answers has; exact, so that the sum is that of the whole space."""
    above = [1]
    for top in reversed(tops):
        above.append(above[-1] * (top + 1))
    sizes = above[::-1]
    """sizes[level]: points of the space from that level down."""
    depth = len(tops)
    done: dict[Node, dict[frozenset[Hashable], int]] = {}

    def level_of(node: Node) -> int:
        return depth if node.level == LEAF else node.level

    def counted(node: Node) -> dict[frozenset[Hashable], int]:
        known = done.get(node)
        if known is not None:
            return known
        if node.level == LEAF:
            known = {node.answers: 1}
        else:
            known = {}
            start = 0
            for high, kid in zip(node.highs, node.kids, strict=True):
                factor = (high - start + 1) * (sizes[node.level + 1] // sizes[level_of(kid)])
                for answers, count in counted(kid).items():
                    known[answers] = known.get(answers, 0) + factor * count
                start = high + 1
        done[node] = known
        return known

    factor = sizes[0] // sizes[level_of(node)]
    return {answers: factor * count for answers, count in counted(node).items()}


def branches(node: Node, within: Sequence[Interval] = ()) -> Iterator[tuple[tuple[Interval, ...], Node]]:
    """Each kid of a node once, with all intervals that lead to it.

    Args:
        within: only the values in these, ascending and apart; all where none is given.
    """
    highs, kids = node.highs, node.kids
    found: dict[Node, list[Interval]] = {}
    for first, last in within or ((0, highs[-1]),):
        start, place = first, bisect_left(highs, first)
        while highs[place] < last:
            found.setdefault(kids[place], []).append((start, highs[place]))
            start = highs[place] + 1
            place += 1
        found.setdefault(kids[place], []).append((start, last))
    for kid, intervals in found.items():
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
