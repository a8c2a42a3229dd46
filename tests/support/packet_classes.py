"""An oracle for what is said of all packets: one sample of each class that rules can tell apart.

It multiplies out the values at which some condition changes, which `space` never does.

Knows at which values of each field some condition changes. Does not know what
becomes of a packet. Invariant: two packets of one class satisfy the same
modelled conditions of every rule, so that one trace speaks for all of them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.netfilter.matches import (
    Address,
    Extension,
    Match,
    Multiport,
    Owner,
    Range,
    Transport,
)
from pytest_istio_sidecar.netfilter.model import Family, Rules, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Host, IPAddress, Packet

Interval = tuple[int, int]

LIMIT = 100_000
"""Classes beyond which an answer by enumeration would take too long."""

_SPECIAL = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/128", "::1/128", "ff00::/8")
"""Networks that routing treats apart, whatever the rules say (RFC 6890)."""

_SERVICE = 80
"""An ordinary destination port."""

_NEIGHBOUR = {4: ipaddress.ip_address("192.0.2.20"), 6: ipaddress.ip_address("2001:db8::20")}


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketClass:
    """Packets that no rule tells apart: a sample, and the destination ports it speaks for."""

    sample: Packet
    destination_ports: Interval


def inbound_classes(
    rules: Rules, *, host: Host, protocol: str | int = "tcp", family: Family = 4
) -> tuple[PacketClass, ...]:
    """Every class of first packets that come from elsewhere for an address of this host.

    Raises:
        Undecided: more than `LIMIT` classes.
    """
    matches = _matches(rules, family)
    known = _addresses(matches, "source", family, host, _NEIGHBOUR[family])
    sources = [address for address in known if _may_come_in(address, host)]
    arrivals = [
        (name, held.ip)
        for name, addresses in host.addresses.items()
        if name != "lo"
        for held in addresses
        if held.version == family
    ]
    combinations = product(arrivals, sources, _source_ports(matches), _destination_ports(matches))
    return _bounded(
        PacketClass(
            sample=Packet(
                hook="PREROUTING",
                protocol=protocol,
                source=source,
                destination=destination,
                source_port=source_port,
                destination_port=_sample(ports),
                in_interface=interface,
            ),
            destination_ports=ports,
        )
        for (interface, destination), source, source_port, ports in combinations
    )


def outbound_classes(
    rules: Rules, *, host: Host, protocol: str | int = "tcp", family: Family = 4, routable: bool = True
) -> tuple[PacketClass, ...]:
    """Every class of first packets that a process of this host can send.

    Args:
        routable: False adds what no route produces (a local destination on another
            interface than lo), to tell rules that never match from rules that cannot here.

    Raises:
        Undecided: more than `LIMIT` classes.
    """
    matches = _matches(rules, family)
    combinations = product(
        _routes(matches, host, family, routable),
        _owners(matches),
        _source_ports(matches),
        _destination_ports(matches),
    )
    return _bounded(
        PacketClass(
            sample=Packet(
                hook="OUTPUT",
                protocol=protocol,
                source=source,
                destination=destination,
                source_port=source_port,
                destination_port=_sample(ports),
                out_interface=interface,
                uid=uid,
                gid=gid,
            ),
            destination_ports=ports,
        )
        for (source, destination, interface), (uid, gid), source_port, ports in combinations
    )


def _matches(rules: Rules, family: Family) -> tuple[Match, ...]:
    found = {
        match: None
        for ruleset in rulesets_of(rules, family)
        for rule in ruleset.rules()
        for match in rule.matches
    }
    return tuple(found)


def _bounded(classes: Iterable[PacketClass]) -> tuple[PacketClass, ...]:
    found: list[PacketClass] = []
    for packet_class in classes:
        found.append(packet_class)
        if len(found) > LIMIT:
            raise Undecided(f"these rules tell more than {LIMIT} classes of packets apart")
    return tuple(found)


def _cut(intervals: Iterable[Interval], low: int, high: int) -> list[Interval]:
    """Split low..high wherever one of the intervals begins or ends."""
    starts = {low}
    for first, last in intervals:
        starts.update(value for value in (first, last + 1) if low < value <= high)
    ordered = sorted(starts)
    return [(start, end - 1) for start, end in zip(ordered, [*ordered[1:], high + 1], strict=True)]


def _destination_ports(matches: Iterable[Match]) -> list[Interval]:
    """Every class of destination ports, that of an ordinary service first."""
    cut = _cut(_port_intervals(matches, "destination"), 0, 0xFFFF)
    return sorted(cut, key=lambda ports: not ports[0] <= _SERVICE <= ports[1])


def _sample(ports: Interval) -> int:
    return _SERVICE if ports[0] <= _SERVICE <= ports[1] else ports[0]


def _source_ports(matches: Iterable[Match]) -> list[int]:
    """One source port for each class; an ordinary ephemeral one where no rule asks."""
    cut = _cut(_port_intervals(matches, "source"), 0, 0xFFFF)
    return [low if not low <= 40000 <= high else 40000 for low, high in cut]


def _port_intervals(matches: Iterable[Match], side: str) -> Iterator[Interval]:
    for match in matches:
        if isinstance(match, Transport):
            ports = match.source if side == "source" else match.destination
            if ports is not None:
                yield ports.low, ports.high
        elif isinstance(match, Multiport) and match.side in (side, "either"):
            yield from match.ranges
        elif isinstance(match, Extension):
            # conntrack may ask for the port by an option of its own (--ctorigdstport).
            for option in match.options:
                for value in option.values:
                    if option.name.endswith("port") and value.isdecimal():
                        yield int(value), int(value)


def _owners(matches: Iterable[Match]) -> list[tuple[int | None, int | None]]:
    """No socket, and every pair of ids that some rule tells apart."""
    known = list(matches)
    uids = _ids(known, lambda owner: owner.uid)
    gids = _ids(known, lambda owner: owner.gid)
    return [(None, None), *product(uids, gids)]


def _ids(matches: Iterable[Match], pick: Callable[[Owner], Range | None]) -> list[int]:
    ranges = (pick(match) for match in matches if isinstance(match, Owner))
    cut = _cut([(r.low, r.high) for r in ranges if r is not None], 0, 0xFFFFFFFE)
    return [1000 if low <= 1000 <= high else low for low, high in cut]


def _addresses(
    matches: Iterable[Match], side: str, family: Family, host: Host, ordinary: IPAddress
) -> list[IPAddress]:
    """One address for each class that the rules' networks and the host's own cut out.

    Raises:
        Undecided: a mask with holes, whose addresses are no interval.
    """
    kind, bits = (ipaddress.IPv4Address, 32) if family == 4 else (ipaddress.IPv6Address, 128)
    highest = (1 << bits) - 1
    special = [
        (int(network.network_address), int(network.broadcast_address))
        for network in (*map(ipaddress.ip_network, _SPECIAL), *(i.network for i in _held(host)))
        if network.version == family
    ]
    special += [(int(held.ip), int(held.ip)) for held in _held(host) if held.version == family]
    for match in matches:
        if isinstance(match, Address) and match.side == side and match.family == family:
            inverse = match.mask ^ highest
            if inverse & (inverse + 1):
                raise Undecided(f"the mask of `{match}` has holes: its addresses are not one range")
            special.append((match.network, match.network | inverse))
    cut = _cut(special, 0, highest)
    found = [ordinary if low <= int(ordinary) <= high else kind(low) for low, high in cut]
    return sorted(found, key=lambda address: address != ordinary)


def _held(host: Host) -> Iterator[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
    for addresses in host.addresses.values():
        yield from addresses


def _may_come_in(source: IPAddress, host: Host) -> bool:
    """Whether a packet with this source may come in by another interface than lo (RFC 1122 3.2.1.3)."""
    return not source.is_loopback and _may_be_sent_to(source) and not host.is_local(source)


def _may_be_sent_to(address: IPAddress) -> bool:
    """Whether a TCP peer can have this address: not "this network", multicast or reserved."""
    if address.version == 4:
        return 0x01000000 <= int(address) < 0xE0000000
    return not address.is_multicast and not address.is_unspecified


def _routes(
    matches: tuple[Match, ...], host: Host, family: Family, routable: bool
) -> Iterator[tuple[IPAddress, IPAddress, str]]:
    """Source, destination and outgoing interface that go together."""
    external = host.external()
    own = host.primary(external, family) or host.primary("lo", family)
    if own is None:
        return
    loopback = host.primary("lo", family)
    local = {own, *([loopback] if loopback is not None else [])}
    known = _addresses(matches, "destination", family, host, _NEIGHBOUR[family])
    destinations = dict.fromkeys([*known, *local])
    sources = dict.fromkeys([*_addresses(matches, "source", family, host, own), *local])
    for destination, source in product(destinations, sources):
        if not _may_be_sent_to(destination) or not host.is_local(source):
            continue
        if host.is_local(destination):
            yield source, destination, "lo"
            if not routable:
                yield source, destination, external
        elif not source.is_loopback:
            yield source, destination, external
