"""What reaches the application, or leaves the pod, without Envoy: every packet, in readable classes.

Knows which fates count as captured, and how to tell classes so that a person can check them. Does not
know how a packet travels (`space`). Invariant: the classes are disjoint, and a possible packet is in
one of them just where it is not captured and not dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.bypass.bypass import Bypass
from pytest_istio_sidecar.checks.bypass.envoy_ports import EnvoyPorts
from pytest_istio_sidecar.checks.bypass.found_bypass import FoundBypass, Passing, told_apart
from pytest_istio_sidecar.checks.bypass.rows import HEADS, rows_of
from pytest_istio_sidecar.checks.cause import cause_of
from pytest_istio_sidecar.checks.finding import Finding, Kind
from pytest_istio_sidecar.checks.other_hosts import other_hosts
from pytest_istio_sidecar.checks.tracing import (
    CAPTURED,
    assumptions,
    comes_by_assumption,
    not_stated,
    of_pod,
    to_assumed_address,
)
from pytest_istio_sidecar.checks.wording import HOOKS, Direction, of_direction
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.istio.ports import INBOUND, OUTBOUND
from pytest_istio_sidecar.markup import html_table
from pytest_istio_sidecar.netfilter.kernel.hooks import unread_chains
from pytest_istio_sidecar.netfilter.kernel.unread import left_aside, notes_of, with_unread_legacy
from pytest_istio_sidecar.netfilter.matches import Owner
from pytest_istio_sidecar.netfilter.model import Family, PodRules, Rule, Rules, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Fate, Hook, Host
from pytest_istio_sidecar.netfilter.space.queries import Fates, Outcome, Partition, fates, no_collection
from pytest_istio_sidecar.netfilter.targets import Jump


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
        return tuple(bypass for bypass in (*self.inbound, *self.outbound) if not bypass.by_design)

    def to_dict(self) -> dict[str, list[dict[str, object]]]:
        """For JSON."""
        return {
            "inbound": [bypass.to_dict() for bypass in self.inbound],
            "outbound": [bypass.to_dict() for bypass in self.outbound],
            "conditional": [bypass.to_dict() for bypass in self.conditional],
        }

    def _repr_html_(self) -> str:
        """The classes as a table, for notebooks."""
        rows = rows_of(with_rules(self))
        return html_table(
            "Packets that get by without Envoy",
            HEADS,
            [(row.packets, row.let_by, row.meant) for row in rows],
            marked={number for number, row in enumerate(rows) if row.by_design == "no"},
            notes=self.unseen,
        )


def with_rules(report: BypassReport) -> dict[str, list[dict[str, object]]]:
    """A report for JSON, each class with all the rules that let packets of it by."""
    kinds = {"inbound": report.inbound, "outbound": report.outbound, "conditional": report.conditional}
    return {
        kind: [{**each.to_dict(), "rules": [rule.text for rule in each.rules]} for each in classes]
        for kind, classes in kinds.items()
    }


@no_collection()
def bypasses(
    rules: Rules,
    *,
    envoy_ports: Collection[int] = (OUTBOUND, INBOUND),
    expected: Rules | None = None,
    host: Host | None = None,
) -> BypassReport:
    """Every class of packets that reach the application, or leave the pod, without Envoy.

    The first packets of connections: what conntrack calls NEW. Captured is what a rule sends to the port of
    this host that is Envoy's for their direction; what is dropped does not get by either.

    Args:
        rules: a table (its whole ruleset takes part), a ruleset, or everything read from a pod.
        envoy_ports: in order, Envoy's for what leaves, Envoy's for what comes, and any others, for either.
            What the pod sends to itself may come to each, and so may what TPROXY hands over: before Istio
            1.9 it came to the first.
        expected: rules whose bypasses are by design, such as `expected_ruleset("1.8.3")`.
        host: the namespace's interfaces and addresses.

    Raises:
        UsageProblem: chains jump in a circle.
    """
    classes = [
        each
        for _, _, partition in _partitions(rules, EnvoyPorts.of(envoy_ports), expected, host)
        for each in classes_of(partition, rules)
    ]
    return report_of(classes, rules)


def report_of(classes: Sequence[FoundBypass], rules: Rules) -> BypassReport:
    """A report of these classes: what is not by design first."""
    classes = sorted(classes, key=lambda each: each.by_design)
    return BypassReport(
        inbound=tuple(each for each in classes if each.certain and each.direction == "inbound"),
        outbound=tuple(each for each in classes if each.certain and each.direction == "outbound"),
        conditional=tuple(each for each in classes if not each.certain),
        unseen=(*_UNSEEN, _taken_for_envoy(rules), *_unread(rules)),
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
        envoy_ports: as of `bypasses`.
        expected: rules whose bypasses are allowed too.

    Raises:
        Undecided: nothing else does, and of some packets it depends on what rules alone do not tell, or
            on what was not read.
        UsageProblem: a text that is no bypass, or no rules.
    """
    meant = list(map(_as_bypass, allowed))
    taking = EnvoyPorts.of(envoy_ports)
    findings = _beside(rules, meant, taking, expected, host)
    for rule, other in () if findings else other_hosts(rules, expected, host):
        if _beside(rules, meant, taking, expected, other):
            raise not_stated(rules, rule)
    return findings


