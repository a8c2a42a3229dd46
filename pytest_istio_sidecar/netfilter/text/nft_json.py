"""What nft holds, as JSON objects, to rulesets.

Knows tables, chains, sets and in which family each acts. Does not know statements (`nft_statements`), nor the
text form (`nft_text`, which makes the same objects). Invariant: what is no listing raises `ParseError`, and
nothing else is ever raised.

Source: libnftables-json(5).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.kernel.hooks import AT_DEVICES
from pytest_istio_sidecar.netfilter.model import (
    HOOKS,
    Backend,
    Chain,
    Family,
    PodRules,
    Registration,
    Rule,
    Ruleset,
    Table,
)
from pytest_istio_sidecar.netfilter.text.call_graph import first_circle
from pytest_istio_sidecar.netfilter.text.nft_conditions import NamedSet
from pytest_istio_sidecar.netfilter.text.nft_render import declaration
from pytest_istio_sidecar.netfilter.text.nft_statements import Statements, updated_sets
from pytest_istio_sidecar.netfilter.text.nft_values import NotModelled
from pytest_istio_sidecar.netfilter.text.nft_words import NOT_AS_DOCUMENTED, quoted

Json = Any
FAMILIES: Mapping[str, tuple[Family, ...]] = {"ip": (4,), "ip6": (6,), "inet": (4, 6), "netdev": (4, 6)}
"""Of nft's families, those of the packets that meet their chains."""
ELSEWHERE = ("arp", "bridge")
"""Families whose chains meet no IP packet of a pod, but ARP, and frames between ports of a bridge."""
MOST_STATEMENTS = 128
"""Expressions of a rule, beyond which the kernel refuses it (NFT_RULE_MAXEXPRS)."""
LINE = "_line"
"""Of an object made from text, where it stands."""
_DECLARED = frozenset(
    {
        "set",
        "map",
        "meter",
        "counter",
        "quota",
        "limit",
        "ct helper",
        "ct timeout",
        "ct expectation",
        "synproxy",
        "secmark",
        "tunnel",
        "flowtable",
    }
)
_VERSIONED = "metainfo"
_FLAGS_SINCE = (1, 0, 9)
"""Older nft prints in JSON, in place of a table's flags, some word of its memory: it may be one of them."""


@dataclass(slots=True)
class _Chain:
    registered: Registration | None
    policy: str | None
    handle: int | None
    rules: list[Mapping[str, Json]] = field(default_factory=list)


@dataclass(slots=True)
class _Table:
    dormant: bool | None
    chains: dict[str, _Chain] = field(default_factory=dict)
    sets: dict[str, NamedSet] = field(default_factory=dict)
    declared: list[str] = field(default_factory=list)


def parse_json(text: str, source: str | None) -> PodRules:
    """Rules from `nft -j list ruleset`.

    Raises:
        ParseError: it is none, or not a whole one.
    """
    try:
        document = json.loads(text)
    except RecursionError:
        raise ParseError(messages.NFT_NO_JSON(problem="it is nested too deep"), source=source) from None
    except ValueError as problem:
        line = getattr(problem, "lineno", 0)
        raise ParseError(messages.NFT_NO_JSON(problem=problem), source=source, line=line) from None
    objects = document.get("nftables") if isinstance(document, dict) else None
    if not isinstance(objects, list):
        raise ParseError(
            messages.NFT_NO_LISTING(problem='it is no object with a list "nftables"'), source=source
        )
    return rules_of(objects, source)


def rules_of(objects: Sequence[Json], source: str | None) -> PodRules:
    """Rules from the objects of libnftables-json(5).

    Raises:
        ParseError: they are no whole listing.
    """
    reading = _Reading(source)
    try:
        return reading.rules(objects)
    except (*NOT_AS_DOCUMENTED, NotModelled) as problem:
        reading.refuse(messages.NFT_NO_LISTING(problem=f"{type(problem).__name__} at {reading.at}"))


