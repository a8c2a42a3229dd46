"""Packets with one answer, and how they are told by few conditions.

Knows the values that their fields may have, and which of these say nothing. Does not know what is asked of
packets. Invariant: told briefly, a part still has no packet of another answer that the host can see.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterable, Iterator, Mapping
from functools import cached_property, reduce
from itertools import islice

from pytest_istio_sidecar.netfilter.diagram.diagram import Box, Node, answers_only
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval, common, joined, outside
from pytest_istio_sidecar.netfilter.diagram.paths import paths_within
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.netfilter.packet import Hook, Host, Packet
from pytest_istio_sidecar.netfilter.space.cubes import Cube, Where
from pytest_istio_sidecar.netfilter.space.fields import FieldName
from pytest_istio_sidecar.netfilter.space.space import IMPOSSIBLE, Space

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
