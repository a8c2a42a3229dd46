"""Packets, and classes of packets, in words: "inbound tcp 22,15008", "outbound tcp 443 from uid 1000".

Knows the one written form (its grammar: docs/bypasses.md) and what can be left unsaid. Does not know what
becomes of packets, nor how the form is read (`bypass`). Invariant: what is said is true of every packet
meant and, unless it is cut short and says so, of no other that the host can see.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Literal, Protocol

from pytest_istio_sidecar.netfilter.diagram.intervals import Interval, joined, outside
from pytest_istio_sidecar.netfilter.matches import PROTOCOL_NAMES
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.netfilter.packet import Hook, Packet
from pytest_istio_sidecar.netfilter.space.queries import (
    NO_SOCKET,
    Cube,
    FieldName,
    Part,
    Product,
    Values,
    in_few_parts,
)

Direction = Literal["inbound", "outbound"]
HOOKS: Mapping[Direction, Hook] = {"inbound": "PREROUTING", "outbound": "OUTPUT"}
DIRECTIONS: Mapping[Hook, Direction] = {hook: direction for direction, hook in HOOKS.items()}

CLAUSES: Mapping[FieldName, str] = {
    "protocol": "protocol",
    "destination_port": "to port",
    "destination": "to",
    "source": "from",
    "source_port": "from port",
    "uid": "from uid",
    "gid": "gid",
    "interface": "by",
    "mark": "mark",
}
"""How each field is introduced, in the order in which they are written."""

_BITS = {"protocol": 8, "uid": 32, "gid": 32, "mark": 32, "destination_port": 16, "source_port": 16}
_PARTS = 3
"""Parts by which a class is told; what is left is counted."""
_MEMBERS = 6
"""Values of a field that are told of a class; what is left is counted."""


class PacketClass(Protocol):
    """Packets of one direction, and of one family or both, that have the values of `where`."""

    @property
    def direction(self) -> Direction: ...

    @property
    def family(self) -> Family | None: ...

    @property
    def where(self) -> tuple[tuple[FieldName, Values], ...]: ...


def of_direction(classes: Iterable[PacketClass], direction: Direction, family: Family) -> list[Product]:
    """The products of those that are of a direction and a family."""
    return [
        dict(each.where) for each in classes if each.direction == direction and each.family in (None, family)
    ]


def describe(packet: Packet) -> str:
    """A packet in a few words: "inbound tcp 8443", "outbound tcp 443 to 192.0.2.20 from uid 1000"."""
    product: dict[FieldName, Values] = {"protocol": _only(int(packet.protocol))}
    if packet.destination_port is not None:
        product["destination_port"] = _only(packet.destination_port)
    if packet.hook == "OUTPUT":
        product["destination"] = _only(int(packet.destination))
        product["uid"] = _only(NO_SOCKET if packet.uid is None else packet.uid + 1)
        if packet.gid is not None and packet.gid != packet.uid:
            product["gid"] = _only(packet.gid + 1)
    return written(DIRECTIONS[packet.hook], named_family(packet.family, product), product)


def in_words(cubes: Sequence[Cube]) -> str:
    """A class of packets, given as disjoint cubes of one hook, in one phrase."""
    return _few(_of_part(part.brief) for part in in_few_parts(cubes))


def told_in_few(direction: Direction, family: Family, parts: Sequence[Part], *, protocol: int) -> str:
    """Parts of a partition that has packets of one protocol only, in one phrase that names it."""
    products: list[Product] = [{"protocol": _only(protocol), **part.brief.product} for part in parts]
    return _few(
        written(direction, named_family(family, product), product, most=_MEMBERS) for product in products
    )


def _few(texts: Iterable[str]) -> str:
    each = list(dict.fromkeys(texts))
    left = len(each) - _PARTS
    more = [f"and {left} more class{'es' if left > 1 else ''}"] if left > 0 else []
    return "; ".join([*each[:_PARTS], *more])


def _of_part(part: Part) -> str:
    family = named_family(part.family, part.product)
    text = written(DIRECTIONS[part.hook], family, part.product, most=_MEMBERS)
    return text if part.state == "NEW" else f"{text}, conntrack state {part.state}"


def named_family(family: Family, product: Product) -> Family | None:
    """The family as the written form has it: None for IPv4 where no address tells it."""
    return family if family == 6 or {"source", "destination"} & product.keys() else None


def written(direction: Direction, family: Family | None, product: Product, *, most: int | None = None) -> str:
    """The written form of all packets of a product.

    Args:
        most: values of a field that are written at most; None: all, as is read back.
    """
    words: list[str] = [direction]
    if family == 6 or (family == 4 and not {"source", "destination"} & product.keys()):
        words.append(f"IPv{family}")
    if not product:
        return " ".join(["all", *words])
    for name in (name for name in CLAUSES if name in product):
        listed = _listed(name, product[name], family, most)
        if name == "protocol" or (name == "destination_port" and "protocol" in product):
            words.append(listed)
        elif name == "gid" and "uid" not in product:
            words.append(f"from gid {listed}")
        else:
            words.append(f"{CLAUSES[name]} {listed}")
    return " ".join(words)


def numbered(numbers: Sequence[int]) -> str:
    """Rules of a chain by their numbers, ascending: "rule 3", "rules 1, 3 and 4", "rules 2-9"."""
    spans = joined((number, number) for number in numbers)
    listed = [
        text
        for low, high in spans
        for text in (
            [str(low)] if low == high else [str(low), str(high)] if high == low + 1 else [_span(low, high)]
        )
    ]
    if len(numbers) == 1:
        return f"rule {listed[0]}"
    return "rules " + (f"{', '.join(listed[:-1])} and {listed[-1]}" if len(listed) > 1 else listed[0])


def of_family(family: Family) -> str:
    """What stands before a table, a chain or a protocol of a family: "IPv6 ", and nothing for IPv4."""
    return "IPv6 " if family == 6 else ""


def top_of(name: FieldName, family: Family | None) -> int:
    """The greatest value of a field."""
    bits = _BITS.get(name, 128 if family == 6 else 32)
    return int((1 << bits) - 1)


def packet_fields(packet: Packet) -> dict[str, object]:
    """A packet as the fields that `Packet` takes, for JSON; those that are not set are left out."""
    values = {field.name: getattr(packet, field.name) for field in fields(Packet)}
    values |= {"source": str(packet.source), "destination": str(packet.destination)}
    return {name: value for name, value in values.items() if value is not None}


def _only(value: int) -> Values:
    return ((value, value),)


def _listed(name: FieldName, values: Values, family: Family | None, most: int | None) -> str:
    names = [value for value in values if isinstance(value, str)]
    intervals = [value for value in values if not isinstance(value, str)]
    negation = ""
    if intervals and not names:
        but = _all_but(name, intervals, family)
        fewer = len(but) < len(intervals) or all(low == high for low, high in but)
        if but and fewer and intervals[-1][1] == top_of(name, family):
            intervals, negation = but, "not "
    items = [*(_interval(name, *interval, family) for interval in intervals), *names]
    left = 0 if most is None else len(items) - most
    return negation + ",".join(items[:most]) + (f" and {left} more" if left > 0 else "")


def _all_but(name: FieldName, intervals: Sequence[Interval], family: Family | None) -> list[Interval]:
    """The values of a field that these leave out; no packet is of protocol 0."""
    lowest = 1 if name == "protocol" else 0
    rest = outside(intervals, top_of(name, family))
    return [(max(low, lowest), high) for low, high in rest if high >= lowest]


def _interval(name: FieldName, low: int, high: int, family: Family | None) -> str:
    if name in ("uid", "gid"):
        if low == NO_SOCKET:
            more = "" if high == NO_SOCKET else f",{_span(0, high - 1)}"
            return f"none{more}"
        return _span(low - 1, high - 1)
    if name == "protocol":
        numbers = range(low, high + 1)
        if len(numbers) <= 3 and all(number in PROTOCOL_NAMES for number in numbers):
            return ",".join(PROTOCOL_NAMES[number] for number in numbers)
        return f"proto/{_span(low, high)}"
    if name in ("source", "destination"):
        kind = ipaddress.IPv6Address if family == 6 else ipaddress.IPv4Address
        networks = list(ipaddress.summarize_address_range(kind(low), kind(high)))
        if low == high:
            return str(kind(low))
        return str(networks[0]) if len(networks) == 1 else f"{kind(low)}-{kind(high)}"
    if name == "mark":
        return f"{low:#x}" if low == high else f"{low:#x}-{high:#x}"
    return _span(low, high)


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"
