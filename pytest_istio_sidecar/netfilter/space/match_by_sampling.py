"""Conditions that are no plain intervals, answered by `trace/match` for one packet of each class.

Knows on which fields such a condition depends and at which values its answer can change. Does not know
what it means: that is `trace/match`. Invariant: within a class no packet is told apart from
another by the condition.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pytest_istio_sidecar.netfilter.diagram.diagram import Diagrams, Node
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval, joined
from pytest_istio_sidecar.netfilter.matches import Extension, Match, Transport
from pytest_istio_sidecar.netfilter.namespace.routing import Routing
from pytest_istio_sidecar.netfilter.packet import Packet
from pytest_istio_sidecar.netfilter.relations import KEYS, Relation
from pytest_istio_sidecar.netfilter.space.fields import FieldName, Fields
from pytest_istio_sidecar.netfilter.space.packet_state import ENTERED, Skb
from pytest_istio_sidecar.netfilter.trace import packet_state as one_packet
from pytest_istio_sidecar.netfilter.trace.match import NUMBERS
from pytest_istio_sidecar.netfilter.trace.packet_state import Test

_NO_PROTOCOL = 254
"""Stands for protocol 0, which no packet has (RFC 3692: 253 and 254 are for experiments)."""


class Sampling:
    """Turns tests of `trace/match` into diagrams over the fields of one hook."""

    def __init__(self, fields: Fields, diagrams: Diagrams, routing: Routing) -> None:
        self.fields = fields
        self.diagrams = diagrams
        self.routing = routing

    def condition(self, test: Test, match: Match, skb: Skb) -> Node:
        """Where the condition holds: asked of one packet of each class that it can tell apart."""
        return self._split(test, match, skb, _asks_for(match), {})

    def _split(
        self, test: Test, match: Match, skb: Skb, names: Sequence[FieldName], values: dict[FieldName, int]
    ) -> Node:
        """The condition of packets with these values, told apart by the fields that are left."""
        if not names:
            return self.diagrams.constant(test(self._packet_seen(values, skb)))
        name, *left = names
        groups: dict[Node, list[Interval]] = {}
        for low, high in self._cells(name, match):
            node = self._split(test, match, skb, left, {**values, name: low})
            groups.setdefault(node, []).append((low, high))
        field = self.fields[name]
        return self.diagrams.chain(
            [
                self.diagrams.when(field.intervals(self.diagrams, joined(cells)), node)
                for node, cells in groups.items()
            ]
        )

    def _packet_seen(self, values: dict[FieldName, int], skb: Skb) -> one_packet.Skb:
        """The packet that entered with these values, and has become as `skb` says."""
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
        one = one_packet.Skb(packet, self.routing)
        one.state, one.tracked, one.first = skb.state, skb.tracked, skb.first
        one.translations = skb.translations
        one.template, one.zone = skb.template, skb.zone
        one.incoming = interface if skb.incoming == ENTERED else skb.incoming
        one.outgoing = interface if skb.outgoing == ENTERED else skb.outgoing
        if not isinstance(skb.source, str):
            one.source = skb.source
        if not isinstance(skb.source_port, str):
            one.source_port = skb.source_port
        if not isinstance(skb.destination, str):
            one.destination, one.destination_address = skb.destination, kind(skb.destination)
        if not isinstance(skb.destination_port, str):
            one.destination_port = skb.destination_port
        return one

    def _cells(self, name: FieldName, match: Match) -> list[Interval]:
        """Intervals of a field within which no packet is told apart from another by this condition."""
        field = self.fields[name]
        starts = {0, *(low for low in _edges(name, match, self.fields) if 0 < low <= field.top)}
        if name == "interface":
            starts.update(range(field.top + 1))
        ordered = sorted(starts)
        return [(low, high - 1) for low, high in zip(ordered, [*ordered[1:], field.top + 1], strict=True)]


def _asks_for(match: Match) -> tuple[FieldName, ...]:
    """The fields on which a condition can depend (`trace/match_extensions`, `trace/relation`)."""
    if isinstance(match, Transport):
        return ("protocol", "destination_port", "source_port")
    if isinstance(match, Relation):
        asked_by = _ASKED_BY.get(match.key)
        return () if asked_by is None else (asked_by,)
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


_ASKED_BY: Mapping[str, FieldName] = {
    "tcp flags": "protocol",
    "ct original ip saddr": "source",
    "ct original ip6 saddr": "source",
    "ct original ip daddr": "destination",
    "ct original ip6 daddr": "destination",
    "ct original proto-src": "source_port",
    "ct original proto-dst": "destination_port",
    "fib saddr type": "source",
    "fib daddr type": "destination",
}
"""On which field a relation of nf_tables depends that `space/relation` does not know itself."""

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
    if isinstance(match, Relation):
        for first, last in match.intervals:
            yield from (first, last + 1)
    elif isinstance(match, Transport):
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
    for addresses in fields.host.addresses.values():
        for address in addresses:
            networks += [address.network, ipaddress.ip_network(address.ip)]
    policy = fields.host.policies.get(family)
    for route in () if policy is None else policy.tables.get("local", ()):
        yield route.interval
        yield route.interval[1], route.interval[1]
    for network in networks:
        if network.version == family:
            first, last = int(network.network_address), int(network.broadcast_address)
            yield first, last
            yield last, last
    if isinstance(match, Relation) and KEYS[match.key].bits == fields["source"].top.bit_length():
        yield from match.intervals
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
