"""nft's expressions, from the text that nft prints to their JSON.

Knows primary expressions, what they are combined with, and values with sets and maps of them. Does not know
statements (`nft_text_rules`). Invariant: what is made is as libnftables-json(5) has it; words that are not
understood raise `NotUnderstood`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from pytest_istio_sidecar.netfilter.text.nft_tokens import NotUnderstood, Token, Words

Json = Any
DEEPEST = 8
"""Braces within braces, beyond which a text is not nft's."""

_META = frozenset(
    (
        "iif",
        "iifname",
        "iiftype",
        "iifgroup",
        "oif",
        "oifname",
        "oiftype",
        "oifgroup",
        "skuid",
        "skgid",
        "mark",
        "l4proto",
        "nfproto",
        "cgroup",
        "priority",
        "rtclassid",
        "nftrace",
        "pkttype",
        "cpu",
        "ibrname",
        "obrname",
        "ibriport",
        "obriport",
        "day",
        "hour",
        "time",
        "length",
        "protocol",
        "random",
        "secpath",
    )
)
_UNQUALIFIED = _META - {"length", "protocol", "priority", "random"}
HEADERS = frozenset(
    (
        "ether",
        "vlan",
        "arp",
        "ip",
        "ip6",
        "icmp",
        "icmpv6",
        "igmp",
        "tcp",
        "udp",
        "udplite",
        "sctp",
        "dccp",
        "th",
        "ah",
        "esp",
        "comp",
        "gre",
        "geneve",
        "vxlan",
    )
)
_EXTENSIONS = frozenset(("hbh", "rt0", "rt2", "srh", "frag", "dst", "mh"))
OPERATORS = frozenset(("==", "!=", "<", ">", "<=", ">=", "!"))
_BITS = frozenset(("&", "|", "^", "<<", ">>"))
_OPTIONAL_WORDS = {"and": "&", "or": "|", "xor": "^", "lshift": "<<", "rshift": ">>"}
_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,32}|[0-9]{1,20}")
_RAW = re.compile(r"@(ll|nh|th|ih),([0-9]+),([0-9]+)")
_FIB = frozenset(("saddr", "daddr", "mark", "iif", "oif"))
_VERDICTS = ("accept", "drop", "continue", "return")
_WITH_ELEMENT = frozenset(("limit", "quota", "ct", "counter", "last"))


def expression(words: Words) -> Json:
    """A primary expression, a concatenation of some, or one with bits changed."""
    parts = [_combined(words)]
    while words.next == ".":
        words.take()
        parts.append(_combined(words))
    whole = parts[0] if len(parts) == 1 else {"concat": parts}
    if words.next == "map":
        words.take()
        return {"map": {"key": whole, "data": data(words)}}
    return whole


def _combined(words: Words) -> Json:
    item = _primary(words)
    while (sign := _OPTIONAL_WORDS.get(words.next, words.next)) in _BITS:
        words.take()
        item = {sign: [item, _operand(words)]}
    return item


def _operand(words: Words) -> Json:
    """What bits are combined with: a number, an address, names of bits, another expression."""
    if words.takes("("):
        names = [value(words)]
        while words.takes("|") or words.takes(","):
            names.append(value(words))
        words.expect(")")
        return names
    if words.next in ("ct", "meta", "mark") or words.next in HEADERS:
        return _primary(words)
    return value(words)


def _primary(words: Words) -> Json:
    word = words.next
    if words.takes("("):
        inner = expression(words)
        words.expect(")")
        return inner
    if word == "meta":
        words.take()
        return {"meta": {"key": words.word()}}
    if word == "ct":
        return _ct(words)
    if word == "tcp" and words.after_next == "option":
        words.takes("tcp", "option")
        name = words.word()
        plain = not words.left or words.next in ("", *OPERATORS) or words.next in ("exists", "missing")
        return {"tcp option": {"name": name} if plain else {"name": name, "field": words.word()}}
    if word in HEADERS:
        words.take()
        return {"payload": {"protocol": word, "field": words.word()}}
    if word in _UNQUALIFIED:
        words.take()
        return {"meta": {"key": word}}
    if word == "fib":
        return _fib(words)
    if word in ("numgen", "jhash", "symhash"):
        return _generated(words)
    if word in ("socket", "rt", "osf", "exthdr") or word in _EXTENSIONS:
        return _of_two_words(words)
    raw = _RAW.fullmatch(word)
    if raw is not None:
        words.take()
        base, offset, length = raw.groups()
        return {"payload": {"base": base, "offset": int(offset), "len": int(length)}}
    raise NotUnderstood(f"{word!r} is no expression")


def _ct(words: Words) -> Json:
    words.expect("ct")
    given: dict[str, Json] = {}
    if words.next in ("original", "reply"):
        given["dir"] = words.word()
    key = words.word()
    if key in ("ip", "ip6"):
        key = f"{key} {words.word()}"
    return {"ct": {"key": key, **given}}


