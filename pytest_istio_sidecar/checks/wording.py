"""Classes of packets in words: "outbound tcp to port 443, uid not 1337".

Knows what can be left unsaid because every packet that the host sees has it. Does not know what
becomes of packets. Invariant: what a cube restricts beyond that is said, or said to be there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from pytest_istio_sidecar.netfilter.intervals import Interval, joined, outside
from pytest_istio_sidecar.netfilter.model import Family, Ruleset
from pytest_istio_sidecar.netfilter.packet import Hook, Host
from pytest_istio_sidecar.netfilter.space.cubes import Cube, Where
from pytest_istio_sidecar.netfilter.space.space import regions

_CUBES = 3
"""Products that a class is told by; what is left is counted."""
_MEMBERS = 6
"""Intervals of a field that are told; what is left is counted."""
_TOPS = {"destination_port": 0xFFFF, "source_port": 0xFFFF, "uid": 0xFFFFFFFE, "gid": 0xFFFFFFFE}
_NOUNS = {"destination_port": "port", "source_port": "from port", "uid": "uid", "gid": "gid"}


def packets_in_words(cubes: Sequence[Cube]) -> str:
    """Disjoint cubes of one hook, as one phrase."""
    sent = [cube for cube in cubes if cube.where.get("uid") != ["no socket"]] or list(cubes)
    texts = list(dict.fromkeys(_cube(cube) for cube in sent))
    left = len(texts) - _CUBES
    return "; ".join([*texts[:_CUBES], *([f"and {left} more classes"] if left > 0 else [])])


def _cube(cube: Cube) -> str:
    where = cube.where
    hook, family, host = cube.fields.hook, cube.fields.family, cube.fields.host
    direction = "inbound" if hook == "PREROUTING" else "outbound"
    parts = [f"{direction} {_protocol(where)}{_port(where)}"]
    parts += _addresses(where, _usual(host, hook, family).get(_interface(where), {}), family)
    for name in ("source_port", "uid", "gid"):
        if name in where:
            parts += _ids(name, where[name])
    if _interface(where) == "lo":
        parts.append("over lo")
    if "mark" in where:
        marks = where["mark"]
        parts.append("mark " + ",".join(map(_mark, marks)) if len(marks) <= _MEMBERS else "some marks")
    if cube.state != "NEW":
        parts.append(f"conntrack state {cube.state}")
    return ", ".join(parts)


def _protocol(where: Where) -> str:
    held = where.get("protocol", [])
    names = [name for name in held if isinstance(name, str)]
    if not held or held == [[1, 255]]:
        return "packets of any protocol"
    if not names:
        return "packets of other protocols"
    return "/".join(names) + (" and other protocols" if len(held) > len(names) else "")


def _port(where: Where) -> str:
    if "destination_port" not in where:
        return ""
    told = next(iter(_ids("destination_port", where["destination_port"])), "")
    return f" to {told}" if told else ""


def _interface(where: Where) -> str:
    held = where.get("in_interface") or where.get("out_interface") or [""]
    return str(held[0])


def _ids(name: str, held: Iterable[object]) -> Iterator[str]:
    """Ports or ids, or all but the few that are left out."""
    intervals = joined((int(span[0]), int(span[1])) for span in held if isinstance(span, list))
    but = outside(intervals, _TOPS[name])
    if not but:
        return
    if len(but) < len(intervals):
        yield f"{_NOUNS[name]} not {_list(but)}"
    else:
        yield f"{_NOUNS[name]} {_list(intervals)}"


def _addresses(where: Where, usual: Where, family: Family) -> Iterator[str]:
    for name, to, not_to in (("destination", "to", "not to"), ("source", "from", "not from")):
        if name not in where or where[name] == usual.get(name):
            continue
        held, all_of_them = _spans(where[name]), _spans(usual.get(name, []))
        top = (1 << (32 if family == 4 else 128)) - 1
        but = [
            (max(low, first), min(high, last))
            for low, high in outside(held, top)
            for first, last in all_of_them
            if max(low, first) <= min(high, last)
        ]
        if but and len(but) < len(held):
            yield f"{not_to} {_networks(but, family)}"
        else:
            yield f"{to} {_networks(held, family)}"


def _spans(held: Iterable[object]) -> tuple[Interval, ...]:
    return joined(
        (int(ipaddress.ip_address(span[0])), int(ipaddress.ip_address(span[1])))
        for span in held
        if isinstance(span, list)
    )


def _networks(spans: Sequence[Interval], family: Family) -> str:
    kind = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    told = []
    for low, high in spans[:_MEMBERS]:
        found = list(ipaddress.summarize_address_range(kind(low), kind(high)))
        told.append(str(found[0]) if len(found) == 1 else f"{kind(low)}-{kind(high)}")
    plain = [text.removesuffix("/32").removesuffix("/128") for text in told]
    left = len(spans) - _MEMBERS
    return ", ".join(plain) + (f" and {left} more ranges" if left > 0 else "")


def _list(intervals: Sequence[Interval]) -> str:
    told = [f"{low}" if low == high else f"{low}-{high}" for low, high in intervals[:_MEMBERS]]
    left = len(intervals) - _MEMBERS
    return ", ".join(told) + (f" and {left} more" if left > 0 else "")


def _mark(held: object) -> str:
    """An interval of marks, or values under masks as they are written."""
    if not isinstance(held, list):
        return str(held)
    low, high = int(held[0]), int(held[1])
    return f"{low:#x}" if low == high else f"{low:#x}-{high:#x}"


@lru_cache(maxsize=32)
def _usual(host: Host, hook: Hook, family: Family) -> dict[str, Where]:
    """By interface: which addresses every packet there has, whatever the rules."""
    return {
        _interface(cube.where): cube.where
        for region in regions(Ruleset(family=family), hook, host=host, family=family)
        for cube in region.cubes
    }
