"""What a rule of nf_tables asks, as diagrams over the fields that packets enter with.

Knows which points satisfy a relation, of a packet as it has become by then (`Skb`). Does not know chains or
tables. Invariant: a condition holds, fails or stays in doubt at a point just as `trace/relation` says of that
packet; what is no value of one field asks that itself, once for each class.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytest_istio_sidecar.netfilter.diagram.diagram import Box, Diagrams, Node
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval, joined, outside
from pytest_istio_sidecar.netfilter.matches import FULL_MASK
from pytest_istio_sidecar.netfilter.relations import KEYS, WITH_PORTS, Interfaces, Relation
from pytest_istio_sidecar.netfilter.space.fields import NO_SOCKET, FieldName, Fields, masked_values
from pytest_istio_sidecar.netfilter.space.match_by_sampling import Sampling
from pytest_istio_sidecar.netfilter.space.packet_state import ENTERED, Bits, Skb
from pytest_istio_sidecar.netfilter.trace.relation import compile_relation

_PROTOCOLS = ("meta l4proto", "ip protocol", "ip6 nexthdr")


class Relations:
    """Turns conditions of nf_tables into boxes and diagrams over the fields of one hook."""

    def __init__(self, fields: Fields, diagrams: Diagrams, sampling: Sampling) -> None:
        self.fields = fields
        self.diagrams = diagrams
        self._sampling = sampling

    def relation(self, match: Relation, skb: Skb) -> Box | Node:
        """Where the relation holds."""
        key = match.key
        kind = KEYS[key]
        if kind.family not in (0, self.fields.family):
            return self.diagrams.fall
        if key in _PROTOCOLS:
            return self._within("protocol", match)
        if key.endswith(("sport", "dport")):
            return self._port(match, skb)
        if key in ("ip saddr", "ip6 saddr"):
            return self._address("source", skb.source, match)
        if key in ("ip daddr", "ip6 daddr"):
            return self._address("destination", skb.destination, match)
        if key in ("meta skuid", "meta skgid"):
            return self._owner("uid" if key == "meta skuid" else "gid", match, skb)
        if key == "meta mark":
            return self._mark(skb.mark, match)
        if key == "ct mark":
            return self._mark(skb.connmark, match) if skb.tracked else self.diagrams.fall
        return self._sampling.condition(compile_relation(match), match, skb)

    def interfaces(self, match: Interfaces, skb: Skb) -> Box | Node:
        """Where the packet's interface is one of these."""
        value = skb.incoming if match.direction == "in" else skb.outgoing
        if value != ENTERED:
            return self.diagrams.constant(match.mean(value))
        chosen = joined((i, i) for i, name in enumerate(self.fields.interfaces) if match.mean(name))
        return {self.fields["interface"].level: chosen} if chosen else self.diagrams.fall

    def _within(self, name: FieldName, match: Relation, shift: int = 0) -> Box | Node:
        """Values of a field on one level, which counts from `shift`."""
        field = self.fields[name]
        intervals = match.intervals
        if match.negated:
            intervals = outside(intervals, field.top - shift)
        if shift:
            moved = ((low + shift, min(high + shift, field.top)) for low, high in intervals)
            intervals = tuple((low, high) for low, high in moved if low <= high)
        if not intervals:
            return self.diagrams.fall
        return {field.level: intervals}

    def _port(self, match: Relation, skb: Skb) -> Box | Node:
        source = match.key.endswith("sport")
        name: FieldName = "source_port" if source else "destination_port"
        value = skb.source_port if source else skb.destination_port
        protocol = KEYS[match.key].protocol
        level = self.fields["protocol"].level
        of_protocol: Box = {level: ((protocol, protocol),)}
        if match.is_of_loading:
            return of_protocol if protocol else self.diagrams.holds
        part: Box | Node
        if value is None:
            part = self.diagrams.maybe
        elif isinstance(value, str):
            part = self._within(name, match)
        else:
            part = self.diagrams.constant(_has(match.intervals, value) is not match.negated)
        if protocol:
            if isinstance(part, dict):
                return {**part, **of_protocol}
            return self.diagrams.box(of_protocol, part) if part is not self.diagrams.fall else part
        ported = self.diagrams.box({level: joined((p, p) for p in WITH_PORTS)}, self.diagrams.holds)
        inside = self.diagrams.when(ported, self.node(part))
        # Of other protocols, it is whatever their header has there.
        return self.diagrams.first(
            inside, self.diagrams.when(self.diagrams.negate(ported), self.diagrams.maybe)
        )

    def _address(self, name: FieldName, value: int | str | None, match: Relation) -> Box | Node:
        if match.is_of_loading:
            return self.diagrams.holds
        if value is None:
            return self.diagrams.maybe
        if not isinstance(value, str):
            masked = value if match.mask is None else value & match.mask
            return self.diagrams.constant(_has(match.intervals, masked) is not match.negated)
        field = self.fields[name]
        if match.mask is None and not field.parts:
            return self._within(name, match)
        if match.mask is None:
            node = field.intervals(self.diagrams, match.intervals)
        else:
            node = self._any(field.masked(*pair) for pair in masked_values(match))
        return self.diagrams.negate(node) if match.negated else node

    def _owner(self, name: FieldName, match: Relation, skb: Skb) -> Box | Node:
        if not skb.has_socket:
            return self.diagrams.fall
        if not skb.owner_known:
            return self.diagrams.constant(True if match.is_of_loading else None)
        return self._within(name, match, NO_SOCKET + 1)

    def _mark(self, mark: Bits | None, match: Relation) -> Node:
        if match.is_of_loading:
            return self.diagrams.holds
        if mark is None:
            return self.diagrams.maybe
        fixed, boxes = False, []
        for value, mask in masked_values(match):
            wanted, free = value ^ (mark.flip & mask), mark.keep & mask
            if wanted & ~free & FULL_MASK:
                continue
            if not free:
                fixed = True
            else:
                boxes.append(self.fields["mark"].masked(wanted, free))
        node = self.diagrams.holds if fixed else self._any(boxes)
        return self.diagrams.negate(node) if match.negated else node

    def _any(self, boxes: Iterable[Box]) -> Node:
        return self.diagrams.chain([self.diagrams.box(box, self.diagrams.holds) for box in boxes])

    def node(self, part: Box | Node) -> Node:
        """A condition as a diagram."""
        return part if isinstance(part, Node) else self.diagrams.box(part, self.diagrams.holds)

    def any_of(self, alternatives: Iterable[Iterable[Box | Node]], *, negated: bool) -> Node:
        """Where all of one of these hold."""
        nodes = []
        for parts in alternatives:
            node = self.diagrams.holds
            for part in parts:
                node = self.diagrams.when(self.node(part), node)
            nodes.append(node)
        either = self.diagrams.chain(nodes)
        return self.diagrams.negate(either) if negated else either


def _has(intervals: Iterable[Interval], value: int) -> bool:
    return any(low <= value <= high for low, high in intervals)