def _fib(words: Words) -> Json:
    words.expect("fib")
    flags = [words.word()]
    while words.takes("."):
        flags.append(words.word())
    if not _FIB.issuperset(flags):
        raise NotUnderstood("fib looks such a thing up by nothing")
    return {"fib": {"result": words.word(), "flags": flags}}


def _generated(words: Words) -> Json:
    name = words.word()
    given: dict[str, Json] = {}
    if name == "numgen":
        given["mode"] = words.word()
    elif name == "jhash":
        given["expr"] = expression(words)
    words.expect("mod")
    given["mod"] = words.number()
    while words.next in ("seed", "offset"):
        given[words.word()] = words.number()
    return {name: given}


def _of_two_words(words: Words) -> Json:
    name = words.word()
    if name in _EXTENSIONS:
        return {"exthdr": {"name": name, "field": words.word()}}
    key = words.word()
    if name == "rt" and key in ("ip", "ip6"):
        return {"rt": {"family": key, "key": words.word()}}
    if name == "socket" and words.takes("level"):
        return {"socket": {"key": key, "level": words.number()}}
    return {name: {"name" if name == "exthdr" else "key": key}}


def values(words: Words) -> Json:
    """What something is compared with: a set, a set's name, or a value."""
    if words.next == "{":
        return {"set": elements(words)}
    if words.next.startswith("@") and _RAW.fullmatch(words.next) is None:
        return words.word()
    return listed(words)


def listed(words: Words) -> Json:
    """A value, or several of which each is a bit."""
    first = _concatenated(words)
    some = [first]
    while words.next == ",":
        words.take()
        some.append(value(words))
    if len(some) > 1:
        return some
    while words.next == "|":
        words.take()
        some.append(value(words))
    return {"|": some} if len(some) > 1 else first


def _concatenated(words: Words) -> Json:
    parts = [value(words)]
    while words.next == ".":
        words.take()
        parts.append(value(words))
    return parts[0] if len(parts) == 1 else {"concat": parts}


def value(words: Words) -> Json:
    """One value: a number, an address, a prefix, a range or a name."""
    token = words.take()
    if token.kind == "quoted":
        return token.text
    text = token.text
    if text in ("exists", "missing"):
        return text == "exists"
    if token.kind != "word" or text in ("{", "}", "(", ")", ",", ";", ":") or text in OPERATORS:
        raise NotUnderstood(f"{text!r} is no value")
    return _valued(text)


def _valued(text: str) -> Json:
    if _NUMBER.fullmatch(text):
        return _int(text)
    low, dash, high = text.partition("-")
    if dash and low and high:
        if _NUMBER.fullmatch(low) and _NUMBER.fullmatch(high):
            return {"range": [_int(low), _int(high)]}
        if _is_address(low) and _is_address(high):
            return {"range": [low, high]}
    address, slash, length = text.partition("/")
    if slash and length.isdecimal() and _NUMBER.fullmatch(address):
        return {"prefix": {"addr": _int(address), "len": int(length)}}
    if slash and _is_address(address) and length.isdecimal():
        return {"prefix": {"addr": address, "len": int(length)}}
    return text


def _int(text: str) -> int:
    return int(text, 16 if text.startswith("0x") else 10)


def _is_address(text: str) -> bool:
    if text[:1] not in "0123456789abcdefABCDEF:":
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def data(words: Words) -> Json:
    """A map, or the name of one."""
    return {"set": elements(words)} if words.next == "{" else words.word()


def elements(words: Words, depth: int = 0) -> list[Json]:
    """The elements in braces, which may go over several lines."""
    words.expect("{")
    if depth > DEEPEST:
        raise NotUnderstood("braces in braces in braces")
    made: list[Json] = []
    while True:
        words.skip_ends()
        if words.takes("}"):
            return made
        made.append(_element(words))
        words.skip_ends()
        if not words.takes(","):
            words.expect("}")
            return made


def _element(words: Words) -> Json:
    key = _concatenated(words) if words.next != "*" else words.word()
    hung: dict[str, Json] = {}
    words.skip_ends()
    while words.next in ("timeout", "expires", "comment") or words.next in _WITH_ELEMENT:
        name = words.word()
        if name in ("timeout", "expires", "comment"):
            hung[name] = words.word()
        else:
            _pass_over(words)
            if name not in ("counter", "last"):
                hung["ct count" if name == "ct" else name] = {}
        words.skip_ends()
    if hung:
        key = {"elem": {"val": key, **hung}}
    if not words.takes(":"):
        return key
    words.skip_ends()
    return [key, _target(words)]


def _pass_over(words: Words) -> None:
    """Past the words of a statement that hangs at an element."""
    last: Token | None = None
    while words.left and words.next not in ("", ",", ":", "}", "timeout", "expires", "comment"):
        last = words.take()
    if last is None:
        raise NotUnderstood("a statement at an element has no words")


def _target(words: Words) -> Json:
    word = words.next
    if word in _VERDICTS:
        words.take()
        return {word: None}
    if word in ("jump", "goto"):
        words.take()
        return {word: {"target": words.word()}}
    return _concatenated(words)
