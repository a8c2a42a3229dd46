"""What a rule asks, as diagrams over the fields that packets enter with.

Knows which points satisfy a condition, of a packet as it has become by then (`View`). Does not know
chains or tables. Invariant: a condition holds, fails or stays in doubt at a point just as `matching`
says of that packet; conditions that are not plain intervals ask `matching` itself, once for each class.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pytest_istio_sidecar.netfilter.diagram import Box, Interval, Node
from pytest_istio_sidecar.netfilter.fields import NO_SOCKET, FieldName, Fields, joined, outside
from pytest_istio_sidecar.netfilter.matches import (
    Address,
    Extension,
    Fragment,
    Interface,
    Mark,
    Match,
    Multiport,
    Owner,
    Protocol,
    Range,
    Transport,
)
from pytest_istio_sidecar.netfilter.matching import NUMBERS, compile_faulty, compile_match, written_faultily
from pytest_istio_sidecar.netfilter.model import Rule
from pytest_istio_sidecar.netfilter.packet import Packet
from pytest_istio_sidecar.netfilter.routing import Routing
from pytest_istio_sidecar.netfilter.skb import Skb, Test
from pytest_istio_sidecar.netfilter.walks import common

ALL = 0xFFFFFFFF
_NO_PROTOCOL = 254
"""Stands for protocol 0, which no packet has (RFC 3692: 253 and 254 are for experiments)."""
ENTERED = "as it entered"
"""The value of a view's field that nothing has changed."""


class Bits(NamedTuple):
    """A mark as the packet entered with it, some bits cleared and some flipped: `(mark & keep) ^ flip`."""

    keep: int = ALL
    flip: int = 0

    def __and__(self, mask: int) -> Bits:
        return Bits(self.keep & mask, self.flip & mask)

    def __xor__(self, other: int | Bits) -> Bits:
        if isinstance(other, Bits):
            return Bits(self.keep ^ other.keep, self.flip ^ other.flip)
        return Bits(self.keep, self.flip ^ other)


class View(NamedTuple):
    """A packet at a hook, in terms of how it entered. `ENTERED`: unchanged; None: not known."""

    state: str = "INVALID"
    tracked: bool = False
    first: bool = True
    has_socket: bool = False
    incoming: str = ""
    outgoing: str = ""
    source: int | str | None = ENTERED
    source_port: int | str | None = ENTERED
    destination: int | str = ENTERED
    destination_port: int | str | None = ENTERED
    mark: Bits | None = Bits()
    connmark: Bits | None = Bits(0, 0)
    translations: tuple[str, ...] = ()


