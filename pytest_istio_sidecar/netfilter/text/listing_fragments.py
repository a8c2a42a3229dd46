"""What `iptables -L` prints after the destination column, as matches.

Knows the text that each match prints there, with names and with numbers. Does not
know the columns before it (`parse_list`) nor what the target prints (`listing_targets`).
Invariant: a text that is not recognised whole, or that shows a name where a number
decides, becomes `Hidden` with that text; nothing is guessed and nothing is dropped.

Source: the `print` functions of iptables' extensions, as observed for 159 rules in
iptables 1.6.0 to 1.8.13.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network

from pytest_istio_sidecar.netfilter.matches import (
    FULL_MASK,
    Extension,
    Hidden,
    Mark,
    Match,
    Multiport,
    Option,
    Owner,
    Range,
    Side,
    TcpFlags,
    Transport,
)
from pytest_istio_sidecar.netfilter.text.refused import refuse

_FLAG_NAMES = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")
_MAX_PORT = 0xFFFF
_MAX_ID = 0xFFFFFFFF

Builder = Callable[[re.Match[str]], tuple[Match, ...] | None]


def parse_fragments(text: str) -> tuple[list[Match], str]:
    """Read matches from the left of a text that holds no comment.

    Returns:
        The matches, and the text from the first place where none is recognised.
    """
    matches: list[Match] = []
    position = 0
    while position < len(text):
        if text[position] == " ":
            position += 1
            continue
        for pattern, build in _PATTERNS:
            shown = pattern.match(text, position)
            read = build(shown) if shown else None
            if shown and read is not None:
                matches += read
                position = shown.end()
                break
        else:
            return matches, text[position:].rstrip(" ")
    return matches, ""


def options(text: str) -> tuple[Option, ...]:
    """Read `! --name value --name` as options; words before the first name are ignored."""
    read: list[Option] = []
    negated = False
    for word in text.split():
        if word == "!":
            negated = True
        elif word.startswith("--"):
            read.append(Option(name=word, negated=negated))
            negated = False
        elif read:
            read[-1] = replace(read[-1], values=(*read[-1].values, word))
    return tuple(read)


def _interval(text: str, separator: str, limit: int, negated: bool) -> Range | None:
    """A number or an interval of numbers; None where anything else stands."""
    words = text.split(separator)
    if len(words) > 2 or not all(re.fullmatch(r"[0-9]{1,10}", word) for word in words):
        return None
    low, high = int(words[0]), int(words[-1])
    return Range(low=low, high=high, negated=negated) if low <= high <= limit else None


def _transport(shown: re.Match[str]) -> tuple[Match, ...] | None:
    transport = Transport(module=shown[1])
    hidden: list[Match] = []
    for item in re.finditer(r"([sd]pts?:|option=|flags:)(!?)(\S+)", shown[2]):
        kind, negated, value = item[1], bool(item[2]), item[3]
        if kind == "flags:":
            flags = _tcp_flags(value, negated)
            if flags is None:
                return None
            transport = replace(transport, flags=flags)
            continue
        interval = _interval(value, ":", _MAX_PORT, negated)
        if kind == "option=":
            if interval is None:
                return None
            transport = replace(transport, tcp_option=interval)
        elif interval is None:
            field = "--sport" if kind[0] == "s" else "--dport"
            refuse(field, (value,))
            hidden.append(Hidden(field=field, shown=value, negated=negated))
        elif kind[0] == "s":
            transport = replace(transport, source=interval)
        else:
            transport = replace(transport, destination=interval)
    return (transport, *hidden)


def _tcp_flags(text: str, negated: bool) -> TcpFlags | None:
    parts: list[tuple[str, ...]] = []
    for word in text.split("/"):
        if re.fullmatch(r"0x[0-3][0-9A-Fa-f]", word):
            bits = int(word, 16)
            parts.append(tuple(name for bit, name in enumerate(_FLAG_NAMES) if bits >> bit & 1))
            continue
        names = [] if word == "NONE" else word.split(",")
        if not set(names) <= set(_FLAG_NAMES):
            return None
        parts.append(tuple(name for name in _FLAG_NAMES if name in names))
    return TcpFlags(mask=parts[0], set=parts[1], negated=negated) if len(parts) == 2 else None


def _multiport(shown: re.Match[str]) -> tuple[Match, ...]:
    kind, negated, value = shown[1], bool(shown[2]), shown[3]
    sides: dict[str, Side] = {"sports": "source", "dports": "destination"}
    intervals = [_interval(word, ":", _MAX_PORT, False) for word in value.split(",")]
    ranges = tuple((interval.low, interval.high) for interval in intervals if interval is not None)
    if len(ranges) < len(intervals):
        refuse(f"--{kind}", (value,))
        return (Hidden(field=f"--{kind}", shown=value, negated=negated),)
    return (Multiport(side=sides.get(kind, "either"), ranges=ranges, negated=negated),)


def _owner(shown: re.Match[str]) -> tuple[Match, ...]:
    """One match prints socket, user and group in this order; where it starts anew, another match begins."""
    owners: list[Owner] = []
    hidden: list[Match] = []
    last = "GID"
    for item in re.finditer(_OWNER_ITEM, shown[0]):
        negated, kind, value, groups = bool(item[1]), item[2] or "", item[3], bool(item[4])
        if _OWNER_ORDER.index(kind) <= _OWNER_ORDER.index(last):
            owners.append(Owner())
        last = kind
        if not kind:
            owners[-1] = replace(owners[-1], socket_exists=not negated)
            continue
        interval = _interval(value, "-", _MAX_ID, negated)
        if interval is None:
            refuse(f"--{kind.lower()}-owner", (value,))
            hidden.append(Hidden(field=f"--{kind.lower()}-owner", shown=value, negated=negated))
        elif kind == "UID":
            owners[-1] = replace(owners[-1], uid=interval)
        else:
            owners[-1] = replace(owners[-1], gid=interval)
        if groups:
            owners[-1] = replace(owners[-1], supplementary_groups=True)
    # An owner match whose ids are all names says nothing but what is hidden.
    return (*(owner for owner in owners if owner != Owner()), *hidden)


def _mark(shown: re.Match[str]) -> tuple[Match, ...]:
    mask = int(shown[4], 16) if shown[4] else FULL_MASK
    module = shown[1]
    return (
        Mark(
            module="mark" if module == "mark" else "connmark",
            value=int(shown[3], 16),
            mask=mask,
            negated=bool(shown[2]),
        ),
    )


def _conntrack(shown: re.Match[str]) -> tuple[Match, ...]:
    """Where an option stands again another match begins."""
    modules: list[dict[str, Option]] = [{}]
    hidden: list[Match] = []
    for item in re.finditer(_CONNTRACK_ITEM, shown[0]):
        negated, name, value = bool(item[1]), f"--{item[2]}", item[3]
        if re.fullmatch("--ct(?:orig|repl)(?:src|dst)", name) and not _is_network(value):
            hidden.append(Hidden(field=name, shown=value, negated=negated))
            continue
        if name in modules[-1]:
            modules.append({})
        modules[-1][name] = Option(name=name, values=(value,), negated=negated)
    read = (Extension(module="conntrack", options=tuple(words.values())) for words in modules if words)
    return (*read, *hidden)


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _icmp(shown: re.Match[str]) -> tuple[Match, ...]:
    """Types are names of iptables' own table or numbers; 255 of ICMPv4 is its word `any`."""
    version, negated, number, code, name = shown[1], bool(shown[2] or shown[3]), shown[4], shown[5], shown[6]
    module, option = ("icmp", "--icmp-type") if version == "icmp" else ("icmp6", "--icmpv6-type")
    if name == "any" or (module == "icmp" and number == "255" and code is None):
        value = "any"
    elif name:
        return (Hidden(field=option, shown=name, negated=negated),)
    else:
        value = number if code is None else f"{number}/{code}"
    return (Extension(module=module, options=(Option(name=option, values=(value,), negated=negated),)),)


