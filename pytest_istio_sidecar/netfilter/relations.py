"""The conditions of a rule of nf_tables, as values.

Knows what nft's expressions ask for, and how wide each is. Does not know whether a condition holds: that is
`trace/relation`, for all packets `space/relation`. Invariant: a condition that is not modelled is
`Unmodelled` with nft's words for it; `str` of any condition is what nft prints.

An expression that cannot be loaded ends its rule (NFT_BREAK, net/netfilter/nf_tables_core.c): a port of
another protocol, an address of another family, the user of a packet without socket, the mark of a connection
that there is not. So such a condition does not hold, be it inverted or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pytest_istio_sidecar.netfilter.diagram.intervals import Interval

WITH_PORTS = frozenset((6, 17, 33, 132, 136))
"""Protocols whose header begins with two ports: TCP, UDP, DCCP, SCTP, UDP-Lite."""


class Key(NamedTuple):
    """What a relation can ask for.

    Attributes:
        bits: its width.
        family: 4 or 6 where only packets of that family have it; 0: both.
        protocol: where only packets of that protocol have it; 0: any.
    """

    bits: int
    family: int = 0
    protocol: int = 0

    @property
    def top(self) -> int:
        """The greatest value."""
        return (1 << self.bits) - 1


_PORTS = {"tcp": 6, "udp": 17, "dccp": 33, "sctp": 132, "udplite": 136, "th": 0}

KEYS: Mapping[str, Key] = {
    "meta l4proto": Key(8),
    "meta nfproto": Key(8),
    "meta protocol": Key(16),
    "meta mark": Key(32),
    "meta skuid": Key(32),
    "meta skgid": Key(32),
    "ip saddr": Key(32, 4),
    "ip daddr": Key(32, 4),
    "ip protocol": Key(8, 4),
    "ip6 saddr": Key(128, 6),
    "ip6 daddr": Key(128, 6),
    "ip6 nexthdr": Key(8, 6),
    **{
        f"{name} {port}": Key(16, 0, number) for name, number in _PORTS.items() for port in ("sport", "dport")
    },
    "tcp flags": Key(8, 0, 6),
    "ct state": Key(32),
    "ct mark": Key(32),
    "ct status": Key(32),
    "ct direction": Key(8),
    "ct zone": Key(16),
    "ct original ip saddr": Key(32, 4),
    "ct original ip daddr": Key(32, 4),
    "ct original ip6 saddr": Key(128, 6),
    "ct original ip6 daddr": Key(128, 6),
    "ct original proto-src": Key(16),
    "ct original proto-dst": Key(16),
    "fib saddr type": Key(32),
    "fib daddr type": Key(32),
}
"""By nft's words (nft(8), "Primary expressions"). `ip6 nexthdr` is the protocol: no extension headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A value, under a mask, is in some intervals; inverted, it is not. It has to be there for either."""

    key: str
    intervals: tuple[Interval, ...]
    """Ascending and apart."""
    mask: int | None = None
    """None: every bit."""
    negated: bool = False
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        if self.text:
            return self.text
        values = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in self.intervals)
        masked = "" if self.mask is None else f" & {self.mask:#x}"
        return f"{self.key}{masked} {'!= ' if self.negated else ''}{{ {values} }}"

    @property
    def is_of_loading(self) -> bool:
        """Whether it asks only that the value is there."""
        return not self.negated and self.mask is None and self.intervals == ((0, KEYS[self.key].top),)


def loaded(key: str) -> Relation:
    """The condition that there is such a value, whatever it is."""
    return Relation(key=key, intervals=((0, KEYS[key].top),), text=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interfaces:
    """The packet comes in, or goes out, by one of these; a name that ends in `*` is a prefix."""

    direction: Literal["in", "out"]
    names: tuple[str, ...]
    negated: bool = False
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        inverted = "!= " if self.negated else ""
        return self.text or f"{self.direction[0]}ifname {inverted}{{ {', '.join(self.names)} }}"

    def mean(self, name: str) -> bool:
        """Whether the condition holds for an interface."""
        for own in self.names:
            if own == name or (own.endswith("*") and name.startswith(own[:-1])):
                return not self.negated
        return self.negated


@dataclass(frozen=True, slots=True)
class Unmodelled:
    """A condition that may hold or not, in nft's words."""

    text: str

    def __str__(self) -> str:
        return self.text
