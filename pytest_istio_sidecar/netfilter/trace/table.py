"""One packet's way through one table at one hook, rule by rule.

Knows chains, jump, goto, RETURN, policies, and what each target does to the
packet. Does not know the order of tables and hooks (`trace`). Invariant: a
ruleset is compiled once and never changes; every rule met leaves one entry in
the journal, in the order met.
Semantics: docs/semantics.md, 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import NamedTuple

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.model import Backend, Rule, Ruleset, Table
from pytest_istio_sidecar.netfilter.targets import (
    Extended,
    Goto,
    Jump,
    Redirect,
    SetMark,
    Target,
    Tproxy,
    Translate,
    Verdict,
)
from pytest_istio_sidecar.netfilter.trace import nat
from pytest_istio_sidecar.netfilter.trace.effects import PASSING, compile_effect
from pytest_istio_sidecar.netfilter.trace.match import compile_faulty, compile_match, written_faultily
from pytest_istio_sidecar.netfilter.trace.nat import Unforeseeable
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb, Test

HOPS = 65_536
"""Jumps beyond which chains must be jumping in a circle; the kernel refuses such rules (ELOOP)."""


class Act(IntEnum):
    """What a rule's target does to the walk."""

    CONTINUE = 0
    EFFECT = 1
    JUMP = 2
    GOTO = 3
    RETURN = 4
    ACCEPT = 5
    DROP = 6
    NAT = 7
    TPROXY = 8
    UNKNOWN = 9


class End(IntEnum):
    """How a walk through a table ends."""

    ACCEPTED = 0
    DROPPED = 1
    TRANSLATED = 2
    TPROXIED = 3


class Entry(NamedTuple):
    """One line of the journal: a rule and whether it matched (None: cannot be told), or a policy."""

    table: str
    chain: str
    rule: Rule | None
    matched: bool | None
    outcome: str = ""


class CompiledRule(NamedTuple):
    rule: Rule
    tests: tuple[Test, ...]
    act: Act
    argument: object
    faulty: bool


class CompiledChain:
    """A chain whose jumps point at chains."""

    __slots__ = ("captures", "name", "policy", "rules")

    def __init__(self, name: str, policy: str | None, *, captures: bool) -> None:
        self.name = name
        self.policy = policy
        self.captures = captures
        """Whether its table can send packets elsewhere, so that a RETURN in it decides something."""
        self.rules: tuple[CompiledRule, ...] = ()


Oracle = Callable[[CompiledRule, Skb], bool]
"""Answers for a match that cannot be told, so that both answers can be tried."""

CompiledRuleset = Mapping[tuple[str, str], CompiledChain]
"""The chains of a ruleset by table and name."""


def compile_ruleset(ruleset: Ruleset) -> CompiledRuleset:
    writer = ruleset.writer if ruleset.backend is Backend.NF_TABLES else None
    compiled: dict[tuple[str, str], CompiledChain] = {}
    for table in ruleset.tables:
        compiled.update(_compile_table(table, writer))
    return compiled


def walk(
    table: str, start: CompiledChain, skb: Skb, hook: str, journal: list[Entry], oracle: Oracle
) -> tuple[End, Rule | None]:
    """Take the packet through a built-in chain and what it jumps to.

    Returns:
        How it ends, and the rule that ended it: None for a policy that no RETURN led to.

    Raises:
        Unforeseeable: a target decides by what is not known.
        UsageProblem: chains jump in a circle.
    """
    stack: list[tuple[CompiledChain, int]] = []
    chain, index = start, 0
    returned: Rule | None = None
    hops = 0
    while True:
        if index == len(chain.rules):
            if stack:
                chain, index = stack.pop()
                continue
            return _policy(table, start, journal, returned)
        compiled = chain.rules[index]
        index += 1
        rule = compiled.rule
        truth: bool | None = True
        for test in compiled.tests:
            answer = test(skb)
            if answer is False:
                truth = False
                break
            if answer is None:
                truth = None
        if truth is False:
            journal.append(Entry(table, chain.name, rule, False))
            continue
        act = compiled.act
        if truth is None:
            journal.append(Entry(table, chain.name, rule, None))
            if act is Act.CONTINUE or not oracle(compiled, skb):
                continue
        else:
            journal.append(Entry(table, chain.name, rule, True))
        if act is Act.CONTINUE:
            continue
        if act is Act.JUMP or act is Act.GOTO:
            hops += 1
            if hops > HOPS:
                raise UsageProblem(messages.CIRCLE(table=table, chain=chain.name))
            if act is Act.JUMP:
                stack.append((chain, index))
            chain, index = compiled.argument, 0  # type: ignore[assignment]
        elif act is Act.RETURN:
            returned = rule
            if not stack:
                return _policy(table, start, journal, returned)
            chain, index = stack.pop()
        elif act is Act.EFFECT:
            compiled.argument(skb)  # type: ignore[operator]
        elif act is Act.ACCEPT:
            return End.ACCEPTED, rule
        elif act is Act.DROP:
            return End.DROPPED, rule
        elif act is Act.NAT:
            return _translate(compiled, skb, hook, journal)
        elif act is Act.TPROXY:
            return End.TPROXIED, rule
        else:
            raise Unforeseeable(str(compiled.argument))


