"""What becomes of a packet, and why: the public tracer.

Knows what to answer where a match cannot be told: both answers are followed,
and only what all traversals agree on is an answer. Does not know Istio.
Invariant: pure, and `UNKNOWN` always has reasons.
Semantics: docs/semantics.md, 1.3 and 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pytest_istio_sidecar.markup import html_table
from pytest_istio_sidecar.netfilter.kernel.hooks import (
    Legs,
    Order,
    UnreadChain,
    legs,
    may_route_by_unread,
    orders,
    unread_chains,
)
from pytest_istio_sidecar.netfilter.kernel.unread import notes_of, reason
from pytest_istio_sidecar.netfilter.matches import Hidden
from pytest_istio_sidecar.netfilter.model import Rule, Rules, Ruleset
from pytest_istio_sidecar.netfilter.namespace.routing import Routing
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate, Host, Packet
from pytest_istio_sidecar.netfilter.targets import Extended
from pytest_istio_sidecar.netfilter.trace.hooks import Traversal
from pytest_istio_sidecar.netfilter.trace.match import why_unknown
from pytest_istio_sidecar.netfilter.trace.nat import Unforeseeable
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb
from pytest_istio_sidecar.netfilter.trace.table import (
    CompiledChain,
    CompiledRule,
    CompiledRuleset,
    Step,
    compile_ruleset,
)

V = TypeVar("V")

TOO_MANY_ORDERS = "too many base chains have one place: in which order the kernel asks them cannot be read"

_Legs = Legs[CompiledChain | UnreadChain]

COMBINATIONS = 4096
"""Combinations of matches that cannot be told, beyond which the answer is UNKNOWN."""

_ROUTED_BY_MARK = (
    "rules of the namespace (ip rule) ask for a mark, which tables that were not read could give it"
)

REMEMBERED = 64
"""Rulesets and hosts whose compiled form is kept."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A packet's traversal of the rules.

    Attributes:
        fate: what becomes of it.
        destination: where it goes; its own destination where nothing translates it.
        mark: as it leaves POSTROUTING or INPUT, the last of them that it passes; None: not known.
        deciding_rule: what decided the fate: the rule that translates, drops or hands over the
            packet, or the last RETURN or ACCEPT that let it by; None: a policy.
        reasons: why the fate is unknown, one sentence each.
        steps: every rule the packet met, in order; where the fate is unknown, as if unknown matches failed
            and what was not read held no rule.
    """

    packet: Packet
    rules: Rules = field(repr=False)
    host: Host
    fate: Fate
    destination: Endpoint
    mark: int | None
    deciding_rule: Rule | None
    reasons: tuple[str, ...] = ()
    steps: tuple[Step, ...] = field(default=(), repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not read; a fate that is known holds whatever that is."""
        return notes_of(self.rules, self.packet.family)

    @property
    def outcome(self) -> str:
        """The fate in words: REJECT tells the sender, DROP does not (iptables-extensions(8))."""
        target = self.deciding_rule.target if self.deciding_rule else None
        answers = isinstance(target, Extended) and target.name == "REJECT"
        return "dropped by REJECT" if self.fate is Fate.DROPPED and answers else str(self.fate)

    def _repr_html_(self) -> str:
        """The traversal as a table, for notebooks."""
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

    Where no rules of the packet's family were read, or where a chain that was not read could capture what
    the others let by, the fate is unknown. A nat table is taken to be asked even where nothing in the
    namespace needs conntrack, in which case the kernel does not ask it.

    Raises:
        UsageProblem: chains jump in a circle.
    """
    host = host or _DEFAULT_HOST
    possible = _orders(rules, packet)
    if possible and not possible[0][0].rulesets:
        return _unknown(rules, packet, host, (_no_rules(packet),))
    if not possible:
        return _unknown(rules, packet, host, (TOO_MANY_ORDERS,))
    if may_route_by_unread(possible[0][0].rulesets, host.policies.get(packet.family)):
        return _unknown(rules, packet, host, (_ROUTED_BY_MARK,))
    traces = in_each_order(rules, packet, host=host)
    first = traces[0]
    if all((other.fate, other.destination) == (first.fate, first.destination) for other in traces):
        return first if len({other.mark for other in traces}) == 1 else replace(first, mark=None)
    reasons = _reasons_of_order([order for order, _ in possible], traces)
    return replace(first, fate=Fate.UNKNOWN, destination=_own(packet), mark=None, reasons=reasons)


def in_each_order(rules: Rules, packet: Packet, *, host: Host | None = None) -> list[Trace]:
    """As `trace`, once for each order in which base chains may be asked; for one hook always as many."""
    host = host or _DEFAULT_HOST
    routing = _routing(host)
    return [_agreed(rules, packet, host, routing, legs) for _, legs in _orders(rules, packet)]


def _no_rules(packet: Packet) -> str:
    added = "iptables-save" if packet.family == 4 else "ip6tables-save (ip6:FILE)"
    return f"no IPv{packet.family} rules were read: add {added}"


def _agreed(rules: Rules, packet: Packet, host: Host, routing: Routing, legs: _Legs) -> Trace:
    """What holds whatever unknown matches answer; shown is the traversal on which none of them holds."""
    answers = _Answers()
    shown = _traversed(packet, routing, legs, answers)
    combinations = 1
    mark = shown.mark
    fate = shown.fate
    while fate is not Fate.UNKNOWN and answers.change():
        combinations += 1
        other = _traversed(packet, routing, legs, answers)
        if (other.fate, other.destination) != (fate, shown.destination) or combinations > COMBINATIONS:
            fate = Fate.UNKNOWN
        if other.mark != mark:
            mark = None
    if fate is Fate.UNKNOWN:
        reasons = answers.reasons
        if combinations > COMBINATIONS:
            reasons[f"more than {COMBINATIONS} combinations of matches would have to be tried"] = None
        return _unknown(rules, packet, host, reasons, shown.steps, answers.first)
    return Trace(
        packet=packet,
        rules=rules,
        host=host,
        fate=fate,
        destination=shown.destination,
        mark=mark,
        deciding_rule=shown.deciding,
        steps=tuple(shown.steps),
    )


def _traversed(packet: Packet, routing: Routing, legs: _Legs, answers: _Answers) -> Traversal:
    answers.start()
    traversal = Traversal(packet, routing, legs, answers)
    try:
        traversal.run()
    except Unforeseeable as why:
        answers.reasons[str(why)] = None
        traversal.fate = Fate.UNKNOWN
    if traversal.could_capture:
        answers.reasons |= dict.fromkeys(_unread(traversal.could_capture))
        traversal.fate = Fate.UNKNOWN
    return traversal


def _unread(chains: Iterable[UnreadChain]) -> Iterator[str]:
    """A sentence for each back end of which chains on the way were not read."""
    by_ruleset: dict[int, list[UnreadChain]] = {}
    for chain in chains:
        by_ruleset.setdefault(id(chain.ruleset), []).append(chain)
    for group in by_ruleset.values():
        yield reason(group[0].ruleset, [(chain.base.table, chain.base.name) for chain in group])


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
    unknown = [m for m, test in zip(compiled.matches, compiled.tests, strict=True) if test(skb) is None]
    hidden = [_hidden(match) for match in unknown if isinstance(match, Hidden)]
    causes = [f"its listing does not show {', '.join(hidden)}"] if hidden else []
    causes += [why_unknown(m, skb, faulty=compiled.faulty) for m in unknown if not isinstance(m, Hidden)]
    return f"{where}: {'; '.join(causes)}: {rule.text}"


def _hidden(match: Hidden) -> str:
    return f"{match.field} (only {match.shown!r})" if match.shown else match.field


def _reasons_of_order(possible: Sequence[Order], traces: Sequence[Trace]) -> tuple[str, ...]:
    unknown = [reason for trace in traces for reason in trace.reasons]
    outcomes = "; ".join(
        dict.fromkeys(
            f"with {order.said} {trace.fate} to {trace.destination}"
            for order, trace in zip(possible, traces, strict=True)
        )
    )
    return tuple(dict.fromkeys([f"{possible[0].unknown}, and decides here: {outcomes}", *unknown]))


def _unknown(
    rules: Rules,
    packet: Packet,
    host: Host,
    reasons: Iterable[str],
    steps: Iterable[Step] = (),
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
        steps=tuple(steps),
    )


def _own(packet: Packet) -> Endpoint:
    return Endpoint(packet.destination, packet.destination_port)  # type: ignore[arg-type]


_DEFAULT_HOST = Host()
_ROUTINGS: dict[tuple[int, ...], tuple[object, Routing]] = {}
_COMPILED: dict[tuple[int, ...], tuple[object, CompiledRuleset]] = {}
_ORDERS: dict[tuple[int, int, str], tuple[object, list[tuple[Order, _Legs]]]] = {}


def _routing(host: Host) -> Routing:
    known = _ROUTINGS.get((id(host),))
    return known[1] if known is not None else _remember(_ROUTINGS, (host,), Routing(host))


def _orders(rules: Rules, packet: Packet) -> list[tuple[Order, _Legs]]:
    """Each order in which base chains may be asked, and the course past them.

    By identity: hashing ten thousand rules for each packet would take longer than tracing it.
    """
    known = _ORDERS.get((id(rules), packet.family, packet.hook))
    if known is not None:
        return known[1]
    made = [(order, _legs(order)) for order in orders(rules, packet.family, packet.hook)]
    if len(_ORDERS) >= REMEMBERED:
        _ORDERS.pop(next(iter(_ORDERS)), None)
    _ORDERS[id(rules), packet.family, packet.hook] = (rules, made)
    return made


def _legs(order: Order) -> _Legs:
    unread = [(chain.base, chain) for chain in unread_chains(order.rulesets)]
    compiled = [
        (base, chain)
        for ruleset, base in order.chains
        if (chain := _compiled(ruleset).get((base.table, base.name))) is not None
    ]
    return legs([*unread, *compiled])


def _compiled(ruleset: Ruleset) -> CompiledRuleset:
    known = _COMPILED.get((id(ruleset),))
    return known[1] if known is not None else _remember(_COMPILED, (ruleset,), compile_ruleset(ruleset))


def _remember(memory: dict[tuple[int, ...], tuple[object, V]], key: tuple[object, ...], value: V) -> V:
    """Keep the last few; an entry holds its key, so that no other object can take its identity."""
    if len(memory) >= REMEMBERED:
        memory.pop(next(iter(memory)), None)
    memory[tuple(map(id, key))] = (key, value)
    return value
