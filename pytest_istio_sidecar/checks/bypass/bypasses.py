"""What reaches the application, or leaves the pod, without Envoy: every packet, in readable classes.

Knows which fates count as captured, and how to tell classes so that a person can check them. Does not
know how a packet travels (`space`). Invariant: the classes are disjoint, and a possible packet is in
one of them just where it is not captured and not dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.bypass.bypass import HOOKS, Bypass, Direction
from pytest_istio_sidecar.checks.bypass.found import FoundBypass, PacketClass, told_apart
from pytest_istio_sidecar.checks.comparison.cause import cause_of
from pytest_istio_sidecar.checks.finding import Finding, Kind
from pytest_istio_sidecar.checks.tracing import CAPTURED, assumptions, of_pod
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.istio.ports import INBOUND, OUTBOUND
from pytest_istio_sidecar.markup import html_table
from pytest_istio_sidecar.netfilter.diagram.diagram import Node
from pytest_istio_sidecar.netfilter.diagram.simplify import simplify
from pytest_istio_sidecar.netfilter.intervals import joined
from pytest_istio_sidecar.netfilter.model import Backend, Family, PodRules, Rules, Table, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Fate, Host
from pytest_istio_sidecar.netfilter.space.nat import OWN, Outcome
from pytest_istio_sidecar.netfilter.space.space import IMPOSSIBLE, Space, no_collection


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

    def _repr_html_(self) -> str:
        """The classes as a table, for notebooks."""
        found = (*self.inbound, *self.outbound, *self.conditional)
        return html_table(
            "Packets that get by without Envoy",
            ("Packets", "Let by", "By design"),
            [
                (
                    held.text,
                    held.rule.text if held.rule is not None else "the chain's policy",
                    ("yes" if held.by_design else "no") if held.certain else "cannot be told",
                )
                for held in found
            ],
            marked={number for number, held in enumerate(found) if held in self.unexpected},
            notes=self.unseen,
        )


@no_collection()
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
        permitted = diagrams.chain([held.condition(space.fields, diagrams) for held in meant])
        left = diagrams.first(diagrams.when(permitted, diagrams.leaf(_CAUGHT)), classes)
        for found in _found(space, left, direction, rules):
            if found.by_design:
                continue
            if not found.certain:
                raise Undecided(
                    messages.BYPASS_NOT_TOLD(
                        packet=found.text,
                        pod=of_pod(rules),
                        facts=[("because", "\n".join(found.conditions[:3]))],
                    )
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
    message = messages.REACHED_PAST_ENVOY if found.direction == "inbound" else messages.LEFT_PAST_ENVOY
    failure = message(packet=found.text, pod=of_pod(rules))
    if way.fate in CAPTURED:
        failure = messages.SENT_ELSEWHERE(packet=found.bypass, destination=way.destination, pod=of_pod(rules))
    return Finding(
        kind=Kind.BYPASS,
        failure=failure,
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
    simple = simplify(space.diagrams, classes, space.diagrams.leaf(IMPOSSIBLE))
    for answers, cubes in space.cubes(simple).items():
        for answer in answers:
            if isinstance(answer, PacketClass):
                yield from told_apart(
                    [FoundBypass(cube, answer, direction, classes, rules) for cube in cubes]
                )


def _classes(space: Space, envoy_ports: Collection[int], expected: Rules | None) -> Node:
    """A diagram whose answers are `PacketClass`es, or `_CAUGHT`."""
    diagrams = space.diagrams
    here = diagrams.merge(_passage(space, 0, envoy_ports), _judged)
    if expected is None or not rulesets_of(expected, space.family):
        return here
    there = diagrams.merge(_passage(space, 1, envoy_ports), _judged)

    def follow(answer: Hashable) -> Node:
        if not isinstance(answer, PacketClass):
            return diagrams.leaf(answer)

        def designed(other: Hashable) -> Hashable:
            meant = isinstance(other, PacketClass) and other.certain and other.moved == answer.moved
            return PacketClass(certain=answer.certain, by_design=meant, moved=answer.moved)

        return diagrams.relabel(there, designed)

    return diagrams.bind(here, follow)


_CAUGHT = "captured or dropped"
_STRAIGHT = "gets by to where it was going"
_MOVED = "is sent elsewhere, not to Envoy"


def _passage(space: Space, which: int, envoy_ports: Collection[int]) -> Node:
    """Whether packets get by: `_CAUGHT`, `_STRAIGHT` or `_MOVED`, several where it cannot be told."""
    diagrams, fields = space.diagrams, space.fields
    caught, straight, moved = map(diagrams.leaf, (_CAUGHT, _STRAIGHT, _MOVED))
    doubtful = diagrams.union(caught, straight)
    ports = fields["destination_port"].intervals(diagrams, joined((port, port) for port in envoy_ports))
    own = fields["destination"].intervals(diagrams, space.own_ranges)

    def told(answer: Hashable) -> Node:
        if not isinstance(answer, Outcome) or answer.fate is Fate.DROPPED:
            return caught
        if answer.fate is Fate.UNKNOWN:
            return doubtful
        return (
            diagrams.first(diagrams.when(at_envoy(answer), caught), moved)
            if answer.fate in CAPTURED
            else straight
        )

    def at_envoy(outcome: Outcome) -> Node:
        """Where an outcome is one of Envoy's ports on this host."""
        port = ports if outcome.port == OWN else diagrams.constant(outcome.port in envoy_ports)
        if outcome.fate is Fate.TPROXIED:
            return port
        if outcome.address == OWN:
            return diagrams.when(port, own)
        local = not isinstance(outcome.address, str) and space.host.is_local(outcome.address)
        return port if local else diagrams.fall

    return diagrams.bind(space.outcomes(which), told)


def _judged(answers: Collection[Hashable]) -> Hashable:
    """Whether packets that may fare so get by."""
    passing = {_STRAIGHT, _MOVED}.intersection(answers)
    if not passing:
        return _CAUGHT
    return PacketClass(certain=_CAUGHT not in answers, by_design=False, moved=passing == {_MOVED})


_UNSEEN = (
    "UDP, ICMP and others are listed above where nothing takes them: Istio captures TCP, and DNS if told",
    "connections made before the rules were loaded, and packets that conntrack calls INVALID, skip nat",
    "packet sockets (AF_PACKET) send and receive beneath every rule",
    "an application that runs as the proxy's user or group (1337) is taken for Envoy",
)