class Conditions:
    """Turns conditions into boxes and diagrams over the fields of one hook."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.diagrams = fields.diagrams
        self.routing = Routing(fields.host)
        self._made: dict[tuple[Match, View, bool], Node] = {}

    def guard(self, rule: Rule, view: View, inside: Node, writer: str | None = None) -> Node:
        """`inside` for the packets that meet every condition of the rule, undecided for others."""
        box: Box = {}
        rest: list[Node] = []
        for match in rule.matches:
            part = self._part(match, view, writer)
            if isinstance(part, Node):
                if part is self.diagrams.fall:
                    return part
                if part is not self.diagrams.holds:
                    rest.append(part)
                continue
            for level, intervals in part.items():
                held = box.get(level, intervals)
                box[level] = intervals if held == intervals else common(held, intervals)
                if not box[level]:
                    return self.diagrams.fall
        for condition in rest:
            inside = self.diagrams.when(condition, inside)
        if not box or inside is self.diagrams.fall:
            return inside
        if inside.level > max(box):
            return self.diagrams.box(box, inside)
        return self.diagrams.when(self.diagrams.box(box, self.diagrams.holds), inside)

    def _part(self, match: Match, view: View, writer: str | None) -> Box | Node:
        """A condition as a box where it is one, else as a diagram."""
        kind = type(match)
        if kind is Protocol:
            return self._ranged("protocol", match.number, match.number, match.negated)  # type: ignore[union-attr]
        if kind is Address:
            return self._address(match, view)  # type: ignore[arg-type]
        if kind is Transport and not written_faultily(match, writer):
            return self._transport(match, view)  # type: ignore[arg-type]
        if kind is Interface:
            return self._interface(match, view)  # type: ignore[arg-type]
        if kind is Owner:
            return self._owner(match, view)  # type: ignore[arg-type]
        if kind is Mark:
            return self._mark(match, view)  # type: ignore[arg-type]
        if kind is Fragment:
            return self._known(match.negated)  # type: ignore[union-attr]
        if kind is Multiport:
            return self._multiport(match, view)  # type: ignore[arg-type]
        if kind is Extension or kind is Transport:
            faulty = kind is Transport
            key = (match, view, faulty)
            if key not in self._made:
                test = compile_faulty(match) if faulty else compile_match(match)
                self._made[key] = self._asked(test, match, view)
            return self._made[key]
        return self.diagrams.maybe

    def _known(self, truth: bool | None) -> Node:
        diagrams = self.diagrams
        return diagrams.maybe if truth is None else diagrams.holds if truth else diagrams.fall

    def _ranged(self, name: FieldName, low: int, high: int, negated: bool = False) -> Box | Node:
        field = self.fields[name]
        intervals: tuple[Interval, ...] = ((low, high),)
        if negated:
            intervals = outside(intervals, field.top)
        return {field.level: intervals} if intervals else self.diagrams.fall

    def _address(self, match: Address, view: View) -> Box | Node:
        if match.family != self.fields.family:
            return self.diagrams.fall
        held = view.source if match.side == "source" else view.destination
        if held is None:
            return self.diagrams.maybe
        if not isinstance(held, str):
            return self._known((held & match.mask == match.network) is not match.negated)
        field = self.fields[match.side]
        box = field.masked(match.network, match.mask)
        if not match.negated:
            return box
        if not field.parts:
            intervals = outside(box[field.level], field.top)
            return {field.level: intervals} if intervals else self.diagrams.fall
        return self.diagrams.negate(self.diagrams.box(box, self.diagrams.holds))

    def _interface(self, match: Interface, view: View) -> Box | Node:
        held = view.incoming if match.direction == "in" else view.outgoing

        def means(name: str) -> bool:
            same = name.startswith(match.name[:-1]) if match.name.endswith("+") else name == match.name
            return same is not match.negated

        if held != ENTERED:
            return self._known(means(held))
        chosen = joined((i, i) for i, name in enumerate(self.fields.interfaces) if means(name))
        return {self.fields["interface"].level: chosen} if chosen else self.diagrams.fall

    def _port(self, name: FieldName, held: int | str | None, asked: Range) -> Box | Node:
        if held is None:
            return self.diagrams.maybe
        if isinstance(held, str):
            return self._ranged(name, asked.low, asked.high, asked.negated)
        return self._known((asked.low <= held <= asked.high) is not asked.negated)

    def _transport(self, match: Transport, view: View) -> Box | Node:
        number = NUMBERS.get(match.module)
        if number is None:
            return self.diagrams.fall
        parts: list[Box | Node] = [{self.fields["protocol"].level: ((number, number),)}]
        if match.source is not None:
            parts.append(self._port("source_port", view.source_port, match.source))
        if match.destination is not None:
            parts.append(self._port("destination_port", view.destination_port, match.destination))
        if match.flags is not None or match.tcp_option is not None:
            flags = match.flags
            bare = flags is None or ({"SYN"} & set(flags.mask) == set(flags.set)) is not flags.negated
            parts.append(self._known(None if not view.first else bare))
            if match.tcp_option is not None:
                parts.append(self.diagrams.maybe)
        box: Box = {}
        rest = []
        for part in parts:
            if isinstance(part, Node):
                rest.append(part)
            else:
                box.update(part)
        if not rest:
            return box
        node = self.diagrams.box(box, self.diagrams.holds)
        for part in rest:
            node = self.diagrams.when(part, node)
        return node

    def _multiport(self, match: Multiport, view: View) -> Box | Node:
        sides: tuple[FieldName, ...] = ("source_port", "destination_port")
        if match.side != "either":
            sides = ("source_port",) if match.side == "source" else ("destination_port",)
        asked = joined(match.ranges)
        found = self.diagrams.fall
        for name in sides:
            held = view.source_port if name == "source_port" else view.destination_port
            if held is None:
                found = self._or(found, self.diagrams.maybe)
            elif isinstance(held, str):
                found = self._or(
                    found, self.diagrams.box({self.fields[name].level: asked}, self.diagrams.holds)
                )
            elif any(low <= held <= high for low, high in asked):
                found = self.diagrams.holds
        return self.diagrams.negate(found) if match.negated else found

    def _or(self, one: Node, other: Node) -> Node:
        both_fail = self.diagrams.when(self.diagrams.negate(one), self.diagrams.negate(other))
        return self.diagrams.negate(both_fail)

    def _owner(self, match: Owner, view: View) -> Box | Node:
        """net/netfilter/xt_owner.c: without a socket every option holds that is inverted, and no other."""
        asked = [option for option in (match.uid, match.gid) if option is not None]
        without = match.socket_exists is not True and all(option.negated for option in asked)
        if not view.has_socket:
            return self._known(without)
        none: Box = {self.fields["uid"].level: ((NO_SOCKET, NO_SOCKET),)}
        some: Box = {self.fields["uid"].level: ((1, self.fields["uid"].top),)}
        if not match.supplementary_groups and match.socket_exists is None and asked:
            box: Box = {}
            for name, option in (("uid", match.uid), ("gid", match.gid)):
                if option is not None:
                    part = self._ranged(name, option.low + 1, min(option.high + 1, ALL), option.negated)  # type: ignore[arg-type]
                    if isinstance(part, Node):
                        return part
                    box.update(part)
            return box
        condition = self.diagrams.fall if match.socket_exists is False else self.diagrams.holds
        for name, option in (("uid", match.uid), ("gid", match.gid)):
            if option is None:
                continue
            part = self._ranged(name, option.low + 1, min(option.high + 1, ALL), option.negated)  # type: ignore[arg-type]
            asked_of = part if isinstance(part, Node) else self.diagrams.box(part, self.diagrams.holds)
            if name == "gid" and match.supplementary_groups:
                # Only the primary group is known: another one of the process may be the one asked for.
                if option.negated:
                    asked_of = self.diagrams.when(asked_of, self.diagrams.maybe)
                else:
                    asked_of = self.diagrams.first(asked_of, self.diagrams.maybe)
            condition = self.diagrams.when(asked_of, condition)
        with_socket = self.diagrams.when(self.diagrams.box(some, self.diagrams.holds), condition)
        if not without:
            return with_socket
        return self._or(self.diagrams.box(none, self.diagrams.holds), with_socket)

    def _mark(self, match: Mark, view: View) -> Box | Node:
        held = view.mark if match.module == "mark" else view.connmark
        if match.module == "connmark" and not view.tracked:
            return self.diagrams.fall
        if held is None:
            return self.diagrams.maybe
        wanted = match.value ^ (held.flip & match.mask)
        free = held.keep & match.mask
        if wanted & ~free & ALL:
            return self._known(match.negated)
        if not free:
            return self._known(not match.negated)
        node = self.diagrams.box(self.fields["mark"].masked(wanted, free), self.diagrams.holds)
        return self.diagrams.negate(node) if match.negated else node

    def _asked(self, test: Test, match: Match, view: View) -> Node:
        """A condition told by asking `matching` of one packet of each class that it can tell apart."""
        names = _asks_for(match)
        values: dict[FieldName, int] = {}

        def split(index: int) -> Node:
            if index == len(names):
                return self._known(test(self._packet_seen(values, view)))
            groups: dict[Node, list[Interval]] = {}
            for low, high in self._cells(names[index], match):
                values[names[index]] = low
                groups.setdefault(split(index + 1), []).append((low, high))
            field = self.fields[names[index]]
            return self.diagrams.chain(
                [
                    self.diagrams.when(field.intervals(self.diagrams, joined(cells)), node)
                    for node, cells in groups.items()
                ]
            )

        return split(0)

    def _packet_seen(self, values: dict[FieldName, int], view: View) -> Skb:
        """The packet that entered with these values, and has become what the view says."""
        kind = ipaddress.IPv4Address if self.fields.family == 4 else ipaddress.IPv6Address
        interface = self.fields.interfaces[values.get("interface", 0)]
        packet = Packet(
            hook=self.fields.hook,
            protocol=values.get("protocol", 6) or _NO_PROTOCOL,
            source=kind(values.get("source", 1)),
            destination=kind(values.get("destination", 1)),
            source_port=values.get("source_port", 0),
            destination_port=values.get("destination_port", 0),
        )
        skb = Skb(packet, self.routing)
        skb.state, skb.tracked, skb.first = view.state, view.tracked, view.first
        skb.translations = view.translations
        skb.incoming = interface if view.incoming == ENTERED else view.incoming
        skb.outgoing = interface if view.outgoing == ENTERED else view.outgoing
        if not isinstance(view.source, str):
            skb.source = view.source
        if not isinstance(view.source_port, str):
            skb.source_port = view.source_port
        if not isinstance(view.destination, str):
            skb.destination, skb.destination_address = view.destination, kind(view.destination)
        if not isinstance(view.destination_port, str):
            skb.destination_port = view.destination_port
        return skb

    def _cells(self, name: FieldName, match: Match) -> list[Interval]:
        """Intervals of a field within which no packet is told apart from another by this condition."""
        field = self.fields[name]
        starts = {0, *(low for low in _edges(name, match, self.fields) if 0 < low <= field.top)}
        if name == "interface":
            starts.update(range(field.top + 1))
        ordered = sorted(starts)
        return [(low, high - 1) for low, high in zip(ordered, [*ordered[1:], field.top + 1], strict=True)]


def _asks_for(match: Match) -> tuple[FieldName, ...]:
    """The fields on which an extension's condition can depend (`extensions`)."""
    if isinstance(match, Transport):
        return ("protocol", "destination_port", "source_port")
    if not isinstance(match, Extension):
        return ()
    names: dict[FieldName, None] = {}
    for option in match.options:
        if match.module == "addrtype":
            names["interface"] = None
            names["source" if option.name == "--src-type" else "destination"] = None
        elif match.module == "iprange":
            names["source" if option.name == "--src-range" else "destination"] = None
        elif match.module in ("icmp", "icmp6") or option.name == "--ctproto":
            names["protocol"] = None
        elif match.module == "conntrack":
            asked: dict[str, FieldName] = {
                "--ctorigsrc": "source",
                "--ctorigdst": "destination",
                "--ctorigsrcport": "source_port",
                "--ctorigdstport": "destination_port",
            }
            if option.name in asked:
                names[asked[option.name]] = None
    return tuple(names)


