"""nft's statements, as JSON, to what a rule does.

Knows what each statement does to a packet, and how conditions and statements of a rule follow each other.
Does not know expressions (`nft_conditions`) nor whole listings (`nft_json`). Invariant: a statement that is
not modelled is a `Statement` with nft's text; none is left out but those that change nothing a rule can see.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pytest_istio_sidecar.netfilter.intervals import joined
from pytest_istio_sidecar.netfilter.matches import FULL_MASK, Match, Option
from pytest_istio_sidecar.netfilter.model import Rule
from pytest_istio_sidecar.netfilter.packet import IPAddress
from pytest_istio_sidecar.netfilter.relations import AnyOf, Relation, Unmodelled, loaded
from pytest_istio_sidecar.netfilter.targets import (
    Assign,
    Block,
    Extended,
    Goto,
    Jump,
    Redirect,
    Statement,
    Target,
    Tproxy,
    Translate,
    Verdict,
    Zone,
)
from pytest_istio_sidecar.netfilter.text.nft_conditions import (
    Sets,
    alternatives,
    conditions,
    dependencies,
    elements_of,
    of_family,
)
from pytest_istio_sidecar.netfilter.text.nft_words import statement
from pytest_istio_sidecar.netfilter.text.nft_values import NotModelled, single

Json = Any
Item = list[Match] | Target | None
"""Conditions, or what is done; None: nothing that a rule can see."""

_VERDICTS: Mapping[str, Target | None] = {
    "accept": Verdict("ACCEPT"),
    "drop": Verdict("DROP"),
    "return": Verdict("RETURN"),
    "continue": None,
}
_UNSEEN = frozenset(
    ("counter", "log", "dup", "flow", "last", "ct helper", "ct timeout", "ct expectation", "secmark", "tunnel")
)
"""Statements that change nothing of a packet that a rule can see; `dup` sends a copy elsewhere."""
_IN_DOUBT = frozenset(("limit", "quota", "ct count", "set", "meter", "map"))
"""Statements behind which a rule goes on or ends, by what neither packet nor listing shows."""
_UNSEEN_KEYS = frozenset(
    ("meta priority", "meta nftrace", "meta secmark", "meta broute", "ct label", "ct event", "ct helper", "ct secmark",
     "ip ttl", "ip dscp", "ip ecn", "ip id", "ip6 hoplimit", "ip6 dscp", "ip6 ecn", "ip6 flowlabel",
     "tcp window", "tcp urgptr", "tcp checksum", "udp checksum", "ip checksum")
)  # fmt: skip
"""What can be set without a rule here seeing it."""
_FLAGS = {"random": "--random", "fully-random": "--random-fully", "persistent": "--persistent"}


def what_it_does(
    expressions: Sequence[Json], family: str, sets: Sets
) -> tuple[tuple[Match, ...], Target | None]:
    """The leading conditions of a rule, and what it does then; None: it counts at most.

    Args:
        family: nft's, of the rule's table.
        sets: the named sets and maps of the table.
    """
    items: list[Item] = []
    last = len(expressions) - 1
    for number, each in enumerate(expressions):
        made = _items(each, family, sets, goes_on=number < last)
        if items and made:
            joint = _perhaps_one(items[-1], made[0])
            if joint is not None:
                items[-1:], made = [joint], []
        items += made
    return _built(items)


def _perhaps_one(one: Item, other: Item) -> Item:
    """Two inverted ports, which nft up to 1.0.6 at least keeps as one comparison of both, and prints as two.

    The kernel then lets through what only one of them excludes: that is not known. None: it is something else.
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
            return tuple(matches), Block(rules=(Rule(chain=""), Rule(chain="", target=acts[0])))
        return tuple(matches), Block(rules=tuple(Rule(chain="", target=target) for target in acts))
    inner, target = _built(items[end:])
    # One that does nothing stays: by it the rule has matched, whatever follows.
    before = [Rule(chain="", target=each) for each in acts] or [Rule(chain="")]
    rest = Rule(chain="", matches=inner, target=target)
    return tuple(matches), Block(rules=(*before, rest))


