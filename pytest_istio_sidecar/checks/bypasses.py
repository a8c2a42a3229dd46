"""What reaches the application, or leaves the pod, without Envoy: every packet, in readable classes.

Knows which fates count as captured, and how to tell classes so that a person can check them. Does not
know how a packet travels (`space`). Invariant: the classes are disjoint, and a possible packet is in
one of them just where it is not captured and not dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from pytest_istio_sidecar.checks.bypass import HOOKS, ORDER, Bypass, Direction, Values
from pytest_istio_sidecar.checks.cause import cause_of
from pytest_istio_sidecar.checks.finding import Finding, Kind
from pytest_istio_sidecar.checks.packets import assumptions, of_pod
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.istio.ports import INBOUND, OUTBOUND
from pytest_istio_sidecar.netfilter.classes import Rules, rulesets_of
from pytest_istio_sidecar.netfilter.cubes import Cube, Where
from pytest_istio_sidecar.netfilter.diagram import Box, Interval, Node, answers_within, paths_within
from pytest_istio_sidecar.netfilter.fields import FieldName, Fields, joined
from pytest_istio_sidecar.netfilter.journey import OWN, Outcome
from pytest_istio_sidecar.netfilter.model import Backend, Family, PodRules, Rule, Table
from pytest_istio_sidecar.netfilter.packet import Fate, Host, Packet
from pytest_istio_sidecar.netfilter.space import IMPOSSIBLE, Space
from pytest_istio_sidecar.netfilter.trace import Trace, trace

CAPTURING = (Fate.REDIRECTED, Fate.TPROXIED, Fate.TRANSLATED)
_TRACED = 16
"""Packets of a class that are traced to name the rules which let it by."""


@dataclass(frozen=True, slots=True)
class _Class:
    """The answer of a diagram of classes: packets that get by (or may), and by design or not."""

    certain: bool
    by_design: bool
    moved: bool
    """They are sent elsewhere than where they were going, though not to Envoy."""


class FoundBypass:
    """A class of packets that get by without Envoy.

    Attributes:
        direction: "inbound" or "outbound".
        family: 4 or 6.
        by_design: whether the expected rules let the same packets by.
        certain: False where it depends on a condition that rules alone do not tell.
    """

    def __init__(self, cube: Cube, held: _Class, direction: Direction, classes: Node, rules: Rules) -> None:
        self.direction: Direction = direction
        self.family: Family = cube.fields.family
        self.by_design = held.by_design
        self.certain = held.certain
        self._cube = cube
        self._held = held
        self._classes = classes
        self._rules = rules

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.text}>"

    @cached_property
    def where(self) -> Where:
        """Names of `Packet`'s fields, each with the closed intervals and names it may have; exact."""
        return self._cube.where

    @cached_property
    def witness(self) -> Packet:
        """One of the packets, as ordinary as they come."""
        return max((cube.witness for cube in self._possible), key=_ordinary)

    @cached_property
    def _possible(self) -> tuple[Cube, ...]:
        """Some of those packets that the host can see: a class may have impossible ones beside them."""
        here = paths_within(self._classes, self._cube.box)
        kept = (Cube(self._cube.fields, box) for box, answers in here if answers == {self._held})
        return tuple(islice(kept, _TRACED))

    @cached_property
    def trace(self) -> Trace:
        """The witness's way."""
        return trace(self._rules, self.witness, host=self._cube.fields.host)

    @property
    def rule(self) -> Rule | None:
        """The rule that lets the witness by; None: a policy."""
        return self.trace.deciding_rule

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that let packets of the class by, of as many as were traced."""
        found: dict[Rule, None] = {}
        for packet in islice(self._samples(), _TRACED):
            rule = trace(self._rules, packet, host=self._cube.fields.host).deciding_rule
            if rule is not None:
                found[rule] = None
        return tuple(found)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Why it cannot be told whether they get by; empty where it can."""
        return self.trace.reasons

    @cached_property
    def bypass(self) -> Bypass:
        """The class as a value: exact, as `where` is."""
        return self._as_bypass(self._cube.box)

    @cached_property
    def text(self) -> str:
        """The class in few words: conditions that change nothing, beside the other classes, are left out."""
        text = str(self._as_bypass(self._widest()))
        if not any(any(held.rules()) for held in rulesets_of(self._rules, self.family)):
            text += ": no rules"
        elif self._held.moved:
            text += f": sent to {self.trace.destination}"
        return text

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        packet = self.witness
        rule = self.rule
        told: dict[str, object] = {
            "text": self.text,
            "where": self.where,
            "witness": packet_fields(packet),
            "rule": rule.text if rule is not None else None,
            "by_design": self.by_design,
        }
        return told if self.certain else {**told, "conditions": list(self.conditions)}

    def _as_bypass(self, box: Box) -> Bypass:
        fields = self._cube.fields
        given = ("uid", "gid", "mark") if self.direction == "inbound" else ()
        where = {
            name: _values(fields, name, box)
            for name in ORDER
            if name not in given and not fields[name].is_free(box)
        }
        only = self.family == 6 or "source" in where or "destination" in where
        return Bypass(
            direction=self.direction, family=self.family if only else None, where=tuple(where.items())
        )

    def _widest(self) -> Box:
        """The box without the conditions that other classes of the same kind, or no packet, make up for."""
        box = dict(self._cube.box)
        allowed = {IMPOSSIBLE, self._held}
        fields = self._cube.fields
        names = sorted((held.name for held in fields), key=_LEAVE_OUT.index)
        for name in names:
            levels = [part.level for part in fields[name].parts] or [fields[name].level]
            wider = {level: held for level, held in box.items() if level not in levels}
            if len(wider) == len(box) or (name == "protocol" and fields["destination_port"].level in box):
                continue
            if answers_within(self._classes, wider) <= allowed:
                box = wider
        return box

    def _samples(self) -> Iterator[Packet]:
        """Packets of the class, from each interval of each field of some of its cubes."""
        for cube in self._possible:
            yield cube.witness
        for cube in self._possible:
            for held in cube.fields:
                if not held.parts and not held.is_free(self._cube.box):
                    for low, high in held.values_in(cube.box):
                        yield cube.packet({held.name: low})
                        yield cube.packet({held.name: high})


