"""All packets at once through the hooks, from where they enter to where they leave.

Knows the order in which the kernel asks tables at each hook, when it asks nat, and which packets come
back in through lo: the same order as `passage`, for every packet instead of one. Does not know what
the answers are for. Invariant: at each point the outcomes are those of `trace` for that packet, several
where a condition is in doubt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations

from pytest_istio_sidecar.netfilter.diagram.diagram import Diagrams, Node
from pytest_istio_sidecar.netfilter.matches import Mark
from pytest_istio_sidecar.netfilter.model import Ruleset
from pytest_istio_sidecar.netfilter.packet import Fate
from pytest_istio_sidecar.netfilter.space.fields import Fields
from pytest_istio_sidecar.netfilter.space.match import Conditions
from pytest_istio_sidecar.netfilter.space.nat import Destinations, Next, Outcome, Stand
from pytest_istio_sidecar.netfilter.space.packet_state import ENTERED, Bits, View
from pytest_istio_sidecar.netfilter.space.table import Chains, Kind, Way
from pytest_istio_sidecar.netfilter.targets import Tproxy

Table = tuple[str, str]

_OUT: tuple[Table, ...] = (("raw", "OUTPUT"),)
_OUT_TRACKED: tuple[Table, ...] = (("mangle", "OUTPUT"), ("nat", "OUTPUT"))
_OUT_ROUTED: tuple[Table, ...] = (("filter", "OUTPUT"), ("security", "OUTPUT"))
_LEAVE: tuple[Table, ...] = (("mangle", "POSTROUTING"), ("nat", "POSTROUTING"))
_LOOP: tuple[Table, ...] = (
    ("raw", "PREROUTING"),
    ("mangle", "PREROUTING"),
    ("mangle", "INPUT"),
    ("filter", "INPUT"),
    ("security", "INPUT"),
)
_IN: tuple[Table, ...] = (("raw", "PREROUTING"),)
_IN_TRACKED: tuple[Table, ...] = (("mangle", "PREROUTING"), ("nat", "PREROUTING"))
_DELIVER: tuple[Table, ...] = (
    ("mangle", "INPUT"),
    ("filter", "INPUT"),
    ("nat", "INPUT"),
    ("security", "INPUT"),
)
_FORWARD: tuple[Table, ...] = (("mangle", "FORWARD"), ("filter", "FORWARD"), ("security", "FORWARD"))
_AFTER_NAT = {
    "OUTPUT": (*_OUT_ROUTED, *_LEAVE, *_LOOP),
    "PREROUTING": (*_DELIVER, *_FORWARD, *_LEAVE),
}


class Journey:
    """The outcomes of every packet that enters at a hook, for rulesets in one order of back ends."""

    def __init__(self, rulesets: Sequence[Ruleset], fields: Fields, diagrams: Diagrams, state: str) -> None:
        self._fields = fields
        self._diagrams = diagrams
        self._conditions = Conditions(fields, diagrams)
        self._routing = self._conditions.routing
        self._state = state
        marks = any(isinstance(match, Mark) for match in fields.matches)
        self._order = [Chains(held, self._conditions, marks_matter=marks) for held in rulesets]
        decided = any(self._decides(table) for table in _AFTER_NAT[fields.hook])
        self._nat = Destinations(fields, diagrams, self._routing, settled=not decided)
        self._known: dict[tuple[tuple[Table, ...], int, Next, Stand], Node] = {}

    def outcomes(self) -> Node:
        """A diagram whose answers are `Outcome`s."""
        first = self._state == "NEW"
        view = View(first=first, connmark=Bits(0, 0) if first else None)
        if self._fields.hook == "OUTPUT":
            stand = Stand(view._replace(outgoing=ENTERED, has_socket=True))
            node = self._ask(_OUT, stand, self._tracked(self._send))
        else:
            stand = Stand(view._replace(incoming=ENTERED))
            node = self._ask(_IN, stand, self._tracked(self._receive))
        self._known.clear()  # its keys hold this journey, which would keep all diagrams
        return node

    def _tracked(self, then: Next) -> Next:
        """Conntrack looks the packet up, unless raw told it not to."""

        def track(stand: Stand) -> Node:
            view = stand.view
            if view.state != "UNTRACKED":
                tracked = self._state not in ("INVALID", "UNTRACKED")
                view = view._replace(state=self._state, tracked=tracked)
            return then(stand._replace(view=view))

        return track

    def _send(self, stand: Stand) -> Node:
        return self._ask(_OUT_TRACKED, stand, self._rerouted)

    def _rerouted(self, stand: Stand) -> Node:
        view = stand.view
        if isinstance(view.destination, str):
            return self._ask(_OUT_ROUTED, stand, self._leaving)
        route = self._routing.out(self._nat.address(view.destination))
        stand = stand._replace(route=route)
        onward = self._ask(_OUT_ROUTED, stand, self._leaving)
        if route == "lo" or self._fields.family == 6:
            return onward
        # No route from a loopback address to elsewhere.
        loopback = self._nat.among("source", view.source, [(127 << 24, (128 << 24) - 1)])
        return self._nat.split(loopback, self._dropped(), onward)

    def _leaving(self, stand: Stand) -> Node:
        if stand.route != ENTERED:
            stand = stand._replace(view=stand.view._replace(outgoing=stand.route))
        return self._ask(_LEAVE, stand, self._looped)

    def _looped(self, stand: Stand) -> Node:
        """Through lo the packet comes in with its connection: nat is not asked again."""
        if not any(self._decides(table) for table in _LOOP):
            return self._diagrams.leaf(stand.outcome)
        view = stand.view
        back = view._replace(incoming="lo", outgoing="", has_socket=False)
        if view.outgoing != ENTERED:
            if view.outgoing != "lo":
                return self._diagrams.leaf(stand.outcome)
            return self._ask(_LOOP, stand._replace(view=back), self._done)
        field = self._fields["interface"]
        place = self._fields.interfaces.index("lo")
        by_lo = field.intervals(self._diagrams, [(place, place)])
        inside = self._ask(_LOOP, stand._replace(view=back), self._done)
        return self._nat.split(by_lo, inside, self._diagrams.leaf(stand.outcome))

    def _receive(self, stand: Stand) -> Node:
        return self._ask(_IN_TRACKED, stand, self._routed)

    def _routed(self, stand: Stand) -> Node:
        view = stand.view
        if isinstance(view.destination, str):
            return self._delivered_or_forwarded(stand)
        address = self._nat.address(view.destination)
        if address.is_loopback:
            return self._dropped()
        if self._routing.is_local(address) or (stand.handed_over and "DNAT" not in view.translations):
            return self._ask(_DELIVER, stand, self._done)
        if stand.handed_over:
            return self._dropped()
        return self._forwarded(stand, self._routing.out(address))

    def _delivered_or_forwarded(self, stand: Stand) -> Node:
        """A packet whose destination nothing changed: `space` asks about those for this host."""
        if not any(self._decides(table) for table in (*_DELIVER, *_FORWARD, *_LEAVE)):
            return self._diagrams.leaf(stand.outcome)
        return self._ask(_DELIVER, stand, self._done)

    def _forwarded(self, stand: Stand, route: str) -> Node:
        def leave(held: Stand) -> Node:
            return self._ask(_LEAVE, held._replace(view=held.view._replace(incoming="")), self._done)

        return self._ask(_FORWARD, stand._replace(view=stand.view._replace(outgoing=route)), leave)

    def _done(self, stand: Stand) -> Node:
        return self._diagrams.leaf(stand.outcome)

    def _dropped(self) -> Node:
        return self._diagrams.leaf(Outcome(Fate.DROPPED))

    def _decides(self, table: Table) -> bool:
        return any(chains.decides(*table) for chains in self._order)

    def _ask(self, tables: tuple[Table, ...], stand: Stand, then: Next, back_end: int = 0) -> Node:
        """Take packets through tables in turn, each in every back end, and then on."""
        while tables:
            table = tables[0]
            asked = table[0] != "nat" or stand.view.state == "NEW"
            while asked and back_end < len(self._order):
                if self._order[back_end].decides(*table):
                    key = (tables, back_end, then, stand)
                    if key not in self._known:
                        self._known[key] = self._ask_one(tables, stand, then, back_end)
                    return self._known[key]
                back_end += 1
            tables, back_end = tables[1:], 0
        return then(stand)

    def _ask_one(self, tables: tuple[Table, ...], stand: Stand, then: Next, back_end: int) -> Node:
        table, hook = tables[0]

        def follow(answer: Way) -> Node:
            after = stand._replace(view=answer.view)
            match answer.kind:
                case Kind.DROP:
                    return self._dropped()
                case Kind.UNKNOWN:
                    return self._diagrams.leaf(Outcome(Fate.UNKNOWN))
                case Kind.TPROXY:
                    assert isinstance(answer.target, Tproxy)  # noqa: S101
                    return self._nat.hand_over(
                        answer.target, after, lambda held: self._ask(tables, held, then, back_end + 1)
                    )
                case Kind.NAT:
                    return self._nat.translate(
                        answer.target, hook, after, lambda held: self._ask(tables[1:], held, then)
                    )
            return self._ask(tables, after, then, back_end + 1)

        return self._order[back_end].builtin(table, hook, stand.view, follow)


def outcomes(
    rulesets: Sequence[Ruleset], fields: Fields, diagrams: Diagrams, *, order_known: bool, state: str = "NEW"
) -> Node:
    """The outcomes of every packet, for every order in which the kernel may ask the back ends."""
    orders: Iterable[Sequence[Ruleset]] = [rulesets]
    if len(rulesets) > 1 and not order_known:
        orders = permutations(rulesets)
    result: Node | None = None
    for order in orders:
        node = Journey(order, fields, diagrams, state).outcomes()
        result = node if result is None else diagrams.union(result, node)
    return result if result is not None else diagrams.leaf(Outcome(Fate.UNCHANGED))