def _items(item: Json, family: str, sets: Sets, *, goes_on: bool) -> list[Item]:
    ((name, value),) = item.items()
    if name == "match":
        return [conditions(value, sets)]
    if name in _VERDICTS or name in ("jump", "goto"):
        return [_verdict(item)]
    if name in _UNSEEN:
        return [None]
    make = _MAKERS.get(name)
    text = statement(item)
    if name in _IN_DOUBT:
        return [[Unmodelled(text)]]
    if make is None:
        return [Statement(text)]
    try:
        made = make(value or {}, family, sets, text)
    except NotModelled:
        return [Statement(text)]
    if goes_on and isinstance(made[-1], Block) and name != "vmap":
        # A map without such an element ends the rule.
        either = tuple(rule.matches for rule in made[-1].rules)
        made.insert(-1, [AnyOf(alternatives=either, text=text)])
    return made


def _verdict(item: Json) -> Target | None:
    ((name, value),) = item.items()
    if name in ("jump", "goto"):
        chain = value["target"] if isinstance(value, dict) else value
        return Jump(chain) if name == "jump" else Goto(chain)
    return _VERDICTS[name]


def _vmap(value: Mapping[str, Json], _family: str, sets: Sets, text: str) -> list[Item]:
    return [_by_elements(value, sets, text, _verdict_of)]


def _verdict_of(value: Json) -> Target | None:
    if not isinstance(value, dict) or next(iter(value), "") not in (*_VERDICTS, "jump", "goto"):
        raise NotModelled
    return _verdict(value)


def _by_elements(
    value: Mapping[str, Json], sets: Sets, text: str, make: Callable[[Json], Target | None]
) -> Block:
    """What a map does: that of the one element that the key is, nothing where it is none."""
    key, data = value.get("key", value.get("left")), value.get("data", value.get("right"))
    done: dict[Target | None, list[tuple[Match, ...]]] = {}
    others: list[Rule] = []
    for pair, doubtful in elements_of(data, sets):
        if not isinstance(pair, list) or len(pair) != 2:
            raise NotModelled
        element = pair[0]
        matches = alternatives(key, element, text, doubtful=doubtful)
        target = make(pair[1])
        if element == "*":
            others.append(Rule(chain="", matches=matches, target=target))
        else:
            done.setdefault(target, []).append(matches)
    rules = [Rule(chain="", matches=_either(each), target=target) for target, each in done.items()]
    return Block(rules=(*rules, *others), exclusive=True)


def _either(each: Sequence[tuple[Match, ...]]) -> tuple[Match, ...]:
    """One condition for several elements; as one relation where they are values of one key."""
    if len(each) == 1:
        return each[0]
    relations = [matches[0] for matches in each if len(matches) == 1 and isinstance(matches[0], Relation)]
    if len(relations) == len(each) and all(relation.mask is None for relation in relations):
        intervals = joined(interval for relation in relations for interval in relation.intervals)
        return (Relation(key=relations[0].key, intervals=intervals),)
    return (AnyOf(alternatives=tuple(each)),)


def _mapped(value: Json) -> Mapping[str, Json] | None:
    """The map that a value is looked up in, if it is."""
    mapped = value.get("map") if isinstance(value, dict) else None
    return mapped if isinstance(mapped, dict) else None


def _mangle(value: Mapping[str, Json], _family: str, sets: Sets, text: str) -> list[Item]:
    key = statement({"mangle": {"key": value["key"], "value": 0}}).partition(" set ")[0]
    given = value["value"]
    if key == "meta mark" or key == "ct mark":
        to = "mark" if key == "meta mark" else "connmark"
        mapped = _mapped(given)
        if mapped is not None:
            return [_by_elements(mapped, sets, text, lambda each: _constant(to, each))]
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


def _redirect(value: Mapping[str, Json], _family: str, sets: Sets, text: str) -> list[Item]:
    flags = _flags(value)
    port = value.get("port")
    mapped = _mapped(port)
    if mapped is not None:
        return [_by_elements(mapped, sets, text, lambda each: Redirect(ports=_ports(each), flags=flags))]
    return [Redirect(ports=None if port is None else _ports(port), flags=flags)]


