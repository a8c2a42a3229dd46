"""What `ip rule show` and `ip route show table all` print, of one family.

Knows the words of ip-rule(8) and ip-route(8) as iproute2 and busybox print them. Does not know what the
kernel makes of them. Invariant: a word that is not known here makes its rule or route one that is not
modelled, and is never passed over.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.matches import FULL_MASK, PROTOCOLS, Address, Mark, Range, Side
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.netfilter.routes import LO, PolicyRule, Route, RoutingPolicy

_RULE = re.compile(r"(\d+):\s+(.*)")
_NEXT_HOP = "nexthop"
_TYPES = frozenset(
    {"unicast", "local", "broadcast", "multicast", "anycast", "throw", "blackhole", "unreachable", "prohibit"}
)
_TELLS_NOTHING = {
    # Words that change nothing about where a packet goes, with how many values each has.
    **dict.fromkeys(("proto", "protocol", "scope", "src", "pref", "realm", "realms", "mtu", "advmss"), 1),
    **dict.fromkeys(("expires", "error", "hoplimit", "initcwnd", "initrwnd", "rto_min", "congctl"), 1),
    **dict.fromkeys(("features", "quickack", "window", "rtt", "rttvar", "cwnd", "ssthresh", "nhid"), 1),
    **dict.fromkeys(("weight", "fastopen_no_cookie", "age", "users", "used"), 1),
    **dict.fromkeys(("onlink", "linkdown", "pervasive", "offload", "trap", "cache", "lock", "[detached]"), 0),
}
_Parse = Callable[[PolicyRule, str], PolicyRule]


def parse_routes(rules: str, routes: str, *, family: Family) -> RoutingPolicy:
    """Read both listings of one family.

    Raises:
        ParseError: a line is neither a rule nor a route.
    """
    return RoutingPolicy(
        family=family,
        rules=tuple(_rule(line, family) for line in rules.splitlines() if line.strip()),
        routes=tuple(_routes(routes, family)),
    )


def _rule(line: str, family: Family) -> PolicyRule:
    written = _RULE.fullmatch(line.strip())
    if written is None:
        raise ParseError(messages.NO_POLICY_RULE(line=line))
    text = f"{written[1]}: {' '.join(written[2].split())}"
    rule = PolicyRule(priority=int(written[1]), action="", text=text)
    words = written[2].split()
    unknown: list[str] = []
    while words:
        word = words.pop(0)
        if word == "not":
            rule = replace(rule, negated=True)
        elif word in ("from", "to") and words:
            rule = _selected(rule, word, words.pop(0), family, unknown)
        elif word in _SELECTORS and words:
            try:
                rule = _SELECTORS[word](rule, words.pop(0))
            except ValueError:
                unknown.append(word)
        elif word in ("blackhole", "unreachable", "prohibit", "nop"):
            rule = replace(rule, action=word)
        elif word not in ("[detached]", "[unresolved]"):
            if word in ("proto", "protocol", "realms") and words:
                words.pop(0)
            else:
                unknown.append(word)
    return replace(rule, unknown=" ".join(unknown) or ("" if rule.action else "no action"))


def _selected(rule: PolicyRule, word: str, value: str, family: Family, unknown: list[str]) -> PolicyRule:
    if value == "all":
        return rule
    side: Side = "source" if word == "from" else "destination"
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        unknown.append(f"{word} {value}")
        return rule
    address = Address(
        side=side, family=family, network=int(network.network_address), mask=int(network.netmask)
    )
    return replace(rule, addresses=(*rule.addresses, address))


def _marked(rule: PolicyRule, value: str) -> PolicyRule:
    mark, _, mask = value.partition("/")
    bits = int(mask, 0) if mask else FULL_MASK
    return replace(rule, mark=Mark(module="mark", value=int(mark, 0) & bits, mask=bits))


def _range(text: str) -> Range:
    low, _, high = text.partition("-")
    return Range(low=int(low), high=int(high or low))


def _protocol(text: str) -> int:
    return PROTOCOLS[text] if text in PROTOCOLS else int(text)


_SELECTORS: Mapping[str, _Parse] = {
    "fwmark": _marked,
    "iif": lambda rule, value: replace(rule, iif=value),
    "dev": lambda rule, value: replace(rule, iif=value),
    "oif": lambda rule, value: replace(rule, oif=value),
    "uidrange": lambda rule, value: replace(rule, uids=_range(value)),
    "ipproto": lambda rule, value: replace(rule, protocol=_protocol(value)),
    "sport": lambda rule, value: replace(rule, source_ports=_range(value)),
    "dport": lambda rule, value: replace(rule, destination_ports=_range(value)),
    "lookup": lambda rule, value: replace(rule, action="lookup", table=value),
    "table": lambda rule, value: replace(rule, action="lookup", table=value),
    "suppress_prefixlength": lambda rule, value: replace(rule, suppressed=int(value)),
    "goto": lambda rule, value: replace(rule, action="goto", goto=int(value)),
}


def _routes(text: str, family: Family) -> Iterator[Route]:
    lines = text.replace("\\", "\n").splitlines()
    place = 0
    while place < len(lines):
        line, hops = lines[place], []
        place += 1
        while place < len(lines) and lines[place].split()[:1] == [_NEXT_HOP]:
            hops.append(lines[place].split())
            place += 1
        if line.strip():
            route = _route(line, hops, family)
            if route is not None:
                yield route


def _route(line: str, hops: list[list[str]], family: Family) -> Route | None:
    words = line.split()
    kind = words.pop(0) if words[0] in _TYPES else "unicast"
    destination = words.pop(0) if words else ""
    everything = "0.0.0.0/0" if family == 4 else "::/0"
    try:
        network = ipaddress.ip_network(everything if destination == "default" else destination)
    except ValueError:
        raise ParseError(messages.NO_ROUTE(line=line)) from None
    if network.version != family:
        raise ParseError(messages.NO_ROUTE(line=line))
    if kind == "unicast" and network.network_address.is_multicast:
        kind = "multicast"  # kernels before 5.0 do not say so
    route = _read_hop(words)
    devices = {route["dev"]} if route["dev"] else set()
    for hop in hops:
        of_hop = _read_hop(hop[1:])
        route["unknown"] += of_hop["unknown"]
        if not of_hop["dead"]:
            devices.add(of_hop["dev"])
    if route["dead"] or (hops and not devices):
        return None  # no lookup takes it (net/ipv4/fib_trie.c, RTNH_F_DEAD)
    if len(devices) > 1:
        route["unknown"] += " several devices"
    elif kind == "unicast" and not devices:
        route["unknown"] += " no device"
    return Route(
        type=kind,
        network=int(network.network_address),
        prefix=network.prefixlen,
        family=family,
        device=LO if LO in devices else min(devices, default=""),
        table=route["table"] or "main",
        metric=int(route["metric"] or 0),
        text=" ".join([*line.split(), *(word for hop in hops for word in hop)]),
        unknown=route["unknown"].strip(),
    )


def _read_hop(words: list[str]) -> dict[str, str]:
    """The device, table and metric of a route or one of its hops; what is not known; if it is dead."""
    hop = dict.fromkeys(("dev", "table", "metric", "dead", "unknown"), "")
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("dev", "table", "metric") and rest:
            hop[word] = rest.pop(0)
        elif word == "via" and rest:
            rest[:] = rest[2:] if rest[0] in ("inet", "inet6") else rest[1:]
        elif word == "dead":
            hop["dead"] = word
        elif word in _TELLS_NOTHING:
            del rest[: _TELLS_NOTHING[word]]
        else:
            hop["unknown"] += f" {word}"
    if hop["metric"] and not hop["metric"].isdecimal():
        hop["unknown"] += f" metric {hop['metric']}"
        hop["metric"] = ""
    return hop
