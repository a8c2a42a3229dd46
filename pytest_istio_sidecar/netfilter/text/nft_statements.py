"""nft's statements, as JSON, to what a rule does.

Knows what each statement does to a packet, and how conditions and statements of a rule follow each other.
Does not know expressions (`nft_conditions`) nor whole listings (`nft_json`). Invariant: a statement that is
not modelled is a `Statement` with nft's text; none is left out but those that change nothing a rule can see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pytest_istio_sidecar.netfilter.matches import FULL_MASK, AnyOf, Match
from pytest_istio_sidecar.netfilter.relations import Relation, Unmodelled, loaded
from pytest_istio_sidecar.netfilter.targets import (
    Assign,
    Block,
    Extended,
    Goto,
    Inner,
    Jump,
    Statement,
    Target,
    Verdict,
    Zone,
)
from pytest_istio_sidecar.netfilter.text.nft_conditions import (
    Sets,
    conditions,
    dependencies,
)
from pytest_istio_sidecar.netfilter.text.nft_nat import (
    Item,
    by_elements,
    mapped_in,
    masquerade,
    redirect,
    tproxy,
    translation,
)
from pytest_istio_sidecar.netfilter.text.nft_values import NotModelled, single
from pytest_istio_sidecar.netfilter.text.nft_words import statement

Json = Any

_VERDICTS: Mapping[str, Target | None] = {
    "accept": Verdict("ACCEPT"),
    "drop": Verdict("DROP"),
    "return": Verdict("RETURN"),
    "continue": None,
}
_UNSEEN = frozenset(
    (
        "counter",
        "log",
        "dup",
        "flow",
        "last",
        "ct helper",
        "ct timeout",
        "ct expectation",
        "secmark",
        "tunnel",
    )
)
"""Statements that change nothing of a packet that a rule can see; `dup` sends a copy elsewhere."""
_IN_DOUBT = frozenset(("limit", "quota", "ct count", "set", "meter", "map"))
"""Statements behind which a rule goes on or ends, by what neither packet nor listing shows."""
_UNSEEN_KEYS = frozenset(
    {
        *(f"meta {key}" for key in ("priority", "nftrace", "secmark", "broute")),
        *(f"ct {key}" for key in ("label", "event", "helper", "secmark")),
        *(f"ip {key}" for key in ("ttl", "dscp", "ecn", "id", "checksum")),
        *(f"ip6 {key}" for key in ("hoplimit", "dscp", "ecn", "flowlabel")),
        *(f"tcp {key}" for key in ("window", "urgptr", "checksum")),
        "udp checksum",
    }
)
"""What can be set without a rule here seeing it."""


class Statements:
    """Reads the rules of one table."""

    def __init__(self, family: str, sets: Sets) -> None:
        self.family = family
        """Of nft."""
        self.sets = sets
        """The named sets and maps of the table."""
        self._asked: dict[str, tuple[list[Match], str]] = {}

    def read(self, expressions: Sequence[Json]) -> tuple[tuple[Match, ...], Target | None, str]:
        """The leading conditions of a rule, what it does then (None: it counts at most), and its text."""
        items: list[Item] = []
        texts: list[str] = []
        last = len(expressions) - 1
        for number, each in enumerate(expressions):
            made, text = self._items(each, goes_on=number < last)
            if items and " dport != " in text:
                joint = _perhaps_one(items[-1], made[0])
                if joint is not None:
                    items[-1:], made = [joint], []
            items += made
            texts.append(text)
        return *_built(items), " ".join(texts)

    def _items(self, item: Json, *, goes_on: bool) -> tuple[list[Item], str]:
        """What a statement is, and its text."""
        ((name, value),) = item.items()
        if name == "match":
            key = repr(value)
            asked = self._asked.get(key)
            if asked is None:
                asked = self._asked[key] = conditions(value, self.sets)
            return [asked[0]], asked[1]
        if name == "counter" and not isinstance(value, str):
            return [None], name
        text = statement(item)
        if name in _VERDICTS or name in ("jump", "goto"):
            return [_verdict(item)], text
        if name in _UNSEEN:
            return [None], text
        if name in _IN_DOUBT:
            return [[Unmodelled(text)]], text
        make = _MAKERS.get(name)
        if make is None:
            return [Statement(text)], text
        try:
            made = make(value or {}, self.family, self.sets, text)
        except NotModelled:
            return [Statement(text)], text
        if goes_on and isinstance(made[-1], Block) and name != "vmap":
            # A map without such an element ends the rule.
            either = tuple(rule.matches for rule in made[-1].rules)
            made.insert(-1, [AnyOf(alternatives=either, text=text)])
        return made, text


def _perhaps_one(one: Item, other: Item) -> Item:
    """Two inverted ports, which nft up to 1.0.6 at least keeps as one comparison of both, and prints as two.

    The kernel then lets through what only one of them excludes. None: it is something else.
    Seen with `nft --debug=netlink` 1.0.6; the like of it in iptables-nft is clause 7.5 of docs/semantics.md.
    """
    if not (isinstance(one, list) and isinstance(other, list) and len(one) == len(other) == 1):
        return None
    (first,), (second,) = one, other
    if not (isinstance(first, Relation) and isinstance(second, Relation)):
        return None
    ports = first.key.endswith(" sport") and second.key == first.key.replace("sport", "dport")
    if not ports or not all(_excludes_one(each) for each in (first, second)):
        return None
    doubt = Unmodelled(f"{first} {second}")
    return [AnyOf(alternatives=((first, second), (first, doubt), (second, doubt)), text=doubt.text)]


def _excludes_one(match: Relation) -> bool:
    return match.negated and len(match.intervals) == 1 and match.intervals[0][0] == match.intervals[0][1]


def _built(items: Sequence[Item]) -> tuple[tuple[Match, ...], Target | None]:
    """Conditions, then a target; what follows a statement in a rule is a rule within it."""
    start = 0
    matches: list[Match] = []
    while start < len(items) and isinstance(items[start], list):
        matches += items[start]  # type: ignore[arg-type]
        start += 1
    end = start
    done: list[Target | None] = []
    while end < len(items) and not isinstance(items[end], list):
        done.append(items[end])  # type: ignore[arg-type]
        end += 1
    acts = [target for target in done if target is not None]
    if end == len(items):
        if not acts or (len(acts) == 1 and not (done[0] is None and isinstance(acts[0], Block))):
            return tuple(matches), acts[0] if acts else None
        if len(acts) < 2:
            # By a statement before a map the rule has matched, whatever the map says.
            return tuple(matches), Block(rules=(Inner(), Inner(target=acts[0])))
        return tuple(matches), Block(rules=tuple(Inner(target=target) for target in acts))
    inner, target = _built(items[end:])
    # One that does nothing stays: by it the rule has matched, whatever follows.
    before = [Inner(target=each) for each in acts] or [Inner()]
    rest = Inner(matches=inner, target=target)
    return tuple(matches), Block(rules=(*before, rest))


def _verdict(item: Json) -> Target | None:
    ((name, value),) = item.items()
    if name in ("jump", "goto"):
        chain = value["target"] if isinstance(value, dict) else value
        if not isinstance(chain, str):
            raise TypeError(name)
        return Jump(chain) if name == "jump" else Goto(chain)
    return _VERDICTS[name]


def _vmap(value: Mapping[str, Json], _family: str, sets: Sets, text: str) -> list[Item]:
    return [by_elements(value, sets, text, _verdict_of)]


def _verdict_of(value: Json) -> Target | None:
    if not isinstance(value, dict) or next(iter(value), "") not in (*_VERDICTS, "jump", "goto"):
        raise NotModelled
    return _verdict(value)


def _mangle(value: Mapping[str, Json], _family: str, sets: Sets, text: str) -> list[Item]:
    key = statement({"mangle": {"key": value["key"], "value": 0}}).partition(" set ")[0]
    given = value["value"]
    if key in ("meta mark", "ct mark"):
        to = "mark" if key == "meta mark" else "connmark"
        mapped = mapped_in(given)
        if mapped is not None:
            return [by_elements(mapped, sets, text, lambda each: _constant(to, each))]
        return _assigned(to, given, text)
    if key.startswith("ct ") and key.endswith("zone"):
        return [Zone(given if type(given) is int else None)]
    if key in _UNSEEN_KEYS or next(iter(value["key"])) == "tcp option" or key.split()[0] in ("ether", "vlan"):
        return [dependencies(value["key"]), None]
    raise NotModelled


def _constant(to: Any, value: Json) -> Target:
    return Assign(to=to, of="nothing", flip=single("meta mark", value))


def _assigned(to: Any, value: Json, text: str) -> list[Item]:
    """A mark from a mark and constants; of anything else, what it is is not known."""
    try:
        of, keep, flip = _bits(value)
    except NotModelled:
        return [[Unmodelled(text)], Assign(to=to, of="unknown")]
    made: list[Item] = [[loaded("ct mark")]] if of == "connmark" else []
    return [*made, Assign(to=to, of=of, keep=keep, flip=flip)]


def _bits(value: Json) -> tuple[Any, int, int]:
    """A mark that is taken, which bits of it are kept and which are flipped."""
    if type(value) is int or isinstance(value, str):
        return "nothing", 0, single("meta mark", value)
    if not isinstance(value, dict) or len(value) != 1:
        raise NotModelled
    ((name, parts),) = value.items()
    if name in ("meta", "ct"):
        word = parts["key"] if isinstance(parts, dict) else parts
        if word != "mark" or (isinstance(parts, dict) and "dir" in parts):
            raise NotModelled
        return ("mark" if name == "meta" else "connmark"), FULL_MASK, 0
    if name not in ("&", "|", "^") or len(parts) < 2:
        raise NotModelled
    of, keep, flip = _bits(parts[0])
    for part in parts[1:]:
        other, other_keep, number = _bits(part)
        if of == "nothing" and other != "nothing":
            of, keep, flip, number = other, other_keep, number, flip
        elif other != "nothing":
            raise NotModelled
        if name == "&":
            keep, flip = keep & number, flip & number
        elif name == "|":
            keep, flip = keep & ~number, flip | number
        else:
            flip ^= number
    return of, keep, flip


NOT_PRINTED = "which nft may have left out"
"""The name of a target that nft's text may not show."""


def _xt(value: Mapping[str, Json], _family: str, _sets: Sets, text: str) -> list[Item]:
    """What iptables-nft keeps in its own form: nft shows no more than its name."""
    if value.get("type") == "match":
        return [[] if value.get("name") == "comment" else [Unmodelled(text)]]
    return [Statement(text)]


def _one(target: Target) -> Callable[..., list[Item]]:
    return lambda *_: [target]


_MAKERS: Mapping[str, Callable[[Any, str, Sets, str], list[Item]]] = {
    "vmap": _vmap,
    "mangle": _mangle,
    "redirect": redirect,
    "dnat": translation("DNAT"),
    "snat": translation("SNAT"),
    "masquerade": masquerade,
    "tproxy": tproxy,
    "notrack": _one(Extended(name="NOTRACK")),
    "reject": _one(Extended(name="REJECT")),
    "xt": _xt,
}


def updated_sets(expressions: Iterable[Json]) -> Iterator[str]:
    """The sets and maps to which the statements of a rule add, or from which they take."""
    for each in expressions:
        for name in _UPDATING.intersection(each):
            value = each[name]
            if isinstance(value, dict) and isinstance(value.get(name), str):
                yield value[name].removeprefix("@")


_UPDATING = frozenset(("set", "map"))
