"""Do the chains do what Istio means them to, for every packet?

Knows how to ask a chain by effect: over all packets that the host can see. Does not know Istio's chain
names by heart: callers pass them. Invariant: packets whose fate is unknown raise `Undecided`, whatever
becomes of the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.arguments import refuse_port, refuse_table
from pytest_istio_sidecar.checks.cause import cause_of
from pytest_istio_sidecar.checks.finding import Finding, Kind
from pytest_istio_sidecar.checks.tracing import (
    CAPTURED,
    assumptions,
    decided,
    is_undecided,
    not_read,
    of_pod,
    parted,
    stays,
)
from pytest_istio_sidecar.checks.wording import PacketClass, describe, of_family
from pytest_istio_sidecar.errors import Undecided, UsageProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.tables import PREFIX, is_captured
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval, joined, outside
from pytest_istio_sidecar.netfilter.model import Chain, Family, Rule, Rules, Ruleset, Table, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Fate, Hook, Host, Packet
from pytest_istio_sidecar.netfilter.space.queries import (
    Outcome,
    Part,
    entering,
)
from pytest_istio_sidecar.netfilter.targets import Extended, Goto, Jump, Target, Verdict
from pytest_istio_sidecar.netfilter.trace.trace import Trace, trace

_HOOKS: tuple[Hook, ...] = ("PREROUTING", "OUTPUT")
_PORTS = 0xFFFF


def check_jump(
    nat: Table,
    source: str,
    target: str,
    *,
    protocol: str = "tcp",
    host: Host | None = None,
    allowed: Iterable[PacketClass] = (),
) -> list[Finding]:
    """Whether every packet of a protocol that enters `source` goes on into `target`.

    Args:
        nat: the table that holds both chains.
        source: PREROUTING or OUTPUT.
        target: the chain that must be reached, with nothing above taking packets away.
        allowed: packets that need not.

    Raises:
        Undecided: the rules do not show it for some packet.
        UsageProblem: `source` is no chain in which packets enter nat, or this is no table.
    """
    refuse_table(nat)
    family = nat.ruleset.family
    if source in nat.unread:
        raise not_read(nat, f"what comes from {source} to {target}")
    chain = nat.chain(source) if source in nat else Chain(name=source)
    if target not in nat and nat.unread:
        raise not_read(nat, f"whether there is a chain {target}")
    if target not in nat:
        return [_absent(nat, target, wanted=f"{source} sends {protocol} to {target}")]
    packets = f"{of_family(family)}{protocol}"
    jumps = [rule for rule in chain if isinstance(rule.target, Jump | Goto) and rule.target.chain == target]
    ending = _ending_at(nat, target, Extended(name="END"))
    dropping = _ending_at(nat, target, Verdict("DROP"))
    hook = _hook_of(source)
    coming, missed = parted(
        ending,
        hook,
        family,
        protocol,
        host,
        is_undecided,
        source=nat,
        known_in=dropping,
        allowed=allowed,
    )
    if not missed:
        return []
    first = trace(nat, _most_ordinary(missed), host=host)
    return [
        Finding(
            kind=Kind.BYPASS,
            failure=messages.NONE_COMES(protocol=packets, source=source, target=target, pod=of_pod(nat))
            if not coming
            else messages.NOT_ALL_COME(
                protocol=packets,
                source=source,
                target=target,
                packet=describe(first.packet),
                pod=of_pod(nat),
            ),
            wanted=f"{source} sends every {packets} packet to {target}",
            got=_what_instead(chain, jumps, target),
            trace=first,
            cause=cause_of(first, nat),
            assumptions=assumptions(nat, family),
        )
    ]


def check_inbound_exclusions(
    nat: Rules,
    ports: Collection[int],
    *,
    host: Host | None = None,
    family: Family | None = None,
    allowed: Iterable[PacketClass] = (),
) -> list[Finding]:
    """Whether exactly these TCP ports reach the pod without being redirected, of all 65,536.

    Args:
        family: 4 or 6; None: both, IPv6 where rules of Istio's are in ip6tables, or nothing else was read.
        allowed: packets that may reach it so too.

    Raises:
        Undecided: the rules do not show it for some port.
        UsageProblem: these are no rules.
    """
    meant = tuple(allowed)
    families = (family,) if family is not None else _captured_families(nat)
    return [finding for each in families for finding in _exclusions(nat, ports, each, host, meant)]


def _captured_families(rules: Rules) -> tuple[Family, ...]:
    """The families of which all inbound packets are to be captured."""
    with_ipv6 = any(map(is_captured, rulesets_of(rules, 6)))
    if not rulesets_of(rules, 4) and rulesets_of(rules, 6):
        return (6,)
    return (4, 6) if with_ipv6 else (4,)


def _exclusions(
    nat: Rules, ports: Collection[int], family: Family, host: Host | None, allowed: Sequence[PacketClass]
) -> list[Finding]:
    if not rulesets_of(nat, family):
        raise Undecided(messages.NO_RULES_READ(packet="inbound tcp", family=family, pod=of_pod(nat)))
    wanted = set(ports)
    for port in wanted:
        refuse_port(port)
    captured, passing = parted(
        nat, "PREROUTING", family, "tcp", host, _is_captured, ports=range(_PORTS + 1), allowed=allowed
    )
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
        UsageProblem: this is no port, or another table than nat.
    """
    refuse_table(nat, only="nat")
    refuse_port(port)
    family = nat.ruleset.family
    if chain not in nat and nat.unread:
        raise not_read(nat, f"whether there is a chain {chain}")
    if chain not in nat:
        return [_absent(nat, chain, wanted=f"{chain} redirects tcp to :{port}")]
    alone = _entered_directly(nat, chain)
    _, others = parted(
        alone,
        "OUTPUT",
        family,
        "tcp",
        host,
        lambda outcome, there: there and outcome.fate in CAPTURED,
        ports=(port,),
    )
    if not others:
        return []
    ordinary = _most_ordinary(others)
    shown = _through(nat, chain, host)
    if shown is not None and _is_sent_to(port, shown):
        shown = decided(nat, ordinary, host)
    return [
        Finding(
            kind=Kind.REDIRECT,
            failure=messages.NO_REDIRECT(chain=f"{of_family(family)}{chain}", port=port, pod=of_pod(nat)),
            wanted=f"every {of_family(family)}tcp packet in {chain} is redirected to :{port}",
            got=_effect(decided(alone, ordinary, host)),
            trace=shown,
            cause=cause_of(shown, nat) if shown is not None else f"no packet comes to {chain}",
            assumptions=assumptions(nat, family),
        )
    ]


