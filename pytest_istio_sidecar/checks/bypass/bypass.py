"""A class of packets that get by without Envoy, as a value and in writing.

Knows the written form and its fields. Does not know which packets do get by (`bypasses`). Invariant:
`Bypass.parse(str(bypass)) == bypass`.

Grammar (docs/bypasses.md): DIRECTION [FAMILY] [PROTOCOLS] [PORTS] CLAUSE …, as in
"inbound tcp 22,15008", "outbound IPv6 not tcp", "outbound tcp 443 to 192.0.2.0/24 from uid 1000-1999".
Ports without a protocol are TCP's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.netfilter.diagram.diagram import Diagrams, Node
from pytest_istio_sidecar.netfilter.intervals import Interval, joined, outside
from pytest_istio_sidecar.netfilter.matches import PROTOCOL_NAMES, PROTOCOLS
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.netfilter.space.fields import NO_SOCKET, FieldName, Fields
from pytest_istio_sidecar.netfilter.text.parse_port import (
    are_ports,
    parse_ports,
    parse_protocols,
    split_protocol,
)

Direction = Literal["inbound", "outbound"]
HOOKS: Mapping[Direction, Literal["PREROUTING", "OUTPUT"]] = {"inbound": "PREROUTING", "outbound": "OUTPUT"}

Values = tuple[Interval | str, ...]
"""Closed intervals of numbers; or names: of interfaces, or values under masks ("0x1/0xff", "!0x1/0x1")."""

ORDER: tuple[FieldName, ...] = (
    "protocol",
    "destination_port",
    "destination",
    "source",
    "source_port",
    "uid",
    "gid",
    "interface",
    "mark",
)
_BITS = {"protocol": 8, "uid": 32, "gid": 32, "mark": 32, "destination_port": 16, "source_port": 16}
_TCP = PROTOCOLS["tcp"]
_EXAMPLES = '"inbound tcp 22,15008", "outbound from gid 1337", "outbound IPv6 not tcp"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Bypass:
    """Packets of one direction, all that have the values of `where`.

    Attributes:
        direction: "inbound" packets come from elsewhere, "outbound" ones from a process of the pod.
        family: 4 or 6; None: both.
        where: per field the values it may have; a field that is not named is free. Ids count from 1,
            0 being a packet without socket.
    """

    direction: Direction
    family: Family | None = None
    where: tuple[tuple[FieldName, Values], ...] = ()

    def __str__(self) -> str:
        return written(self)

    @classmethod
    def inbound(cls, **values: int | str | Collection[int]) -> Bypass:
        """What comes from elsewhere: `Bypass.inbound(tcp={22, 15008})`, `Bypass.inbound(udp=53)`.

        Args:
            values: a protocol's name with destination ports, or a field's name with its values.

        Raises:
            UsageProblem: a name or value that is none.
        """
        return cls._made("inbound", values)

    @classmethod
    def outbound(cls, **values: int | str | Collection[int]) -> Bypass:
        """What a process of the pod sends: `Bypass.outbound(gid=1337)`, `Bypass.outbound(tcp=443, uid=0)`."""
        return cls._made("outbound", values)

    @classmethod
    def _made(cls, direction: Direction, values: Mapping[str, int | str | Collection[int]]) -> Bypass:
        clauses: list[str] = [direction]
        for name, value in values.items():
            listed = value if isinstance(value, str) else ",".join(map(str, _each(value)))
            if not listed:
                raise UsageProblem(messages.FIELD_EMPTY(field=name))
            if name in PROTOCOLS:
                clauses.insert(1, f"{name} {listed}")
            elif name in _CLAUSES:
                clauses.append(f"{_CLAUSES[name]} {listed}")
            else:
                known = ", ".join([*_CLAUSES, "tcp", "udp"])
                raise UsageProblem(messages.NO_FIELD(field=name, known=known))
        return cls.parse(" ".join(clauses))

    @classmethod
    def parse(cls, text: str) -> Bypass:
        """Read the written form.

        Raises:
            UsageProblem: it is not one; the message says where it stops being one.
        """
        return _Parser(text).bypass()

    def condition(self, fields: Fields, diagrams: Diagrams) -> Node:
        """Its packets, among those of the fields' hook and family."""
        if HOOKS[self.direction] != fields.hook or self.family not in (None, fields.family):
            return diagrams.fall
        node = diagrams.holds
        for name, values in self.where:
            node = diagrams.when(_condition(fields, diagrams, name, values), node)
        return node


