"""nft's expressions and statements, from their JSON to the text that nft prints.

Knows nft's words for what libnftables-json(5) names. Does not know what they mean. Invariant: what has no
words here is shown as its JSON; no text has the numbers of a counter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_istio_sidecar.netfilter.matches import FULL_MASK

Json = Any
"""A value of JSON."""
NOT_AS_DOCUMENTED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    StopIteration,
    TypeError,
    ValueError,
)
"""What reading JSON that is not as libnftables-json(5) has it may raise."""
Show = Callable[[Json], str]
"""How a value is written."""

_UNQUALIFIED = frozenset(
    ("iif", "iifname", "iiftype", "iifgroup", "oif", "oifname", "oiftype", "oifgroup", "skuid", "skgid")
)
"""Keys of `meta` that nft prints without that word."""
NAMED = frozenset(("iif", "iifname", "oif", "oifname"))
_BITS = ("&", "|", "^", "<<", ">>")


def quoted(text: str) -> str:
    """A string in quotes; nft has no way to write a quote in it."""
    return '"{}"'.format(text.replace('"', "'").replace("\n", " ").replace("\r", " "))


def statement(item: Json) -> str:
    """One statement of a rule."""
    if not isinstance(item, dict) or len(item) != 1:
        return as_json(item)
    ((name, value),) = item.items()
    write = _STATEMENTS.get(name)
    try:
        return as_json(item) if write is None else write(value)
    except NOT_AS_DOCUMENTED:
        return as_json(item)


def expression(item: Json, show: Show | None = None) -> str:
    """An expression. `show` writes the values of what it is compared with."""
    if isinstance(item, dict):
        if len(item) == 1:
            ((name, value),) = item.items()
            if name in _BITS:
                return f" {name} ".join(_operand(each, name, show) for each in value)
            write = _EXPRESSIONS.get(name)
            if write is not None:
                return write(value, show)
        return as_json(item)
    if isinstance(item, list):
        return ",".join(expression(each, show) for each in item)
    if show is not None:
        return show(item)
    return _plain(item)


def _operand(item: Json, operator: str, show: Show | None) -> str:
    text = expression(item, show)
    if isinstance(item, list) and len(item) > 1:
        return f"({' | '.join(expression(each, show) for each in item)})"
    inner = next(iter(item)) if isinstance(item, dict) and len(item) == 1 else ""
    return f"({text})" if inner in _BITS and inner != operator and operator in "&^" and inner == "|" else text


def _plain(item: Json) -> str:
    if item is True or item is False:
        return "exists" if item else "missing"
    return item if isinstance(item, str) else as_json(item)


def as_mark(item: Json) -> str:
    number = type(item) is int and 0 <= item <= FULL_MASK
    return f"0x{item:08x}" if number else _plain(item)


def as_name(item: Json) -> str:
    name = isinstance(item, str) and not item.startswith("@") and item != "*"
    return quoted(item) if name else _plain(item)


def as_json(item: Json) -> str:
    return json.dumps(item, ensure_ascii=False).replace("\n", " ").replace("\r", " ")


def show_for(left: Json) -> Show | None:
    """How the values are written that an expression is compared with."""
    if not isinstance(left, dict) or len(left) != 1:
        return None
    ((name, value),) = left.items()
    if name in _BITS:
        return show_for(value[0])
    key = value.get("key") if isinstance(value, dict) else value
    if name in ("meta", "ct") and key == "mark":
        return as_mark
    if name == "meta" and key in NAMED:
        return as_name
    return None


def _match(match: Mapping[str, Json]) -> str:
    left, right, operator = match["left"], match["right"], match.get("op", "==")
    show = show_for(left)
    if isinstance(left, dict) and "&" in left and operator in ("==", "!="):
        value, mask = left["&"]
        if isinstance(mask, list) and not isinstance(right, int):
            sign = "!= " if operator == "!=" else ""
            return f"{expression(value)} {sign}{expression(right)} / {expression(mask)}"
    masked = isinstance(left, dict) and next(iter(left)) in _BITS
    if isinstance(left, dict) and "concat" in left:
        shown = values(right, [show_for(each) for each in left["concat"]])
    else:
        shown = _bitmask(right, show) if operator == "!=" else expression(right, show)
    single = type(right) in (int, str) and _is_of_bits(left)
    if operator in ("==", "in") and not masked and not (operator == "==" and single):
        return f"{expression(left, show)} {shown}"
    return f"{expression(left, show)} {operator} {shown}"


def _is_of_bits(left: Json) -> bool:
    """Whether a single value without operator means that one of its bits is set."""
    return left in (
        {"ct": {"key": "state"}},
        {"ct": {"key": "status"}},
        {"payload": {"protocol": "tcp", "field": "flags"}},
    ) and isinstance(left, dict)


def _bitmask(right: Json, show: Show | None) -> str:
    return " | ".join(expression(each, show) for each in right) if isinstance(right, list) else expression(
        right, show
    )  # fmt: skip


def values(item: Json, shows: Sequence[Show | None]) -> str:
    """A set of concatenations, or one; each part is written as what it is compared with asks for."""
    if isinstance(item, dict) and "set" in item:
        return braces(item["set"], lambda each: values(each, shows))
    if isinstance(item, list) and len(item) == 2:
        return f"{values(item[0], shows)} : {verdict_or_value(item[1])}"
    if isinstance(item, dict) and "concat" in item:
        return " . ".join(expression(each, show) for each, show in zip(item["concat"], shows, strict=False))
    return expression(item)


def braces(items: Json, write: Callable[[Json], str]) -> str:
    items = items if isinstance(items, list) else [items]
    return f"{{ {', '.join(map(write, items))} }}"


def verdict_or_value(item: Json, show: Show | None = None) -> str:
    if isinstance(item, dict) and len(item) == 1 and next(iter(item)) in _VERDICTS:
        return statement(item)
    return expression(item, show)


def _map(value: Mapping[str, Json], shown: Show | None, word: str) -> str:
    key = value.get("key", value.get("left"))
    data = value.get("data", value.get("right"))
    many = isinstance(key, dict) and "concat" in key
    show = show_for(key)

    def pair(each: Json) -> str:
        if many or not (isinstance(each, list) and len(each) == 2):
            return values(each, [show_for(part) for part in key["concat"]] if many else [])
        return f"{expression(each[0], show)} : {verdict_or_value(each[1], shown)}"

    text = braces(data["set"], pair) if isinstance(data, dict) else expression(data)
    return f"{expression(key)} {word} {text}"


def _meta(value: Json, _show: object) -> str:
    key = value["key"] if isinstance(value, dict) else value
    return str(key) if key in _UNQUALIFIED else f"meta {key}"


def _payload(value: Mapping[str, Json], _show: object) -> str:
    if "base" in value:
        return f"@{value['base']},{value['offset']},{value['len']}"
    return f"{value.get('protocol', value.get('name'))} {value['field']}"


def _ct(value: Json, _show: object) -> str:
    if not isinstance(value, dict):
        return f"ct {value}"
    return " ".join(str(value[key]) for key in ("dir", "family", "key") if key in value).join(("ct ", ""))


def elem(value: Mapping[str, Json], show: Show | None) -> str:
    text = expression(value["val"], show)
    if "timeout" in value:
        text += f" timeout {as_time(value['timeout'])}"
    if "comment" in value:
        text += f" comment {quoted(str(value['comment']))}"
    return text


def as_time(value: Json) -> str:
    return f"{value}s" if type(value) is int else str(value)


def _fib(value: Mapping[str, Json], _show: object) -> str:
    flags = value["flags"] if isinstance(value["flags"], list) else [value["flags"]]
    return f"fib {' . '.join(map(str, flags))} {value['result']}"


def _words(name: str, *keys: str) -> Callable[[Any, object], str]:
    def write(value: Json, _show: object) -> str:
        if not isinstance(value, dict):
            return f"{name} {_plain(value)}" if value is not None else name
        return " ".join((name, *(_plain(value[key]) for key in keys if key in value)))

    return write


_EXPRESSIONS: Mapping[str, Callable[[Any, Any], str]] = {
    "meta": _meta,
    "payload": _payload,
    "ct": _ct,
    "fib": _fib,
    "elem": elem,
    "concat": lambda value, show: " . ".join(expression(each, show) for each in value),
    "set": lambda value, show: braces(value, lambda each: expression(each, show)),
    "prefix": lambda value, show: f"{expression(value['addr'], show)}/{value['len']}",
    "range": lambda value, show: "-".join(expression(each, show) for each in value),
    "map": lambda value, show: _map(value, show, "map"),
    "socket": _words("socket", "key"),
    "rt": _words("rt", "family", "key"),
    "exthdr": _words("exthdr", "name", "field"),
    "tcp option": _words("tcp option", "name", "field"),
    "jhash": lambda value, _: f"jhash {expression(value['expr'])} mod {value['mod']}",
    "symhash": lambda value, _: f"symhash mod {value['mod']}",
    "numgen": lambda value, _: (
        f"numgen {value['mode']} mod {value['mod']}"
        + (f" offset {value['offset']}" if value.get("offset") else "")
    ),
}


def _word(name: str) -> Callable[[Json], str]:
    return lambda _: name


def _target(name: str) -> Callable[[Json], str]:
    return lambda value: f"{name} {value['target'] if isinstance(value, dict) else value}"


def _of_nat(name: str) -> Callable[[Json], str]:
    def write(value: Json) -> str:
        if not value:
            return name
        words = [name, *([value["family"]] if "family" in value else [])]
        if "prefix" in _listed(value.get("type_flags")):
            words.append("prefix")
        to = ""
        if "addr" in value:
            to = expression(value["addr"])
            if ":" in to and "port" in value and isinstance(value["addr"], str):
                to = f"[{to}]"
        if "port" in value:
            to += f":{expression(value['port'])}"
        if to:
            words += ["to", to]
        flags = [flag for flag in _listed(value.get("flags")) if flag != "netmap"]
        return " ".join([*words, *([",".join(flags)] if flags else [])])

    return write


def _listed(value: Json) -> list[str]:
    return [] if value is None else [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _mangle(value: Mapping[str, Json]) -> str:
    return f"{expression(value['key'])} set {expression(value['value'], show_for(value['key']))}"


def limit(value: Json) -> str:
    if not isinstance(value, dict):
        return f"limit name {quoted(str(value))}"
    over = "over " if value.get("inv") else ""
    unit = f" {value['rate_unit']}" if value.get("rate_unit", "packets") != "packets" else ""
    text = f"limit rate {over}{value['rate']}{unit}/{value.get('per', 'second')}"
    if value.get("burst", 5) != 5 or unit:
        text += f" burst {value.get('burst', 0)} {value.get('burst_unit', 'packets')}"
    return text


def _quota(value: Json) -> str:
    if not isinstance(value, dict):
        return f"quota name {quoted(str(value))}"
    return f"quota {'over ' if value.get('inv') else ''}{value['val']} {value.get('val_unit', 'bytes')}"


def _log(value: Json) -> str:
    words = ["log"]
    for key, each in (value or {}).items():
        words += [key, quoted(each) if key == "prefix" else ",".join(_listed(each))]
    return " ".join(words)


def _reject(value: Json) -> str:
    if not value:
        return "reject"
    return f"reject with {value['type']}" + (f" {value['expr']}" if "expr" in value else "")


def _set_statement(value: Mapping[str, Json]) -> str:
    inside = [expression(value["elem"]), *map(statement, value.get("stmt", ()))]
    return f"{value['op']} {value['set']} {{ {' '.join(inside)} }}"


def _queue(value: Json) -> str:
    words = ["queue"]
    flags = _listed((value or {}).get("flags"))
    if flags:
        words.append(f"flags {','.join(flags)}")
    if value and "num" in value:
        words.append(f"to {expression(value['num'])}")
    return " ".join(words)


def _xt(value: Json) -> str:
    return "xt" if not value else f"xt {value['type']} {quoted(str(value['name']))}"


def _count(value: Json) -> str:
    return "counter" if not isinstance(value, str) else f"counter name {quoted(value)}"


_VERDICTS = ("accept", "drop", "continue", "return", "jump", "goto")
_STATEMENTS: Mapping[str, Callable[[Any], str]] = {
    "match": _match,
    "counter": _count,
    **{name: _word(name) for name in ("accept", "drop", "continue", "return", "notrack")},
    "jump": _target("jump"),
    "goto": _target("goto"),
    "vmap": lambda value: _map(value, None, "vmap"),
    "mangle": _mangle,
    **{name: _of_nat(name) for name in ("redirect", "dnat", "snat", "masquerade", "tproxy")},
    "limit": limit,
    "quota": _quota,
    "log": _log,
    "reject": _reject,
    "queue": _queue,
    "set": _set_statement,
    "xt": _xt,
    "nft": str,
    "ct count": lambda value: f"ct count {'over ' if value.get('inv') else ''}{value['val']}",
    "ct helper": lambda value: f"ct helper set {quoted(str(value))}",
    "dup": lambda value: (
        f"dup to {expression(value['addr'])}"
        + (f" device {quoted(str(value['dev']))}" if "dev" in value else "")
    ),
    "fwd": lambda value: (
        "fwd to "
        + (expression(value["addr"]) + " device " if "addr" in value else "")
        + quoted(str(value["dev"]))
    ),
    "flow": lambda value: f"flow {value['op']} {value['flowtable']}",
}
