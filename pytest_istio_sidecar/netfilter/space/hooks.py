"""All packets' traversal of the hooks at once, from where they enter to where they leave.

Knows what the kernel does with packets between tables, as `trace/hooks` does for one packet; the order is
that of `netfilter/kernel/hooks`. Does not know what the answers are for. Invariant: at each point the
outcomes are those of `trace` for that packet, several where a condition is in doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce

from pytest_istio_sidecar.netfilter.diagram.diagram import Diagrams, Node
from pytest_istio_sidecar.netfilter.diagram.intervals import joined
from pytest_istio_sidecar.netfilter.kernel.actions import Action
from pytest_istio_sidecar.netfilter.kernel.hooks import (
    AT_DEVICES,
    FIRST,
    BaseChain,
    Leg,
    Legs,
    Moment,
    Order,
    UnreadChain,
    legs,
    unread_chains,
)
from pytest_istio_sidecar.netfilter.matches import FULL_MASK, asks_for_marks
from pytest_istio_sidecar.netfilter.packet import Fate, Host
from pytest_istio_sidecar.netfilter.relations import Relation
from pytest_istio_sidecar.netfilter.routes import LO, NOT_TOLD, NOWHERE, Hop
from pytest_istio_sidecar.netfilter.space.fields import Fields
from pytest_istio_sidecar.netfilter.space.match import Conditions
from pytest_istio_sidecar.netfilter.space.nat import Nat, Next, Outcome, Transit
from pytest_istio_sidecar.netfilter.space.packet_state import ENTERED, Bits, Skb
from pytest_istio_sidecar.netfilter.space.route import Lookup
from pytest_istio_sidecar.netfilter.space.table import CompiledRuleset, End
from pytest_istio_sidecar.netfilter.targets import Tproxy

LOST = "lo, to nobody"
"""The route of IPv6 that leaves by lo and is not local."""
_Legs = Legs[CompiledRuleset | UnreadChain]


class Traversal:
    """The outcomes of every packet that enters at a hook, for one order of base chains."""

    def __init__(
        self,
        chains: Iterable[tuple[BaseChain, CompiledRuleset | UnreadChain]],
        conditions: Conditions,
        state: str,
    ) -> None:
        self._fields = fields = conditions.fields
        self._diagrams = diagrams = conditions.diagrams
        self._routing = conditions.routing
        policy = self._routing.policy(fields.family)
        self._lookup = None if policy is None else Lookup(policy, conditions)
        self._state = state
        self._zones = any(isinstance(match, Relation) and match.key == "ct zone" for match in fields.matches)
        self._legs: _Legs = legs(
            (base, chain) for base, chain in chains if isinstance(chain, UnreadChain) or chain.acts(base)
        )
        settled = self._lookup is None and not any(_behind_nat(self._legs, fields.hook))
        self._nat = Nat(fields, diagrams, self._routing, settled=settled)
        self._known: dict[tuple[Leg, int, int, Transit], Node] = {}

    def outcomes(self) -> Node:
        """A diagram whose answers are `Outcome`s."""
        first = self._state == "NEW"
        skb = Skb(first=first, connmark=Bits(0, 0) if first else None)
        if self._fields.hook == "OUTPUT":
            skb = skb._replace(outgoing=ENTERED, has_socket=True)
            if self._lookup is not None:
                hops = self._lookup.hops(skb, of_socket=True)
                return self._diagrams.bind(hops, lambda hop: self._sent_by(hop, skb))  # type: ignore[arg-type]
        else:
            skb = skb._replace(incoming=ENTERED)
        return self._take(FIRST[self._fields.hook], Transit(skb))

    def _sent_by(self, hop: Hop, skb: Skb) -> Node:
        """Packets of processes that are routed there first; where no route leads, as if one did."""
        if hop == NOT_TOLD:
            return self._unknown()
        if hop == NOWHERE:
            return self._take(Leg.SEND, Transit(skb))
        transit = Transit(skb._replace(outgoing=hop.device), route=self._way(hop))
        return self._take(Leg.SEND, transit)

    def _route_again(self, transit: Transit, then: Next) -> Node:
        """After mangle has changed the mark, or nat the destination (net/ipv4/netfilter.c)."""
        assert self._lookup is not None  # noqa: S101

        def by(hop: Hop) -> Node:
            if hop == NOT_TOLD:
                return self._unknown()
            if hop == NOWHERE:
                return self._dropped(transit)
            return self._from_loopback(transit._replace(route=self._way(hop)), then)

        hops = self._lookup.hops(transit.skb, of_socket=self._fields.family == 6)
        return self._diagrams.bind(hops, by)  # type: ignore[arg-type]

    def _marked(self, before: Transit, after: Transit, then: Next) -> Node:
        """Behind a chain of type route: what has another mark by now is routed again."""
        was, mark = before.skb.mark, after.skb.mark
        if self._lookup is None or was == mark:
            return then(after)
        again = self._route_again(after, then)
        if was != Bits() or mark is None or mark.flip & mark.keep:
            return again
        same = self._nat.with_mark(mark.flip, mark.keep ^ FULL_MASK)
        return self._nat.split(same, then(after), again)

    def _take(self, leg: Leg, transit: Transit, position: int = 0, number: int = 0) -> Node:
        """Take packets along a leg and those that follow it, from a step on and one of its chains."""
        steps = self._legs[leg]
        while position < len(steps):
            step = steps[position]
            if isinstance(step, Moment):
                return _MOMENTS[step](self, transit, self._onward(leg, position + 1))
            if number < len(step) and (step[0][0].type != "nat" or transit.skb.state == "NEW"):
                key = (leg, position, number, transit)
                if key not in self._known:
                    self._known[key] = self._ask(leg, transit, position, number, *step[number])
                return self._known[key]
            position, number = position + 1, 0
        return self._diagrams.leaf(transit.ending(transit.outcome))

    def _onward(self, leg: Leg, position: int, number: int = 0) -> Next:
        return lambda transit: self._take(leg, transit, position, number)

    def track(self, transit: Transit, then: Next) -> Node:
        """Conntrack looks the packet up, unless raw told it not to."""
        skb = transit.skb
        if skb.state != "UNTRACKED":
            tracked = self._state not in ("INVALID", "UNTRACKED")
            skb = skb._replace(state=self._state, tracked=tracked, template=False)
        if not self._zones:
            skb = skb._replace(zone=0)
        return then(transit._replace(skb=skb))

    def reroute(self, transit: Transit, then: Next) -> Node:
        skb = transit.skb
        if isinstance(skb.destination, str):
            return then(transit)
        if self._lookup is not None:
            return self._route_again(transit, then)
        route = self._routing.out(self._nat.address(skb.destination))
        return self._from_loopback(transit._replace(route=route), then)

    def _from_loopback(self, transit: Transit, then: Next) -> Node:
        """No route leads from a loopback address to elsewhere."""
        skb = transit.skb
        onward = then(transit)
        known = transit.route not in (LO, LOST)
        if not known or self._fields.family == 6 or self._routing.takes_loopback(transit.route):
            return onward
        loopback = self._nat.among("source", skb.source, [(127 << 24, (128 << 24) - 1)])
        return self._nat.split(loopback, self._dropped(transit), onward)

    def leave(self, transit: Transit, then: Next) -> Node:
        if transit.route == LOST:
            return self._dropped(transit)
        skb = transit.skb
        if transit.route != ENTERED:
            skb = skb._replace(outgoing=transit.route)
        onward = then(transit._replace(skb=skb))
        if self._lookup is None or transit.route in (ENTERED, LO):
            return onward
        return self._nat.split(self._sent_home(transit), self._dropped(transit), onward)

    def _sent_home(self, transit: Transit) -> Node:
        """Which packets nat sent to this host itself."""
        fate = transit.outcome.fate
        if fate is not Fate.TRANSLATED:
            return self._diagrams.constant(fate is Fate.REDIRECTED)
        own = list(joined(self._fields.host.own_ranges(self._fields.family)))
        return self._nat.among("destination", transit.skb.destination, own)

    def loop_back(self, transit: Transit, then: Next) -> Node:
        skb = transit.skb
        if not self._legs[Leg.LOOP] or skb.outgoing not in (ENTERED, "lo"):
            return then(transit)
        back = transit._replace(skb=skb._replace(incoming="lo", outgoing="", has_socket=False))
        inside = self._take(Leg.LOOP, back)
        if skb.outgoing == "lo":
            return inside
        place = self._fields.interfaces.index("lo")
        by_lo = self._fields["interface"].intervals(self._diagrams, [(place, place)])
        return self._nat.split(by_lo, inside, then(transit))

    def deliver_or_forward(self, transit: Transit, _then: Next) -> Node:
        skb = transit.skb
        given = transit.handed_over and "DNAT" not in skb.translations
        if self._lookup is not None and not given:
            return self._nat.per_interface(skb, lambda name: self._deliver_or_forward_by(name, transit))
        if isinstance(skb.destination, str):
            # Nothing changed it: `space` asks about packets for this host.
            return self._take(Leg.DELIVER, transit)
        address = self._nat.address(skb.destination)
        if address.is_loopback:
            return self._nat.per_interface(skb, lambda name: self._to_loopback(name, transit))
        if self._routing.is_local(address) or given:
            return self._take(Leg.DELIVER, transit)
        if transit.handed_over:
            return self._dropped(transit)
        route = self._routing.out(address)
        return self._nat.per_interface(skb, lambda name: self._forward(name, route, transit))

    def _to_loopback(self, incoming: str, transit: Transit) -> Node:
        taken = self._fields.family == 4 and self._routing.takes_loopback(incoming)
        return self._take(Leg.DELIVER, transit) if taken else self._dropped(transit)

    def _deliver_or_forward_by(self, incoming: str, transit: Transit) -> Node:
        """Where somebody added rules or routes."""
        assert self._lookup is not None  # noqa: S101
        skb = transit.skb
        to_loopback = not isinstance(skb.destination, str) and self._nat.address(skb.destination).is_loopback
        if to_loopback and (self._fields.family == 6 or not self._routing.takes_loopback(incoming)):
            return self._dropped(transit)

        def by(hop: Hop) -> Node:
            if hop == NOT_TOLD:
                return self._unknown()
            if hop.kind == "local":
                return self._take(Leg.DELIVER, transit)
            if hop == NOWHERE or transit.handed_over or hop.device == LO:
                return self._dropped(transit)
            return self._forward(incoming, hop.device, transit)

        hops = self._lookup.hops(skb, of_socket=False, incoming=incoming)
        return self._diagrams.bind(hops, by)  # type: ignore[arg-type]

    def _forward(self, incoming: str, route: str, transit: Transit) -> Node:
        if not self._routing.forwards_from(incoming):
            return self._dropped(transit)
        skb = transit.skb._replace(outgoing=route)
        return self._take(Leg.FORWARD, transit._replace(skb=skb, route=route))

    def _way(self, hop: Hop) -> str:
        """The route of a process's packet (`trace/hooks`, `_discarded`)."""
        return LOST if hop == Hop(LO, "sent") and self._fields.family == 6 else hop.device

    def _unknown(self) -> Node:
        return self._diagrams.leaf(Outcome(Fate.UNKNOWN))

    def _dropped(self, transit: Transit) -> Node:
        return self._diagrams.leaf(transit.ending(Outcome(Fate.DROPPED)))

    def _ask(
        self,
        leg: Leg,
        transit: Transit,
        position: int,
        number: int,
        base: BaseChain,
        ruleset: CompiledRuleset | UnreadChain,
    ) -> Node:
        """Take packets through a base chain, and on from there."""
        following = self._onward(leg, position, number + 1)
        if isinstance(ruleset, UnreadChain):
            return following(transit._replace(unread=True))
        if base.hook not in AT_DEVICES:
            return self._through(base, ruleset, transit, following, self._onward(leg, position + 1))
        if not base.devices:
            return self._diagrams.leaf(Outcome(Fate.UNKNOWN))
        met = self._through(base, ruleset, transit, following, following)
        return self._nat.split(self._passes(base, transit.skb), met, following(transit))

    def _passes(self, base: BaseChain, skb: Skb) -> Node:
        """Which packets pass a device at which a chain hangs."""
        name = skb.incoming if base.hook == "INGRESS" else skb.outgoing
        if name != ENTERED:
            return self._diagrams.constant(name in base.devices)
        places = [(i, i) for i, name in enumerate(self._fields.interfaces) if name in base.devices]
        return self._fields["interface"].intervals(self._diagrams, joined(places))

    def _through(
        self, base: BaseChain, ruleset: CompiledRuleset, transit: Transit, following: Next, behind_nat: Next
    ) -> Node:

        def follow(end: End) -> Node:
            if end.action is Action.DROP:
                return self._dropped(transit)
            if end.action is Action.UNKNOWN:
                return self._diagrams.leaf(Outcome(Fate.UNKNOWN))
            socket = end.skb.socket
            if socket is None:
                return go_on(end, transit._replace(skb=end.skb))
            there = transit._replace(skb=end.skb._replace(socket=None))
            return self._nat.hand_over(socket, there, lambda after: go_on(end, after))

        def go_on(end: End, after: Transit) -> Node:
            match end.action:
                case Action.TPROXY:
                    assert isinstance(end.target, Tproxy)  # noqa: S101
                    return self._nat.hand_over(end.target, after, following)
                case Action.NAT:
                    return self._nat.translate(end.target, base.hook, after, behind_nat)
            return self._marked(transit, after, following) if base.type == "route" else following(after)

        return ruleset.traverse(base.table, base.name, transit.skb, follow)


