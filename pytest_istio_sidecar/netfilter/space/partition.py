"""What may be asked about all packets at once: the one door to this room.

Knows how packets are parted, by what becomes of them and by the values of their fields, and how a part is
told by few conditions. Does not know what an answer means. Invariant: the parts of a partition are
disjoint, and have every packet that the host can see; no diagram goes out by this door.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import islice

from pytest_istio_sidecar.netfilter.diagram.diagram import HOLDS, Box, Node, answers_only
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval, common, joined, outside
from pytest_istio_sidecar.netfilter.diagram.paths import paths_within
from pytest_istio_sidecar.netfilter.diagram.simplify import simplify
from pytest_istio_sidecar.netfilter.memory import no_collection
from pytest_istio_sidecar.netfilter.model import Family, Rules, Table
from pytest_istio_sidecar.netfilter.packet import Hook, Host, Packet
from pytest_istio_sidecar.netfilter.space.cubes import Cube, Where
from pytest_istio_sidecar.netfilter.space.fields import NO_SOCKET, FieldName
from pytest_istio_sidecar.netfilter.space.nat import Outcome
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

Values = tuple[Interval | str, ...]
"""Closed intervals of numbers; or names: of interfaces, or values under masks ("0x1/0xff", "!0x1/0x1")."""

Product = Mapping[FieldName, Values]
"""Per field the values allowed; a field that is not named is free. Ids count from 1, 0: no socket."""

_LEAVE_OUT: tuple[FieldName, ...] = (
    "mark",
    "source_port",
    "source",
    "protocol",
    "destination",
    "uid",
    "gid",
    "interface",
    "destination_port",
)
"""In which order conditions are tried to be left out: the least telling first."""
_FEW = 6
"""Intervals of destinations for which a shorter way to tell them is looked for."""
_OTHERS = "others"
_SEEN = 16
"""Products of a part that are looked at for packets of it."""


class Part:
    """Packets with one answer: those of a product of values that the host can see.

    Attributes:
        answer: what the partition answers for them.
        cube: the product.
    """

    def __init__(self, cube: Cube, answer: Hashable, node: Node, *, exact: bool = False) -> None:
        self.answer = answer
        self.cube = cube
        self._node = node  # what the partition answers for every packet, or `IMPOSSIBLE`
        self._exact = exact  # whether the host can see all packets of the product

    @property
    def hook(self) -> Hook:
        return self.cube.fields.hook

    @property
    def family(self) -> Family:
        return self.cube.fields.family

    @property
    def host(self) -> Host:
        return self.cube.fields.host

    @property
    def state(self) -> str:
        """Conntrack's state of theirs."""
        return self.cube.state

    @cached_property
    def where(self) -> Where:
        """Names of `Packet`'s fields, each with the closed intervals and names it may have."""
        return self.cube.where

    @cached_property
    def product(self) -> Product:
        """The same as values; without those that all packets of the hook have."""
        fields, box = self.cube.fields, self.cube.box
        given = ("uid", "gid", "mark") if fields.hook == "PREROUTING" else ()
        return {
            field.name: self.values(field.name)
            for field in fields
            if field.name not in given and not field.is_free(box)
        }

    @cached_property
    def brief(self) -> Part:
        """The part without the conditions that others of the same answer, or no packet, make up for."""
        box = dict(self.cube.box)
        allowed = {IMPOSSIBLE, self.answer}
        fields = self.cube.fields
        for name in _LEAVE_OUT:
            levels = [part.level for part in fields[name].parts] or [fields[name].level]
            wider = {level: intervals for level, intervals in box.items() if level not in levels}
            if len(wider) == len(box) or (name == "protocol" and fields["destination_port"].level in box):
                continue
            if answers_only(self._node, wider, allowed):
                box = wider
        return Part(Cube(fields, self._by_one_interface(box), self.state), self.answer, self._node)

    def _by_one_interface(self, box: Box) -> Box:
        """The same packets as all but a few of one interface, where that says fewer destinations."""
        interface, destination = self.cube.fields["interface"], self.cube.fields["destination"]
        kept = box.get(destination.level, ())  # from 0 on: they are written as all but a few as it is
        if interface.level in box or destination.parts or not 1 < len(kept) <= _FEW or kept[0][0] == 0:
            return box
        for place in range(interface.top + 1):
            others = outside(((place, place),), interface.top)
            if others and not answers_only(self._node, {**box, interface.level: others}, {IMPOSSIBLE}):
                continue
            by_one = {**box, interface.level: ((place, place),)}
            left_out = [
                gap
                for gap in outside(kept, destination.top)
                if not answers_only(
                    self._node, {**by_one, destination.level: (gap,)}, {IMPOSSIBLE, self.answer}
                )
            ]
            if len(left_out) < len(kept) and _width(left_out) < _width(kept):
                return {**by_one, destination.level: outside(left_out, destination.top)}
        return box

    @property
    def witnesses(self) -> tuple[Packet, ...]:
        """Some of the packets, as ordinary as they come."""
        return tuple(cube.witness for cube in self._seen)

    def packet(self, values: dict[FieldName, int]) -> Packet:
        """One of the packets, which has these values where the part allows them."""
        return self._seen[0].packet(values)

    def samples(self) -> Iterator[Packet]:
        """Some of the packets: of the first and the last of each interval of each field."""
        yield from self.witnesses
        for cube in self._seen:
            for field in cube.fields:
                if not field.parts and not field.is_free(self.cube.box):
                    for low, high in field.values_in(cube.box):
                        yield cube.packet({field.name: low})
                        yield cube.packet({field.name: high})

    def meets(self, other: Part) -> bool:
        """Whether some packet is of the products of both."""
        box = dict(self.cube.box)
        for level, intervals in other.cube.box.items():
            box[level] = common(box.get(level, intervals), intervals)
            if not box[level]:
                return False
        return not answers_only(self._node, box, {IMPOSSIBLE})

    @cached_property
    def _seen(self) -> tuple[Cube, ...]:
        """The first packets that the host can see: a product may have impossible ones beside them."""
        if self._exact:
            return (self.cube,)
        here = paths_within(self._node, self.cube.box)
        kept = (Cube(self.cube.fields, box, self.state) for box, answers in here if answers == {self.answer})
        return tuple(islice(kept, _SEEN))

    def values(self, name: FieldName) -> Values:
        fields, box = self.cube.fields, self.cube.box
        if fields[name].parts:
            return tuple(str(text) for text in self.where[name])
        intervals = fields[name].values_in(box)
        if name == "interface":
            named = (fields.interfaces[place] for low, high in intervals for place in range(low, high + 1))
            return tuple(interface for interface in named if interface in fields.host.interfaces)
        return tuple((max(low, 1), high) for low, high in intervals) if name == "protocol" else intervals


