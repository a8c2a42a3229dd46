"""A class of packets that get by without Envoy, as it was found: with its rules and a witness.

Knows how to tell a class in few words and by which rules its packets get by. Does not know which
classes there are (`bypasses`). Invariant: `where` is exact, `text` leaves out what changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice

from pytest_istio_sidecar.checks.bypass.bypass import ORDER, Bypass, Direction, Values
from pytest_istio_sidecar.netfilter.diagram.diagram import Box, Node, answers_only
from pytest_istio_sidecar.netfilter.diagram.paths import paths_within
from pytest_istio_sidecar.netfilter.intervals import Interval, common
from pytest_istio_sidecar.netfilter.model import Family, Rule, Rules, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Packet
from pytest_istio_sidecar.netfilter.space.cubes import Cube, Where
from pytest_istio_sidecar.netfilter.space.fields import FieldName, Fields
from pytest_istio_sidecar.netfilter.space.space import IMPOSSIBLE
from pytest_istio_sidecar.netfilter.trace.trace import Trace, trace

_READABLE = 256
"""Classes of one kind whose texts are held against each other."""
_TRACED = 16
"""Packets of a class that are traced to name the rules which let it by."""


@dataclass(frozen=True, slots=True)
class PacketClass:
    """The answer of a diagram of classes: packets that get by (or may), and by design or not."""

    certain: bool
    by_design: bool
    moved: bool
    """They are sent elsewhere than where they were going, though not to Envoy."""


class FoundBypass:
    """A class of packets that get by without Envoy.

    Attributes:
        direction: "inbound" or "outbound".
        family: 4 or 6.
        by_design: whether the expected rules let the same packets by.
        certain: False where it depends on a condition that rules alone do not tell.
    """

    def __init__(
        self,
        cube: Cube,
        held: PacketClass,
        direction: Direction,
        classes: Node,
        rules: Rules,
        *,
        brief: bool = True,
    ) -> None:
        self.direction: Direction = direction
        self.family: Family = cube.fields.family
        self.by_design = held.by_design
        self.certain = held.certain
        self._cube = cube
        self._held = held
        self._classes = classes
        self._rules = rules
        self._brief = brief
        """Whether `text` leaves out what changes nothing."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.text}>"

    @cached_property
    def where(self) -> Where:
        """Names of `Packet`'s fields, each with the closed intervals and names it may have; exact."""
        return self._cube.where

    @cached_property
    def witness(self) -> Packet:
        """One of the packets, as ordinary as they come."""
        return max((cube.witness for cube in self._possible), key=_ordinary)

    @cached_property
    def _possible(self) -> tuple[Cube, ...]:
        """Some of those packets that the host can see: a class may have impossible ones beside them."""
        here = paths_within(self._classes, self._cube.box)
        kept = (Cube(self._cube.fields, box) for box, answers in here if answers == {self._held})
        return tuple(islice(kept, _TRACED))

    @cached_property
    def trace(self) -> Trace:
        """The witness's way."""
        return trace(self._rules, self.witness, host=self._cube.fields.host)

    @property
    def rule(self) -> Rule | None:
        """The rule that lets the witness by; None: a policy."""
        return self.trace.deciding_rule

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that let packets of the class by, of as many as were traced."""
        found: dict[Rule, None] = {}
        for packet in islice(self._samples(), _TRACED):
            rule = trace(self._rules, packet, host=self._cube.fields.host).deciding_rule
            if rule is not None:
                found[rule] = None
        return tuple(found)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Why it cannot be told whether they get by; empty where it can."""
        return self.trace.reasons

    @cached_property
    def bypass(self) -> Bypass:
        """The class as a value: exact, as `where` is."""
        return self._as_bypass(self._cube.box)

    @cached_property
    def in_brief(self) -> Bypass:
        """The class without the conditions that other classes of the same kind, or no packet, make up for."""
        return self._as_bypass(self._widest)

    @cached_property
    def text(self) -> str:
        """The class in few words: conditions that change nothing, beside the other classes, are left out."""
        text = str(self.in_brief if self._brief else self.bypass)
        if not any(any(held.rules()) for held in rulesets_of(self._rules, self.family)):
            text += ": no rules"
        elif self._held.moved:
            text += f": sent to {self.trace.destination}"
        return text

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        packet = self.witness
        rule = self.rule
        told: dict[str, object] = {
            "text": self.text,
            "where": self.where,
            "witness": packet_fields(packet),
            "rule": rule.text if rule is not None else None,
            "by_design": self.by_design,
        }
        return told if self.certain else {**told, "conditions": list(self.conditions)}

    def exact(self) -> FoundBypass:
        """The same class, whose text leaves nothing out."""
        return self._but(self._cube, brief=False)

    def widened(self) -> FoundBypass:
        """All packets that the text is true of, as one class."""
        return self._but(Cube(self._cube.fields, self._widest))

    def reads_over(self, other: FoundBypass) -> bool:
        """Whether the text is true of packets of another class too."""
        box = dict(self._widest)
        for level, intervals in other._cube.box.items():
            box[level] = common(box.get(level, intervals), intervals)
            if not box[level]:
                return False
        return not answers_only(self._classes, box, {IMPOSSIBLE})

    def _but(self, cube: Cube, *, brief: bool = True) -> FoundBypass:
        return FoundBypass(cube, self._held, self.direction, self._classes, self._rules, brief=brief)

    def _as_bypass(self, box: Box) -> Bypass:
        fields = self._cube.fields
        given = ("uid", "gid", "mark") if self.direction == "inbound" else ()
        where = {
            name: _values(fields, name, box)
            for name in ORDER
            if name not in given and not fields[name].is_free(box)
        }
        only = self.family == 6 or "source" in where or "destination" in where
        return Bypass(
            direction=self.direction, family=self.family if only else None, where=tuple(where.items())
        )

    @cached_property
    def _widest(self) -> Box:
        """What `in_brief` is of."""
        box = dict(self._cube.box)
        allowed = {IMPOSSIBLE, self._held}
        fields = self._cube.fields
        names = sorted((held.name for held in fields), key=_LEAVE_OUT.index)
        for name in names:
            levels = [part.level for part in fields[name].parts] or [fields[name].level]
            wider = {level: held for level, held in box.items() if level not in levels}
            if len(wider) == len(box) or (name == "protocol" and fields["destination_port"].level in box):
                continue
            if answers_only(self._classes, wider, allowed):
                box = wider
        return box

    def _samples(self) -> Iterator[Packet]:
        """Packets of the class, from each interval of each field of some of its cubes."""
        for cube in self._possible:
            yield cube.witness
        for cube in self._possible:
            for held in cube.fields:
                if not held.parts and not held.is_free(self._cube.box):
                    for low, high in held.values_in(cube.box):
                        yield cube.packet({held.name: low})
                        yield cube.packet({held.name: high})


