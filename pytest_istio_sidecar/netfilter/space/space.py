"""All packets that may enter at a hook, in classes with one fate each. Exact.

Knows which packets a host can see, and how to split them by what becomes of them. Does not know
Istio. Invariant: the regions of a space are disjoint and cover every packet that the host can see,
each with a witness whose `trace` has the region's fate.

Clauses: docs/semantics.md. Which packets a host can see: RFC 1122 3.2.1.3 and net/ipv4/route.c.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.diagram.diagram import Diagrams, Node
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval, common, joined, outside
from pytest_istio_sidecar.netfilter.diagram.memory import deep_calls, no_collection
from pytest_istio_sidecar.netfilter.kernel.hooks import may_route_by_unread, orders
from pytest_istio_sidecar.netfilter.model import Family, Rule, Rules, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Fate, Hook, Host, IPAddress, Packet
from pytest_istio_sidecar.netfilter.routes import Hop
from pytest_istio_sidecar.netfilter.space.cubes import Cube, cubes_of
from pytest_istio_sidecar.netfilter.space.fields import NO_SOCKET, FieldName, Fields
from pytest_istio_sidecar.netfilter.space.hooks import outcomes
from pytest_istio_sidecar.netfilter.space.match import Conditions
from pytest_istio_sidecar.netfilter.space.nat import OWN, Outcome
from pytest_istio_sidecar.netfilter.space.packet_state import ENTERED, Skb
from pytest_istio_sidecar.netfilter.space.route import Lookup

CLASSES = 20_000
"""Classes of packets that are told apart; more are of use to nobody."""
IMPOSSIBLE = "impossible"
"""The answer for packets that the host cannot see."""


class Space:
    """Every packet of a family that may enter at one hook, as it meets one or more sets of rules.

    Args:
        rules: what packets meet; all of them share the fields, so that their outcomes can be compared.
        state: conntrack's state of the packets.
        fields: those of cubes at hand; None: as the rules ask for.
        meant: which of `rules` packets meet as if they went where the host's addresses tell.
    """

    def __init__(
        self,
        rules: Sequence[Rules],
        hook: Hook,
        *,
        host: Host | None,
        family: Family,
        state: str = "NEW",
        fields: Fields | None = None,
        meant: Collection[int] = (),
    ) -> None:
        self.rules = tuple(rules)
        self.hook = hook
        self.host = host or Host()
        self.family: Family = family
        self._meant = frozenset(meant)
        self._state = state
        rulesets = [ruleset for each in rules for ruleset in rulesets_of(each, family)]
        self.fields = fields or Fields(rulesets, hook, self.host, family)
        self.diagrams = Diagrams(self.fields.tops, _beyond)

    def outcomes(self, which: int = 0) -> Node:
        """What becomes of every packet under one of the sets of rules: answers are `Outcome`s."""
        host = self.host.meant if which in self._meant else self.host
        possible = orders(self.rules[which], self.family, self.hook)
        read = possible[0].rulesets if possible else ()
        if not read or may_route_by_unread(read, host.policies.get(self.family)):
            return self.diagrams.leaf(Outcome(Fate.UNKNOWN))
        try:
            with no_collection(), deep_calls():
                node = outcomes(possible, self.fields, self.diagrams, self._state, host)
        except RecursionError:
            raise _beyond(self.diagrams.at) from None
        self.diagrams.at = None
        return node

    @cached_property
    def possible(self) -> Node:
        """Where the host can see such a packet."""
        return _inbound(self) if self.hook == "PREROUTING" else _outbound(self)

    @property
    def own_ranges(self) -> tuple[Interval, ...]:
        """The addresses that the host itself answers to."""
        return joined(_own_ranges(self.fields, loopback=True))

    def arriving(self, ports: Collection[int]) -> Callable[[Outcome], Node]:
        """Of packets with an outcome, the condition that they come to one of these ports of the host."""
        fields, diagrams = self.fields, self.diagrams
        to_ports = fields["destination_port"].intervals(diagrams, joined((port, port) for port in ports))
        to_itself = fields["destination"].intervals(diagrams, self.own_ranges)

        def condition(outcome: Outcome) -> Node:
            if outcome.port != OWN and outcome.port not in ports:
                return diagrams.fall
            port = to_ports if outcome.port == OWN else diagrams.holds
            if outcome.fate is Fate.TPROXIED:
                return port
            if outcome.address == OWN:
                return diagrams.when(port, to_itself)
            local = not isinstance(outcome.address, str) and self.host.is_local(outcome.address)
            return port if local else diagrams.fall

        return condition

    def within(self, node: Node) -> Node:
        """The same answers for possible packets, `IMPOSSIBLE` for others."""
        return self.diagrams.first(self.diagrams.when(self.possible, node), self.diagrams.leaf(IMPOSSIBLE))

    def cubes(self, node: Node) -> dict[frozenset[Hashable], list[Cube]]:
        """The packets of each set of answers, as disjoint cubes."""
        cubes: dict[frozenset[Hashable], list[Cube]] = {}
        for number, (answers, cube) in enumerate(cubes_of(node, self.fields, self._state)):
            if number == CLASSES:
                raise _beyond(None)
            cubes.setdefault(answers, []).append(cube)
        return cubes


def _beyond(rule: object) -> Undecided:
    """The error where rules tell more packets apart than can be followed.

    Args:
        rule: the one at which it ends; else it is all of them.
    """
    if not isinstance(rule, Rule):
        return Undecided(messages.TOO_MANY_APART(at="all of them together"))
    at = f"rule {rule.number} of {rule.chain}" + (f" ({rule.location})" if rule.location else "")
    return Undecided(messages.TOO_MANY_APART(at=at, facts=[("rule", rule.text)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Packets with one fate.

    Attributes:
        outcome: what becomes of them; `Fate.UNKNOWN` where a condition is in doubt.
        cubes: disjoint.
        possible: the outcomes between which the doubt is; one where there is none.
    """

    outcome: Outcome
    cubes: tuple[Cube, ...]
    possible: frozenset[Outcome]

    @property
    def fate(self) -> Fate:
        return self.outcome.fate

    @property
    def address(self) -> IPAddress | str:
        return self.outcome.address

    @property
    def port(self) -> int | str | None:
        return self.outcome.port

    @property
    def witness(self) -> Packet:
        """One of the packets, as ordinary as they come."""
        return self.cubes[0].witness


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Packets whose fate two sets of rules tell apart."""

    observed: Outcome
    expected: Outcome
    cubes: tuple[Cube, ...]

    @property
    def witness(self) -> Packet:
        return self.cubes[0].witness


def regions(
    rules: Rules, hook: Hook, *, host: Host | None = None, family: Family = 4, state: str = "NEW"
) -> tuple[Region, ...]:
    """Every packet that may enter at a hook, in disjoint classes of one fate each.

    Args:
        rules: a table (its whole ruleset takes part), a ruleset, or everything read from a pod.
        hook: where the packets enter: "PREROUTING" from elsewhere, "OUTPUT" from a process of the host.
        host: the namespace's interfaces and addresses.

    Raises:
        UsageProblem: chains jump in a circle.
    """
    space = Space([rules], hook, host=host, family=family, state=state)
    node = space.within(space.outcomes())
    return tuple(
        Region(outcome=agreed(answers), cubes=tuple(cubes), possible=_outcomes(answers))
        for answers, cubes in space.cubes(node).items()
        if IMPOSSIBLE not in answers
    )


def differing(
    observed: Rules,
    expected: Rules,
    hook: Hook,
    *,
    host: Host | None = None,
    family: Family = 4,
    state: str = "NEW",
    meant: bool = False,
) -> tuple[Difference, ...]:
    """Every packet whose fate differs between two sets of rules, in disjoint classes.

    A fate that is in doubt on one side differs from one that is not.

    Args:
        meant: whether the expected ones are met by packets that go where the host's addresses tell, whatever
            rules and routes somebody added.

    Raises:
        UsageProblem: chains jump in a circle.
    """
    which = (1,) if meant else ()
    space = Space([observed, expected], hook, host=host, family=family, state=state, meant=which)
    here, there = space.outcomes(0), space.outcomes(1)
    if here is there:
        return ()
    diagrams = space.diagrams
    pairs = diagrams.bind(
        diagrams.merge(here, agreed),
        lambda one: diagrams.relabel(diagrams.merge(there, agreed), lambda other: (one, other)),
    )
    same = diagrams.relabel(pairs, lambda pair: _SAME if pair[0] == pair[1] else pair)  # type: ignore[index]
    return tuple(
        Difference(observed=one, expected=other, cubes=tuple(cubes))
        for answers, cubes in space.cubes(space.within(same)).items()
        for answer in answers
        if isinstance(answer, tuple)
        for one, other in [answer]
    )


_SAME = "the same"


def agreed(answers: Iterable[Hashable]) -> Outcome:
    """The one outcome of several, or that it is in doubt."""
    possible = _outcomes(answers)
    return next(iter(possible)) if len(possible) == 1 else Outcome(Fate.UNKNOWN)


def _outcomes(answers: Iterable[Hashable]) -> frozenset[Outcome]:
    return frozenset(answer for answer in answers if isinstance(answer, Outcome))


def _inbound(space: Space) -> Node:
    """From elsewhere, by an interface that is not lo, to an address of this host."""
    fields = space.fields
    policy = fields.host.policies.get(fields.family)
    added = () if policy is None else policy.local
    local = joined([*_own_ranges(fields, loopback=False), *_without(added, _LOOPBACK[fields.family], fields)])
    not_from = joined([*_own_ranges(fields, loopback=True), *_NO_PEER[fields.family]])
    to_loopback = _all_of(
        space,
        ("interface", _places(fields, fields.host.localnet)),
        ("destination", joined(_LOOPBACK[fields.family])),
    )
    to_itself = _all_of(space, ("interface", _external(fields)), ("destination", local))
    if fields.family == 4 and fields.host.localnet:
        to_itself = space.diagrams.first(to_itself, to_loopback)
    rest = _all_of(
        space,
        _real_protocol(fields),
        ("uid", [(NO_SOCKET, NO_SOCKET)]),
        ("gid", [(NO_SOCKET, NO_SOCKET)]),
        ("mark", [(0, 0)]),
        ("source", outside(not_from, fields["source"].top)),
    )
    return space.diagrams.when(rest, to_itself)


def _outbound(space: Space) -> Node:
    """From an address of this host: by lo to its own, by another interface to others."""
    fields, diagrams = space.fields, space.diagrams
    top = fields["destination"].top
    own = joined(_own_ranges(fields, loopback=True))
    loopback = joined(_LOOPBACK[fields.family])
    elsewhere = outside(joined([*own, *_NO_DESTINATION[fields.family]]), top)
    lo = fields.interfaces.index("lo")
    to_itself = _all_of(space, ("interface", [(lo, lo)]), ("source", own), ("destination", own))
    away = _all_of(
        space,
        ("interface", _external(fields)),
        ("source", joined(_own_ranges(fields, loopback=False))),
        ("destination", elsewhere),
    )
    away = diagrams.when(_by_its_route(space), away)
    ids = (1, fields["uid"].top)
    with_socket = _all_of(space, ("uid", [ids]), ("gid", [ids]))
    without = _all_of(space, ("uid", [(NO_SOCKET, NO_SOCKET)]), ("gid", [(NO_SOCKET, NO_SOCKET)]))
    sender = diagrams.first(with_socket, without)
    route = diagrams.first(to_itself, away) if loopback else away
    # TCP has no multicast and no broadcast (RFC 9293 3.9.2.3).
    many = fields["destination"].intervals(diagrams, joined(_MANY[fields.family]))
    tcp = fields["protocol"].intervals(diagrams, [(6, 6)])
    no_tcp_to_many = diagrams.negate(diagrams.when(tcp, many))
    real = _all_of(space, _real_protocol(fields))
    return diagrams.when(real, diagrams.when(sender, diagrams.when(no_tcp_to_many, route)))


def _by_its_route(space: Space) -> Node:
    """Where packets have the interface that rules and routes tell, as far as these tell one of the host's."""
    fields, diagrams = space.fields, space.diagrams
    policy = fields.host.policies.get(fields.family)
    if policy is None:
        return diagrams.holds

    def leaving(hop: Hashable) -> Node:
        assert isinstance(hop, Hop)  # noqa: S101
        if hop.kind != "sent" or hop.device == "lo" or hop.device not in fields.interfaces:
            return diagrams.holds
        return fields["interface"].intervals(diagrams, _places(fields, {hop.device}))

    hops = Lookup(policy, Conditions(fields, diagrams)).hops(Skb(outgoing=ENTERED), of_socket=True)
    return diagrams.bind(hops, leaving)


