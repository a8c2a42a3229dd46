"""Where policy rules and routes send one packet.

Knows what each selector of a rule asks, and how a table is looked up. Does not know when the kernel looks
(`trace/hooks`). Invariant: where rules ask for what is not known, the answer is one only if all answers are.

Source: net/core/fib_rules.c (fib_rules_lookup), net/ipv4/fib_rules.c, net/ipv4/fib_trie.c (fib_table_lookup).
"""

from __future__ import annotations

from typing import NamedTuple

from pytest_istio_sidecar.netfilter.matches import Range
from pytest_istio_sidecar.netfilter.routes import (
    LO,
    NOT_TOLD,
    NOWHERE,
    Hop,
    PolicyRule,
    Route,
    RoutingPolicy,
)
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb, Truth


class Flow(NamedTuple):
    """What is looked up.

    Attributes:
        source, destination: as numbers; None: not known.
        mark: None: not known.
        uid: of the socket; 0: without one, and wherever the kernel asks for none.
        incoming: the interface by which it came; lo: from a process of the host.
    """

    source: int | None
    destination: int
    mark: int | None
    uid: int
    protocol: int
    source_port: int | None
    destination_port: int | None
    incoming: str

    @classmethod
    def of(cls, skb: Skb, *, uid: int | None, incoming: str = LO) -> Flow:
        """A packet as it is by now."""
        return cls(
            source=skb.source,
            destination=skb.destination,
            mark=skb.mark,
            uid=uid or 0,
            protocol=skb.protocol,
            source_port=skb.source_port,
            destination_port=skb.destination_port,
            incoming=incoming,
        )


class Taken(NamedTuple):
    """Where a packet goes on, and what says so, as `ip` writes it."""

    hop: Hop
    why: str = "no route"
    usual: bool = True
    """Whether it is for all packets: no rule that somebody added was followed."""


def look_up(policy: RoutingPolicy, flow: Flow, start: int = 0) -> Taken:
    """Ask the rules from one on."""
    rules = policy.asked
    place = start
    while place < len(rules):
        rule = rules[place]
        holds = _holds(rule, flow)
        place += 1
        if holds is False:
            continue
        if rule.unknown:
            return Taken(NOT_TOLD, f"rule {rule.text}", usual=False)
        if rule.action == "goto":
            onward = look_up(policy, flow, policy.place_of(rule, place))
        else:
            found = _followed(policy, rule, flow)
            if found is None:
                continue
            onward = found
        if holds is None:
            otherwise = look_up(policy, flow, place)
            if otherwise.hop != onward.hop:
                return Taken(NOT_TOLD, f"rule {rule.text}", usual=False)
        return onward
    return Taken(NOWHERE)


def _followed(policy: RoutingPolicy, rule: PolicyRule, flow: Flow) -> Taken | None:
    """What a rule's action comes to; None: on to the next rule."""
    if rule.action != "lookup":
        return Taken(NOWHERE, f"rule {rule.text}", usual=False)
    for route in policy.tables.get(rule.table, ()):
        low, high = route.interval
        if low <= flow.destination <= high:
            hop = route.hop
            if hop is None or (rule.suppressed is not None and route.prefix <= rule.suppressed):
                return None
            return Taken(hop, _why(rule, route), usual=rule.is_for_all)
    return None


def _why(rule: PolicyRule, route: Route) -> str:
    return f"rule {rule.text}; route {route.text}"


def _holds(rule: PolicyRule, flow: Flow) -> Truth:
    truths: list[Truth] = [
        not rule.iif or rule.iif == flow.incoming,
        not rule.oif,  # a socket that is bound to a device keeps it (net/ipv4/route.c)
        _among(rule.uids, flow.uid),
        rule.protocol is None or rule.protocol == flow.protocol,
        _among(rule.source_ports, flow.source_port),
        _among(rule.destination_ports, flow.destination_port),
    ]
    for address in rule.addresses:
        value = flow.source if address.side == "source" else flow.destination
        truths.append(None if value is None else value & address.mask == address.network)
    if rule.mark is not None:
        truths.append(None if flow.mark is None else flow.mark & rule.mark.mask == rule.mark.value)
    if rule.unknown:
        return False if False in truths and not rule.negated else None
    if False in truths:
        return rule.negated
    return None if None in truths else not rule.negated


def _among(asked: Range | None, value: int | None) -> Truth:
    if asked is None:
        return True
    return None if value is None else asked.low <= value <= asked.high
