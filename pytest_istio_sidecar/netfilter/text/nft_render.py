"""Rulesets read from nft, written as nft writes them.

Knows declarations, and the layout of a file for `nft -f`. Does not know rules (`nft_words`). Invariant:
`parse_nftables` reads the text back to equal rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pytest_istio_sidecar.netfilter.model import Chain, PodRules, Ruleset, Table
from pytest_istio_sidecar.netfilter.text.nft_words import (
    NAMED,
    as_json,
    as_mark,
    as_name,
    as_time,
    braces,
    elem,
    expression,
    limit,
    quoted,
    values,
    verdict_or_value,
)

Json = Any


def declaration(kind: str, value: Mapping[str, Json]) -> str:
    """A set, a map or another object of a table, as nft prints it, on one line."""
    inside = []
    types = value.get("type")
    if kind in ("set", "map", "meter") and types is not None:
        keyed = " . ".join(types) if isinstance(types, list) else expression(types)
        word = "typeof" if "typeof" in value or isinstance(types, dict) else "type"
        mapped = f" : {value['map']}" if "map" in value else ""
        inside.append(f"{word} {keyed}{mapped}")
        inside += [f"{name} {value[name]}" for name in ("size",) if name in value]
        flags = value.get("flags") or ()
        if flags:
            inside.append(f"flags {flags if isinstance(flags, str) else ','.join(flags)}")
        if "timeout" in value:
            inside.append(f"timeout {as_time(value['timeout'])}")
        if value.get("elem"):
            inside.append(f"elements = {_elements(value)}")
    elif "body" in value:
        inside += [value["body"]] if kind != "counter" and value["body"] else []
    elif kind == "quota":
        inside.append(f"{'over ' if value.get('inv') else ''}{value.get('bytes', 0)} bytes")
    elif kind == "limit":
        inside.append(limit(value).removeprefix("limit "))
    elif kind != "counter":
        hidden = ("family", "table", "name", "handle")
        inside += [f"{key} {as_json(each)}" for key, each in value.items() if key not in hidden]
    return f"{kind} {value['name']} {{ {'; '.join(inside)}{'; ' if inside else ''}}}"


def _elements(value: Mapping[str, Json]) -> str:
    types = value["type"] if isinstance(value["type"], list) else [value["type"]]
    shows = [_SHOWN_AS.get(each) if isinstance(each, str) else None for each in types]
    mapped = _SHOWN_AS.get(str(value.get("map")))

    def one(item: Json) -> str:
        if isinstance(item, list) and len(item) == 2:
            return f"{one(item[0])} : {verdict_or_value(item[1], mapped)}"
        if isinstance(item, dict) and "elem" in item:
            return one(item["elem"]["val"]) + elem({**item["elem"], "val": ""}, None)
        if isinstance(item, dict) and "concat" in item:
            return values(item, shows)
        return expression(item, shows[0] if shows else None)

    return braces(value["elem"], one)


_SHOWN_AS: Mapping[str, Callable[[Json], str]] = {
    **dict.fromkeys(("mark", "meta mark", "ct mark"), as_mark),
    **dict.fromkeys(("ifname", "iface_index", *NAMED), as_name),
}


HEADER = "# Rules of pytest-istio-sidecar: nf_tables"
"""The first line of what is written here: behind it even nothing is a whole listing."""


def render_nft(rules: PodRules | Ruleset) -> str:
    """Text that `nft -f` loads and `parse_nftables` reads back; without counters' numbers."""
    rulesets = rules.rulesets if isinstance(rules, PodRules) else (rules,)
    tables: dict[tuple[str, str], Table] = {}
    for ruleset in rulesets:
        for table in ruleset.tables:
            tables.setdefault((table.nft_family, table.name), table)
    lines = (line for table in tables.values() for line in _table(table))
    return "".join(f"{line}\n" for line in (HEADER, *lines))


def _table(table: Table) -> Iterator[str]:
    yield f"table {table.nft_family} {table.name.removeprefix(f'{table.nft_family} ')} {{"
    if table.dormant:
        yield "\tflags dormant"
    for each in table.declarations:
        yield f"\t{each}"
    for chain in table.chains:
        yield from _chain(chain)
    yield "}"


def _chain(chain: Chain) -> Iterator[str]:
    yield f"\tchain {chain.name} {{"
    if chain.registered is not None:
        hook, priority, kind, devices = chain.registered
        named = [quoted(device) for device in devices]
        device = f" device {named[0]}" if len(named) == 1 else f" devices = {{ {', '.join(named)} }}"
        yield (
            f"\t\ttype {kind} hook {hook.lower()}{device if named else ''} priority {priority}; "
            f"policy {(chain.policy or 'ACCEPT').lower()};"
        )
    for rule in chain.rules:
        yield f"\t\t{rule.text}"
    yield "\t}"
