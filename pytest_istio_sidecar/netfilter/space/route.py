"""Where policy rules and routes send all packets at once.

Knows how rules and tables become a diagram whose answers are `Hop`s, as `trace/route` looks up one packet.
Does not know when the kernel looks. Invariant: at every point the answers are those of `trace/route`.
"""

from __future__ import annotations

from pytest_istio_sidecar.netfilter.diagram.diagram import FALL, Node
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval
from pytest_istio_sidecar.netfilter.matches import Range
from pytest_istio_sidecar.netfilter.routes import LO, NOT_TOLD, NOWHERE, Hop, PolicyRule, RoutingPolicy
from pytest_istio_sidecar.netfilter.space.fields import FieldName
from pytest_istio_sidecar.netfilter.space.match import Conditions
from pytest_istio_sidecar.netfilter.space.packet_state import ENTERED, Skb


class Lookup:
    """The routing policy of one family, over the fields that packets enter with."""

    def __init__(self, policy: RoutingPolicy, conditions: Conditions) -> None:
        self._policy = policy
        self._conditions = conditions
        self._diagrams = conditions.diagrams
        self._fields = conditions.fields
        self._known: dict[tuple[object, ...], Node] = {}

    def hops(self, skb: Skb, *, of_socket: bool, incoming: str = LO) -> Node:
        """Where packets go on.

        Args:
            of_socket: whether the kernel asks for the user of the packet's socket.
            incoming: by which interface they came; lo: from a process of the host.
        """
        key = (
            skb.source,
            skb.source_port,
            skb.destination,
            skb.destination_port,
            skb.mark,
            of_socket,
            incoming,
        )
        if key not in self._known:
            self._known[key] = self._hops(skb, of_socket, incoming)
        return self._known[key]

    def _hops(self, skb: Skb, of_socket: bool, incoming: str) -> Node:
        asked = self._policy.asked
        onward = [self._diagrams.leaf(NOWHERE)] * (len(asked) + 1)
        for place in reversed(range(len(asked))):
            rule = asked[place]
            holds = self._holds(rule, skb, of_socket, incoming)
            if rule.action == "goto":
                done = onward[self._policy.place_of(rule, place + 1)]
            else:
                done = self._diagrams.first(self._followed(rule, skb), onward[place + 1])
            if rule.unknown:
                done = self._diagrams.leaf(NOT_TOLD)
            onward[place] = self._either(holds, done, onward[place + 1])
        return onward[0]

    def _followed(self, rule: PolicyRule, skb: Skb) -> Node:
        """What a rule's action comes to; it falls where it is on to the next rule."""
        if rule.action != "lookup":
            return self._diagrams.leaf(NOWHERE)
        node = self._diagrams.fall
        for route in reversed(self._policy.tables.get(rule.table, ())):
            hop: Hop | None = route.hop
            if rule.suppressed is not None and route.prefix <= rule.suppressed:
                hop = None
            here = self._diagrams.fall if hop is None else self._diagrams.leaf(hop)
            node = self._either(self._among("destination", skb.destination, [route.interval]), here, node)
        return node

    def _holds(self, rule: PolicyRule, skb: Skb, of_socket: bool, incoming: str) -> Node:
        diagrams = self._diagrams
        if rule.oif or (rule.iif and rule.iif != incoming):
            return diagrams.maybe if rule.unknown and rule.negated else diagrams.constant(rule.negated)
        node = diagrams.holds
        for address in rule.addresses:
            value = skb.source if address.side == "source" else skb.destination
            top = self._fields[address.side].top
            interval = (address.network, address.network | (address.mask ^ top))
            node = diagrams.when(self._among(address.side, value, [interval]), node)
        if rule.mark is not None:
            part = self._conditions.mark(rule.mark, skb)
            node = diagrams.when(part if isinstance(part, Node) else diagrams.box(part, diagrams.holds), node)
        if rule.uids is not None:
            node = diagrams.when(self._of_user(rule.uids, of_socket), node)
        if rule.protocol is not None:
            node = diagrams.when(self._among("protocol", ENTERED, [(rule.protocol, rule.protocol)]), node)
        for name, asked, port in (
            ("source_port", rule.source_ports, skb.source_port),
            ("destination_port", rule.destination_ports, skb.destination_port),
        ):
            if asked is not None:
                node = diagrams.when(self._among(name, port, [(asked.low, asked.high)]), node)  # type: ignore[arg-type]
        if rule.unknown:
            return diagrams.maybe if rule.negated else diagrams.when(node, diagrams.maybe)
        return diagrams.negate(node) if rule.negated else node

    def _of_user(self, asked: Range, of_socket: bool) -> Node:
        """By the socket's user; without one, and where the kernel asks for none, it is user 0."""
        root = self._diagrams.constant(asked.low == 0)
        if not of_socket:
            return root
        field = self._fields["uid"]
        users = field.intervals(self._diagrams, [(asked.low + 1, min(asked.high + 1, field.top))])
        none = field.intervals(self._diagrams, [(0, 0)])
        return self._either(none, root, users)

    def _among(self, name: FieldName, value: int | str | None, intervals: list[Interval]) -> Node:
        if value is None:
            return self._diagrams.maybe
        if isinstance(value, str):
            return self._fields[name].intervals(self._diagrams, intervals)
        return self._diagrams.constant(any(low <= value <= high for low, high in intervals))

    def _either(self, condition: Node, then: Node, otherwise: Node) -> Node:
        """`then` where the condition holds, also where it falls; else `otherwise`."""
        diagrams = self._diagrams
        there = diagrams.when(condition, diagrams.relabel(then, _kept))
        both = diagrams.first(there, otherwise)
        return diagrams.relabel(both, lambda answer: FALL if answer == _FELL else answer)


_FELL = "fell"


def _kept(answer: object) -> object:
    return _FELL if answer == FALL else answer