class _Reading:
    """One listing being read; holds where it is, for the errors."""

    def __init__(self, source: str | None) -> None:
        self.source = source
        self.at = "its beginning"
        self.line = 0
        self.tells_flags = True
        self.tables: dict[tuple[str, str], _Table] = {}
        self.notes: list[str] = []

    def refuse(self, failure: Failure) -> NoReturn:
        raise ParseError(failure, source=self.source, line=self.line) from None

    def rules(self, objects: Sequence[Json]) -> PodRules:
        known = False
        for each in objects:
            if not isinstance(each, dict) or not each:
                self.refuse(messages.NFT_NO_LISTING(problem="an entry of it is no object"))
            name, value = next(iter(each.items()))
            known = True
            if name == _VERSIONED:
                self.tells_flags = _version_of(value) >= _FLAGS_SINCE
                continue
            self.line = each.get(LINE, 0)
            self.at = f"{name} {value.get('name', value.get('handle', ''))}"
            self._take(name, value)
        if not known:
            self.refuse(messages.NFT_EMPTY())
        made = [(family, name, self._table(family, name, own)) for (family, name), own in self.tables.items()]
        return PodRules(
            rulesets=tuple(
                Ruleset(
                    tables=tuple(table for kind, _, table in made if family in FAMILIES[kind]),
                    family=family,
                    backend=Backend.NF_TABLES,
                    source=self.source,
                )
                for family in (4, 6)
            ),
            notes=tuple(dict.fromkeys(self.notes)),
            native_read=True,
        )

    def _take(self, name: str, value: Mapping[str, Json]) -> None:
        family = value["family"]
        if not isinstance(value.get("name", value.get("chain")), str):
            self.refuse(messages.NFT_NO_LISTING(problem=f"a {name} without a name"))
        if family in ELSEWHERE:
            self.notes.append(_NOT_ASKED[family])
            return
        if family not in FAMILIES:
            self.refuse(messages.NFT_NO_LISTING(problem=f"there is no family {family}"))
        if name == "table":
            key = (family, value["name"])
            if key in self.tables:
                self.refuse(messages.NFT_TWICE(what=f"table {family} {value['name']}"))
            flags = value.get("flags") or ()
            self.tables[key] = _Table(dormant=_is_dormant(flags) if self.tells_flags or not flags else None)
            return
        table = self.tables[family, value["table"]]
        if name == "chain":
            if value["name"] in table.chains:
                self.refuse(messages.NFT_TWICE(what=f"chain {value['name']} of table {value['table']}"))
            table.chains[value["name"]] = _chain(value)
        elif name == "rule":
            if value["chain"] not in table.chains:
                self.refuse(messages.NFT_NO_CHAIN(chain=value["chain"], table=value["table"]))
            if len(value["expr"]) > MOST_STATEMENTS:
                self.refuse(
                    messages.NFT_NO_LISTING(problem=f"a rule has more than {MOST_STATEMENTS} statements")
                )
            table.chains[value["chain"]].rules.append({**value, LINE: self.line})
            for updated in updated_sets(value["expr"]):
                table.sets.setdefault(updated, NamedSet()).dynamic = True
        elif name == "element":
            elements = value["elem"]
            own = table.sets.setdefault(value["name"], NamedSet())
            own.elements += elements if isinstance(elements, list) else [elements]
        elif name in _DECLARED:
            table.declared.append(declaration(name, value))
            if name in ("set", "map", "meter"):
                self._declare(table, value)
            elif name == "flowtable":
                self.notes.append(_FLOWTABLE)
        else:
            self.refuse(messages.NFT_NO_LISTING(problem=f"nft prints no {name}"))

    def _declare(self, table: _Table, value: Mapping[str, Json]) -> None:
        flags = value.get("flags") or ()
        dynamic = "dynamic" in flags or "stmt" in value
        elements = value.get("elem") or []
        own = table.sets.setdefault(value["name"], NamedSet())
        own.elements += elements if isinstance(elements, list) else [elements]
        own.dynamic = own.dynamic or dynamic

    def _table(self, family: str, name: str, own: _Table) -> Table:
        shown = name if family in ("ip", "ip6") else f"{family} {name}"
        statements = Statements(family, own.sets)
        chains = []
        for chain_name, chain in own.chains.items():
            rules = [
                self._rule(statements, shown, value, number) for number, value in enumerate(chain.rules, 1)
            ]
            chains.append(
                Chain(
                    name=chain_name,
                    rules=tuple(rules),
                    policy=chain.policy,
                    registered=chain.registered,
                    handle=chain.handle,
                )
            )
        table = Table(
            name=shown,
            chains=tuple(chains),
            nft_family=family,
            dormant=own.dormant,
            declarations=tuple(own.declared),
        )
        self._refuse_circles(table)
        return table

    def _rule(self, statements: Statements, table: str, value: Mapping[str, Json], number: int) -> Rule:
        self.line = value[LINE]
        self.at = f"rule {number} of chain {value['chain']} of table {table}"
        expressions = value["expr"]
        matches, target, text = statements.read(expressions)
        counter = next((each["counter"] for each in expressions if "counter" in each), None)
        counted = counter if isinstance(counter, dict) else {}
        comment = value.get("comment")
        if isinstance(comment, str):
            text += f" comment {quoted(comment)}"
        return Rule(
            chain=value["chain"],
            matches=matches,
            target=target,
            number=number,
            packets=counted.get("packets"),
            bytes=counted.get("bytes"),
            location=f"{self.source}:{self.line}" if self.source and self.line else "",
            nft=text,
            handle=value.get("handle"),
        )

    def _refuse_circles(self, table: Table) -> None:
        circle = first_circle({chain.name: chain for chain in table.chains})
        if circle is not None:
            (start, *_), _ = circle
            self.refuse(messages.NFT_CIRCLE(table=table.name, chains=" -> ".join(circle[0]), start=start))


def _is_dormant(flags: str | Sequence[str]) -> bool | None:
    """Whether these flags say so; None: they are none."""
    named = {flags} if isinstance(flags, str) else set(flags)
    if named <= {"dormant", "owner", "persist"}:
        return "dormant" in named
    return None


def _version_of(metainfo: Json) -> tuple[int, ...]:
    """The version of the nft that wrote JSON; an old one where it does not tell."""
    version = str(metainfo.get("version", "")) if isinstance(metainfo, dict) else ""
    return tuple(int(part) for part in re.findall(r"\d{1,9}", version)[:3])


def _chain(value: Mapping[str, Json]) -> _Chain:
    registered = None
    policy = None
    if "hook" in value:
        hook = value["hook"].upper()
        if hook not in HOOKS and hook not in AT_DEVICES:
            raise ValueError(hook)
        kind = value.get("type", "filter")
        if kind not in ("filter", "route", "nat"):
            raise ValueError(kind)
        devices = value.get("dev", value.get("devices", ()))
        devices = (devices,) if isinstance(devices, str) else tuple(devices)
        registered = Registration(hook, int(value["prio"]), kind, devices)
        policy = str(value.get("policy", "accept")).upper()
        if policy not in ("ACCEPT", "DROP"):
            raise ValueError(policy)
    return _Chain(registered, policy, value.get("handle"))


_NOT_ASKED = {
    "arp": "tables of family arp are not judged: they meet ARP, no IP packet",
    "bridge": "tables of family bridge are not judged: they meet frames between ports of a bridge",
}
_FLOWTABLE = "there is a flowtable: packets of established connections may pass by the rules"
