"""What may be asked about all packets at once: the one door to this room.

Knows how packets are parted, by what becomes of them and by the values of their fields. Does not know what
an answer means. Invariant: the parts of a partition are disjoint, and have every packet that the host can
see; no diagram goes out by this door.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass

from pytest_istio_sidecar.netfilter.diagram.diagram import HOLDS, Node
from pytest_istio_sidecar.netfilter.diagram.memory import no_collection
from pytest_istio_sidecar.netfilter.diagram.simplify import simplify
from pytest_istio_sidecar.netfilter.model import Family, Rules, Table
from pytest_istio_sidecar.netfilter.packet import Hook, Host
from pytest_istio_sidecar.netfilter.space.cubes import Cube, Where
from pytest_istio_sidecar.netfilter.space.fields import NO_SOCKET, FieldName
from pytest_istio_sidecar.netfilter.space.nat import Outcome
from pytest_istio_sidecar.netfilter.space.part import Part, Product, Values, having
from pytest_istio_sidecar.netfilter.space.reachability import reached
from pytest_istio_sidecar.netfilter.space.space import (
    IMPOSSIBLE,
    Difference,
    Space,
    differing,
    regions,
)

__all__ = [
    "NO_SOCKET",
    "Cube",
    "Difference",
    "Fates",
    "FieldName",
    "Outcome",
    "Part",
    "Partition",
    "Product",
    "Reach",
    "Values",
    "Where",
    "differing",
    "entering",
    "fates",
    "in_few_parts",
    "left_of",
    "no_collection",
    "reach",
    "regions",
]

_OTHERS = "others"


class Fates:
    """What becomes of all packets of a family that enter at a hook: several answers where it is in doubt."""

    def __init__(self, space: Space, node: Node) -> None:
        self._space = space
        self._node = node

    def labelled(
        self, label: Callable[[Outcome, bool], Iterable[Hashable]], *, ports: Collection[int]
    ) -> Fates:
        """With labels in place of outcomes.

        Args:
            label: those of an outcome, by whether it comes to one of `ports` of this host.
        """
        diagrams = self._space.diagrams
        arriving = self._space.arriving(ports)

        def follow(answer: Hashable) -> Node:
            assert isinstance(answer, Outcome)  # noqa: S101
            elsewhere = diagrams.leaf_of(frozenset(label(answer, False)))
            condition = arriving(answer)
            if condition is diagrams.fall:
                return elsewhere
            there = diagrams.leaf_of(frozenset(label(answer, True)))
            return diagrams.first(diagrams.when(condition, there), elsewhere)

        return Fates(self._space, diagrams.bind(self._node, follow))

    def judged(self, judge: Callable[[frozenset[Hashable]], Hashable]) -> Fates:
        """With one answer in place of each set of outcomes or labels."""
        return Fates(self._space, self._space.diagrams.merge(self._node, judge))

    def beside(self, other: Fates, combine: Callable[[Hashable, Hashable], Hashable]) -> Fates:
        """With one answer made of the judged ones here and under other rules."""
        diagrams = self._space.diagrams

        def follow(answer: Hashable) -> Node:
            return diagrams.relabel(other._node, lambda beside: combine(answer, beside))

        return Fates(self._space, diagrams.bind(self._node, follow))

    def replaced(self, product: Product, other: Fates) -> Fates:
        """With the answers of others of the same space for the packets of a product."""
        diagrams = self._space.diagrams
        inside = diagrams.when(having(self._space, product), other._node)
        return Fates(self._space, diagrams.first(inside, self._node))

    def partition(self) -> Partition:
        """By the judged answers the packets that the host can see."""
        return Partition(self._space, self._space.within(self._node))


class Partition:
    """All packets of a family that enter at a hook and that the host can see, each with one answer."""

    def __init__(self, space: Space, node: Node) -> None:
        self._space = space
        self._node = node
        """Answers `IMPOSSIBLE` for all others."""

    def overlaid(self, products: Iterable[Product], answer: Hashable) -> Partition:
        """With this answer for the packets of some products."""
        diagrams = self._space.diagrams
        inside = diagrams.chain([having(self._space, product) for product in products])
        node = diagrams.first(diagrams.when(inside, diagrams.leaf(answer)), self._node)
        return Partition(self._space, node)

    def relabelled(self, products: Iterable[Product], change: Callable[[Hashable], Hashable]) -> Partition:
        """With other answers for the packets of some products."""
        diagrams = self._space.diagrams
        inside = diagrams.chain([having(self._space, product) for product in products])
        changed = diagrams.when(inside, diagrams.relabel(self._node, change))
        return Partition(self._space, diagrams.first(changed, self._node))

    def only(self, product: Product) -> Partition:
        """The packets of a product."""
        diagrams = self._space.diagrams
        inside = diagrams.when(having(self._space, product), self._node)
        return Partition(self._space, diagrams.first(inside, diagrams.leaf(IMPOSSIBLE)))

    def parts(self) -> dict[Hashable, list[Part]]:
        """The parts of each answer."""
        return self._parts(self._node)

    def few_parts(self) -> dict[Hashable, list[Part]]:
        """As `parts`, but fewer: what no packet has may be in the product of any."""
        diagrams = self._space.diagrams
        return self._parts(simplify(diagrams, self._node, diagrams.leaf(IMPOSSIBLE)))

    def _parts(self, node: Node) -> dict[Hashable, list[Part]]:
        return {
            answer: [Part(cube, answer, self._node, exact=node is self._node) for cube in cubes]
            for (answer,), cubes in self._space.cubes(node).items()
            if answer != IMPOSSIBLE
        }


def fates(
    rules: Sequence[Rules], hook: Hook, *, host: Host | None = None, family: Family = 4
) -> tuple[Fates, ...]:
    """What becomes of the first packets of connections, an `Outcome` each, under each set of rules.

    The first are those of the host; the others packets meet as if they went where its addresses tell.

    Raises:
        UsageProblem: chains jump in a circle.
    """
    space = Space(rules, hook, host=host, family=family, meant=range(1, len(rules)))
    return tuple(Fates(space, space.outcomes(which)) for which in range(len(rules)))


def in_few_parts(cubes: Sequence[Cube]) -> list[Part]:
    """Disjoint cubes of one space as few parts, which are told apart from all other packets."""
    return _of_cubes(cubes).few_parts().get(HOLDS, [])


def left_of(cubes: Sequence[Cube], products: Iterable[Product]) -> tuple[Cube, ...]:
    """What of disjoint cubes of one space is in none of these products."""
    parts = _of_cubes(cubes).overlaid(products, _OTHERS).parts()
    return tuple(part.cube for part in parts.get(HOLDS, []))


def _of_cubes(cubes: Sequence[Cube]) -> Partition:
    fields, state = cubes[0].fields, cubes[0].state
    space = Space((), fields.hook, host=fields.host, family=fields.family, state=state, fields=fields)
    diagrams = space.diagrams
    inside = diagrams.chain([diagrams.box(cube.box, diagrams.holds) for cube in cubes])
    return Partition(space, space.within(diagrams.first(inside, diagrams.leaf(_OTHERS))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where packets that enter at a hook come to in a table. Rules are named by chain and number.

    Attributes:
        matched: rules that packets match which the host can see.
        matchable: rules that any packet matches, be there such a packet or not.
        entered: chains that any packet comes to.
    """

    matched: frozenset[tuple[str, int]]
    matchable: frozenset[tuple[str, int]]
    entered: frozenset[str]


def reach(table: Table, hook: Hook, *, host: Host | None = None) -> Reach:
    """Where packets come to in a table.

    Raises:
        UsageProblem: chains jump in a circle.
    """
    space = Space([table], hook, host=host, family=table.ruleset.family)
    possible = reached(space, table.ruleset, table.name, space.possible)
    thinkable = reached(space, table.ruleset, table.name, space.diagrams.holds)
    return Reach(
        matched=frozenset(possible.matching),
        matchable=frozenset(thinkable.matching),
        entered=frozenset(thinkable.entering),
    )


def entering(table: Table, chain: str, hook: Hook, *, host: Host | None = None) -> list[Part]:
    """The packets that come to a chain of a table.

    Raises:
        UsageProblem: chains jump in a circle.
    """
    space = Space([table], hook, host=host, family=table.ruleset.family)
    node = reached(space, table.ruleset, table.name, space.possible).entering.get(chain)
    return [] if node is None else Partition(space, space.within(node)).parts()[HOLDS]
