"""A class of packets that get by without Envoy, as a value, and read from the written form.

Knows how the form is read; `wording` writes it. Does not know which packets do get by (`bypasses`).
Invariant: `Bypass.parse(str(bypass)) == bypass`.

Grammar (docs/bypasses.md): DIRECTION [FAMILY] [PROTOCOLS] [PORTS] CLAUSE …, as in
"inbound tcp 22,15008", "outbound IPv6 not tcp", "outbound tcp 443 to 192.0.2.0/24 from uid 1000-1999".
Ports without a protocol are TCP's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.wording import CLAUSES, HOOKS, Direction, top_of, written
from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval, joined, outside
from pytest_istio_sidecar.netfilter.matches import PROTOCOLS
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.netfilter.namespace.routing import Routing
from pytest_istio_sidecar.netfilter.packet import Host, Packet
from pytest_istio_sidecar.netfilter.space.queries import (
    NO_SOCKET,
    FieldName,
    Values,
)
from pytest_istio_sidecar.netfilter.text.parse_port import (
    are_ports,
    parse_ports,
    parse_protocols,
    split_protocol,
)

_TCP = PROTOCOLS["tcp"]
BOTH_FAMILIES = " (IPv6 too)"
"""What follows a class that is of both families, as any class is that names none."""
_REMARK = re.compile(r"(?:: (?:no rules|sent to .*|may be sent elsewhere))?(?: \(IPv6 too\))?\Z")
"""What a class is followed by in reports: how its packets get by, which does not tell which they are."""
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
        return written(self.direction, self.family, dict(self.where))

    def has(self, packet: Packet, *, host: Host | None = None) -> bool:
        """Whether a packet is one of them.

        Args:
            host: gives the packet its interface, where it names none.
        """
        if HOOKS[self.direction] != packet.hook or self.family not in (None, packet.family):
            return False
        return all(_is_one(_value_of(packet, name, host or Host()), values) for name, values in self.where)

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
            elif name in CLAUSES:
                clauses.append(f"{CLAUSES[name]} {listed}")  # type: ignore[index]
            else:
                known = ", ".join([*CLAUSES, "tcp", "udp"])
                raise UsageProblem(messages.NO_FIELD(field=name, known=known))
        return cls.parse(" ".join(clauses))

    @classmethod
    def parse(cls, text: str) -> Bypass:
        """Read the written form.

        Raises:
            UsageProblem: it is not one; the message says where it stops being one.
        """
        return _Parser(text).bypass()


def _each(value: int | Collection[int]) -> Iterable[int]:
    return [value] if isinstance(value, int) else sorted(value)


def _value_of(packet: Packet, name: FieldName, host: Host) -> int | str | None:
    """A field of a packet, as `Bypass.where` has its values."""
    if name == "interface":
        routing = Routing(host)
        if packet.hook == "PREROUTING":
            return packet.in_interface or routing.into(packet.source, packet.destination)  # type: ignore[arg-type]
        return packet.out_interface or routing.out(packet.destination)  # type: ignore[arg-type]
    value = getattr(packet, name)
    if name in ("uid", "gid"):
        return NO_SOCKET if value is None else int(value) + 1
    return None if value is None else int(value)


def _is_one(value: int | str | None, values: Values) -> bool:
    if value is None or isinstance(value, str):
        return value in values
    return any(
        _fits(value, each) if isinstance(each, str) else each[0] <= value <= each[1] for each in values
    )


def _fits(value: int, text: str) -> bool:
    """Whether a value is one under masks: "0x1/0x1|0x2/0x3&!0x10/0xf0"."""
    return all(
        any(
            value & mask == wanted & mask for wanted, mask in map(_pattern, term.removeprefix("!").split("|"))
        )
        is not term.startswith("!")
        for term in text.split("&")
    )


def _pattern(text: str) -> tuple[int, int]:
    numbers = (part if part.startswith("0x") else int(ipaddress.ip_address(part)) for part in text.split("/"))
    wanted, mask = (int(number, 0) if isinstance(number, str) else number for number in numbers)
    return wanted, mask


def without_remark(text: str) -> str:
    """A class as it stands in reports, without what follows it there."""
    return _REMARK.sub("", text, count=1)


class _Parser:
    """Reads one written bypass, word by word."""

    def __init__(self, text: str) -> None:
        self.text = text
        spaced = re.sub(r"\s*,\s*", ",", without_remark(text).strip())
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
        ordered = tuple((name, where[name]) for name in CLAUSES if name in where)
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
        at_ports = bool(words) and all(map(are_ports, words[0].split(",")))
        self.ports_alone |= at_ports
        return at_ports

    def _values(self, name: FieldName) -> Values:
        negated = self._skip("not")
        word = self._take(f"a value for {CLAUSES[name]}")
        values = [self._value(name, item) for item in word.split(",")]
        intervals = joined(value for value in values if not isinstance(value, str))
        names = tuple(value for value in values if isinstance(value, str))
        if not negated:
            return (*intervals, *names)
        if names:
            raise self._problem(word, f"no `not` before {CLAUSES[name]} {names[0]}")
        top = top_of(name, self.family)
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
            raise self._problem(item, f"a value for {CLAUSES[name]}", form) from None

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
