"""nft's expressions, as JSON, to conditions.

Knows what nft's words stand for, and how sets and their elements are asked. Does not know statements
(`nft_statements`). Invariant: what is not modelled becomes `Unmodelled` with nft's text, behind what
it could not be loaded without; nothing is left out.

Source: libnftables-json(5), and src/datatype.c, src/evaluate.c of nftables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pytest_istio_sidecar.netfilter.diagram.intervals import Interval, joined
from pytest_istio_sidecar.netfilter.matches import AnyOf, Match
from pytest_istio_sidecar.netfilter.relations import (
    KEYS,
    Interfaces,
    Relation,
    Unmodelled,
    loaded,
)
from pytest_istio_sidecar.netfilter.text.nft_values import NotModelled, intervals_of, single
from pytest_istio_sidecar.netfilter.text.nft_words import Show, expression, show_for, statement

Json = Any

_FLAGS = ("ct state", "ct status", "tcp flags")
_LAYERS: Mapping[str, tuple[int, int]] = {
    "icmp": (1, 4),
    "igmp": (2, 4),
    "tcp": (6, 0),
    "udp": (17, 0),
    "dccp": (33, 0),
    "esp": (50, 0),
    "ah": (51, 0),
    "icmpv6": (58, 6),
    "comp": (108, 0),
    "sctp": (132, 0),
    "udplite": (136, 0),
    "ip": (0, 4),
    "ip6": (0, 6),
}
"""Of nft's headers, the protocol and the family of packets that have them."""


@dataclass(slots=True)
class NamedSet:
    """A set or a map of a table: its elements, and whether rules add to it."""

    elements: list[Json] = field(default_factory=list)
    dynamic: bool = False


Sets = Mapping[str, NamedSet]
Asked = Relation | Interfaces
"""What is asked for, without the values: `Relation.key` and mask, or the direction of interfaces."""


def conditions(match: Mapping[str, Json], sets: Sets) -> tuple[list[Match], str]:
    """What a `match` asks, and nft's text for it."""
    left, operator, right = match["left"], match.get("op", "=="), match["right"]
    try:
        if operator in ("==", "!=") and type(right) in (int, str) and right != "*":
            simple = _simple(left, operator == "!=", right)
            if simple is not None:
                return [simple], str(simple)
        text = statement({"match": match})
        return _conditions(left, operator, right, sets, text), text
    except NotModelled:
        text = statement({"match": match})
        return [*dependencies(left), Unmodelled(text)], text


def _simple(left: Json, negated: bool, right: int | str) -> Match | None:
    """A condition on one whole value: most are such, so that there is a short way to them."""
    known = _LEFT.get(repr(left))
    if known is None:
        if len(_LEFT) >= _REMEMBERED:
            _LEFT.clear()
        known = _LEFT[repr(left)] = _whole(left)
    asked, text, show = known
    if asked is None or (type(right) is str and right[:1] == "@"):
        return None
    shown = f"{text} {'!= ' if negated else ''}{show(right) if show is not None else right}"
    if isinstance(asked, Interfaces):
        return Interfaces(direction=asked.direction, names=(_interface(right),), negated=negated, text=shown)
    number = single(asked.key, right)
    return Relation(key=asked.key, intervals=((number, number),), negated=negated, text=shown)


def _whole(left: Json) -> tuple[Asked | None, str, Show | None]:
    """What an expression asks for where that is one whole value, its text and how its values are written."""
    asked = keys(left)
    is_whole = len(asked) == 1 and not (
        isinstance(asked[0], Relation) and (asked[0].mask is not None or asked[0].key in _FLAGS)
    )
    return (asked[0] if is_whole else None), expression(left), show_for(left)


_REMEMBERED = 1024
_LEFT: dict[str, tuple[Asked | None, str, Show | None]] = {}


def dependencies(item: Json) -> list[Match]:
    """The protocol and family without which an expression cannot be loaded, as nft adds them itself."""
    if isinstance(item, list):
        return [match for each in item for match in dependencies(each)]
    if not isinstance(item, dict) or len(item) != 1:
        return []
    ((name, value),) = item.items()
    if name == "payload" and isinstance(value, dict) and "base" not in value:
        protocol, family = _LAYERS.get(str(value.get("protocol", value.get("name"))), (0, 0))
        return [*_of_family(family), *_of_protocol(protocol)]
    if name == "tcp option":
        return _of_protocol(6)
    if name == "exthdr":
        return _of_family(6)
    if name in ("&", "|", "^", "<<", ">>", "concat"):
        return dependencies(value)
    return []


def _of_family(family: int) -> list[Match]:
    number = {4: 2, 6: 10}.get(family)
    if number is None:
        return []
    return [Relation(key="meta nfproto", intervals=((number, number),), text=f"meta nfproto ipv{family}")]