def _beside(
    rules: Rules,
    meant: Sequence[Bypass],
    envoy_ports: EnvoyPorts,
    expected: Rules | None,
    host: Host | None,
) -> list[Finding]:
    """What gets by beside what is meant to.

    Raises:
        Undecided: nothing certainly does, and of some packets it cannot be told.
    """
    findings: list[Finding] = []
    untold: FoundBypass | None = None
    for direction, family, partition in _partitions(rules, envoy_ports, expected, host):
        all_read = not unread_chains(with_unread_legacy(rulesets_of(rules, family)))
        permitted = of_direction(meant, direction, family)
        for bypass in classes_of(partition.overlaid(permitted, _CAUGHT), rules):
            if bypass.by_design and (bypass.certain or all_read):
                continue
            if bypass.certain:
                findings.append(not_allowed(bypass, rules))
            else:
                untold = untold or bypass
    if untold is not None and not findings:
        raise Undecided(
            messages.BYPASS_NOT_TOLD(
                packet=untold.text,
                pod=of_pod(rules),
                facts=[("because", "\n".join(untold.conditions[:3]))],
            )
        )
    return findings


def _unread(rules: Rules) -> Iterator[str]:
    """What these rules in particular do not tell."""
    if not isinstance(rules, PodRules):
        yield "the other family and the other back end were not read"
        yield from (note for family in families_of(rules) for note in notes_of(rules, family))
        return
    yield from left_aside(rules)
    if rules.native_tables:
        yield f"tables made with nft itself are not judged: {', '.join(rules.native_tables)}"


def _as_bypass(allowed: Bypass | FoundBypass | str) -> Bypass:
    if isinstance(allowed, str):
        return Bypass.parse(allowed)
    return allowed.bypass if isinstance(allowed, FoundBypass) else allowed


def not_allowed(bypass: FoundBypass, rules: Rules) -> Finding:
    """The finding that packets get by which may not."""
    message = messages.REACHED_PAST_ENVOY if bypass.direction == "inbound" else messages.LEFT_PAST_ENVOY
    failure = message(packet=bypass.text, pod=of_pod(rules))
    if bypass.sent_to:
        failure = messages.SENT_ELSEWHERE(
            packet=bypass.bypass,
            destination=bypass.sent_to,
            port=f"'s port for {bypass.direction} traffic",
            pod=of_pod(rules),
        )
    return Finding(
        kind=Kind.BYPASS,
        failure=failure,
        wanted="only the allowed bypasses",
        got=f"also {bypass.text}",
        trace=bypass.trace,
        cause=cause_of(bypass.trace, rules),
        assumptions=assumptions(rules, bypass.family),
    )


def families_of(rules: Rules) -> tuple[Family, ...]:
    """The families that were read."""
    families: tuple[Family, ...] = (4, 6)
    return tuple(family for family in families if rulesets_of(rules, family))