def _translate(name: Any) -> Callable[[Mapping[str, Json], str, Sets, str], list[Item]]:
    def translate(value: Mapping[str, Json], family: str, sets: Sets, text: str) -> list[Item]:
        flags = _flags(value)
        address, port = value.get("addr"), value.get("port")
        before: list[Item] = []
        mapped = _mapped(address)
        if family == "inet" and "family" in value:
            before.append(of_family(value["family"]))
        elif family == "inet" and address is not None and mapped is None:
            before.append(of_family("ip" if _addresses(address)[0].version == 4 else "ip6"))
        ports = None if port is None or _mapped(port) else _ports(port)

        def made(to: Json) -> Target:
            own = ports
            if isinstance(to, dict) and "concat" in to:
                to, given = to["concat"]
                own = _ports(given)
            return Translate(name=name, addresses=_addresses(to), ports=own, flags=flags)

        if mapped is not None:
            if _mapped(port) is not None:
                raise NotModelled
            return [*before, _by_elements(mapped, sets, text, made)]
        mapped = _mapped(port)
        if mapped is not None:
            addresses = None if address is None else _addresses(address)

            def with_port(to: Json) -> Target:
                return Translate(name=name, addresses=addresses, ports=_ports(to), flags=flags)

            return [*before, _by_elements(mapped, sets, text, with_port)]
        addresses = None if address is None else _addresses(address)
        return [*before, Translate(name=name, addresses=addresses, ports=ports, flags=flags)]

    return translate


def _masquerade(value: Mapping[str, Json], _family: str, _sets: Sets, _text: str) -> list[Item]:
    options = [Option(name=flag) for flag in _flags(value)]
    if "port" in value:
        options.insert(0, Option(name="--to-ports", values=(statement({"redirect": {"port": value["port"]}}),)))
    return [Extended(name="MASQUERADE", options=tuple(options))]


def _tproxy(value: Mapping[str, Json], family: str, sets: Sets, text: str) -> list[Item]:
    """net/netfilter/nft_tproxy.c: it ends the rule for other protocols, and for another family."""
    before: list[Item] = [[Relation(key="meta l4proto", intervals=((6, 6), (17, 17)), text="tproxy")]]
    kind = value.get("family", family)
    address = value.get("addr")
    if family == "inet" and kind in ("ip", "ip6"):
        before.append(of_family(kind))
    if address is None:
        own: IPAddress = ipaddress.ip_address("0.0.0.0" if kind == "ip" else "::")  # noqa: S104
    else:
        own, last = _addresses(address)
        if own != last:
            raise NotModelled
    port = value.get("port")
    mapped = _mapped(port)
    if mapped is not None:
        return [*before, _by_elements(mapped, sets, text, lambda each: _handed(each, own))]
    return [*before, _handed(0 if port is None else port, own)]


def _handed(port: Json, address: IPAddress) -> Target:
    low, high = _ports(port)
    if low != high:
        raise NotModelled
    return Tproxy(port=low, address=address, goes_on=True)


def _flags(value: Mapping[str, Json]) -> tuple[str, ...]:
    """Raises NotModelled where addresses are mapped one to one."""
    given = value.get("flags", ())
    names = [given] if isinstance(given, str) else given
    if any(name not in _FLAGS for name in names) or value.get("type_flags"):
        raise NotModelled
    return tuple(_FLAGS[name] for name in names)


def _ports(value: Json) -> tuple[int, int]:
    if isinstance(value, dict) and "range" in value:
        low, high = (single("th dport", each) for each in value["range"])
        if low > high:
            raise NotModelled
        return low, high
    number = single("th dport", value)
    return number, number


def _addresses(value: Json) -> tuple[IPAddress, IPAddress]:
    try:
        if isinstance(value, str):
            address = ipaddress.ip_address(value)
            return address, address
        if isinstance(value, dict) and "range" in value:
            low, high = map(ipaddress.ip_address, value["range"])
            return low, high
        if isinstance(value, dict) and "prefix" in value:
            prefix = value["prefix"]
            network = ipaddress.ip_network(f"{prefix['addr']}/{prefix['len']}", strict=False)
            return network.network_address, network.broadcast_address
    except ValueError:
        pass
    raise NotModelled


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
    "redirect": _redirect,
    "dnat": _translate("DNAT"),
    "snat": _translate("SNAT"),
    "masquerade": _masquerade,
    "tproxy": _tproxy,
    "notrack": _one(Extended(name="NOTRACK")),
    "reject": _one(Extended(name="REJECT")),
    "xt": _xt,
}


def updated_sets(expressions: Iterable[Json]) -> Iterable[str]:
    """The sets and maps to which the statements of a rule add, or from which they take."""
    for each in expressions:
        if isinstance(each, dict):
            for name in ("set", "map"):
                value = each.get(name)
                if isinstance(value, dict) and isinstance(value.get(name), str):
                    yield value[name].removeprefix("@")
