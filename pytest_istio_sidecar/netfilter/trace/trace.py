"""What becomes of a packet, and why: the public tracer.

Knows the kernel's order of tables and hooks, and what to answer where a match
cannot be told: both ways are followed, and only what all ways agree on is an
answer. Does not know Istio. Invariant: pure, and `UNKNOWN` always has reasons.
Semantics: docs/semantics.md, 1.3 and 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import permutations
from typing import TypeVar

from pytest_istio_sidecar.markup import html_table
from pytest_istio_sidecar.netfilter.matches import Hidden
from pytest_istio_sidecar.netfilter.model import PodRules, Rule, Rules, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate, Host, Packet
from pytest_istio_sidecar.netfilter.routing import Routing
from pytest_istio_sidecar.netfilter.targets import (
    Extended,
    Goto,
    Jump,
    Redirect,
    SetMark,
    Target,
    Translate,
    Verdict,
)
from pytest_istio_sidecar.netfilter.trace.hooks import Passage
from pytest_istio_sidecar.netfilter.trace.match import why_unknown
from pytest_istio_sidecar.netfilter.trace.nat import Unforeseeable
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb
from pytest_istio_sidecar.netfilter.trace.table import CompiledRule, CompiledRuleset, Entry, compile_ruleset

K = TypeVar("K")
V = TypeVar("V")

WAYS = 4096
"""Combinations of matches that cannot be told, beyond which the answer is UNKNOWN."""

REMEMBERED = 64
"""Rulesets and hosts whose compiled form is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rule that the packet met, or the policy at the end of a built-in chain."""

    table: str
    chain: str
    rule: Rule | None
    """None: the chain's policy."""
    matched: bool | None
    """None: it cannot be told."""
    outcome: str
    """ "no match", "match, jump", "unknown", "policy ACCEPT" and the like."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A packet's way through the rules.

    Attributes:
        fate: what becomes of it.
        destination: where it goes; its own destination where nothing translates it.
        mark: as it leaves POSTROUTING or INPUT, the last of them that it passes; None: not known.
        deciding_rule: what decided the fate: the rule that translates, drops or hands over the
            packet, or the last RETURN or ACCEPT that let it by; None: a policy.
        reasons: why the fate is unknown, one sentence each.
    """

    packet: Packet
    rules: Rules = field(repr=False)
    host: Host
    fate: Fate
    destination: Endpoint
    mark: int | None
    deciding_rule: Rule | None
    reasons: tuple[str, ...] = ()
    _journal: tuple[Entry, ...] = field(default=(), repr=False)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """Every rule the packet met, in order; where the fate is unknown, as if unknown matches failed."""
        return tuple(
            Step(
                table=entry.table,
                chain=entry.chain,
                rule=entry.rule,
                matched=entry.matched,
                outcome=entry.outcome or _outcome(entry),
            )
            for entry in self._journal
        )

    def _repr_html_(self) -> str:
        """The way as a table, for notebooks."""
        decisive = {
            number
            for number, step in enumerate(self.steps)
            if step.rule is not None and step.rule is self.deciding_rule and step.matched
        }
        own = _own(self.packet)
        moved = f" to {self.destination}" if self.destination != own else ""
        return html_table(
            f"{self.packet.hook} {own}: {self.fate}{moved}",
            ("Table", "Chain", "Rule", "Outcome"),
            [
                (step.table, step.chain, step.rule.text if step.rule else "", step.outcome)
                for step in self.steps
            ],
            marked=decisive,
            notes=self.reasons,
        )