def _partitions(
    rules: Rules, envoy_ports: EnvoyPorts, expected: Rules | None, host: Host | None
) -> Iterator[tuple[Direction, Family, Partition]]:
    """All packets of each direction and family that was read, by how they get by."""
    both = [rules] if expected is None else [rules, expected]
    for family in families_of(rules):
        for direction, hook in HOOKS.items():
            here, *there = judged_fates(both, hook, envoy_ports=envoy_ports, host=host, family=family)
            if there and rulesets_of(both[1], family):
                here = here.beside(there[0], by_design)
            yield direction, family, here.partition()


def judged_fates(
    sides: Sequence[Rules], hook: Hook, *, envoy_ports: EnvoyPorts, host: Host | None, family: Family
) -> list[Fates]:
    """How all packets that enter at a hook get by under each set of rules: a `Passing`, if they do."""

    def judged(outcomes: Fates, at: Collection[int], to_assumed: Collection[Rule]) -> Fates:
        def passages(outcome: Outcome, at_envoy: bool) -> tuple[str, ...]:
            if at_envoy and comes_by_assumption(outcome, to_assumed):
                return _CAUGHT, _MOVED
            return _passages(outcome, at_envoy or envoy_ports.takes(outcome, hook))

        return outcomes.labelled(passages, ports=at).judged(_judged)

    exceptions = list(envoy_ports.exceptions(hook, host or Host()))
    answers = []
    for side, outcomes in zip(sides, fates(sides, hook, host=host, family=family), strict=True):
        to_assumed = to_assumed_address(side, family, host)
        answer = judged(outcomes, envoy_ports.at(hook), to_assumed)
        for product, others in exceptions:
            answer = answer.replaced(product, judged(outcomes, others, to_assumed))
        answers.append(answer)
    return answers


def classes_of(partition: Partition, rules: Rules) -> Iterator[FoundBypass]:
    """The classes of those packets that get by."""
    for passing, parts in partition.few_parts().items():
        if isinstance(passing, Passing):
            yield from told_apart([FoundBypass(part, passing, rules) for part in parts])


_CAUGHT = "captured or dropped"
_STRAIGHT = "gets by to where it was going"
_MOVED = "is sent elsewhere, not to Envoy"


def _passages(outcome: Outcome, at_envoy: bool) -> tuple[str, ...]:
    """Whether packets get by: several where it cannot be told."""
    if outcome.fate is Fate.DROPPED:
        return (_CAUGHT,)
    if outcome.fate is Fate.UNKNOWN:
        return _CAUGHT, _STRAIGHT
    if outcome.fate not in CAPTURED:
        return (_STRAIGHT,)
    return (_CAUGHT,) if at_envoy else (_MOVED,)


def _judged(passages: Collection[Hashable]) -> Hashable:
    """Whether packets that may fare so get by."""
    passing = {_STRAIGHT, _MOVED}.intersection(passages)
    if not passing:
        return _CAUGHT
    return Passing(certain=_CAUGHT not in passages, by_design=False, moved=passing == {_MOVED})


def by_design(here: Hashable, there: Hashable) -> Hashable:
    """How packets get by, where the expected rules have them fare so."""
    return replace(here, by_design=passes_alike(here, there)) if isinstance(here, Passing) else here


def passes_alike(here: Passing, there: Hashable) -> bool:
    """Whether packets surely get by under other rules too, and as they do here."""
    return isinstance(there, Passing) and there.certain and there.moved == here.moved


_UNSEEN = (
    "UDP, ICMP and others are listed above where nothing takes them: Istio captures TCP, and DNS if told",
    "connections made before the rules were loaded, and packets that conntrack calls INVALID, skip nat",
    "packet sockets (AF_PACKET) send and receive beneath every rule",
)


def _taken_for_envoy(rules: Rules) -> str:
    """Whose packets Istio's rules let by, whoever sends them."""
    owners = [
        match
        for family in families_of(rules)
        for ruleset in rulesets_of(rules, family)
        for rule in ruleset.rules()
        for match in rule.matches
        if rule.target == Jump("ISTIO_IN_REDIRECT") and isinstance(match, Owner)
    ]
    named = dict.fromkeys(
        f"{kind} {owner.low}"
        for kind in ("uid", "gid")
        for match in owners
        if (owner := getattr(match, kind)) is not None
    )
    which = f" ({', '.join(named)})" if named else ""
    return f"an application that runs as the proxy's user or group{which} is taken for Envoy"
