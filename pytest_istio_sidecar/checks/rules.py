"""Do the chains do what Istio means them to, for every packet?

Knows how to ask a chain by effect: over every class of packets its rules tell
apart. Does not know Istio's chain names by heart: callers pass them.
Invariant: a class whose fate is unknown raises `Undecided`, whatever the others do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from pytest_istio_sidecar.checks.cause import cause_of
from pytest_istio_sidecar.checks.finding import Finding, Kind, Severity
from pytest_istio_sidecar.checks.packets import (
    CAPTURED,
    assumptions,
    check_redirected,
    decided,
    describe,
    of_pod,
)
from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.netfilter.classes import (
    PacketClass,
    Rules,
    inbound_classes,
    outbound_classes,
)
from pytest_istio_sidecar.netfilter.model import Chain, Family, Rule, Table
from pytest_istio_sidecar.netfilter.packet import Fate, Host
from pytest_istio_sidecar.netfilter.targets import Goto, Jump
from pytest_istio_sidecar.netfilter.trace import Trace


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
    classes = _entering(nat, source, protocol, host, family)
    ways = [(held, decided(nat, held.sample, host)) for held in classes]
    missed = [(held, way) for held, way in ways if not _passes(way, nat.name, jumps)]
    if not missed:
        return []
    first = missed[0][1]
    everything = len(missed) == len(ways)
    which = f"no {protocol} packet" if everything else f"not every {protocol} packet"
    return [
        Finding(
            kind=Kind.BYPASS,
            summary=f"{which} comes from {source} to {target}"
            + ("" if everything else f": {describe(first.packet)} does not")
            + of_pod(nat),
            wanted=f"{source} sends every {protocol} packet to {target}",
            got=_what_instead(chain, jumps, target),
            trace=first,
            cause=cause_of(first, nat),
            assumptions=assumptions(nat, family),
        )
    ]


def check_inbound_exclusions(
    rules: Rules, ports_excluded: Collection[int], *, host: Host | None = None, family: Family = 4
) -> list[Finding]:
    """Whether exactly these TCP ports reach the pod without being redirected, of all 65,536.

    Raises:
        Undecided: the rules do not show it for some port.
    """
    wanted = set(ports_excluded)
    findings = []
    reported: set[int] = set()
    for packet_class in inbound_classes(rules, host=host or Host(), family=family):
        low, high = packet_class.destination_ports
        way = decided(rules, packet_class.sample, host)
        captured = way.fate in CAPTURED
        if low in reported:
            continue
        if captured and low in wanted:
            findings.append(_not_excluded(rules, way, low))
            reported.add(low)
        elif not captured and not (low == high and low in wanted):
            findings.append(_excluded(rules, way, low, high, wanted))
            reported.add(low)
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
    for packet_class in outbound_classes(alone, host=host or Host(), family=family):
        if not check_redirected(alone, packet_class.sample, to=port, host=host):
            continue
        way = _way_through(nat, chain, host or Host())
        return [
            Finding(
                kind=Kind.REDIRECT,
                summary=f"{chain} does not redirect tcp to :{port}{of_pod(nat)}",
                wanted=f"every tcp packet in {chain} is redirected to :{port}",
                got=_effect(decided(alone, packet_class.sample, host)),
                trace=way,
                cause=cause_of(way, nat) if way is not None else f"no packet comes to {chain}",
                assumptions=assumptions(nat, family),
            )
        ]
    return []


def check_dead_rules(nat: Table, *, host: Host | None = None) -> list[Finding]:
    """Rules that no TCP packet of this host can match, each as a notice.

    Raises:
        Undecided: whether some rule matches is not shown.
    """
    host = host or Host()
    family = nat.ruleset.family
    possible = (
        *inbound_classes(nat, host=host, family=family),
        *outbound_classes(nat, host=host, family=family),
    )
    alive = _matched(nat, possible, host)
    thinkable = outbound_classes(nat, host=host, family=family, routable=False)
    matching_somewhere = alive | _matched(nat, thinkable, host)
    findings = []
    for rule in nat.rules():
        if _place(rule) in alive:
            continue
        routed = _place(rule) in matching_somewhere
        why = "no route produces such a packet" if routed else "rules above take every packet it would match"
        findings.append(
            Finding(
                severity=Severity.NOTICE,
                kind=Kind.RULES,
                summary=f"{rule.chain} rule {rule.number} is dead{of_pod(nat)}: {why}",
                rule=rule,
                facts=(("rule", rule.text),),
            )
        )
    return findings


def _matched(nat: Table, classes: Iterable[PacketClass], host: Host) -> set[tuple[str, int]]:
    """Place of every rule of this table that some class matches."""
    found = set()
    for packet_class in classes:
        for step in decided(nat, packet_class.sample, host).steps:
            if step.table == nat.name and step.rule is not None and step.matched:
                found.add(_place(step.rule))
    return found


def _place(rule: Rule) -> tuple[str, int]:
    return rule.chain, rule.number


def _passes(way: Trace, table: str, jumps: Sequence[Rule]) -> bool:
    places = {_place(rule) for rule in jumps}
    return any(
        step.table == table and step.rule is not None and step.matched and _place(step.rule) in places
        for step in way.steps
    )


def _entering(
    rules: Rules, source: str, protocol: str, host: Host | None, family: Family
) -> tuple[PacketClass, ...]:
    if source == "PREROUTING":
        return inbound_classes(rules, host=host or Host(), protocol=protocol, family=family)
    if source == "OUTPUT":
        return outbound_classes(rules, host=host or Host(), protocol=protocol, family=family)
    raise UsageProblem(f"packets enter nat at PREROUTING or OUTPUT, not at {source}")


def _way_through(nat: Table, chain: str, host: Host) -> Trace | None:
    """How an ordinary packet comes through a chain; None when none does."""
    family = nat.ruleset.family
    for classes in (inbound_classes, outbound_classes):
        for packet_class in classes(nat, host=host, family=family):
            way = decided(nat, packet_class.sample, host)
            jumped = (step.rule.target for step in way.steps if step.rule is not None and step.matched)
            if any(isinstance(target, Jump | Goto) and target.chain == chain for target in jumped):
                return way
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
        summary=f"the {nat.name} table has no chain {chain}{of_pod(nat)}",
        wanted=wanted,
        got=f"chains: {names}",
        cause=""
        if any(nat.rules())
        else "the table has no rule at all: Istio's rules are not in this back end",
    )


def _not_excluded(rules: Rules, way: Trace, port: int) -> Finding:
    return Finding(
        kind=Kind.REDIRECT,
        summary=f"inbound tcp/{port} ({ports.PURPOSE.get(port, 'excluded port')}) is captured, "
        f"but should be excluded{of_pod(rules)}",
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
    what = "is dropped" if dropped else "reaches the application without Envoy"
    return Finding(
        kind=Kind.REDIRECT if dropped else Kind.BYPASS,
        summary=f"inbound {span} {what}{of_pod(rules)}",
        wanted=f"only {listed} excluded" if wanted else "no port excluded",
        got=f"also {span}: destination unchanged" if not dropped else "the kernel drops it",
        trace=way,
        cause=cause_of(way, rules),
        assumptions=assumptions(rules, way.packet.family),
    )