def _is_captured(outcome: Outcome, there: bool) -> bool:
    return outcome.fate in CAPTURED and (there or outcome.fate is not Fate.TRANSLATED)


def _ports_of(parts: Sequence[Part]) -> tuple[Interval, ...]:
    spans = (span for part in parts for span in part.values("destination_port"))
    return joined(span for span in spans if not isinstance(span, str))


def _without(intervals: Sequence[Interval], ports_left_out: Collection[int]) -> Iterator[Interval]:
    """The intervals without some ports."""
    excluded = joined((port, port) for port in ports_left_out)
    for low, high in intervals:
        for first, last in outside(excluded, _PORTS):
            if max(low, first) <= min(high, last):
                yield max(low, first), min(high, last)


def _packet_to(parts: Sequence[Part], port: int) -> Packet:
    packets = (part.packet({"destination_port": port}) for part in parts)
    return next(packet for packet in packets if packet.destination_port == port)


def _most_ordinary(parts: Sequence[Part]) -> Packet:
    """What people think of first: port 80, from the application, to elsewhere."""
    return max(
        (packet for part in parts for packet in part.witnesses),
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


def _ending_at(nat: Table, chain: str, target: Target) -> Table:
    """The same table, in which `chain` has one rule, by which packets are known that come to it."""
    end = Chain(name=chain, rules=(Rule(chain=chain, number=1, target=target),))
    return _alone(nat.ruleset.with_table(nat.with_chain(end))).table(nat.name)


def _alone(ruleset: Ruleset) -> Ruleset:
    """Rules of which something is asked that what was not read has no part in."""
    return replace(ruleset, unread=frozenset(), beside_legacy=False)


def _through(nat: Table, chain: str, host: Host | None) -> Trace | None:
    """How an ordinary packet comes through a chain; None when none does."""
    for hook in _HOOKS:
        parts = entering(nat, chain, hook, host=host)
        if parts:
            return trace(nat, _most_ordinary(parts), host=host)
    return None


def _is_sent_to(port: int, trace: Trace) -> bool:
    return stays(trace) and trace.destination.port == port


def _entered_directly(nat: Table, chain: str) -> Table:
    """The same table with OUTPUT made one jump to `chain`, and no other table beside it."""
    entry = Chain(name="OUTPUT", policy="ACCEPT", rules=(Rule(chain="OUTPUT", number=1, target=Jump(chain)),))
    others = tuple(other for other in nat.chains if other.name != "OUTPUT")
    table = Table(name="nat", chains=(entry, *others))
    return _alone(replace(nat.ruleset, tables=(table,))).nat


def _what_instead(chain: Chain, jumps: Sequence[Rule], target: str) -> str:
    if not chain.rules:
        return f"{chain.name} has no rule"
    if not jumps:
        return f"no rule of {chain.name} jumps to {target}"
    return f"a rule above the jump, which is number {jumps[0].number}, takes packets away"


def _effect(alone: Trace) -> str:
    """What a chain makes of a packet that enters it."""
    if alone.fate is Fate.UNCHANGED:
        return "the packet keeps its destination"
    if alone.fate is Fate.DROPPED:
        return f"the packet is {alone.outcome}"
    return f"the packet is sent to {f':{alone.destination.port}' if stays(alone) else alone.destination}"


def _absent(nat: Table, chain: str, *, wanted: str) -> Finding:
    names = ", ".join(other.name for other in nat.chains) or "none"
    return Finding(
        kind=Kind.RULES,
        failure=messages.NO_CHAIN(
            table=f"{of_family(nat.ruleset.family)}{nat.name}", chain=chain, pod=of_pod(nat)
        ),
        wanted=wanted,
        got=f"chains: {names}",
        cause=_why_absent(nat),
    )


def _why_absent(nat: Table) -> str:
    if any(other.name.startswith(PREFIX) for other in nat.chains):
        return ""
    none = "the table has no rule at all" if not any(nat.rules()) else "no chain of Istio's is in the table"
    return f"{none}: Istio's rules were not made, or are in the other back end"


def _not_excluded(rules: Rules, trace: Trace, port: int) -> Finding:
    return Finding(
        kind=Kind.REDIRECT,
        failure=messages.NOT_EXCLUDED(
            packet=f"inbound {of_family(trace.packet.family)}tcp {port}",
            purpose=ports.PURPOSE.get(port, "excluded port"),
            pod=of_pod(rules),
        ),
        wanted=f"tcp {port} reaches the pod unchanged",
        got=f"{trace.fate} to {trace.destination}",
        trace=trace,
        cause=cause_of(trace, rules),
        assumptions=assumptions(rules, trace.packet.family),
    )


def _excluded(rules: Rules, trace: Trace, low: int, high: int, wanted: set[int]) -> Finding:
    span = f"{of_family(trace.packet.family)}tcp {low}" + (f"-{high}" if high > low else "")
    listed = ", ".join(map(str, sorted(wanted))) or "none"
    packet, pod = f"inbound {span}", of_pod(rules)
    failure, got = messages.REACHED_PAST_ENVOY(packet=packet, pod=pod), f"also {span}: destination unchanged"
    if trace.fate is Fate.DROPPED:
        failure, got = (
            messages.DROPPED(packet=packet, outcome=trace.outcome, pod=pod),
            f"it is {trace.outcome}",
        )
    elif trace.fate is Fate.TRANSLATED:
        failure = messages.SENT_ELSEWHERE(packet=packet, destination=trace.destination, port="", pod=pod)
        got = f"also {span}: sent to {trace.destination}"
    return Finding(
        kind=Kind.REDIRECT if trace.fate is Fate.DROPPED else Kind.BYPASS,
        failure=failure,
        wanted=f"only {listed} excluded" if wanted else "no port excluded",
        got=got,
        trace=trace,
        cause=cause_of(trace, rules),
        assumptions=assumptions(rules, trace.packet.family),
    )