def trace(rules: Rules, packet: Packet, *, host: Host | None = None) -> Trace:
    """Follow the first packet of a connection through the rules, in the kernel's order.

    Args:
        rules: a table (its whole ruleset takes part), a ruleset, or everything read from a pod.
        packet: where it enters, and what rules may ask of it.
        host: the namespace's interfaces and addresses.

    Rules of another family than the packet's do not see it. A nat table is taken to be asked
    even where nothing in the namespace needs conntrack, in which case the kernel does not ask it.

    Raises:
        UsageProblem: chains jump in a circle.
    """
    host = host or _DEFAULT_HOST
    rulesets = rulesets_of(rules, packet.family)
    if not rulesets and isinstance(rules, PodRules):
        return _unknown(rules, packet, host, (f"no IPv{packet.family} rules were read",))
    routing = _routing(host)
    if len(rulesets) > 1:
        # A back end without a rule has no say, whether it is asked first or last.
        rulesets = tuple(filter(has_a_say, rulesets)) or rulesets[:1]
    compiled = [_compiled(ruleset) for ruleset in rulesets]
    if len(compiled) < 2 or not isinstance(rules, PodRules) or rules.order_known:
        return _agreed(rules, packet, host, routing, compiled)
    traces = [_agreed(rules, packet, host, routing, order) for order in permutations(compiled)]
    first = traces[0]
    if all((other.fate, other.destination) == (first.fate, first.destination) for other in traces):
        return first if len({other.mark for other in traces}) == 1 else replace(first, mark=None)
    reasons = _reasons_of_order(rulesets, traces)
    return replace(first, fate=Fate.UNKNOWN, destination=_own(packet), mark=None, reasons=reasons)


def has_a_say(ruleset: Ruleset) -> bool:
    """Whether packets may fare otherwise than without it."""
    return any(chain.rules or chain.policy == "DROP" for table in ruleset.tables for chain in table.chains)


def _agreed(
    rules: Rules, packet: Packet, host: Host, routing: Routing, order: Sequence[CompiledRuleset]
) -> Trace:
    """What all ways through unknown matches agree on; shown is the way on which none of them holds."""
    answers = _Answers()
    shown = _pass(packet, routing, order, answers)
    ways = 1
    mark = shown.mark
    fate = shown.fate
    while fate is not Fate.UNKNOWN and answers.change():
        ways += 1
        other = _pass(packet, routing, order, answers)
        if (other.fate, other.destination) != (fate, shown.destination) or ways > WAYS:
            fate = Fate.UNKNOWN
        if other.mark != mark:
            mark = None
    if fate is Fate.UNKNOWN:
        reasons = answers.reasons
        if ways > WAYS:
            reasons[f"more than {WAYS} combinations of matches would have to be tried"] = None
        return _unknown(rules, packet, host, reasons, shown.journal, answers.first)
    return Trace(
        packet=packet,
        rules=rules,
        host=host,
        fate=fate,
        destination=shown.destination,
        mark=mark,
        deciding_rule=shown.deciding,
        _journal=tuple(shown.journal),
    )


def _pass(packet: Packet, routing: Routing, order: Sequence[CompiledRuleset], answers: _Answers) -> Passage:
    answers.start()
    passage = Passage(packet, routing, order, answers)
    try:
        passage.run()
    except Unforeseeable as why:
        answers.reasons[str(why)] = None
        passage.fate = Fate.UNKNOWN
    return passage


class _Answers:
    """Tries both answers for every match that cannot be told, False first."""

    def __init__(self) -> None:
        self.reasons: dict[str, None] = {}
        self.first: Rule | None = None
        self._given: list[bool] = []
        self._asked = 0

    def start(self) -> None:
        self._asked = 0

    def change(self) -> bool:
        """Turn to the next combination of answers; False when all were tried."""
        while self._given and self._given[-1]:
            self._given.pop()
        if self._given:
            self._given[-1] = True
        return bool(self._given)

    def __call__(self, compiled: CompiledRule, skb: Skb) -> bool:
        if self._asked == len(self._given):
            self._given.append(False)
            self.first = self.first or compiled.rule
            self.reasons[_reason(compiled, skb)] = None
        self._asked += 1
        return self._given[self._asked - 1]