def told_apart(found: Sequence[FoundBypass]) -> Iterator[FoundBypass]:
    """Disjoint classes of one kind, those that read the same as one, or else each with its exact text."""
    if len(found) > _READABLE:
        yield from (held.exact() for held in found)
        return
    alike: dict[Bypass, list[FoundBypass]] = {}
    for held in found:
        alike.setdefault(held.in_brief, []).append(held)
    for members in alike.values():
        if len(members) == 1:
            yield members[0]
        elif any(members[0].reads_over(other) for other in found if other not in members):
            yield from (held.exact() for held in members)
        else:
            yield members[0].widened()


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
"""In which order conditions are tried to be left out of a text: the least telling first."""


def _values(fields: Fields, name: FieldName, box: Box) -> Values:
    held = fields[name]
    if held.parts:
        cube = Cube(fields, box)
        return tuple(str(text) for text in cube.where[name])
    intervals: tuple[Interval, ...] = held.values_in(box)
    if name == "interface":
        return tuple(
            fields.interfaces[place]
            for low, high in intervals
            for place in range(low, high + 1)
            if fields.interfaces[place] in fields.host.interfaces
        )
    return tuple((max(low, 1), high) for low, high in intervals) if name == "protocol" else intervals


def _ordinary(packet: Packet) -> tuple[bool, ...]:
    """How much a packet is what people think of first: tcp to a neighbour, from the application."""
    return (
        packet.protocol == 6,
        packet.destination_port == 80,
        packet.uid == packet.gid,
        not packet.mark,
        packet.out_interface != "lo",
    )


def packet_fields(packet: Packet) -> dict[str, object]:
    """A packet as the fields that `Packet` takes, for JSON; those that are not set are left out."""
    names = [field.name for field in fields(Packet)]
    told = {name: getattr(packet, name) for name in names}
    told |= {"source": str(packet.source), "destination": str(packet.destination)}
    return {name: value for name, value in told.items() if value is not None}
