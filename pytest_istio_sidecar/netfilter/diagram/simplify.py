"""Diagrams with fewer tests, where some points may be answered as one likes.

Knows which branches can be one. Does not know what a diagram is about. Invariant: wherever the diagram
given does not answer "free", the result answers the same.
"""

from __future__ import annotations

from typing import Final

from pytest_istio_sidecar.netfilter.diagram.diagram import LEAF, Diagrams, Node

_GROUPS: Final = 8
"""How many kinds of branches each further branch is compared with."""


def simplify(diagrams: Diagrams, node: Node, free: Node) -> Node:
    """A diagram with fewer tests that answers the same wherever this one does not answer `free`."""
    return _Simplifier(diagrams, free).simple(node)


class _Simplifier:
    def __init__(self, diagrams: Diagrams, free: Node) -> None:
        self.diagrams = diagrams
        self.free = free
        self.unified: dict[tuple[Node, Node], Node | None] = {}
        self.done: dict[Node, Node] = {}

    def simple(self, node: Node) -> Node:
        if node.level == LEAF:
            return node
        if node not in self.done:
            groups: list[Node] = []
            place: dict[Node, int] = {}
            for kid in dict.fromkeys(node.kids):
                for at, group in enumerate(groups[:_GROUPS]):
                    both = self.unify(group, kid)
                    if both is not None and self.no_larger(both, group, kid):
                        groups[at], place[kid] = both, at
                        break
                else:
                    place[kid] = len(groups)
                    groups.append(kid)
            kept = [self.simple(group) for group in groups]
            kids = [kept[place[kid]] for kid in node.kids]
            self.done[node] = self.diagrams.make(node.level, node.highs, kids)
        return self.done[node]

    def unify(self, one: Node, other: Node) -> Node | None:
        """A diagram that agrees with both where they are not free; None where they disagree."""
        if one is other or other is self.free:
            return one
        if one is self.free:
            return other
        if one.level == other.level == LEAF:
            return None
        key = (one, other)
        if key not in self.unified:
            try:
                self.unified[key] = self.diagrams.pairwise(self.unify_or_leave, one, other)
            except _Disagree:
                self.unified[key] = None
        return self.unified[key]

    def unify_or_leave(self, one: Node, other: Node) -> Node:
        both = self.unify(one, other)
        if both is None:
            raise _Disagree
        return both

    def no_larger(self, both: Node, one: Node, other: Node) -> bool:
        """Whether one diagram for two is no harder to read than the harder of the two."""
        if both.level == LEAF or both is one or both is other:
            return True
        return _size(self.simple(both)) <= max(_size(self.simple(one)), _size(self.simple(other)))


class _Disagree(Exception):
    """Two diagrams answer differently where neither is free."""


def _size(node: Node) -> int:
    """How many tests a diagram has."""
    seen: set[Node] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node.level != LEAF and node not in seen:
            seen.add(node)
            waiting += node.kids
    return len(seen)
