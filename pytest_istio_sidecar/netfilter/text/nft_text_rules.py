"""nft's statements, from the text that nft prints to their JSON.

Knows the words of each statement. Does not know expressions (`nft_text_expressions`), nor tables.
Invariant: what is not understood, with all that follows it in its rule, is one object {"nft": text}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_istio_sidecar.netfilter.text.nft_text_expressions import (
    OPERATORS,
    data,
    expression,
    values,
)
from pytest_istio_sidecar.netfilter.text.nft_tokens import NotUnderstood, Token, Words, text_of

Json = Any

_NAT_FLAGS = ("random", "fully-random", "persistent")
_RATE = re.compile(r"([0-9]{1,20})/([a-z]+)")
_PLACE = re.compile(r"(?:\[([^\]]*)\]|([^\[\]]*?))(?::([0-9a-z-]+))?")
_OF_BITS = (
    {"ct": {"key": "state"}},
    {"ct": {"key": "status"}},
    {"payload": {"protocol": "tcp", "field": "flags"}},
)
_UNITS = ("bytes", "kbytes", "mbytes", "gbytes", "packets")


def statements(tokens: Sequence[Token]) -> tuple[list[Json], str]:
    """A rule's statements, and its comment."""
    words = Words(tokens)
    made: list[Json] = []
    comment = ""
    while words.left:
        start = words.place
        try:
            if words.next == "comment":
                words.take()
                comment = words.word()
            else:
                made.append(_statement(words))
        except (NotUnderstood, RecursionError):
            made.append({"nft": text_of(tokens[start:])})
            break
    return made, comment


def _statement(words: Words) -> Json:
    word = words.next
    if word in ("ct", "tcp") and words.after_next in ("count", "helper", "timeout", "expectation"):
        return _of_connection(words)
    if word in _SETS:
        words.take()
        return {"set": _SETS[word](words)}
    read = _STATEMENTS.get(word)
    if read is None or (word == "limit" and words.after_next not in ("rate", "name")):
        return _match(words)
    words.take()
    return {word: read(words)}


def _match(words: Words) -> Json:
    left = expression(words)
    word = words.next
    if word == "vmap":
        words.take()
        return {"vmap": {"key": left, "data": data(words)}}
    if word == "set":
        words.take()
        return {"mangle": {"key": left, "value": _given(words)}}
    operator = words.word() if word in OPERATORS else "=="
    right = values(words)
    if words.takes("/"):
        return {"match": {"op": operator, "left": {"&": [left, values(words)]}, "right": right}}
    named = isinstance(right, str) and right.startswith("@")
    if word not in OPERATORS and left in _OF_BITS and not named and not _is_set(right):
        operator = "in"
    return {"match": {"op": operator, "left": left, "right": right}}


def _is_set(right: Json) -> bool:
    return isinstance(right, dict) and "set" in right


def _given(words: Words) -> Json:
    """What something is set to: an expression, or a value."""
    start = words.place
    try:
        return expression(words)
    except NotUnderstood:
        words.place = start
        return values(words)


def _of_connection(words: Words) -> Json:
    words.expect("ct")
    kind = words.word()
    if kind == "count":
        over = words.takes("over")
        return {"ct count": {"val": words.number(), **({"inv": True} if over else {})}}
    words.expect("set")
    return {f"ct {kind}": words.word()}


def _nothing(_words: Words) -> None:
    return None


def _chain(words: Words) -> Json:
    return {"target": words.word()}


def _counter(words: Words) -> Json:
    if words.takes("name"):
        return words.word()
    if not words.takes("packets"):
        return None
    packets = words.number()
    words.expect("bytes")
    return {"packets": packets, "bytes": words.number()}


def _log(words: Words) -> Json:
    given: dict[str, Json] = {}
    while words.next in ("prefix", "level", "group", "snaplen", "queue-threshold", "flags"):
        key = words.word()
        if key == "flags":
            flags = [words.word()]
            if flags[0] in ("tcp", "ip"):
                flags = [f"{flags[0]} {words.word()}"]
            while words.takes(","):
                flags.append(words.word())
            given[key] = flags if len(flags) > 1 else flags[0]
        else:
            given[key] = words.number() if key not in ("prefix", "level") else words.word()
    return given or None


def _limit(words: Words) -> Json:
    if words.takes("name"):
        return words.word()
    words.expect("rate")
    given: dict[str, Json] = {"inv": True} if words.takes("over") else {}
    text = words.word()
    rate = _RATE.fullmatch(text)
    if rate is not None:
        given |= {"rate": int(rate[1]), "per": rate[2]}
    elif text.isdecimal():
        unit, _, per = words.word().partition("/")
        given |= {"rate": int(text), "rate_unit": unit, "per": per}
    else:
        raise NotUnderstood(f"{text!r} is no rate")
    given["burst"] = 5
    if words.takes("burst"):
        given["burst"] = words.number()
        if words.next in _UNITS:
            unit = words.word()
            if unit != "packets":
                given["burst_unit"] = unit
    return given


def _quota(words: Words) -> Json:
    if words.takes("name"):
        return words.word()
    over = words.takes("over")
    words.takes("until")
    given = {"val": words.number(), "val_unit": words.word(), **({"inv": True} if over else {})}
    if words.takes("used"):
        given |= {"used": words.number(), "used_unit": words.word()}
    return given


def _reject(words: Words) -> Json:
    if not words.takes("with"):
        return None
    kind = words.word()
    if kind == "tcp":
        words.expect("reset")
        return {"type": "tcp reset"}
    words.takes("type")
    return {"type": kind, "expr": words.word()}