_LEAVE_OUT: tuple[FieldName, ...] = (
    "mark",
    "source_port",
    "source",
    "protocol",
    "destination",
    "uid",
    "gid",
    "interface",
    "destination_port",
)
"""In which order conditions are tried to be left out of a text: the least telling first."""


@dataclass(frozen=True, kw_only=True)
class BypassReport:
    """Every class of packets that get by without Envoy.

    Attributes:
        inbound, outbound: disjoint classes, those that are not by design first.
        conditional: classes of which it cannot be told, with the conditions.
        unseen: what rules cannot show, whatever they are; one sentence each.
    """

    inbound: tuple[FoundBypass, ...]
    outbound: tuple[FoundBypass, ...]
    conditional: tuple[FoundBypass, ...]
    unseen: tuple[str, ...] = field(default=(), repr=False)

    @property
    def unexpected(self) -> tuple[FoundBypass, ...]:
        """Those that are not by design; without an expectation nothing is."""
        return tuple(found for found in (*self.inbound, *self.outbound) if not found.by_design)

    def to_dict(self) -> dict[str, list[dict[str, object]]]:
        """For JSON."""
        return {
            "inbound": [found.to_dict() for found in self.inbound],
            "outbound": [found.to_dict() for found in self.outbound],
            "conditional": [found.to_dict() for found in self.conditional],
        }


def bypasses(
    rules: Rules,
    *,
    envoy_ports: Collection[int] = (OUTBOUND, INBOUND),
    expected: Rules | None = None,
    host: Host | None = None,
) -> BypassReport:
    """Every class of packets that reach the application, or leave the pod, without Envoy.

    The first packets of connections: what conntrack calls NEW. Captured is what a rule sends to one of
    `envoy_ports` of this host; what is dropped does not get by either.

    Args:
        rules: a table (its whole ruleset takes part), a ruleset, or everything read from a pod.
        expected: rules whose bypasses are by design, such as `expected_ruleset("1.8.3")`.
        host: the namespace's interfaces and addresses.

    Raises:
        UsageProblem: chains jump in a circle.
    """
    found = [
        held
        for direction, _, space, classes in _spaces(rules, envoy_ports, expected, host)
        for held in _found(space, classes, direction, rules)
    ]
    found.sort(key=lambda held: held.by_design)
    return BypassReport(
        inbound=tuple(held for held in found if held.certain and held.direction == "inbound"),
        outbound=tuple(held for held in found if held.certain and held.direction == "outbound"),
        conditional=tuple(held for held in found if not held.certain),
        unseen=(*_UNSEEN, *_unread(rules)),
    )


