"""Do the chains do what Istio means them to, for every packet?

Knows how to ask a chain by effect: over all packets that the host can see. Does not know Istio's chain
names by heart: callers pass them. Invariant: packets whose fate is unknown raise `Undecided`, whatever
becomes of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import replace

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.comparison.cause import cause_of
from pytest_istio_sidecar.checks.finding import Finding, Kind, Severity
from pytest_istio_sidecar.checks.tracing import CAPTURED, assumptions, decided, describe, of_pod
from pytest_istio_sidecar.errors import Undecided, UsageProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.netfilter.diagram.diagram import HOLDS
from pytest_istio_sidecar.netfilter.intervals import Interval, joined, outside
from pytest_istio_sidecar.netfilter.matches import PROTOCOLS
from pytest_istio_sidecar.netfilter.model import Chain, Family, Rule, Rules, Table, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Fate, Hook, Host, Packet
from pytest_istio_sidecar.netfilter.space.cubes import Cube
from pytest_istio_sidecar.netfilter.space.nat import Outcome
from pytest_istio_sidecar.netfilter.space.reachability import reached
from pytest_istio_sidecar.netfilter.space.space import IMPOSSIBLE, Space
from pytest_istio_sidecar.netfilter.targets import Extended, Goto, Jump
from pytest_istio_sidecar.netfilter.trace.trace import Trace

_HOOKS: tuple[Hook, ...] = ("PREROUTING", "OUTPUT")
_PORTS = 0xFFFF


def check_jump(
    nat: Table, source: str, target: str, *, protocol: str = "tcp", host: Host | None = None
) -> list[Finding]:
    """Whether every packet of a protocol that enters `source` goes on into `target`.

    Args:
        nat: the table that holds both chains.
        source: PREROUTING or OUTPUT.
        target: the chain that must be reached, with nothing above taking packets away.

    Raises:
        Undecided: the rules do not show it for some packet.
        UsageProblem: `source` is no chain in which packets enter nat.
    """
    family = nat.ruleset.family
    chain = nat.chain(source) if source in nat else Chain(name=source)
    if target not in nat:
        return [_absent(nat, target, wanted=f"{source} sends {protocol} to {target}")]
    jumps = [rule for rule in chain if isinstance(rule.target, Jump | Goto) and rule.target.chain == target]
    space = _space(_ending_at(nat, target), _hook_of(source), host, family)
    coming, missed = _parted(space, nat, protocol, lambda outcome: outcome.fate is Fate.UNKNOWN)
    if not missed:
        return []
    first = decided(nat, _most_ordinary(missed), host)
    return [
        Finding(
            kind=Kind.BYPASS,
            failure=messages.NONE_COMES(protocol=protocol, source=source, target=target, pod=of_pod(nat))
            if not coming
            else messages.NOT_ALL_COME(
                protocol=protocol,
                source=source,
                target=target,
                packet=describe(first.packet),
                pod=of_pod(nat),
            ),
            wanted=f"{source} sends every {protocol} packet to {target}",
            got=_what_instead(chain, jumps, target),
            trace=first,
            cause=cause_of(first, nat),
            assumptions=assumptions(nat, family),
        )
    ]


def check_inbound_exclusions(
    nat: Rules, ports: Collection[int], *, host: Host | None = None, family: Family = 4
) -> list[Finding]:
    """Whether exactly these TCP ports reach the pod without being redirected, of all 65,536.

    Raises:
        Undecided: the rules do not show it for some port.
    """
    if not rulesets_of(nat, family):
        raise Undecided(messages.NO_RULES_READ(packet="inbound tcp", family=family, pod=of_pod(nat)))
    wanted = set(ports)
    space = _space(nat, "PREROUTING", host, family)
    captured, passing = _parted(space, nat, "tcp", lambda outcome: outcome.fate in CAPTURED)
    also = _ports_of(captured)
    findings = [
        _not_excluded(nat, decided(nat, _packet_to(captured, port), host), port)
        for port in sorted(wanted)
        if any(low <= port <= high for low, high in also)
    ]
    for low, high in _without(_ports_of(passing), wanted):
        findings.append(_excluded(nat, decided(nat, _packet_to(passing, low), host), low, high, wanted))
    return findings


def check_redirect_target(nat: Table, chain: str, port: int, *, host: Host | None = None) -> list[Finding]:
    """Whether every TCP packet that enters `chain` is redirected to the local `port`.

    Raises:
        Undecided: the rules do not show it for some packet.
    """
    family = nat.ruleset.family
    if chain not in nat:
        return [_absent(nat, chain, wanted=f"{chain} redirects tcp to :{port}")]
    alone = _entered_directly(nat, chain)
    space = _space(alone, "OUTPUT", host, family)
    _, others = _parted(
        space, alone, "tcp", lambda outcome: outcome.fate in CAPTURED and outcome.port == port
    )
    if not others:
        return []
    way = _way_through(nat, chain, host)
    return [
        Finding(
            kind=Kind.REDIRECT,
            failure=messages.NO_REDIRECT(chain=chain, port=port, pod=of_pod(nat)),
            wanted=f"every tcp packet in {chain} is redirected to :{port}",
            got=_effect(decided(alone, _most_ordinary(others), host)),
            trace=way,
            cause=cause_of(way, nat) if way is not None else f"no packet comes to {chain}",
            assumptions=assumptions(nat, family),
        )
    ]


def check_dead_rules(nat: Table, *, host: Host | None = None) -> list[Finding]:
    """Rules that no packet of this host can match, each as a notice with the rules that shadow it."""
    family = nat.ruleset.family
    spaces = [_space(nat, hook, host, family) for hook in _HOOKS]
    seen = [reached(space, nat.ruleset, nat.name, space.possible) for space in spaces]
    thinkable = [reached(space, nat.ruleset, nat.name, space.diagrams.holds) for space in spaces]
    findings = []
    for rule in nat.rules():
        place = (rule.chain, rule.number)
        if any(place in held.matching for held in seen):
            continue
        why = "rules above take every packet it would match"
        if any(place in held.matching for held in thinkable):
            why = "no route produces such a packet"
        elif not any(rule.chain in held.entering for held in thinkable):
            why = f"no packet comes to {rule.chain}"
        findings.append(
            Finding(
                severity=Severity.NOTICE,
                kind=Kind.RULES,
                failure=messages.DEAD_RULE(chain=rule.chain, number=rule.number, pod=of_pod(nat), reason=why),
                rule=rule,
                facts=(("rule", rule.text),),
            )
        )
    return findings


def _space(rules: Rules, hook: Hook, host: Host | None, family: Family) -> Space:
    return Space([rules], hook, host=host, family=family)


def _parted(
    space: Space, rules: Rules, protocol: str, meant: Callable[[Outcome], bool]
) -> tuple[list[Cube], list[Cube]]:
    """The possible packets of a protocol with a meant outcome, and those with another.

    Raises:
        Undecided: of some packets it cannot be told which.
    """
    number = PROTOCOLS[protocol]
    diagrams = space.diagrams
    of_protocol = space.fields["protocol"].intervals(diagrams, [(number, number)])
    told = diagrams.merge(space.outcomes(), lambda answers: _judged(answers, meant))
    node = diagrams.first(diagrams.when(of_protocol, space.within(told)), diagrams.leaf(IMPOSSIBLE))
    found: dict[Hashable, list[Cube]] = {True: [], False: [], None: []}
    for answers, cubes in space.cubes(node).items():
        for answer in answers:
            found.setdefault(answer, []).extend(cubes)
    if found[None]:
        packet = found[None][0].witness
        decided(rules, packet, space.host)
        raise Undecided(messages.NOT_TOLD(packet=describe(packet), pod=of_pod(rules)))
    return found[True], found[False]


def _judged(answers: Collection[Hashable], meant: Callable[[Outcome], bool]) -> bool | None:
    told = {meant(answer) for answer in answers if isinstance(answer, Outcome)}
    unknown = any(isinstance(answer, Outcome) and answer.fate is Fate.UNKNOWN for answer in answers)
    if len(told) > 1 or (unknown and told != {True}):
        return None
    return next(iter(told))


def _ports_of(cubes: Sequence[Cube]) -> tuple[Interval, ...]:
    return joined(
        interval for cube in cubes for interval in cube.fields["destination_port"].values_in(cube.box)
    )


def _without(intervals: Sequence[Interval], ports_left_out: Collection[int]) -> Iterator[Interval]:
    """The intervals without some ports."""
    excluded = joined((port, port) for port in ports_left_out)
    for low, high in intervals:
        for first, last in outside(excluded, _PORTS):
            if max(low, first) <= min(high, last):
                yield max(low, first), min(high, last)


def _packet_to(cubes: Sequence[Cube], port: int) -> Packet:
    packets = (cube.packet({"destination_port": port}) for cube in cubes)
    return next(packet for packet in packets if packet.destination_port == port)


def _most_ordinary(cubes: Sequence[Cube]) -> Packet:
    """What people think of first: port 80, from the application, to elsewhere."""
    return max(
        (cube.witness for cube in cubes),
        key=lambda packet: (
            packet.destination_port == 80,
            packet.uid == packet.gid,
            packet.out_interface != "lo",
        ),
    )


def _hook_of(source: str) -> Hook:
    for hook in _HOOKS:
        if source == hook:
            return hook
    raise UsageProblem(messages.NO_ENTRY_TO_NAT(chain=source))


def _ending_at(nat: Table, chain: str) -> Table:
    """The same table, in which what becomes of a packet that comes to `chain` is unknown from there on."""
    end = Chain(name=chain, rules=(Rule(chain=chain, number=1, target=Extended(name="END")),))
    return nat.ruleset.with_table(nat.with_chain(end)).table(nat.name)


def _way_through(nat: Table, chain: str, host: Host | None) -> Trace | None:
    """How an ordinary packet comes through a chain; None when none does."""
    family = nat.ruleset.family
    for hook in _HOOKS:
        space = _space(nat, hook, host, family)
        node = reached(space, nat.ruleset, nat.name, space.possible).entering.get(chain)
        if node is not None:
            return decided(nat, _most_ordinary(space.cubes(node)[frozenset((HOLDS,))]), host)
    return None


def _entered_directly(nat: Table, chain: str) -> Table:
    """The same table with OUTPUT made one jump to `chain`, and no other table beside it."""
    entry = Chain(name="OUTPUT", policy="ACCEPT", rules=(Rule(chain="OUTPUT", number=1, target=Jump(chain)),))
    others = tuple(held for held in nat.chains if held.name != "OUTPUT")
    table = Table(name="nat", chains=(entry, *others))
    return replace(nat.ruleset, tables=(table,)).nat


def _what_instead(chain: Chain, jumps: Sequence[Rule], target: str) -> str:
    if not chain.rules:
        return f"{chain.name} has no rule"
    if not jumps:
        return f"no rule of {chain.name} jumps to {target}"
    return f"a rule above the jump, which is number {jumps[0].number}, takes packets away"


def _effect(way: Trace) -> str:
    """What a chain makes of a packet that enters it."""
    if way.fate is Fate.UNCHANGED:
        return "the packet keeps its destination"
    if way.fate is Fate.DROPPED:
        return "the kernel drops the packet"
    return f"the packet is sent to :{way.destination.port}"


def _absent(nat: Table, chain: str, *, wanted: str) -> Finding:
    names = ", ".join(held.name for held in nat.chains) or "none"
    return Finding(
        kind=Kind.RULES,
        failure=messages.NO_CHAIN(table=nat.name, chain=chain, pod=of_pod(nat)),
        wanted=wanted,
        got=f"chains: {names}",
        cause=""
        if any(nat.rules())
        else "the table has no rule at all: Istio's rules are not in this back end",
    )


def _not_excluded(rules: Rules, way: Trace, port: int) -> Finding:
    return Finding(
        kind=Kind.REDIRECT,
        failure=messages.NOT_EXCLUDED(
            port=port, purpose=ports.PURPOSE.get(port, "excluded port"), pod=of_pod(rules)
        ),
        wanted=f"tcp/{port} reaches the pod unchanged",
        got=f"{way.fate} to {way.destination}",
        trace=way,
        cause=cause_of(way, rules),
        assumptions=assumptions(rules, way.packet.family),
    )


def _excluded(rules: Rules, way: Trace, low: int, high: int, wanted: set[int]) -> Finding:
    span = f"tcp/{low}" if low == high else f"tcp/{low}-{high}"
    listed = ", ".join(map(str, sorted(wanted))) or "none"
    dropped = way.fate is Fate.DROPPED
    packet, pod = f"inbound {span}", of_pod(rules)
    return Finding(
        kind=Kind.REDIRECT if dropped else Kind.BYPASS,
        failure=messages.DROPPED(packet=packet, pod=pod)
        if dropped
        else messages.REACHED_PAST_ENVOY(packet=packet, pod=pod),
        wanted=f"only {listed} excluded" if wanted else "no port excluded",
        got=f"also {span}: destination unchanged" if not dropped else "the kernel drops it",
        trace=way,
        cause=cause_of(way, rules),
        assumptions=assumptions(rules, way.packet.family),
    )