def _addrtype(shown: re.Match[str]) -> tuple[Match, ...]:
    read = [
        Option(name=f"--{side}-type", values=(types,), negated=bool(negated))
        for side, negated, types in (("src", shown[1], shown[2]), ("dst", shown[3], shown[4]))
        if types
    ]
    if shown[5]:
        read.append(Option(name=f"--limit-iface-{shown[5]}"))
    return (Extension(module="addrtype", options=tuple(read)),)


def _nth(shown: re.Match[str]) -> tuple[Match, ...]:
    return (
        Extension(
            module="statistic",
            options=options(f"--mode nth {shown[1] or ''}--every {shown[2]} --packet {shown[3] or 0}"),
        ),
    )


def _limit(shown: re.Match[str]) -> tuple[Match, ...]:
    """A burst of 5 is the default, which iptables-save leaves out."""
    burst = "" if shown[2] == "5" else f" --limit-burst {shown[2]}"
    return (Extension(module="limit", options=options(f"--limit {shown[1]}{burst}")),)


def _ttl(shown: re.Match[str]) -> tuple[Match, ...]:
    option = {"==": "--ttl-eq", "!=": "! --ttl-eq", "<": "--ttl-lt", ">": "--ttl-gt"}[shown[1]]
    return (Extension(module="ttl", options=options(f"{option} {shown[2]}")),)