def _of_protocol(protocol: int) -> list[Match]:
    if not protocol:
        return []
    return [Relation(key="meta l4proto", intervals=((protocol, protocol),), text=f"meta l4proto {protocol}")]


def of_family(family: str) -> list[Match]:
    """The condition that a packet is of nft's family ip or ip6."""
    return _of_family({"ip": 4, "ip6": 6}[family])


def _conditions(left: Json, operator: str, right: Json, sets: Sets, text: str) -> list[Match]:
    asked = keys(left)
    if len(asked) == 1 and isinstance(asked[0], Relation):
        relation = asked[0]
        if operator in ("in", "!") and not _is_set(right):
            return [_flag_test(relation, right, operator, text)]
        if operator in ("<", ">", "<=", ">="):
            return [_compared(relation, right, operator, text)]
    if operator not in ("==", "!=", "in"):
        raise NotModelled
    negated = operator == "!="
    elements = [(right, False)] if not _is_set(right) else list(elements_of(right, sets))
    if len(asked) == 1:
        return [_one_of(asked[0], elements, negated, text)]
    alternatives = [_alternative(asked, element, text, doubtful=doubtful) for element, doubtful in elements]
    loads = [loaded(each.key) for each in asked if isinstance(each, Relation)] if negated else []
    return [*loads, AnyOf(alternatives=tuple(alternatives), negated=negated, text=text)]


def keys(left: Json) -> list[Asked]:
    """What an expression loads: several for a concatenation.

    Raises:
        NotModelled: one of them is not known here.
    """
    parts = left["concat"] if isinstance(left, dict) and "concat" in left else [left]
    return [_key(part) for part in parts]


def _key(left: Json) -> Asked:
    if not isinstance(left, dict) or len(left) != 1:
        raise NotModelled
    ((name, value),) = left.items()
    if name == "&":
        inner = _key(value[0])
        if not isinstance(inner, Relation) or len(value) != 2:
            raise NotModelled
        mask = single(inner.key, value[1])
        return Relation(key=inner.key, intervals=(), mask=mask if inner.mask is None else mask & inner.mask)
    if name == "meta":
        word = value["key"] if isinstance(value, dict) else value
        if word in ("iif", "iifname"):
            return Interfaces(direction="in", names=(), text=word)
        if word in ("oif", "oifname"):
            return Interfaces(direction="out", names=(), text=word)
        key = f"meta {word}"
    elif name == "payload":
        key = _payload_key(value)
    elif name == "ct":
        key = _ct_key(value)
    elif name == "fib":
        flags = value["flags"] if isinstance(value["flags"], list) else [value["flags"]]
        key = f"fib {flags[0]} {value['result']}" if len(flags) == 1 else ""
    else:
        raise NotModelled
    if key not in KEYS:
        raise NotModelled
    return Relation(key=key, intervals=())


def _payload_key(value: Mapping[str, Json]) -> str:
    if "base" in value:
        place = {0: "sport", 16: "dport"}.get(value["offset"])
        return f"th {place}" if value["base"] == "th" and value["len"] == 16 and place else ""
    return f"{value.get('protocol', value.get('name'))} {value['field']}"


def _ct_key(value: Json) -> str:
    if not isinstance(value, dict):
        return f"ct {value}"
    parts = [str(value[name]) for name in ("dir", "family", "key") if name in value]
    return f"ct {' '.join(parts)}"


def _is_set(right: Json) -> bool:
    return (isinstance(right, dict) and "set" in right) or (isinstance(right, str) and right.startswith("@"))


def elements_of(data: Json, sets: Sets) -> Iterator[tuple[Json, bool]]:
    """The elements of a set or map, inline or by its name, each with whether it may be gone by now.

    Raises:
        NotModelled: they are not known.
    """
    if isinstance(data, str):
        known = sets.get(data[1:])
        if known is None or known.dynamic:
            raise NotModelled
        elements = known.elements
    else:
        elements = data["set"] if isinstance(data["set"], list) else [data["set"]]
    for element in elements:
        yield _unwrapped(element)


def _unwrapped(element: Json) -> tuple[Json, bool]:
    """An element without what hangs at it: that it has an end, or may match only now and then."""
    if isinstance(element, list) and len(element) == 2:
        key, doubtful = _unwrapped(element[0])
        return [key, element[1]], doubtful
    if not isinstance(element, dict) or "elem" not in element:
        return element, False
    inner = element["elem"]
    doubtful = any(name in inner for name in ("timeout", "expires", "limit", "quota", "ct count", "stmt"))
    return inner["val"], doubtful


