"""Interval decision diagrams: functions from many integer fields to sets of answers, shared and exact.

Knows intervals, levels and leaves. Does not know packets or rules. Invariant: a diagram
is reduced (equal functions are one object), and along a path levels only increase.

A leaf holds a set of answers: more than one where a condition cannot be told. The answer
`FALL` means "not decided here"; `first` hands it to the next diagram, as a chain of rules does
(first match decides). That composition is associative, so that a long chain is composed in
balanced halves, or at each value of only those that have a say there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import reduce
from itertools import compress
from operator import attrgetter, is_, is_not
from typing import Final

from pytest_istio_sidecar.netfilter.diagram.intervals import Interval

Box = dict[int, tuple[Interval, ...]]
"""Per level the closed intervals allowed, ascending; a level not named is free."""

LEAF: Final = 1 << 30
"""The level of leaves: below every other."""

FALL: Final = "fall"
"""The answer "not decided here"."""

HOLDS: Final = "holds"
"""The answer of a condition that is met; one that is not met falls."""


class Node:
    """A test of one level, or a leaf. `highs` are the inclusive upper ends of its intervals."""

    __slots__ = ("answers", "falls", "highs", "kids", "level", "number")

    def __init__(
        self,
        number: int,
        level: int,
        highs: tuple[int, ...],
        kids: tuple[Node, ...],
        answers: frozenset[Hashable],
        *,
        falls: bool,
    ) -> None:
        self.number = number
        """Unlike that of any other node of its `Diagrams`."""
        self.level = level
        self.highs = highs
        self.kids = kids
        self.answers = answers
        self.falls = falls
        """Whether some path ends undecided."""


Part = tuple[int, int, Node]
"""The first and last of some values, and the diagram for them."""

_FALLS = attrgetter("falls")
_LEVEL = attrgetter("level")
_NUMBERS: Final = 40
"""Bits that hold every number of a node."""
_NOTHING: Final[frozenset[Hashable]] = frozenset()


MOST: Final = 2_500_000
"""Branches of all diagrams over the same fields: some 400 MB, and 10 s of one core."""


class Diagrams:
    """Makes diagrams over levels 0, 1, 2 …, whose values run from 0 to `tops[level]`.

    Args:
        beyond: makes the error where they become too many to go on, of what is `at` work; None: no end.
    """

    def __init__(self, tops: Sequence[int], beyond: Callable[[object], Exception] | None = None) -> None:
        self.tops = tuple(tops)
        self._beyond = beyond
        self._left = MOST
        self.at: object = None
        """What they are made of at the moment, for who asks when they become too many."""
        self._nodes: dict[tuple[int, tuple[int, ...], tuple[Node, ...]], Node] = {}
        self._leaves: dict[frozenset[Hashable], Node] = {}
        # By pairs of numbers in one: unlike tuples of nodes, those cost the garbage collector nothing.
        self._firsts: dict[int, Node] = {}
        self._unions: dict[int, Node] = {}
        self._whens: dict[int, Node] = {}
        self._chains: dict[tuple[Node, ...], Node] = {}
        self.fall = self.leaf(FALL)
        self.holds = self.leaf(HOLDS)
        self.maybe = self.leaf_of(frozenset((HOLDS, FALL)))

    def spend(self, branches: int) -> None:
        """Count what was made, or what took as long as so many branches.

        Raises:
            Exception: what `beyond` makes, where that is too much.
        """
        self._left -= branches
        if self._left < 0 and self._beyond is not None:
            raise self._beyond(self.at)

    def constant(self, truth: bool | None) -> Node:
        """A condition that is the same for every point; None: it cannot be told."""
        return self.maybe if truth is None else self.holds if truth else self.fall

    def leaf(self, answer: Hashable) -> Node:
        return self.leaf_of(frozenset((answer,)))

    def leaf_of(self, answers: frozenset[Hashable]) -> Node:
        known = self._leaves.get(answers)
        if known is None:
            number = len(self._leaves) << 1
            known = self._leaves[answers] = Node(number, LEAF, (), (), answers, falls=FALL in answers)
        return known

    def make(self, level: int, highs: Sequence[int], kids: Sequence[Node]) -> Node:
        """The node with these branches, all of whose kids are of deeper levels."""
        if any(map(is_, kids, kids[1:])):
            last = [*map(is_not, kids, kids[1:]), True]
            highs, kids = list(compress(highs, last)), list(compress(kids, last))
        if len(kids) == 1:
            return kids[0]
        return self._node(level, tuple(highs), tuple(kids))

    def _node(self, level: int, highs: tuple[int, ...], kids: tuple[Node, ...]) -> Node:
        """As `make`, for two kids or more of which neighbours differ."""
        key = (level, highs, kids)
        known = self._nodes.get(key)
        if known is None:
            number = len(self._nodes) << 1 | 1
            self.spend(len(kids))
            falls = any(map(_FALLS, kids))
            known = self._nodes[key] = Node(number, level, highs, kids, _NOTHING, falls=falls)
        return known

    def box(self, box: Box, inside: Node) -> Node:
        """`inside` for every point of the box, undecided elsewhere."""
        return self._cut(box, tuple(sorted(box)), inside, {})

    def _cut(
        self, box: Box, levels: tuple[int, ...], node: Node, done: dict[tuple[tuple[int, ...], Node], Node]
    ) -> Node:
        """What is left of a diagram in a box, from the first of these levels on."""
        if not levels or node is self.fall:
            return node
        if node.level > levels[-1]:
            for level in reversed(levels):
                node = self._within(level, box[level], node)
            return node
        key = (levels, node)
        if key not in done:
            level = levels[0]
            if node.level < level:
                kids = [self._cut(box, levels, kid, done) for kid in node.kids]
                done[key] = self.make(node.level, node.highs, kids)
            elif node.level > level:
                done[key] = self._within(level, box[level], self._cut(box, levels[1:], node, done))
            else:
                parts = [
                    (max(low, first), min(high, last), self._cut(box, levels[1:], kid, done))
                    for low, high, kid in self._parts(node)
                    for first, last in box[level]
                    if first <= high and low <= last
                ]
                done[key] = self._apart(level, parts)
        return done[key]

    def _within(self, level: int, intervals: Sequence[Interval], inside: Node) -> Node:
        if len(intervals) == 1 and inside is not self.fall:
            fall, top = self.fall, self.tops[level]
            (low, high), *_ = intervals
            if low == 0:
                return inside if high == top else self._node(level, (high, top), (inside, fall))
            if high == top:
                return self._node(level, (low - 1, top), (fall, inside))
            return self._node(level, (low - 1, high, top), (fall, inside, fall))
        return self._apart(level, [(low, high, inside) for low, high in intervals])

    def _apart(self, level: int, parts: Sequence[Part]) -> Node:
        """Each of these, ascending and apart, at its values; undecided elsewhere."""
        fall, top = self.fall, self.tops[level]
        highs: list[int] = []
        kids: list[Node] = []
        start = 0
        for low, high, kid in parts:
            if low > start:
                highs.append(low - 1)
                kids.append(fall)
            highs.append(high)
            kids.append(kid)
            start = high + 1
        if start <= top:
            highs.append(top)
            kids.append(fall)
        return self.make(level, highs, kids)

    def _parts(self, node: Node) -> Iterator[Part]:
        """The branches of a node, without those that answer nothing."""
        low = 0
        for high, kid in zip(node.highs, node.kids, strict=True):
            if kid is not self.fall:
                yield low, high, kid
            low = high + 1

    def first(self, above: Node, below: Node) -> Node:
        """What `above` answers, and where it falls, what `below` does."""
        if not above.falls or below is self.fall:
            return above
        if above is self.fall:
            return below
        key = above.number << _NUMBERS | below.number
        known = self._firsts.get(key)
        if known is None:
            if above.level == below.level == LEAF:
                known = self.leaf_of((above.answers - {FALL}) | below.answers)
            else:
                known = self.pairwise(self.first, above, below)
            self._firsts[key] = known
        return known

    def chain(self, diagrams: Iterable[Node]) -> Node:
        """The first answer of a sequence of diagrams: all at once where few meet, else in balanced halves."""
        row = tuple(node for node in diagrams if node is not self.fall)
        if len(row) < 3:
            return reduce(self.first, row, self.fall)
        if row not in self._chains:
            self._chains[row] = self._swept(min(map(_LEVEL, row)), row) or self._halved(row)
        return self._chains[row]

    def _halved(self, row: Sequence[Node]) -> Node:
        middle = len(row) // 2
        return self.first(self.chain(row[:middle]), self.chain(row[middle:]))

    def _swept(self, level: int, row: Sequence[Node]) -> Node | None:
        """All diagrams at once along one level; None where many of them meet at the same values."""
        if level == LEAF:
            return None
        parts: list[Part] = []
        for node in row:
            parts += [(0, self.tops[level], node)] if node.level > level else self._parts(node)
        starts = sorted({0, *(low for low, _, _ in parts), *(high + 1 for _, high, _ in parts)})
        place = {start: at for at, start in enumerate(starts)}
        met: list[list[Node]] = [[] for _ in starts]
        left = _MEETINGS * len(parts)
        for low, high, kid in parts:
            first, behind = place[low], place[high + 1]
            left -= behind - first
            if left < 0:
                return None
            for at in range(first, behind):
                met[at].append(kid)
        if starts[-1] > self.tops[level]:
            starts.pop()
            met.pop()
        highs = [start - 1 for start in starts[1:]] + [self.tops[level]]
        return self.make(level, highs, [self.chain(kids) for kids in met])

    def union(self, one: Node, other: Node) -> Node:
        """The answers of both."""
        if one is other:
            return one
        key = one.number << _NUMBERS | other.number
        known = self._unions.get(key)
        if known is None:
            if one.level == other.level == LEAF:
                known = self.leaf_of(one.answers | other.answers)
            else:
                known = self.pairwise(self.union, one, other)
            self._unions[key] = known
        return known

    def when(self, condition: Node, then: Node) -> Node:
        """`then` where the condition holds, undecided where it does not, both where that cannot be told."""
        if condition is self.fall or then is self.fall:
            return self.fall
        if condition is self.holds:
            return then
        if condition is self.maybe:
            return self.union(then, self.fall)
        key = condition.number << _NUMBERS | then.number
        known = self._whens.get(key)
        if known is None:
            known = self._whens[key] = self.pairwise(self.when, condition, then)
        return known

    def negate(self, condition: Node) -> Node:
        """The condition that holds where this one does not; what cannot be told stays so."""
        return self.relabel(condition, lambda answer: FALL if answer == HOLDS else HOLDS)

    def relabel(self, node: Node, change: Callable[[Hashable], Hashable]) -> Node:
        """The same tests with other answers."""
        return self._map(node, lambda leaf: self.leaf_of(frozenset(map(change, leaf.answers))))

    def merge(self, node: Node, change: Callable[[frozenset[Hashable]], Hashable]) -> Node:
        """The same tests with one answer in place of each set of them."""
        return self._map(node, lambda leaf: self.leaf(change(leaf.answers)))

    def bind(self, node: Node, follow: Callable[[Hashable], Node]) -> Node:
        """Each answer replaced with a diagram over the same fields."""

        def united(leaf: Node) -> Node:
            answers = iter(leaf.answers)
            result = follow(next(answers))
            for answer in answers:
                result = self.union(result, follow(answer))
            return result

        return self._map(node, united)

    def _map(self, node: Node, change: Callable[[Node], Node]) -> Node:
        return self._mapped(node, change, {})

    def _mapped(self, node: Node, change: Callable[[Node], Node], done: dict[Node, Node]) -> Node:
        known = done.get(node)
        if known is None:
            if node.level == LEAF:
                known = change(node)
            else:
                kids = [done.get(kid) or self._mapped(kid, change, done) for kid in node.kids]
                known = self.branch(node.level, node.highs, kids)
            done[node] = known
        return known

    def branch(self, level: int, highs: Sequence[int], kids: Sequence[Node]) -> Node:
        """As `make`, for kids that may test this level or ones above it."""
        if all(kid.level > level for kid in kids):
            return self.make(level, highs, kids)
        leading: dict[Node, list[Interval]] = {}
        start = 0
        for high, kid in zip(highs, kids, strict=True):
            leading.setdefault(kid, []).append((start, high))
            start = high + 1
        # A kid that falls must not hand over to the others, which have other values of this level.
        parts = []
        for kid, intervals in leading.items():
            marked = self.relabel(kid, _kept) if kid.falls else kid
            parts.append(self.when(self._within(level, intervals, self.holds), marked))
        joined = self.chain(parts)
        return self.relabel(joined, _fallen) if any(kid.falls for kid in leading) else joined

    def pairwise(self, apply: Callable[[Node, Node], Node], one: Node, other: Node) -> Node:
        """`apply` on every pair of branches that meet."""
        level = one.level
        if level < other.level:
            return self.make(level, one.highs, [apply(kid, other) for kid in one.kids])
        if level > other.level:
            return self.make(other.level, other.highs, [apply(one, kid) for kid in other.kids])
        highs: list[int] = []
        kids: list[Node] = []
        left, right = one.highs, other.highs
        i = j = 0
        last: tuple[Node, Node] | None = None
        while i < len(left):
            a, b = left[i], right[j]
            pair = (one.kids[i], other.kids[j])
            high = min(b, a)
            if last is not None and pair[0] is last[0] and pair[1] is last[1]:
                highs[-1] = high
            else:
                kids.append(apply(*pair))
                highs.append(high)
                last = pair
            if a == high:
                i += 1
            if b == high:
                j += 1
        return self.make(level, highs, kids)


_MEETINGS: Final = 4
"""How many branches may meet at a value, on average, for a sweep to be worth it."""
_KEPT: Final = "kept"


def _kept(answer: Hashable) -> Hashable:
    return _KEPT if answer == FALL else answer


def _fallen(answer: Hashable) -> Hashable:
    return FALL if answer == _KEPT else answer


def answers_within(node: Node, box: Box) -> set[Hashable]:
    """Every answer that some point of a box gets."""
    return set().union(*_leaves_within(node, box))


def answers_only(node: Node, box: Box, allowed: AbstractSet[Hashable]) -> bool:
    """Whether no point of a box gets another answer than these."""
    return all(answers <= allowed for answers in _leaves_within(node, box))


def _leaves_within(node: Node, box: Box) -> Iterator[frozenset[Hashable]]:
    seen: set[Node] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.level == LEAF:
            yield node.answers
            continue
        asked = box.get(node.level)
        if asked is None:
            waiting += node.kids
            continue
        start = place = 0
        for high, kid in zip(node.highs, node.kids, strict=True):
            while place < len(asked) and asked[place][1] < start:
                place += 1
            if place < len(asked) and asked[place][0] <= high:
                waiting.append(kid)
            start = high + 1
