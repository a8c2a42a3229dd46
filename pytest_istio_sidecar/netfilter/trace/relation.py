"""Whether a condition of nf_tables holds for a packet: True, False, or None where that cannot be told.

Knows what each of nft's expressions loads from a packet, and when there is nothing to load. Does not know
the words for it (`text/nft_conditions`). Invariant: what cannot be loaded holds neither way (NFT_BREAK), and
what is not known of the packet is None.

Source: net/netfilter/nft_meta.c, nft_payload.c, nft_ct.c, nft_fib.c.
Semantics: docs/semantics.md, 10.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

from pytest_istio_sidecar.netfilter.diagram.intervals import Interval
from pytest_istio_sidecar.netfilter.packet import IPAddress
from pytest_istio_sidecar.netfilter.relations import KEYS, WITH_PORTS, Interfaces, Relation
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb, Test, Truth

BREAK = -1
"""Loaded in place of a value: there is none."""

Load = Callable[[Skb], int | None]
"""A value of the packet; None: not known; `BREAK`: there is none."""

STATE_BITS: Mapping[str, int] = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}
"""include/uapi/linux/netfilter/nf_conntrack_common.h, as nft's `ct state` has them."""

SNAT, DNAT = 0x10, 0x20
"""Of `ct status`: whether the connection's source or destination was changed."""
_STATUS_OPEN = 0x188
"""Bits of `ct status` of a first packet that depend on where it is: confirmed, both kinds of nat done."""
SYN = 0x02
_FLAGS_OPEN = 0xC0
"""ECE and CWR, which the first packet of a TCP connection may have (RFC 3168)."""

UNICAST, LOCAL, BROADCAST, MULTICAST = 1, 2, 3, 5
"""Types of routes (include/uapi/linux/rtnetlink.h), as `fib daddr type` has them."""
_TYPES = ("UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST")
"""Those that the kernel's table of local addresses can have, each at its number."""


def compile_relation(match: Relation) -> Test:
    """A function that tells whether the relation holds for a packet at a hook."""
    if match.key in _PARTLY_KNOWN:
        return _of_bits(match)
    load, mask, negated = _load(match.key), match.mask, match.negated
    if match.is_of_loading:

        def is_there(skb: Skb) -> Truth:
            return load(skb) != BREAK

        return is_there
    if mask is None and len(match.intervals) == 1:
        ((low, high),) = match.intervals

        def within(skb: Skb) -> Truth:
            value = load(skb)
            if value is None:
                return None
            return value >= 0 and (low <= value <= high) is not negated

        return within
    lows = [low for low, _ in match.intervals]
    highs = [high for _, high in match.intervals]

    def holds(skb: Skb) -> Truth:
        value = load(skb)
        if value is None:
            return None
        if value < 0:
            return False
        if mask is not None:
            value &= mask
        place = bisect_right(lows, value) - 1
        return (place >= 0 and value <= highs[place]) is not negated

    return holds


def compile_interfaces(match: Interfaces) -> Test:
    """As `compile_relation`. A packet without such an interface has the empty name (nft_meta.c)."""
    if match.direction == "in":
        return lambda skb: match.mean(skb.incoming)
    return lambda skb: match.mean(skb.outgoing)


def _of_bits(match: Relation) -> Test:
    """A relation over flags of which some are not known: it holds or not where that makes no difference."""
    load, unknown = _PARTLY_KNOWN[match.key]
    mask = KEYS[match.key].top if match.mask is None else match.mask
    choices = _choices(unknown & mask)

    def holds(skb: Skb) -> Truth:
        value = load(skb)
        if value is None or value < 0:
            return None if value is None else False
        answers = {(_among((value & ~unknown | bits) & mask, match.intervals)) for bits in choices}
        return None if len(answers) == 2 else answers.pop() is not match.negated

    return holds


def _choices(bits: int) -> list[int]:
    """Every number that has no other bits than these."""
    choices = [0]
    for shift in range(bits.bit_length()):
        if bits >> shift & 1:
            choices += [choice | 1 << shift for choice in choices]
    return choices


def _among(value: int, intervals: Sequence[Interval]) -> bool:
    return any(low <= value <= high for low, high in intervals)


def _load(key: str) -> Load:
    kind = KEYS[key]
    load = _LOADS.get(key)
    if load is None:
        load = _ports(kind.protocol, key.endswith("sport"))
    if not kind.family:
        return load
    only = load
    return lambda skb: only(skb) if skb.family == kind.family else BREAK


