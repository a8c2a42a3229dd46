"""Whether a rule's condition holds for a packet: True, False, or None where that cannot be told.

Knows the packet as a hook sees it (`Skb`) and what each condition asks of it.
Does not know tables, targets or the order of hooks. Invariant: a condition
that is not modelled, or asks for what is not known, is None, never a guess.
Semantics: docs/semantics.md, 6 and 7.
"""

from __future__ import annotations

from typing import assert_never

from pytest_istio_sidecar.netfilter.matches import (
    PROTOCOLS,
    Address,
    AnyOf,
    Extension,
    Fragment,
    Hidden,
    Interface,
    Mark,
    Match,
    Multiport,
    Owner,
    Protocol,
    Range,
    TcpFlags,
    Transport,
)
from pytest_istio_sidecar.netfilter.relations import Interfaces, Relation, Unmodelled
from pytest_istio_sidecar.netfilter.trace.match_extensions import compile_extension
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb, Test, Truth, both
from pytest_istio_sidecar.netfilter.trace.relation import compile_interfaces, compile_relation

NUMBERS = {**PROTOCOLS, "dccp": 33}

_FAULTY_WRITERS = ("1.8.8", "1.8.9", "1.8.10")
"""iptables-nft that writes two inverted ports as one comparison (iptables c034cf31, fixed by 681935f6)."""


def compile_match(match: Match) -> Test:
    """A function that tells whether the condition holds for a packet at a hook."""
    match match:
        case Address():
            return _address(match)
        case Interface():
            return _interface(match)
        case Protocol(number=number, negated=negated):
            return lambda skb: (skb.protocol == number) is not negated
        case Fragment(negated=negated):
            # The first packet of a connection is whole, or its first fragment: -f means the further ones.
            return lambda _: negated
        case Transport():
            return _transport(match)
        case Multiport():
            return _multiport(match)
        case Owner():
            return _owner(match)
        case Mark():
            return _mark(match)
        case Extension():
            return compile_extension(match)
        case Hidden() | Unmodelled():
            return lambda _: None
        case Relation():
            return compile_relation(match)
        case Interfaces():
            return compile_interfaces(match)
        case AnyOf():
            return _any_of(match)
        case _:
            assert_never(match)


def written_faultily(match: Match, writer: str | None) -> bool:
    """Whether that version of iptables-nft may have stored another condition than this one."""
    return (
        writer in _FAULTY_WRITERS
        and isinstance(match, Transport)
        and match.source is not None
        and match.destination is not None
        and all(port.negated and port.low == port.high for port in (match.source, match.destination))
    )


def compile_faulty(match: Match) -> Test:
    """As `compile_match` where both readings of a faultily written condition agree, None elsewhere."""
    assert isinstance(match, Transport)  # noqa: S101 - `written_faultily` said so
    meant = compile_match(match)
    sport, dport = match.source, match.destination
    assert sport is not None  # noqa: S101
    assert dport is not None  # noqa: S101

    def holds(skb: Skb) -> Truth:
        if skb.protocol != NUMBERS.get(match.module):
            return False
        as_meant = meant(skb)
        if skb.source_port is None or skb.destination_port is None:
            return None
        as_held = not (skb.source_port == sport.low and skb.destination_port == dport.low)
        return as_meant if as_meant is as_held else None

    return holds


def why_unknown(match: Match, skb: Skb, *, faulty: bool = False) -> str:
    """The sentence that says why `match` could not be told for this packet."""
    match match:
        case _ if faulty:
            return (
                f"`{match}` was written by iptables-nft 1.8.8 to 1.8.10, which may have stored both inverted "
                "ports as one comparison: the kernel then lets through what only one of them excludes"
            )
        case Transport(tcp_option=Range()):
            return f"`{match}` asks for a TCP option, which the packet's description does not have"
        case Transport() | Multiport() if None in (skb.source_port, skb.destination_port):
            return f"`{match}` asks for a port that is not known"
        case Owner(supplementary_groups=True):
            return f"`{match}` asks for supplementary groups, which are not known"
        case Extension() | Unmodelled() | AnyOf():
            return f"whether `{match}` holds cannot be told from the packet and the rules"
        case _:
            return f"`{match}` asks for what is not known of the packet"