def _places(fields: Fields, names: Collection[str]) -> list[Interval]:
    return list(joined((place, place) for place, name in enumerate(fields.interfaces) if name in names))


def _without(some: Iterable[Interval], others: Sequence[Interval], fields: Fields) -> tuple[Interval, ...]:
    return common(joined(some), outside(joined(others), fields["destination"].top))


def _real_protocol(fields: Fields) -> tuple[FieldName, list[Interval]]:
    return "protocol", [(1, fields["protocol"].top)]


def _external(fields: Fields) -> list[Interval]:
    return _places(fields, [name for name in fields.host.interfaces if name != "lo"])


def _all_of(space: Space, *asked: tuple[FieldName, Sequence[Interval]]) -> Node:
    diagrams = space.diagrams
    node = diagrams.holds
    for name, intervals in reversed(asked):
        node = diagrams.when(space.fields[name].intervals(diagrams, intervals), node)
    return node


def _own_ranges(fields: Fields, *, loopback: bool) -> list[Interval]:
    """The host's own addresses; lo answers for its whole networks."""
    ranges: list[Interval] = []
    for name, addresses in fields.host.addresses.items():
        for address in addresses:
            if address.version != fields.family:
                continue
            if name != "lo":
                ranges.append((int(address.ip), int(address.ip)))
            elif loopback:
                network = address.network
                ranges.append((int(network.network_address), int(network.broadcast_address)))
    return ranges


def _ranges(*networks: str) -> list[Interval]:
    parsed = map(ipaddress.ip_network, networks)
    return [(int(network.network_address), int(network.broadcast_address)) for network in parsed]


_LOOPBACK = {4: _ranges("127.0.0.0/8"), 6: _ranges("::1/128")}
_MANY = {4: _ranges("224.0.0.0/3"), 6: _ranges("ff00::/8")}
_NO_PEER = {
    4: _ranges("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"),
    6: _ranges("::/128", "::1/128", "ff00::/8"),
}
"""No source of a packet that comes in (RFC 1122 3.2.1.3, RFC 4291 2.5 and 2.7)."""
_NO_DESTINATION = {4: _ranges("0.0.0.0/8", "127.0.0.0/8"), 6: _ranges("::/128", "::1/128")}