def _ports(protocol: int, source: bool) -> Load:
    def port(skb: Skb) -> int | None:
        if protocol and skb.protocol != protocol:
            return BREAK
        if skb.protocol not in WITH_PORTS:
            return None  # whatever its header has there
        return skb.source_port if source else skb.destination_port

    return port


def _state(skb: Skb) -> int | None:
    """Of what raw gave a zone it is known before conntrack has come, as nothing else is."""
    return STATE_BITS[skb.state]


def _connmark(skb: Skb) -> int | None:
    return skb.connmark if skb.tracked else BREAK


def _of_connection(load: Load) -> Load:
    """What a connection has; of one that did not begin with this packet nothing is known."""

    def of_connection(skb: Skb) -> int | None:
        if not skb.tracked:
            return BREAK
        return load(skb) if skb.first else None

    return of_connection


def _status(skb: Skb) -> int | None:
    return (SNAT if "SNAT" in skb.translations else 0) | (DNAT if "DNAT" in skb.translations else 0)


def _zone(skb: Skb) -> int | None:
    return skb.zone if skb.tracked else BREAK


def _flags(skb: Skb) -> int | None:
    if skb.protocol != KEYS["tcp flags"].protocol:
        return BREAK
    return SYN if skb.first else None


def _owner(name: str) -> Load:
    def owner(skb: Skb) -> int | None:
        return getattr(skb, name) if skb.has_socket else BREAK

    return owner


def _fib(source: bool) -> Load:
    """net/ipv4/netfilter/nft_fib_ipv4.c, net/ipv6/netfilter/nft_fib_ipv6.c."""

    def kind_of(skb: Skb) -> int | None:
        address: IPAddress | None = skb.destination_address
        if source:
            of_family = ipaddress.IPv4Address if skb.family == 4 else ipaddress.IPv6Address
            address = None if skb.source is None else of_family(skb.source)
        if address is None:
            return None
        if skb.family == 4 and skb.routing.is_broadcast(address):
            return BROADCAST
        if address.is_multicast:
            return MULTICAST
        policy = skb.routing.policy(skb.family)
        if policy is not None:
            # Of IPv6 all rules and routes take part, of IPv4 the table of local addresses.
            kind = policy.type_of(int(address), None) if skb.family == 4 else ""
            return _TYPES.index(kind) if kind in _TYPES else None
        if skb.routing.is_local(address):
            return LOCAL
        return UNICAST

    return kind_of


_LOADS: Mapping[str, Load] = {
    "meta l4proto": lambda skb: skb.protocol,
    "ip protocol": lambda skb: skb.protocol,
    "ip6 nexthdr": lambda skb: skb.protocol,
    "meta nfproto": lambda skb: 2 if skb.family == 4 else 10,
    "meta protocol": lambda skb: 0x0800 if skb.family == 4 else 0x86DD,
    "meta mark": lambda skb: skb.mark,
    "meta skuid": _owner("uid"),
    "meta skgid": _owner("gid"),
    "ip saddr": lambda skb: skb.source,
    "ip daddr": lambda skb: skb.destination,
    "ip6 saddr": lambda skb: skb.source,
    "ip6 daddr": lambda skb: skb.destination,
    "ct state": _state,
    "ct mark": _connmark,
    "ct direction": _of_connection(lambda _: 0),
    "ct zone": _zone,
    "ct original ip saddr": _of_connection(lambda skb: int(skb.packet.source)),
    "ct original ip daddr": _of_connection(lambda skb: int(skb.packet.destination)),
    "ct original ip6 saddr": _of_connection(lambda skb: int(skb.packet.source)),
    "ct original ip6 daddr": _of_connection(lambda skb: int(skb.packet.destination)),
    "ct original proto-src": _of_connection(lambda skb: skb.packet.source_port),
    "ct original proto-dst": _of_connection(lambda skb: skb.packet.destination_port),
    "fib saddr type": _fib(source=True),
    "fib daddr type": _fib(source=False),
}

_PARTLY_KNOWN: Mapping[str, tuple[Load, int]] = {
    "ct status": (_of_connection(_status), _STATUS_OPEN),
    "tcp flags": (_flags, _FLAGS_OPEN),
}
"""Flags, with those of them that are not known even of a first packet."""
