"""What a rule asks, as diagrams over the fields that packets enter with.

Knows which points satisfy a condition, of a packet as it has become by then (`Skb`). Does not know
chains or tables. Invariant: a condition holds, fails or stays in doubt at a point just as `trace/match`
says of that packet; conditions that are not plain intervals ask that itself, once for each class.
"""

from __future__ import annotations

from pytest_istio_sidecar.netfilter.diagram.diagram import Box, Diagrams, Node
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval, common, joined, outside
from pytest_istio_sidecar.netfilter.matches import (
    FULL_MASK,
    Address,
    AnyOf,
    Extension,
    Fragment,
    Interface,
    Mark,
    Match,
    Multiport,
    Owner,
    Protocol,
    Range,
    Transport,
)
from pytest_istio_sidecar.netfilter.model import Rule
from pytest_istio_sidecar.netfilter.namespace.routing import Routing
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.netfilter.relations import Interfaces, Relation
from pytest_istio_sidecar.netfilter.space.fields import NO_SOCKET, FieldName, Fields
from pytest_istio_sidecar.netfilter.space.match_by_sampling import Sampling
from pytest_istio_sidecar.netfilter.space.packet_state import ENTERED, Skb
from pytest_istio_sidecar.netfilter.space.relation import Relations
from pytest_istio_sidecar.netfilter.targets import Inner
from pytest_istio_sidecar.netfilter.trace.match import (
    NUMBERS,
    compile_faulty,
    compile_match,
    written_faultily,
)