_SPECIAL = (
    "0.0.0.0/8",
    "127.0.0.0/8",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "ff00::/8",
    "fe80::/10",
)
"""Networks that routing and addrtype treat apart, whatever the rules say (RFC 6890)."""


def _edges(name: FieldName, match: Match, fields: Fields) -> Iterator[int]:
    """Where a condition's answer can change along a field: the first value of each side."""
    if name == "protocol":
        for number in (1, 6, 33, 58, *NUMBERS.values(), *range(256)):
            yield from (number, number + 1)
    elif name in ("source_port", "destination_port"):
        yield from _edges_of_ports(match)
    elif name in ("source", "destination"):
        for low, high in _address_ranges(match, fields):
            yield from (low, high + 1)


def _edges_of_ports(match: Match) -> Iterator[int]:
    if isinstance(match, Transport):
        for ports in (match.source, match.destination):
            if ports is not None:
                yield from (ports.low, ports.high + 1)
    elif isinstance(match, Extension):
        for word in _words(match):
            low, _, high = word.partition(":")
            if low.isdecimal() and (not high or high.isdecimal()):
                yield from (int(low), int(high or low) + 1)


def _address_ranges(match: Match, fields: Fields) -> Iterator[Interval]:
    family = fields.family
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = [*map(ipaddress.ip_network, _SPECIAL)]
    for held in fields.host.addresses.values():
        for address in held:
            networks += [address.network, ipaddress.ip_network(address.ip)]
    for network in networks:
        if network.version == family:
            first, last = int(network.network_address), int(network.broadcast_address)
            yield first, last
            yield last, last
    if isinstance(match, Extension):
        for word in _words(match):
            yield from _as_range(word, family)


def _as_range(word: str, family: int) -> Iterator[Interval]:
    low, dash, high = word.partition("-")
    try:
        if dash:
            yield int(ipaddress.ip_address(low)), int(ipaddress.ip_address(high))
        else:
            network = ipaddress.ip_network(word, strict=False)
            if network.version == family:
                yield int(network.network_address), int(network.broadcast_address)
    except ValueError:
        return


def _words(match: Extension) -> Iterable[str]:
    return (word for option in match.options for word in ",".join(option.values).split(","))