def check_only_bypasses(
    rules: Rules,
    allowed: Iterable[Bypass | FoundBypass | str],
    *,
    envoy_ports: Collection[int] = (OUTBOUND, INBOUND),
    expected: Rules | None = None,
    host: Host | None = None,
) -> list[Finding]:
    """Whether nothing gets by without Envoy but what is allowed: over all packets, not over samples.

    Args:
        allowed: bypasses, as values or written ("inbound tcp 22,15008").
        expected: rules whose bypasses are allowed too.

    Raises:
        Undecided: it depends on a condition that rules alone do not tell.
        UsageProblem: a text that is no bypass.
    """
    meant = [_as_bypass(held) for held in allowed]
    findings: list[Finding] = []
    for direction, family, space, classes in _spaces(rules, envoy_ports, expected, host):
        diagrams = space.diagrams
        permitted = diagrams.chain([held.condition(space.fields) for held in meant])
        left = diagrams.first(diagrams.when(permitted, diagrams.leaf(_CAUGHT)), classes)
        for found in _found(space, left, direction, rules):
            if found.by_design:
                continue
            if not found.certain:
                reasons = "\n".join(f"  because  {reason}" for reason in found.conditions[:3])
                raise Undecided(
                    f"{found.text}: the rules read do not tell whether it gets by{of_pod(rules)}\n{reasons}"
                )
            findings.append(_not_allowed(found, rules, family))
    return findings


def _unread(rules: Rules) -> Iterator[str]:
    """What these rules in particular do not tell."""
    if not isinstance(rules, PodRules):
        yield "the other family and the other back end were not read"
        return
    families = {held.family for held in rules.rulesets}
    yield from (f"IPv{family} rules were not read" for family in (4, 6) if family not in families)
    if not {held.backend for held in rules.rulesets} >= {Backend.LEGACY, Backend.NF_TABLES}:
        yield "not both back ends (legacy and nf_tables) were read, and the kernel asks both"
    if rules.native_tables:
        yield f"tables made with nft itself are not judged: {', '.join(rules.native_tables)}"


def _as_bypass(held: Bypass | FoundBypass | str) -> Bypass:
    if isinstance(held, str):
        return Bypass.parse(held)
    return held.bypass if isinstance(held, FoundBypass) else held


def _not_allowed(found: FoundBypass, rules: Rules, family: Family) -> Finding:
    way = found.trace
    verb = "reaches" if found.direction == "inbound" else "leaves"
    what = f"{found.text} {verb} the application without Envoy"
    if way.fate in CAPTURING:
        what = f"{found.bypass} is sent to {way.destination}, which is not Envoy"
    return Finding(
        kind=Kind.BYPASS,
        summary=f"{what}{of_pod(rules)}",
        wanted="only the allowed bypasses",
        got=f"also {found.text}",
        trace=way,
        cause=cause_of(way, rules),
        assumptions=assumptions(rules, family),
    )


def families_of(rules: Rules) -> tuple[Family, ...]:
    """The families that were read."""
    if isinstance(rules, PodRules):
        return tuple(dict.fromkeys(held.family for held in rules.rulesets))
    return (rules.ruleset.family if isinstance(rules, Table) else rules.family,)


def _spaces(
    rules: Rules, envoy_ports: Collection[int], expected: Rules | None, host: Host | None
) -> Iterator[tuple[Direction, Family, Space, Node]]:
    """The classes of packets of each direction and family that was read."""
    both = [rules] if expected is None else [rules, expected]
    for family in families_of(rules):
        for direction, hook in HOOKS.items():
            space = Space(both, hook, host=host, family=family)
            yield direction, family, space, space.within(_classes(space, envoy_ports, expected))


def _found(space: Space, classes: Node, direction: Direction, rules: Rules) -> Iterator[FoundBypass]:
    simple = space.diagrams.simplify(classes, space.diagrams.leaf(IMPOSSIBLE))
    for answers, cubes in space.cubes(simple).items():
        for answer in answers:
            if isinstance(answer, _Class):
                yield from (FoundBypass(cube, answer, direction, classes, rules) for cube in cubes)


def _classes(space: Space, envoy_ports: Collection[int], expected: Rules | None) -> Node:
    """A diagram whose answers are `_Class`es, or `_CAUGHT`."""
    diagrams = space.diagrams
    here = diagrams.merge(
        _where_sent(space, 0, envoy_ports), lambda answers: _judged(answers, envoy_ports, space.host)
    )
    if expected is None or not rulesets_of(expected, space.family):
        return here
    there = diagrams.merge(
        _where_sent(space, 1, envoy_ports), lambda answers: _judged(answers, envoy_ports, space.host)
    )

    def follow(answer: Hashable) -> Node:
        if not isinstance(answer, _Class):
            return diagrams.leaf(answer)

        def designed(other: Hashable) -> Hashable:
            meant = isinstance(other, _Class) and other.certain and other.moved == answer.moved
            return _Class(certain=answer.certain, by_design=meant, moved=answer.moved)

        return diagrams.relabel(there, designed)

    return diagrams.bind(here, follow)