class Conditions:
    """Turns conditions into boxes and diagrams over the fields of one hook."""

    def __init__(self, fields: Fields, diagrams: Diagrams, host: Host | None = None) -> None:
        self.fields = fields
        self.diagrams = diagrams
        self.routing = Routing(host or fields.host)
        self._sampling = Sampling(fields, diagrams, self.routing)
        self._relations = Relations(fields, diagrams, self._sampling)
        self._made: dict[tuple[Match, Skb, bool], Node] = {}

    def guard(self, rule: Rule | Inner, skb: Skb, inside: Node, writer: str | None = None) -> Node:
        """`inside` for the packets that meet every condition of the rule, undecided for others."""
        box: Box = {}
        rest: list[Node] = []
        for match in rule.matches:
            part = self._part(match, skb, writer)
            if isinstance(part, Node):
                if part is self.diagrams.fall:
                    return part
                if part is not self.diagrams.holds:
                    rest.append(part)
                continue
            for level, intervals in part.items():
                so_far = box.get(level, intervals)
                box[level] = intervals if so_far == intervals else common(so_far, intervals)
                if not box[level]:
                    return self.diagrams.fall
        for condition in rest:
            inside = self.diagrams.when(condition, inside)
        return self.diagrams.box(box, inside)

    def _part(self, match: Match, skb: Skb, writer: str | None) -> Box | Node:
        """A condition as a box where it is one, else as a diagram."""
        kind = type(match)
        if kind is Relation:
            return self._relations.relation(match, skb)  # type: ignore[arg-type]
        if kind is Interfaces:
            return self._relations.interfaces(match, skb)  # type: ignore[arg-type]
        if kind is AnyOf:
            return self._any_of(match, skb)  # type: ignore[arg-type]
        if kind is Protocol:
            return self._ranged("protocol", match.number, match.number, match.negated)  # type: ignore[union-attr]
        if kind is Address:
            return self._address(match, skb)  # type: ignore[arg-type]
        if kind is Transport and not written_faultily(match, writer):
            return self._transport(match, skb)  # type: ignore[arg-type]
        if kind is Interface:
            return self._interface(match, skb)  # type: ignore[arg-type]
        if kind is Owner:
            return self._owner(match, skb)  # type: ignore[arg-type]
        if kind is Mark:
            return self.mark(match, skb)  # type: ignore[arg-type]
        if kind is Fragment:
            return self.diagrams.constant(match.negated)  # type: ignore[union-attr]
        if kind is Multiport:
            return self._multiport(match, skb)  # type: ignore[arg-type]
        if kind is Extension and match.module == "comment":  # type: ignore[union-attr]
            return self.diagrams.holds
        if kind is Extension or kind is Transport:
            faulty = kind is Transport
            key = (match, skb, faulty)
            if key not in self._made:
                test = compile_faulty(match) if faulty else compile_match(match)
                self._made[key] = self._sampling.condition(test, match, skb)
            return self._made[key]
        return self.diagrams.maybe

    def _any_of(self, match: AnyOf, skb: Skb) -> Node:
        key = (match, skb, False)
        if key not in self._made:
            parts = ((self._part(each, skb, None) for each in each_of) for each_of in match.alternatives)
            self._made[key] = self._relations.any_of(parts, negated=match.negated)
        return self._made[key]

    def _ranged(self, name: FieldName, low: int, high: int, negated: bool = False) -> Box | Node:
        field = self.fields[name]
        intervals: tuple[Interval, ...] = ((low, high),)
        if negated:
            intervals = outside(intervals, field.top)
        return {field.level: intervals} if intervals else self.diagrams.fall

    def _address(self, match: Address, skb: Skb) -> Box | Node:
        if match.family != self.fields.family:
            return self.diagrams.fall
        value = skb.source if match.side == "source" else skb.destination
        if value is None:
            return self.diagrams.maybe
        if not isinstance(value, str):
            return self.diagrams.constant((value & match.mask == match.network) is not match.negated)
        field = self.fields[match.side]
        box = field.masked(match.network, match.mask)
        if not match.negated:
            return box
        if not field.parts:
            intervals = outside(box[field.level], field.top)
            return {field.level: intervals} if intervals else self.diagrams.fall
        return self.diagrams.negate(self.diagrams.box(box, self.diagrams.holds))

    def _interface(self, match: Interface, skb: Skb) -> Box | Node:
        value = skb.incoming if match.direction == "in" else skb.outgoing

        def means(name: str) -> bool:
            same = name.startswith(match.name[:-1]) if match.name.endswith("+") else name == match.name
            return same is not match.negated

        if value != ENTERED:
            return self.diagrams.constant(means(value))
        chosen = joined((i, i) for i, name in enumerate(self.fields.interfaces) if means(name))
        return {self.fields["interface"].level: chosen} if chosen else self.diagrams.fall

    def _port(self, name: FieldName, value: int | str | None, asked: Range) -> Box | Node:
        if value is None:
            return self.diagrams.maybe
        if isinstance(value, str):
            return self._ranged(name, asked.low, asked.high, asked.negated)
        return self.diagrams.constant((asked.low <= value <= asked.high) is not asked.negated)

    def _transport(self, match: Transport, skb: Skb) -> Box | Node:
        number = NUMBERS.get(match.module)
        if number is None:
            return self.diagrams.fall
        parts: list[Box | Node] = [{self.fields["protocol"].level: ((number, number),)}]
        if match.source is not None:
            parts.append(self._port("source_port", skb.source_port, match.source))
        if match.destination is not None:
            parts.append(self._port("destination_port", skb.destination_port, match.destination))
        if match.flags is not None or match.tcp_option is not None:
            flags = match.flags
            bare = flags is None or ({"SYN"} & set(flags.mask) == set(flags.set)) is not flags.negated
            parts.append(self.diagrams.constant(None if not skb.first else bare))
            if match.tcp_option is not None:
                parts.append(self.diagrams.maybe)
        box: Box = {}
        rest = []
        for part in parts:
            if isinstance(part, Node):
                rest.append(part)
            else:
                box.update(part)
        if not rest:
            return box
        node = self.diagrams.box(box, self.diagrams.holds)
        for part in rest:
            node = self.diagrams.when(part, node)
        return node

    def _multiport(self, match: Multiport, skb: Skb) -> Box | Node:
        sides: tuple[FieldName, ...] = ("source_port", "destination_port")
        if match.side != "either":
            sides = ("source_port",) if match.side == "source" else ("destination_port",)
        asked = joined(match.ranges)
        either = self.diagrams.fall
        for name in sides:
            port = skb.source_port if name == "source_port" else skb.destination_port
            if port is None:
                either = self._or(either, self.diagrams.maybe)
            elif isinstance(port, str):
                either = self._or(
                    either, self.diagrams.box({self.fields[name].level: asked}, self.diagrams.holds)
                )
            elif any(low <= port <= high for low, high in asked):
                either = self.diagrams.holds
        return self.diagrams.negate(either) if match.negated else either

    def _or(self, one: Node, other: Node) -> Node:
        both_fail = self.diagrams.when(self.diagrams.negate(one), self.diagrams.negate(other))
        return self.diagrams.negate(both_fail)

    def _owner(self, match: Owner, skb: Skb) -> Box | Node:
        """net/netfilter/xt_owner.c: without a socket every option holds that is inverted, and no other."""
        asked = [option for option in (match.uid, match.gid) if option is not None]
        without = match.socket_exists is not True and all(option.negated for option in asked)
        if not skb.has_socket:
            return self.diagrams.constant(without)
        if not skb.owner_known:
            return self.diagrams.maybe
        none: Box = {self.fields["uid"].level: ((NO_SOCKET, NO_SOCKET),)}
        some: Box = {self.fields["uid"].level: ((1, self.fields["uid"].top),)}
        if not match.supplementary_groups and match.socket_exists is None and asked:
            box: Box = {}
            for name, option in (("uid", match.uid), ("gid", match.gid)):
                if option is not None:
                    part = self._ranged(name, option.low + 1, min(option.high + 1, FULL_MASK), option.negated)  # type: ignore[arg-type]
                    if isinstance(part, Node):
                        return part
                    box.update(part)
            return box
        condition = self.diagrams.fall if match.socket_exists is False else self.diagrams.holds
        for name, option in (("uid", match.uid), ("gid", match.gid)):
            if option is None:
                continue
            part = self._ranged(name, option.low + 1, min(option.high + 1, FULL_MASK), option.negated)  # type: ignore[arg-type]
            asked_of = part if isinstance(part, Node) else self.diagrams.box(part, self.diagrams.holds)
            if name == "gid" and match.supplementary_groups:
                # Only the primary group is known: another one of the process may be the one asked for.
                if option.negated:
                    asked_of = self.diagrams.when(asked_of, self.diagrams.maybe)
                else:
                    asked_of = self.diagrams.first(asked_of, self.diagrams.maybe)
            condition = self.diagrams.when(asked_of, condition)
        with_socket = self.diagrams.when(self.diagrams.box(some, self.diagrams.holds), condition)
        if not without:
            return with_socket
        return self._or(self.diagrams.box(none, self.diagrams.holds), with_socket)

    def mark(self, match: Mark, skb: Skb) -> Box | Node:
        """A condition that asks for the packet's mark, or its connection's."""
        mark = skb.mark if match.module == "mark" else skb.connmark
        if match.module == "connmark" and not skb.tracked:
            return self.diagrams.fall
        if mark is None:
            return self.diagrams.maybe
        wanted = match.value ^ (mark.flip & match.mask)
        free = mark.keep & match.mask
        if wanted & ~free & FULL_MASK:
            return self.diagrams.constant(match.negated)
        if not free:
            return self.diagrams.constant(not match.negated)
        node = self.diagrams.box(self.fields["mark"].masked(wanted, free), self.diagrams.holds)
        return self.diagrams.negate(node) if match.negated else node
