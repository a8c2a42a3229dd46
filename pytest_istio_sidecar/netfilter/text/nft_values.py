"""nft's values, as JSON, to numbers.

Knows names and forms of what expressions are compared with. Does not know expressions (`nft_conditions`).
Invariant: what has no number here is `NotModelled`.

Source: src/datatype.c, src/ct.c, src/fib.c, src/proto.c of nftables for names and numbers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pytest_istio_sidecar.netfilter.diagram.intervals import Interval
from pytest_istio_sidecar.netfilter.matches import PROTOCOLS
from pytest_istio_sidecar.netfilter.relations import KEYS
from pytest_istio_sidecar.netfilter.text.complete import PORTS

Json = Any


class NotModelled(Exception):
    """An expression that has no condition here."""


TCP_FLAGS: Mapping[str, int] = {
    "fin": 1,
    "syn": 2,
    "rst": 4,
    "psh": 8,
    "ack": 16,
    "urg": 32,
    "ecn": 64,
    "cwr": 128,
}
_NAMES: Mapping[str, Mapping[str, int]] = {
    "meta l4proto": {**PROTOCOLS, "icmpv6": 58, "ipv6-icmp": 58, "dccp": 33, "comp": 108},
    "meta nfproto": {"ipv4": 2, "ipv6": 10},
    "meta protocol": {"ip": 0x0800, "ip6": 0x86DD, "arp": 0x0806, "vlan": 0x8100, "8021q": 0x8100},
    "meta skuid": {"root": 0},
    "meta skgid": {"root": 0},
    "ct state": {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64},
    "ct direction": {"original": 0, "reply": 1},
    "ct status": {
        "expected": 1,
        "seen-reply": 2,
        "assured": 4,
        "confirmed": 8,
        "snat": 16,
        "dnat": 32,
        "dying": 512,
    },
    "tcp flags": TCP_FLAGS,
    "fib daddr type": {
        "unspec": 0,
        "unicast": 1,
        "local": 2,
        "broadcast": 3,
        "anycast": 4,
        "multicast": 5,
        "blackhole": 6,
        "unreachable": 7,
        "prohibit": 8,
    },
}
_SAME_NAMES = {
    "ip protocol": "meta l4proto",
    "ip6 nexthdr": "meta l4proto",
    "fib saddr type": "fib daddr type",
}


def intervals_of(key: str, value: Json) -> Iterator[Interval]:
    """The values that one of nft's stands for.

    Raises:
        NotModelled: a name that is not known here.
    """
    if value == "*":
        yield 0, KEYS[key].top
    elif isinstance(value, dict) and "range" in value:
        low, high = (single(key, each) for each in value["range"])
        if low > high:
            raise NotModelled
        yield low, high
    elif isinstance(value, dict) and "prefix" in value:
        length = value["prefix"]["len"]
        bits = KEYS[key].bits
        low = single(key, value["prefix"]["addr"])
        if type(length) is not int or not 0 <= length <= bits:
            raise NotModelled
        inverse = (1 << (bits - length)) - 1
        yield low & ~inverse, low | inverse
    elif isinstance(value, dict) and "set" in value:
        for each in value["set"]:
            yield from intervals_of(key, each)
    else:
        number = single(key, value)
        yield number, number


def single(key: str, value: Json) -> int:
    """One number; of flags, several put together."""
    if isinstance(value, list) or (isinstance(value, dict) and "|" in value):
        number = 0
        for each in value if isinstance(value, list) else value["|"]:
            number |= single(key, each)
        return number
    number = _number(key, value)
    if not 0 <= number <= KEYS[key].top:
        raise NotModelled
    return number


def _number(key: str, value: Json) -> int:
    if type(value) is int:
        return value
    if not isinstance(value, str):
        raise NotModelled
    if key.endswith("addr"):
        try:
            kind = ipaddress.IPv4Address if KEYS[key].bits == 32 else ipaddress.IPv6Address
            return int(kind(value))
        except ValueError:
            raise NotModelled from None
    known: Callable[[str], int | None] = _NAMES.get(_SAME_NAMES.get(key, key), {}).get
    if key.endswith(("sport", "dport", "proto-src", "proto-dst")):
        known = PORTS.get
    number = known(value)
    if number is not None:
        return number
    try:
        return int(value, 0)
    except ValueError:
        raise NotModelled from None
