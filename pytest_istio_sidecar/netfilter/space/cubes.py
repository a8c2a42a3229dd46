"""Classes of packets as products of sets, one for each field.

Knows how to name what a path through a diagram allows, and which of its packets is the most
ordinary. Does not know fates. Invariant: `where` says exactly which packets a cube has.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from pytest_istio_sidecar.netfilter.diagram.diagram import Box, Node
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval
from pytest_istio_sidecar.netfilter.diagram.paths import paths
from pytest_istio_sidecar.netfilter.matches import PROTOCOL_NAMES
from pytest_istio_sidecar.netfilter.packet import Packet
from pytest_istio_sidecar.netfilter.space.fields import NO_SOCKET, Field, FieldName, Fields

Where = dict[str, list[list[int] | list[str] | str]]
"""Names of `Packet`'s fields, each with the closed intervals and names that a cube allows."""

_USUAL: dict[FieldName, tuple[int, ...]] = {
    "protocol": (6, 17, 1),
    "uid": (1001, NO_SOCKET, 1338),
    "gid": (1001, NO_SOCKET, 1338),
    "mark": (0,),
    "destination_port": (80, 443, 8080, 53),
    "source_port": (40000,),
}
"""What a witness has where its cube allows it, most wanted first. Ids are their number plus one."""


@dataclass(frozen=True, slots=True, eq=False)
class Cube:
    """A product of sets of values, one for each field."""

    fields: Fields
    box: Box
    state: str = "NEW"

    @property
    def where(self) -> Where:
        """The fields that it does not leave free, by the names of `Packet`'s; addresses as text."""
        where: Where = {}
        for field in self.fields:
            if field.is_free(self.box) or self._is_given(field.name):
                continue
            if field.parts:
                where[self._name(field.name)] = [self._patterns(field)]
            else:
                where[self._name(field.name)] = _listed(self.fields, field.name, field.values_in(self.box))
        return where

    @property
    def witness(self) -> Packet:
        """A packet of the cube, as ordinary as the cube allows."""
        return self.packet({})

    def packet(self, wanted: dict[FieldName, int]) -> Packet:
        """A packet of the cube that has the wanted values where the cube allows them."""
        values = {field.name: self._value(field.name, wanted.get(field.name)) for field in self.fields}
        kind = ipaddress.IPv4Address if self.fields.family == 4 else ipaddress.IPv6Address
        interface = self.fields.interfaces[values["interface"]]
        inbound = self.fields.hook == "PREROUTING"
        sent = values["uid"] != NO_SOCKET and values["gid"] != NO_SOCKET
        return Packet(
            hook=self.fields.hook,
            protocol=values["protocol"] or 254,
            source=kind(values["source"]),
            destination=kind(values["destination"]),
            source_port=values["source_port"],
            destination_port=values["destination_port"],
            in_interface=interface if inbound else None,
            out_interface=None if inbound or self.fields.is_routed else interface,
            uid=values["uid"] - 1 if sent and not inbound else None,
            gid=values["gid"] - 1 if sent and not inbound else None,
            mark=values["mark"],
            state=self.state,
        )

    def _is_given(self, name: FieldName) -> bool:
        """Whether all packets of the hook have the same value: what comes in has no socket."""
        return self.fields.hook == "PREROUTING" and name in ("uid", "gid", "mark")

    def _name(self, name: FieldName) -> str:
        if name == "interface":
            return "in_interface" if self.fields.hook == "PREROUTING" else "out_interface"
        return name

    def _patterns(self, field: Field) -> str:
        """Values under masks, in the grammar of `Bypass`: "0x1/0x1|0x2/0x3&!0x10/0xf0"."""
        terms = list(field.patterns_in(self.box))
        single = [pairs[0] for excluded, pairs in terms if not excluded and len(pairs) == 1]
        if single:  # values of bits apart are one of all these bits
            value, mask = (reduce(or_, numbers) for numbers in zip(*single, strict=True))
            others = [(excluded, pairs) for excluded, pairs in terms if excluded or len(pairs) > 1]
            terms = [(False, [(value, mask)]), *others]
        return "&".join(
            ("!" if excluded else "") + "|".join(self._pattern(field.name, *pair) for pair in pairs)
            for excluded, pairs in terms
        )

    def _pattern(self, name: FieldName, value: int, mask: int) -> str:
        """A value under a mask, as iptables writes it."""
        if name == "mark":
            return f"{value:#x}/{mask:#x}"
        kind = ipaddress.IPv4Address if self.fields.family == 4 else ipaddress.IPv6Address
        return f"{kind(value)}/{kind(mask)}"

    def _value(self, name: FieldName, wanted: int | None) -> int:
        field = self.fields[name]
        usual: list[int] = [] if wanted is None else [wanted]
        usual += [*_USUAL.get(name, ()), *_usual_addresses(self.fields, name)]
        if field.parts:
            value = usual[0] if usual else 0
            for part in field.parts:
                allowed = self.box.get(part.level)
                pressed = part.press(value)
                if allowed is not None and not _has(allowed, pressed):
                    value = (value & ~part.mask) | part.spread(allowed[0][0])
            return value
        intervals = field.values_in(self.box)
        for value in usual:
            if _has(intervals, value):
                return value
        return intervals[0][0]


def cubes_of(node: Node, fields: Fields, state: str) -> Iterator[tuple[frozenset[Hashable], Cube]]:
    """All points as disjoint cubes, each with its answers."""
    for box, answers in paths(node):
        yield answers, Cube(fields, box, state)


def _has(intervals: Sequence[Interval], value: int) -> bool:
    return any(low <= value <= high for low, high in intervals)


def _usual_addresses(fields: Fields, name: FieldName) -> list[int]:
    """The pod's own address and a neighbour's, whichever the field usually has."""
    if name not in ("source", "destination"):
        return []
    host, family = fields.host, fields.family
    own = host.primary(host.external(), family)
    neighbour = _NEIGHBOUR[family]
    mine = [int(own)] if own is not None else []
    arriving = fields.hook == "PREROUTING"
    return [*mine, neighbour] if (name == "destination") is arriving else [neighbour, *mine]


_NEIGHBOUR = {
    4: int(ipaddress.IPv4Address("192.0.2.20")),
    6: int(ipaddress.IPv6Address("2001:db8::20")),
}


def _listed(
    fields: Fields, name: FieldName, intervals: Sequence[Interval]
) -> list[list[int] | list[str] | str]:
    if name == "interface":
        names = [fields.interfaces[i] for low, high in intervals for i in range(low, high + 1)]
        return [interface for interface in names if interface in fields.host.interfaces]
    if name in ("source", "destination"):
        kind = ipaddress.IPv4Address if fields.family == 4 else ipaddress.IPv6Address
        return [[str(kind(low)), str(kind(high))] for low, high in intervals]
    if name in ("uid", "gid"):
        without = ["no socket"] if _has(intervals, NO_SOCKET) else []
        ids = [[max(low, 1) - 1, high - 1] for low, high in intervals if high > NO_SOCKET]
        return [*without, *ids]
    if name == "protocol":
        return [
            PROTOCOL_NAMES[low] if low == high and low in PROTOCOL_NAMES else [max(low, 1), high]
            for low, high in intervals
        ]
    return [[low, high] for low, high in intervals]