def _recent(shown: re.Match[str]) -> tuple[Match, ...]:
    verb = {"SET": "--set", "CHECK": "--rcheck", "UPDATE": "--update", "REMOVE": "--remove"}[shown[2]]
    words = [f"{shown[1] or ''}{verb}"]
    if shown[3]:
        words.append(f"--seconds {shown[3]}")
    if shown[4]:
        words.append("--reap")
    if shown[5]:
        words.append(f"--hitcount {shown[5]}")
    words.append(f"--name {shown[6]} --mask {shown[8]} --r{shown[7]}")
    return (Extension(module="recent", options=options(" ".join(words))),)


def _rpfilter(shown: re.Match[str]) -> tuple[Match, ...]:
    return (Extension(module="rpfilter", options=options(shown[1].replace(" ", " --"))),)


def _words(module: str, template: str) -> Builder:
    """A match whose listing holds the words of its options one by one."""
    return lambda shown: (Extension(module=module, options=options(shown.expand(template))),)


_OWNER_ITEM = r"(! )?owner (?:(UID|GID) match (\S+)( incl\. suppl\. groups)?|socket exists)"
_OWNER_ORDER = ("", "UID", "GID")
_CONNTRACK_ITEM = (
    r"(! )?\b(ctstate|ctstatus|ctproto|ctexpire|ctdir"
    r"|ct(?:orig|repl)(?:src|dst)(?:port)?) (\S+)"
)
_IPRANGE_ITEM = r"(source|destination) IP range +(! ?)?(\S+)"


def _iprange(shown: re.Match[str]) -> tuple[Match, ...]:
    sides = {"source": "--src-range", "destination": "--dst-range"}
    words = [f"{item[2] or ''} {sides[item[1]]} {item[3]}" for item in re.finditer(_IPRANGE_ITEM, shown[0])]
    return (Extension(module="iprange", options=options(" ".join(words))),)


def _repeated(item: str) -> str:
    return f"{item}(?: +{item})*"


_PATTERNS: list[tuple[re.Pattern[str], Builder]] = [
    (re.compile(rf"{pattern}(?= |$)"), build)
    for pattern, build in (
        (r"(tcp|udp|sctp|udplite|dccp)((?: (?:[sd]pts?:|option=|flags:)\S+)*)", _transport),
        (r"multiport (sports|dports|ports) +(!)?(\S+)", _multiport),
        (_repeated(_OWNER_ITEM), _owner),
        (r"(mark|connmark) match +(! )?(0x[0-9a-f]{1,8})(?:/(0x[0-9a-f]{1,8}))?", _mark),
        (_repeated(_CONNTRACK_ITEM), _conntrack),
        (r"(icmp|ipv6-icmp) ?(!)?(?:type (!)?(\d{1,3})(?: code (\d{1,3}))?|(\S+))", _icmp),
        (r"ADDRTYPE match(?: src-type (!?)(\S+))?(?: dst-type (!?)(\S+))?(?: limit-(in|out))?", _addrtype),
        (r"(! )?state (\S+)", _words("state", r"\1--state \2")),
        (r"(! )?match-set (\S+) (\S+)", _words("set", r"\1--match-set \2 \3")),
        (r"socket((?: --(?:transparent|nowildcard|restore-skmark))*)", _words("socket", r"\1")),
        (
            r"statistic mode random (! )?probability (\S+)",
            _words("statistic", r"--mode random \1--probability \2"),
        ),
        (r"statistic mode nth (! )?every (\d+)(?: packet (\d+))?", _nth),
        (r"limit: avg (\S+) burst (\d+)", _limit),
        (_repeated(_IPRANGE_ITEM), _iprange),
        (
            r"PHYSDEV match((?: (?:! )?--physdev-(?:is-\w+|(?:in|out) \S+))+)",
            _words("physdev", r"\1"),
        ),
        (r"PKTTYPE = (\S+)", _words("pkttype", r"--pkt-type \1")),
        (r"PKTTYPE != (\S+)", _words("pkttype", r"! --pkt-type \1")),
        (r"TTL match TTL (==|!=|<|>) (\d+)", _ttl),
        (r"length (\d+(?::\d+)?)", _words("length", r"--length \1")),
        (r"length !(\d+(?::\d+)?)", _words("length", r"! --length \1")),
        (r"cgroup (! )?(\d+)", _words("cgroup", r"\1--cgroup \2")),
        (r"rpfilter((?: (?:loose|validmark|accept-local|invert))*)", _rpfilter),
        (r"policy match dir (in|out) pol (none|ipsec)", _words("policy", r"--dir \1 --pol \2")),
        (
            (
                r"(! )?recent: (SET|CHECK|UPDATE|REMOVE)(?: seconds: (\d+))?( reap)?(?: hit_count: (\d+))?"
                r" name: (\S+) side: (source|dest) mask: (\S+)"
            ),
            _recent,
        ),
    )
]