def _one_of(asked: Asked, elements: Sequence[tuple[Json, bool]], negated: bool, text: str) -> Match:
    """A condition on one value. What may be gone by now, or not, is a condition of its own."""
    certain = [element for element, doubtful in elements if not doubtful]
    sure = _valued(asked, certain, negated, text)
    unsure = [element for element, doubtful in elements if doubtful]
    if not unsure:
        return sure
    there = loaded(asked.key) if isinstance(asked, Relation) else None
    either = AnyOf(
        alternatives=(
            (_valued(asked, certain, False, ""),),
            (_valued(asked, unsure, False, ""), Unmodelled(text)),
        ),
        negated=negated,
        text=text,
    )
    if not negated or there is None:
        return either
    return AnyOf(alternatives=((there, either),), text=text)


def _valued(asked: Asked, values: Iterable[Json], negated: bool, text: str) -> Match:
    if isinstance(asked, Interfaces):
        names = tuple(_interface(value) for value in values)
        if "*" in names:
            names = ("*",)
        return Interfaces(direction=asked.direction, names=names, negated=negated, text=text)
    intervals = joined(interval for value in values for interval in intervals_of(asked.key, value))
    return _narrowed(asked, intervals, negated, text)


def _narrowed(asked: Relation, intervals: Sequence[Interval], negated: bool, text: str) -> Relation:
    """A relation without a mask where its values can be told without one."""
    key, mask = asked.key, asked.mask
    top = KEYS[key].top
    intervals = tuple(intervals)
    if mask == top:
        mask = None
    if mask is not None and key not in _FLAGS:
        if KEYS[key].bits <= 16:
            intervals, mask = _under_mask(intervals, mask, top), None
        elif key in ("meta skuid", "meta skgid"):
            raise NotModelled
        elif (mask ^ top) & ((mask ^ top) + 1) == 0 and all(low == high for low, high in intervals):
            inverse = mask ^ top
            intervals = joined((low, low | inverse) for low, _ in intervals if not low & inverse)
            mask = None
    return Relation(key=key, intervals=intervals, mask=mask, negated=negated, text=text)


@lru_cache(maxsize=256)
def _under_mask(intervals: tuple[Interval, ...], mask: int, top: int) -> tuple[Interval, ...]:
    """The values whose bits under the mask are in the intervals."""
    wanted = [any(low <= value <= high for low, high in intervals) for value in range(top + 1)]
    return joined((value, value) for value in range(top + 1) if wanted[value & mask])


def _flag_test(asked: Relation, right: Json, operator: str, text: str) -> Relation:
    """`ct state new,established`: whether any of the bits is set."""
    mask = single(asked.key, right)
    if asked.mask is not None:
        mask &= asked.mask
    top = KEYS[asked.key].top
    intervals: tuple[Interval, ...] = ((1, top),)
    return _narrowed(
        Relation(key=asked.key, intervals=(), mask=mask), intervals, negated=operator == "!", text=text
    )


def _compared(asked: Relation, right: Json, operator: str, text: str) -> Relation:
    value, top = single(asked.key, right), KEYS[asked.key].top
    low, high = {"<": (0, value - 1), "<=": (0, value), ">": (value + 1, top), ">=": (value, top)}[operator]
    return _narrowed(asked, ((low, high),) if low <= high else (), negated=False, text=text)


def _alternative(asked: Sequence[Asked], element: Json, text: str, *, doubtful: bool) -> tuple[Match, ...]:
    """The conditions that make an element of a set of concatenations."""
    if element == "*":
        parts: list[Match] = [loaded(each.key) for each in asked if isinstance(each, Relation)]
    else:
        values = element["concat"] if isinstance(element, dict) and "concat" in element else None
        if values is None or len(values) != len(asked):
            raise NotModelled
        parts = [
            _valued(each, [value], False, _part(each, value))
            for each, value in zip(asked, values, strict=True)
        ]
    return (*parts, Unmodelled(text)) if doubtful else tuple(parts)


def _part(asked: Asked, value: Json) -> str:
    return f"{asked.key if isinstance(asked, Relation) else asked.text} {expression(value)}"


def alternatives(left: Json, element: Json, text: str, *, doubtful: bool) -> tuple[Match, ...]:
    """The conditions under which an expression is an element of a map."""
    shown = f"{expression(left)} {expression(element)}"
    try:
        asked = keys(left)
        if len(asked) > 1:
            return _alternative(asked, element, text, doubtful=doubtful)
        one = _valued(asked[0], [element], negated=False, text=shown)
    except NotModelled:
        return (*dependencies(left), Unmodelled(shown))
    return (one, Unmodelled(text)) if doubtful else (one,)


def _interface(value: Json) -> str:
    if value == 1:
        return "lo"
    if not isinstance(value, str):
        raise NotModelled
    if value.endswith("\\*"):
        raise NotModelled  # a name that ends in an asterisk
    return value