def _width(intervals: Iterable[Interval]) -> int:
    return sum(high - low + 1 for low, high in intervals)


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
            there, elsewhere = (diagrams.leaf_of(frozenset(label(answer, at))) for at in (True, False))
            if there is elsewhere:
                return there
            return diagrams.first(diagrams.when(arriving(answer), there), elsewhere)

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

    Raises:
        UsageProblem: chains jump in a circle.
    """
    space = Space(rules, hook, host=host, family=family)
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


def having(space: Space, product: Product) -> Node:
    """The condition that a packet is of a product."""
    conditions = [_having(space, name, values) for name, values in product.items()]
    return reduce(space.diagrams.when, conditions) if conditions else space.diagrams.holds


def _having(space: Space, name: FieldName, values: Values) -> Node:
    fields, diagrams = space.fields, space.diagrams
    field = fields[name]
    names = [value for value in values if isinstance(value, str)]
    if name == "interface":
        places = [(place, place) for place, known in enumerate(fields.interfaces) if known in names]
        return field.intervals(diagrams, places)
    intervals = joined(value for value in values if not isinstance(value, str))
    parts = [field.intervals(diagrams, [interval for interval in intervals if interval[1] <= field.top])]
    parts += [_under_masks(space, name, text) for text in names]
    return diagrams.chain(parts)


def _under_masks(space: Space, name: FieldName, text: str) -> Node:
    """Values under masks: "0x1/0x1|0x2/0x3&!0x10/0xf0"."""
    fields, diagrams = space.fields, space.diagrams
    node = diagrams.holds
    for term in text.split("&"):
        pairs = [_pattern(name, pair) for pair in term.removeprefix("!").split("|")]
        one = diagrams.chain(
            [diagrams.box(fields[name].masked(value, mask), diagrams.holds) for value, mask in pairs]
        )
        node = diagrams.when(diagrams.negate(one) if term.startswith("!") else one, node)
    return node


def _pattern(name: FieldName, text: str) -> tuple[int, int]:
    value, _, mask = text.partition("/")
    if name == "mark":
        return int(value, 0), int(mask, 0)
    return int(ipaddress.ip_address(value)), int(ipaddress.ip_address(mask))