def _policy(
    table: str, chain: CompiledChain, journal: list[Entry], returned: Rule | None
) -> tuple[End, Rule | None]:
    journal.append(Entry(table, chain.name, None, True, f"policy {chain.policy or 'ACCEPT'}"))
    return (End.DROPPED, None) if chain.policy == "DROP" else (End.ACCEPTED, returned)


def _translate(compiled: CompiledRule, skb: Skb, hook: str, journal: list[Entry]) -> tuple[End, Rule | None]:
    target = compiled.argument
    if isinstance(target, Redirect):
        if not nat.redirect(target, skb, hook):
            address = f"{skb.incoming} has no address to redirect to"
            journal[-1] = journal[-1]._replace(outcome=f"match, dropped: {address}")
            return End.DROPPED, compiled.rule
    elif isinstance(target, Translate) and target.name == "DNAT":
        nat.destination(target, skb)
    elif isinstance(target, Translate):
        nat.source(target, skb)
    elif isinstance(target, Extended):
        nat.masquerade(target, skb)
    return End.TRANSLATED, compiled.rule


def _compile_table(table: Table, writer: str | None) -> dict[tuple[str, str], CompiledChain]:
    captures = table.name == "nat" or any(isinstance(rule.target, Tproxy) for rule in table.rules())
    chains = {c.name: CompiledChain(c.name, c.policy, captures=captures) for c in table.chains}
    for chain in table.chains:
        chains[chain.name].rules = tuple(
            _compile_rule(rule, table.name, chains, writer) for rule in chain.rules
        )
    return {
        (table.name, name): compiled
        for name, compiled in chains.items()
        # An empty chain is worth a line only where packets could have been captured.
        if compiled.rules
        or compiled.policy == "DROP"
        or (table.name == "nat" and name in ("PREROUTING", "OUTPUT"))
    }


def _compile_rule(
    rule: Rule, table: str, chains: Mapping[str, CompiledChain], writer: str | None
) -> CompiledRule:
    faulty = [written_faultily(match, writer) for match in rule.matches]
    tests = tuple(
        compile_faulty(match) if wrong else compile_match(match)
        for match, wrong in zip(rule.matches, faulty, strict=True)
    )
    act, argument = _compile_target(rule.target, table, chains)
    return CompiledRule(rule, tests, act, argument, any(faulty))


def _compile_target(
    target: Target | None, table: str, chains: Mapping[str, CompiledChain]
) -> tuple[Act, object]:
    match target:
        case None:
            return Act.CONTINUE, None
        case Verdict(name="ACCEPT"):
            return Act.ACCEPT, None
        case Verdict(name="DROP"):
            return Act.DROP, None
        case Verdict(name="RETURN"):
            return Act.RETURN, None
        case Jump(chain=name) | Goto(chain=name):
            if name not in chains:
                return Act.UNKNOWN, f"chain {name} of table {table} was not read"
            return (Act.JUMP if isinstance(target, Jump) else Act.GOTO), chains[name]
        case Redirect() | Translate() | Extended(name="MASQUERADE"):
            return Act.NAT, target
        case Tproxy():
            return Act.TPROXY, None
        case SetMark() | Extended():
            if isinstance(target, Extended) and target.name == "REJECT":
                return Act.DROP, None
            if isinstance(target, Extended) and target.name in PASSING:
                return Act.CONTINUE, None
            effect = compile_effect(target)
            if effect is not None:
                return Act.EFFECT, effect
    return Act.UNKNOWN, f"what `{target}` does to a packet is not modelled"