def _reason(compiled: CompiledRule, skb: Skb) -> str:
    """One sentence for a rule, however many of its conditions cannot be told."""
    rule = compiled.rule
    where = f"rule {rule.number} of {rule.chain}" + (f" ({rule.location})" if rule.location else "")
    unknown = [m for m, test in zip(rule.matches, compiled.tests, strict=True) if test(skb) is None]
    hidden = [_hidden(match) for match in unknown if isinstance(match, Hidden)]
    told = [f"its listing does not show {', '.join(hidden)}"] if hidden else []
    told += [why_unknown(m, skb, faulty=compiled.faulty) for m in unknown if not isinstance(m, Hidden)]
    return f"{where}: {'; '.join(told)}: {rule.text}"


def _hidden(match: Hidden) -> str:
    return f"{match.field} (only {match.shown!r})" if match.shown else match.field


def _reasons_of_order(rulesets: Sequence[Ruleset], traces: Sequence[Trace]) -> tuple[str, ...]:
    unknown = [reason for way in traces for reason in way.reasons]
    outcomes = "; ".join(
        f"with {' before '.join(order)} {way.fate} to {way.destination}"
        for order, way in zip(permutations(map(_name, rulesets)), traces, strict=True)
    )
    told = f"which back end the kernel asks first cannot be read from a listing, and decides here: {outcomes}"
    return tuple(dict.fromkeys([told, *unknown]))


def _name(ruleset: Ruleset) -> str:
    return str(ruleset.backend or ruleset.source or "one ruleset")


def _unknown(
    rules: Rules,
    packet: Packet,
    host: Host,
    reasons: Iterable[str],
    journal: Iterable[Entry] = (),
    rule: Rule | None = None,
) -> Trace:
    return Trace(
        packet=packet,
        rules=rules,
        host=host,
        fate=Fate.UNKNOWN,
        destination=_own(packet),
        mark=None,
        deciding_rule=rule,
        reasons=tuple(reasons),
        _journal=tuple(journal),
    )


def _own(packet: Packet) -> Endpoint:
    return Endpoint(packet.destination, packet.destination_port)  # type: ignore[arg-type]


_VERBS: dict[str, str] = {"ACCEPT": "accept", "DROP": "drop", "RETURN": "return", "QUEUE": "queue"}


def _outcome(entry: Entry) -> str:
    if entry.matched is None:
        return "unknown"
    if not entry.matched:
        return "no match"
    return f"match{_effect(entry.rule.target)}" if entry.rule is not None else "policy"


def _effect(target: Target | None) -> str:
    match target:
        case None:
            return ""
        case Verdict(name=name):
            return f", {_VERBS.get(name, name)}"
        case Jump():
            return ", jump"
        case Goto():
            return ", goto"
        case Redirect():
            return ", redirect"
        case SetMark():
            return ", mark"
        case Translate(name=name) | Extended(name=name):
            return f", {name}"
        case _:
            return ", TPROXY"


_DEFAULT_HOST = Host()
_ROUTINGS: dict[int, tuple[Host, Routing]] = {}
_COMPILED: dict[int, tuple[Ruleset, CompiledRuleset]] = {}


def _routing(host: Host) -> Routing:
    known = _ROUTINGS.get(id(host))
    return known[1] if known is not None else _remember(_ROUTINGS, host, Routing(host))


def _compiled(ruleset: Ruleset) -> CompiledRuleset:
    """By identity: hashing ten thousand rules for each packet would take longer than tracing it."""
    known = _COMPILED.get(id(ruleset))
    return known[1] if known is not None else _remember(_COMPILED, ruleset, compile_ruleset(ruleset))


def _remember(memory: dict[int, tuple[K, V]], key: K, value: V) -> V:
    """Keep the last few; an entry holds its key, so that no other object can take its identity."""
    if len(memory) >= REMEMBERED:
        memory.pop(next(iter(memory)), None)
    memory[id(key)] = (key, value)
    return value