def _each(value: int | Collection[int]) -> Iterable[int]:
    return [value] if isinstance(value, int) else sorted(value)


def _condition(fields: Fields, diagrams: Diagrams, name: FieldName, values: Values) -> Node:
    field = fields[name]
    names = [value for value in values if isinstance(value, str)]
    if name == "interface":
        places = [(place, place) for place, held in enumerate(fields.interfaces) if held in names]
        return field.intervals(diagrams, places)
    intervals = joined(value for value in values if not isinstance(value, str))
    parts = [field.intervals(diagrams, [held for held in intervals if held[1] <= field.top])]
    parts += [_under_masks(fields, diagrams, name, text) for text in names]
    return diagrams.chain(parts)


def _under_masks(fields: Fields, diagrams: Diagrams, name: FieldName, text: str) -> Node:
    """Values under masks: "0x1/0x1|0x2/0x3&!0x10/0xf0"."""
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


_CLAUSES = {
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
"""How each field is introduced."""


def written(bypass: Bypass) -> str:
    """The written form of a bypass."""
    held = dict(bypass.where)
    words: list[str] = [bypass.direction]
    if bypass.family == 6 or (bypass.family == 4 and not {"source", "destination"} & held.keys()):
        words.append(f"IPv{bypass.family}")
    if not held:
        return " ".join(["all", *words])
    with_ports = "protocol" in held and "destination_port" in held
    for name in ORDER:
        if name not in held:
            continue
        listed = _listed(name, held[name], bypass.family)
        if name == "protocol" or (name == "destination_port" and with_ports):
            words.append(listed)
        elif name == "gid" and "uid" not in held:
            words.append(f"from gid {listed}")
        else:
            words.append(f"{_CLAUSES[name]} {listed}")
    return " ".join(words)


def _listed(name: FieldName, values: Values, family: Family | None) -> str:
    names = [value for value in values if isinstance(value, str)]
    intervals = [value for value in values if not isinstance(value, str)]
    prefix = ""
    if intervals and not names:
        top = _top(name, family)
        rest = outside(intervals, top)
        lowest = 1 if name == "protocol" else 0
        rest = tuple((max(low, lowest), high) for low, high in rest if high >= lowest)
        if rest and len(rest) <= len(intervals) and intervals[-1][1] == top:
            intervals, prefix = list(rest), "not "
    return prefix + ",".join([*(_one(name, *held, family) for held in intervals), *names])


def _one(name: FieldName, low: int, high: int, family: Family | None) -> str:
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


def _top(name: FieldName, family: Family | None) -> int:
    bits = _BITS.get(name, 128 if family == 6 else 32)
    return int((1 << bits) - 1)


class _Parser:
    """Reads one written bypass, word by word."""

    def __init__(self, text: str) -> None:
        self.text = text
        spaced = re.sub(r"\s*,\s*", ",", text.removesuffix(": no rules").strip())
        self.words = spaced.split()
        self.family: Family | None = None
        self.ports_alone = False
        self.numbers_are_protocols = False

    def bypass(self) -> Bypass:
        self._skip("all")
        direction = self._take("a direction, inbound or outbound")
        if direction not in HOOKS:
            raise self._problem(direction, "inbound or outbound")
        self._skip("all")
        if self.words and self.words[0] in ("IPv4", "IPv6"):
            self.family = 4 if self.words.pop(0) == "IPv4" else 6
        where: dict[FieldName, Values] = {}
        while self.words:
            name = self._field(where)
            if name in where:
                raise self._problem(name, "each field once")
            where[name] = self._values(name)
        if self.ports_alone:
            where.setdefault("protocol", ((_TCP, _TCP),))
        ordered = tuple((name, where[name]) for name in ORDER if name in where)
        return Bypass(direction=direction, family=self.family, where=ordered)  # type: ignore[arg-type]

    def _field(self, where: Mapping[FieldName, Values]) -> FieldName:
        """Which field the next words are about; the words that only introduce it are taken."""
        word = self.words[0]
        if word in ("to", "from"):
            self.words.pop(0)
            if self._skip("port", "ports"):
                return "destination_port" if word == "to" else "source_port"
            if word == "from" and self.words and self.words[0] in ("uid", "gid"):
                return self._field(where)
            if word == "to" and self._at_ports():
                return "destination_port"
            return "destination" if word == "to" else "source"
        known: dict[str, FieldName] = {
            "uid": "uid",
            "gid": "gid",
            "by": "interface",
            "mark": "mark",
            "protocol": "protocol",
        }
        if word in known:
            self.words.pop(0)
            self.numbers_are_protocols |= word == "protocol"
            return known[word]
        if "destination_port" not in where and ("protocol" in where or self._at_ports()):
            return "destination_port"
        protocol, ports = split_protocol(word)
        if ports is not None and protocol:
            self.words[:1] = [protocol, ports]
        return "protocol"

    def _at_ports(self) -> bool:
        """Whether the next words are ports; where no protocol is named, they are TCP's."""
        words = self.words[1:2] if self.words[:1] == ["not"] else self.words[:1]
        found = bool(words) and all(map(are_ports, words[0].split(",")))
        self.ports_alone |= found
        return found

    def _values(self, name: FieldName) -> Values:
        negated = self._skip("not")
        word = self._take(f"a value for {_CLAUSES[name]}")
        found = [self._value(name, item) for item in word.split(",")]
        intervals = joined(value for value in found if not isinstance(value, str))
        names = tuple(value for value in found if isinstance(value, str))
        if not negated:
            return (*intervals, *names)
        if names:
            raise self._problem(word, f"no `not` before {_CLAUSES[name]} {names[0]}")
        top = _top(name, self.family)
        return outside(((0, 0), *intervals) if name == "protocol" else intervals, top)

    def _value(self, name: FieldName, item: str) -> Interval | str:
        try:
            if name == "interface":
                return item
            if name in ("source", "destination"):
                return self._addresses(item)
            if name == "mark":
                return item if "/" in item else _numbers(item, 0xFFFFFFFF)
            if name == "protocol":
                by_number = self.numbers_are_protocols and are_ports(item)
                return parse_protocols(f"proto/{item}" if by_number else item)
            if name in ("uid", "gid"):
                if item == "none":
                    return (NO_SOCKET, NO_SOCKET)
                low, high = _numbers(item, 0xFFFFFFFE)
                return (low + 1, high + 1)
            return parse_ports(item)
        except ValueError:
            form = ", as in tcp or proto/47" if name == "protocol" else ""
            raise self._problem(item, f"a value for {_CLAUSES[name]}", form) from None

    def _addresses(self, item: str) -> Interval | str:
        low, dash, high = item.partition("-")
        if dash:
            ends = ipaddress.ip_address(low), ipaddress.ip_address(high)
        else:
            _, _, mask = item.partition("/")
            if "." in mask or ":" in mask:
                self._is_of(6 if ":" in mask else 4, item)
                return item
            network = ipaddress.ip_network(item, strict=False)
            ends = network.network_address, network.broadcast_address
        self._is_of(4 if ends[0].version == 4 else 6, item)
        return int(ends[0]), int(ends[1])

    def _is_of(self, family: Family, item: str) -> None:
        """All addresses are of one family, the one that is named where one is."""
        if self.family not in (None, family):
            raise self._problem(item, f"an IPv{self.family} address")
        self.family = family

    def _skip(self, *words: str) -> bool:
        if self.words and self.words[0] in words:
            self.words.pop(0)
            return True
        return False

    def _take(self, wanted: str) -> str:
        if not self.words:
            raise UsageProblem(messages.BYPASS_SHORT(text=self.text, wanted=wanted, examples=_EXAMPLES))
        return self.words.pop(0)

    def _problem(self, word: str, wanted: str, form: str = "") -> UsageProblem:
        return UsageProblem(
            messages.NO_BYPASS(text=self.text, word=word, wanted=wanted, form=form, examples=_EXAMPLES)
        )


def _numbers(item: str, top: int) -> Interval:
    low, _, high = item.partition("-")
    first, last = int(low, 0), int(high or low, 0)
    if not 0 <= first <= last <= top:
        raise ValueError(item)
    return first, last