def _address(match: Address) -> Test:
    network, mask, negated = match.network, match.mask, match.negated
    if match.side == "source":

        def source(skb: Skb) -> Truth:
            if skb.source is None:
                return None
            return (skb.source & mask == network) is not negated

        return source
    return lambda skb: (skb.destination & mask == network) is not negated


def _interface(match: Interface) -> Test:
    name, negated = match.name, match.negated
    if name.endswith("+"):
        prefix = name[:-1]
        if match.direction == "in":
            return lambda skb: skb.incoming.startswith(prefix) is not negated
        return lambda skb: skb.outgoing.startswith(prefix) is not negated
    if match.direction == "in":
        return lambda skb: (skb.incoming == name) is not negated
    return lambda skb: (skb.outgoing == name) is not negated


def _within(port: int | None, ports: Range) -> Truth:
    if port is None:
        return None
    return (ports.low <= port <= ports.high) is not ports.negated


def _transport(match: Transport) -> Test:
    number = NUMBERS.get(match.module)
    source, destination, flags = match.source, match.destination, match.flags
    if flags is None and match.tcp_option is None and source is None and destination is not None:
        low, high, negated = destination.low, destination.high, destination.negated

        def port_of_destination(skb: Skb) -> Truth:
            if skb.protocol != number:
                return False
            port = skb.destination_port
            return None if port is None else (low <= port <= high) is not negated

        return port_of_destination

    def holds(skb: Skb) -> Truth:
        if skb.protocol != number:
            return False
        truth: Truth = True
        if source is not None:
            truth = _within(skb.source_port, source)
        if destination is not None:
            truth = both(truth, _within(skb.destination_port, destination))
        if flags is not None:
            truth = both(truth, _flags(flags, skb))
        return both(truth, None) if match.tcp_option is not None else truth

    return holds


def _flags(flags: TcpFlags, skb: Skb) -> Truth:
    """The first packet of a TCP connection is a bare SYN; what a later one carries is not known."""
    if not skb.first:
        return None
    return ({"SYN"}.intersection(flags.mask) == set(flags.set)) is not flags.negated


def _multiport(match: Multiport) -> Test:
    ranges, negated, side = match.ranges, match.negated, match.side

    def one_of(port: int | None) -> Truth:
        return None if port is None else any(low <= port <= high for low, high in ranges)

    def holds(skb: Skb) -> Truth:
        truth: Truth
        if side == "source":
            truth = one_of(skb.source_port)
        elif side == "destination":
            truth = one_of(skb.destination_port)
        else:
            either = (one_of(skb.source_port), one_of(skb.destination_port))
            truth = True if True in either else None if None in either else False
        return None if truth is None else truth is not negated

    return holds


def _any_of(match: AnyOf) -> Test:
    alternatives = [[compile_match(each) for each in alternative] for alternative in match.alternatives]
    negated = match.negated

    def holds(skb: Skb) -> Truth:
        any_holds: Truth = False
        for tests in alternatives:
            truth: Truth = True
            for test in tests:
                truth = both(truth, test(skb))
                if truth is False:
                    break
            if truth is True:
                return not negated
            if truth is None:
                any_holds = None
        return None if any_holds is None else negated

    return holds


def _owner(match: Owner) -> Test:
    """net/netfilter/xt_owner.c: without a socket every option holds that is inverted, and no other."""
    uid, gid, exists = match.uid, match.gid, match.socket_exists
    without_socket = exists is not True and all(option is None or option.negated for option in (uid, gid))

    def holds(skb: Skb) -> Truth:
        if not skb.has_socket:
            return without_socket
        if exists is False:
            return False
        truth: Truth = True
        if uid is not None:
            truth = _within(skb.uid, uid)
        if gid is not None:
            group = _within(skb.gid, gid)
            if match.supplementary_groups and group is gid.negated:
                group = None
            truth = both(truth, group)
        return truth

    return holds


def _mark(match: Mark) -> Test:
    value, mask, negated = match.value, match.mask, match.negated
    if match.module == "mark":

        def packet(skb: Skb) -> Truth:
            return None if skb.mark is None else (skb.mark & mask == value) is not negated

        return packet

    def connection(skb: Skb) -> Truth:
        if not skb.tracked:
            return False  # net/netfilter/xt_connmark.c: inverted or not
        if skb.connmark is None:
            return None
        return (skb.connmark & mask == value) is not negated

    return connection
