"""Conditions of the extension modules that can be told from a first packet.

Knows conntrack, state, addrtype, iprange, icmp and comment. Every other module
(statistic, limit, recent, set, string, socket, time ...) depends on what no
listing and no packet shows. Invariant: an option that is not known makes the
condition None, never True.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from pytest_istio_sidecar.netfilter.matches import PROTOCOLS, Extension, Option
from pytest_istio_sidecar.netfilter.packet import IPAddress
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb, Test, Truth, both


def compile_extension(match: Extension) -> Test:
    """A function that tells whether an extension's condition holds."""
    compile_option = _MODULES.get(match.module)
    if compile_option is None:
        return _unknown
    tests = [_inverted(compile_option(option, match), option.negated) for option in match.options]
    if match.module in ("conntrack", "state"):
        return _conntrack(match, tests)

    def holds(skb: Skb) -> Truth:
        truth: Truth = True
        for test in tests:
            truth = both(truth, test(skb))
        return truth

    return holds


def _inverted(test: Test, negated: bool) -> Test:
    if not negated:
        return test

    def inverted(skb: Skb) -> Truth:
        truth = test(skb)
        return None if truth is None else not truth

    return inverted


def _always(_option: Option, _match: Extension) -> Test:
    return _true


def _true(_skb: Skb) -> Truth:
    return True


def _unknown(_skb: Skb) -> Truth:
    return None


def _conntrack(match: Extension, tests: list[Test]) -> Test:
    """net/netfilter/xt_conntrack.c: of a packet without connection only its state is asked."""
    of_state = [
        test
        for option, test in zip(match.options, tests, strict=True)
        if option.name in ("--ctstate", "--state")
    ]

    def holds(skb: Skb) -> Truth:
        if not skb.tracked and not of_state:
            return False
        truth: Truth = True
        for test in tests if skb.tracked else of_state:
            truth = both(truth, test(skb))
        return truth

    return holds


def _conntrack_option(option: Option, _match: Extension) -> Test:
    value = ",".join(option.values)
    match option.name:
        case "--ctstate" | "--state":
            states = frozenset(value.split(","))
            return lambda skb: skb.state in states or any(done in states for done in skb.translations)
        case "--ctproto":
            number = PROTOCOLS.get(value, int(value) if value.isdecimal() else -1)
            return lambda skb: skb.protocol == number
        case "--ctdir":
            return _of_first(lambda _: value == "ORIGINAL")
        case "--ctorigsrc" | "--ctorigdst":
            side = "source" if option.name == "--ctorigsrc" else "destination"
            try:
                network = ipaddress.ip_network(value, strict=False)
            except ValueError:
                return _unknown
            return _of_first(lambda skb: getattr(skb.packet, side) in network)
        case "--ctorigsrcport" | "--ctorigdstport":
            side = "source_port" if option.name == "--ctorigsrcport" else "destination_port"
            low, _, high = value.partition(":")
            if not low.isdecimal() or (high and not high.isdecimal()):
                return _unknown
            first, last = int(low), int(high or low)

            def port(skb: Skb) -> Truth:
                asked = getattr(skb.packet, side)
                return None if asked is None else first <= asked <= last

            return _of_first(port)
    return _unknown


def _of_first(test: Test) -> Test:
    """Of a later packet it is not known how the connection began."""
    return lambda skb: test(skb) if skb.first else None


def _addrtype_option(option: Option, match: Extension) -> Test:
    if option.name in ("--limit-iface-in", "--limit-iface-out"):
        return _true
    if option.name not in ("--src-type", "--dst-type"):
        return _unknown
    types = frozenset(",".join(option.values).split(","))
    limits = {other.name for other in match.options}
    source = option.name == "--src-type"

    def holds(skb: Skb) -> Truth:
        address: IPAddress | None = skb.destination_address
        if source:
            kind = ipaddress.IPv4Address if skb.family == 4 else ipaddress.IPv6Address
            address = None if skb.source is None else kind(skb.source)
        limit = None
        if "--limit-iface-in" in limits:
            limit = skb.incoming
        elif "--limit-iface-out" in limits:
            limit = skb.outgoing
        if address is None:
            return None
        kind_of = _is_type6 if skb.family == 6 else _is_type4
        return kind_of(skb, address, limit, types)

    return holds


def _is_type6(skb: Skb, address: IPAddress, limit: str | None, types: frozenset[str]) -> Truth:
    """Every kind asked for must hold, and local addresses are unicast too (net/netfilter/xt_addrtype.c)."""
    if "MULTICAST" in types and not address.is_multicast:
        return False
    if "UNICAST" in types and (address.is_multicast or address.is_unspecified):
        return False
    if "UNSPEC" in types and not address.is_unspecified:
        return False
    if "LOCAL" in types and skb.routing.policy(6) is not None:
        return None  # all rules and routes take part (nf_ip6_route)
    if "LOCAL" in types and _is_local(skb, address, limit):
        return True
    # The rest depends on the whole routing table.
    return None if types & {"ANYCAST", "UNREACHABLE"} else "LOCAL" not in types


def _is_type4(skb: Skb, address: IPAddress, limit: str | None, types: frozenset[str]) -> Truth:
    """What the table of local addresses says of it (inet_dev_addr_type, net/ipv4/fib_frontend.c)."""
    if skb.routing.is_broadcast(address):
        return "BROADCAST" in types
    if address.is_multicast:
        return "MULTICAST" in types
    policy = skb.routing.policy(4)
    if policy is not None:
        return policy.type_of(int(address), limit) in types
    return ("LOCAL" if _is_local(skb, address, limit) else "UNICAST") in types


def _is_local(skb: Skb, address: IPAddress, limit: str | None) -> bool:
    interface = skb.routing.interface_of(address)
    return interface is not None and limit in (None, interface)


def _iprange_option(option: Option, _match: Extension) -> Test:
    try:
        low, high = (int(ipaddress.ip_address(text)) for text in ",".join(option.values).split("-"))
    except ValueError:
        return _unknown
    if option.name == "--dst-range":
        return lambda skb: low <= skb.destination <= high
    if option.name == "--src-range":
        return lambda skb: None if skb.source is None else low <= skb.source <= high
    return _unknown


def _icmp_option(option: Option, match: Extension) -> Test:
    number = 1 if match.module == "icmp" else 58
    any_type = option.values in (("any",), ("255",))

    def holds(skb: Skb) -> Truth:
        if skb.protocol != number:
            return option.negated  # inverted again by the caller: never holds
        return True if any_type else None

    return holds


_MODULES: dict[str, Callable[[Option, Extension], Test]] = {
    "comment": _always,
    "conntrack": _conntrack_option,
    "state": _conntrack_option,
    "addrtype": _addrtype_option,
    "iprange": _iprange_option,
    "icmp": _icmp_option,
    "icmp6": _icmp_option,
}
