"""What a diagram says of single points, and of how many."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence

from pytest_istio_sidecar.netfilter.diagram.diagram import LEAF, Node


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