_MOMENTS: dict[Moment, Callable[[Traversal, Transit, Next], Node]] = {
    Moment.TRACK: Traversal.track,
    Moment.REROUTE: Traversal.reroute,
    Moment.ROUTE: Traversal.deliver_or_forward,
    Moment.LEAVE: Traversal.leave,
    Moment.LOOP_BACK: Traversal.loop_back,
}


def _behind_nat(legs: _Legs, hook: str) -> Iterator[BaseChain]:
    """The base chains that packets can meet behind nat at the hook where they enter."""
    translated = False
    following = (Leg.LOOP,) if hook == "OUTPUT" else (Leg.DELIVER, Leg.FORWARD)
    for step in (step for leg in (FIRST[hook], *following) for step in legs[leg]):
        if isinstance(step, Moment) or all(isinstance(chain, UnreadChain) for _, chain in step):
            continue
        base = step[0][0]
        if translated:
            yield base
        translated = translated or (base.type == "nat" and base.hook == hook)


def outcomes(orders: Sequence[Order], fields: Fields, diagrams: Diagrams, state: str, host: Host) -> Node:
    """The outcomes of every packet of a host, for every order in which the kernel may ask the base chains.

    In doubt for all where there are too many orders to be tried.
    """
    if not orders:
        return diagrams.leaf(Outcome(Fate.UNKNOWN))
    conditions = Conditions(fields, diagrams, host)
    marks = any(map(asks_for_marks, fields.matches))
    rulesets = {id(ruleset): ruleset for order in orders for ruleset, _ in order.chains}
    compiled = {
        key: CompiledRuleset(ruleset, conditions, marks_matter=marks) for key, ruleset in rulesets.items()
    }
    nodes = (
        Traversal(
            [
                *((chain.base, chain) for chain in unread_chains(order.rulesets)),
                *((base, compiled[id(ruleset)]) for ruleset, base in order.chains),
            ],
            conditions,
            state,
        ).outcomes()
        for order in orders
    )
    return reduce(diagrams.union, nodes)