_CAUGHT = "captured or dropped"


def _where_sent(space: Space, which: int, envoy_ports: Collection[int]) -> Node:
    """The outcomes; of what keeps its own port or address, told apart by whether that is one of Envoy's.

    An outcome has Envoy's port where it does, and None where it does not.
    """
    diagrams, fields, host = space.diagrams, space.fields, space.host
    ports = fields["destination_port"].intervals(diagrams, joined((port, port) for port in envoy_ports))
    own = fields["destination"].intervals(diagrams, space.own_ranges)

    def told(answer: Hashable) -> Node:
        if not isinstance(answer, Outcome) or answer.fate not in CAPTURING:
            return diagrams.leaf(answer)
        there = diagrams.holds
        if answer.port == OWN:
            there = ports
        elif answer.port not in envoy_ports:
            return diagrams.leaf(answer)
        if answer.fate is not Fate.TPROXIED:
            if answer.address == OWN:
                there = diagrams.when(there, own)
            elif isinstance(answer.address, str) or not host.is_local(answer.address):
                return diagrams.leaf(answer)
        if there is diagrams.holds:
            return diagrams.leaf(answer)
        sent = diagrams.leaf(answer._replace(port=next(iter(envoy_ports), None)))
        return diagrams.first(diagrams.when(there, sent), diagrams.leaf(answer._replace(port=None)))

    return diagrams.bind(space.outcomes(which), told)


def _judged(answers: Iterable[Hashable], envoy_ports: Collection[int], host: Host) -> Hashable:
    """Whether packets with these possible outcomes get by."""
    told = [answer for answer in answers if isinstance(answer, Outcome)]
    passing = [outcome for outcome in told if passes(outcome, envoy_ports, host)]
    if not passing and not any(outcome.fate is Fate.UNKNOWN for outcome in told):
        return _CAUGHT
    moved = all(outcome.fate is not Fate.UNCHANGED for outcome in passing) and bool(passing)
    return _Class(certain=len(passing) == len(told), by_design=False, moved=moved)


def passes(outcome: Outcome, envoy_ports: Collection[int], host: Host) -> bool:
    """Whether a packet with this outcome certainly gets by without Envoy."""
    if outcome.fate in (Fate.DROPPED, Fate.UNKNOWN):
        return False
    if outcome.fate not in CAPTURING or outcome.port not in envoy_ports:
        return True
    address = outcome.address
    return not (isinstance(address, str) or host.is_local(address) or outcome.fate is Fate.TPROXIED)


def _values(fields: Fields, name: FieldName, box: Box) -> Values:
    held = fields[name]
    if held.parts:
        cube = Cube(fields, box)
        return tuple(str(text) for text in cube.where[name])
    intervals: tuple[Interval, ...] = held.values_in(box)
    if name == "interface":
        return tuple(
            fields.interfaces[place]
            for low, high in intervals
            for place in range(low, high + 1)
            if fields.interfaces[place] in fields.host.interfaces
        )
    return tuple((max(low, 1), high) for low, high in intervals) if name == "protocol" else intervals


def _ordinary(packet: Packet) -> tuple[bool, ...]:
    """How much a packet is what people think of first: tcp to a neighbour, from the application."""
    return (
        packet.protocol == 6,
        packet.destination_port == 80,
        packet.uid == packet.gid,
        not packet.mark,
        packet.out_interface != "lo",
    )


def packet_fields(packet: Packet) -> dict[str, object]:
    """A packet as the fields that `Packet` takes, for JSON; those that are not set are left out."""
    names = ("hook", "protocol", "source", "destination", "source_port", "destination_port")
    names += ("in_interface", "out_interface", "uid", "gid", "mark", "state")  # type: ignore[assignment]
    told = {name: getattr(packet, name) for name in names}
    told |= {"source": str(packet.source), "destination": str(packet.destination)}
    return {name: value for name, value in told.items() if value is not None}


_UNSEEN = (
    "UDP, ICMP and others are listed above where nothing takes them: Istio captures TCP, and DNS if told",
    "connections made before the rules were loaded, and packets that conntrack calls INVALID, skip nat",
    "packet sockets (AF_PACKET) send and receive beneath every rule",
    "an application that runs as the proxy's user or group (1337) is taken for Envoy",
)