def _nat(words: Words) -> Json:
    given: dict[str, Json] = {}
    if words.next in ("ip", "ip6") and words.after_next in ("to", "prefix", "addr", "interval"):
        given["family"] = words.word()
    if words.takes("prefix"):
        given["type_flags"] = "prefix"
    elif words.takes("interval"):
        given["type_flags"] = "interval"
    elif words.takes("addr"):
        words.expect(".")
        words.expect("port")
    if words.takes("to"):
        given |= _place(words)
    flags = []
    while words.next in _NAT_FLAGS:
        flags.append(words.word())
        words.takes(",")
    if flags:
        given["flags"] = flags if len(flags) > 1 else flags[0]
    return given or None


def _place(words: Words) -> dict[str, Json]:
    """An address, a port or both, each plain, a range, or what a map has."""
    if words.next == ":" or (words.next.startswith(":") and not words.next.startswith("::")):
        text = words.word()[1:]
        return {"port": _port(text) if text and not _is_key(text) else _mapped(words, text)}
    start = words.place
    try:
        item = expression(words)
    except NotUnderstood:
        words.place = start
    else:
        return {"addr": item, **_port_behind(words)}
    text = words.word()
    # What is no whole address in brackets is one with colons of its own, or an IPv4 address and a port.
    placed = _PLACE.fullmatch(text) if text.count(":") < 2 or text.startswith("[") else None
    address, port = (placed[1] or placed[2], placed[3]) if placed is not None else (text, None)
    given: dict[str, Json] = {"addr": _span(address or "")}
    if port is not None:
        given["port"] = _port(port)
    return given | _port_behind(words)


def _port_behind(words: Words) -> dict[str, Json]:
    """A port that a map has, behind an address."""
    if not words.next.startswith(":") or words.next.startswith("::"):
        return {}
    text = words.word()[1:]
    return {"port": _port(text) if text and not _is_key(text) else _mapped(words, text)}


def _is_key(text: str) -> bool:
    return not text[:1].isdecimal()


def _mapped(words: Words, first: str) -> Json:
    """An expression whose first word stands behind a colon without a blank."""
    token = words.tokens[words.place - 1]
    inner = Words([Token("word", first, token.line), *words.tokens[words.place :]] if first else
                  words.tokens[words.place :])  # fmt: skip
    item = expression(inner)
    words.place += inner.place - (1 if first else 0)
    return item


def _span(text: str) -> Json:
    low, dash, high = text.partition("-")
    if dash:
        return {"range": [low.strip("[]"), high.strip("[]")]}
    address, slash, length = text.partition("/")
    if slash and length.isdecimal():
        return {"prefix": {"addr": address, "len": int(length)}}
    return text


def _port(text: str) -> Json:
    low, dash, high = text.partition("-")
    if low.isdecimal() and high.isdecimal():
        return {"range": [int(low), int(high)]}
    if text.isdecimal():
        return int(text)
    if dash:
        raise NotUnderstood(f"{text!r} is no port")
    return text


def _queue(words: Words) -> Json:
    given: dict[str, Json] = {}
    while words.next in ("num", "to", "flags", "bypass", "fanout"):
        word = words.word()
        if word in ("num", "to"):
            given["num"] = values(words)
        elif word == "flags":
            given["flags"] = [words.word()]
            while words.takes(","):
                given["flags"].append(words.word())
        else:
            given.setdefault("flags", []).append(word)
            words.takes(",")
    return given or None


def _dup(words: Words) -> Json:
    words.expect("to")
    given: dict[str, Json] = {"addr": values(words)}
    if words.takes("device"):
        given["dev"] = words.word()
    return given


def _fwd(words: Words) -> Json:
    if words.next in ("ip", "ip6"):
        words.take()
    words.expect("to")
    first = values(words)
    if words.takes("device"):
        return {"addr": first, "dev": words.word()}
    return {"dev": first}


def _set(operation: str) -> Callable[[Words], Json]:
    def read(words: Words) -> Json:
        name = words.word()
        if not name.startswith("@"):
            raise NotUnderstood(f"{name!r} is no set")
        words.expect("{")
        start = words.place
        depth = 1
        while depth:
            word = words.word()
            depth += (word == "{") - (word == "}")
        inner = words.tokens[start : words.place - 1]
        return {"op": operation, "set": name, "elem": text_of(inner)}

    return read


def _flow(words: Words) -> Json:
    return {"op": words.word(), "flowtable": words.word()}


def _synproxy(words: Words) -> Json:
    given: dict[str, Json] = {}
    while words.next in ("mss", "wscale", "timestamp", "sack-perm", "name"):
        word = words.word()
        given[word] = words.word() if word in ("mss", "wscale", "name") else True
    return given or None


def _xt(words: Words) -> Json:
    return {"type": words.word(), "name": words.word()}


def _last(words: Words) -> Json:
    if words.takes("used"):
        words.word()
    return None


_STATEMENTS: Mapping[str, Callable[[Words], Json]] = {
    **dict.fromkeys(("accept", "drop", "continue", "return", "notrack"), _nothing),
    "jump": _chain,
    "goto": _chain,
    "counter": _counter,
    "log": _log,
    "limit": _limit,
    "quota": _quota,
    "reject": _reject,
    **dict.fromkeys(("redirect", "dnat", "snat", "masquerade", "tproxy"), _nat),
    "queue": _queue,
    "dup": _dup,
    "fwd": _fwd,
    "flow": _flow,
    "synproxy": _synproxy,
    "xt": _xt,
    "last": _last,
}
_SETS = {name: _set(name) for name in ("add", "update", "delete")}
