"""One packet's traversal of one table at one hook, rule by rule.

Knows chains, jump, goto, RETURN and policies. Does not know what targets do (`actions`, `nat`), nor the
order of tables and hooks (`hooks`). Invariant: a
ruleset is compiled once and never changes; every rule met leaves one step, in the order met.
Semantics: docs/semantics.md, 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.actions import Action, action_of, effect_of
from pytest_istio_sidecar.netfilter.hooks import FIRST, BaseChain, base_chains
from pytest_istio_sidecar.netfilter.model import Backend, Rule, Ruleset, Table
from pytest_istio_sidecar.netfilter.targets import TARGETS, Extended, Goto, Jump, Target, Tproxy
from pytest_istio_sidecar.netfilter.trace.match import compile_faulty, compile_match, written_faultily
from pytest_istio_sidecar.netfilter.trace.nat import Unforeseeable, translate
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb, Test

HOPS = 65_536
"""Jumps beyond which chains must be jumping in a circle; the kernel refuses such rules (ELOOP)."""


class Step(NamedTuple):
    """One rule that the packet met, or what happened without one: the policy of a base chain, no route.

    Attributes:
        rule: None: there is none.
        matched: None: it cannot be told.
        remark: what happened, where that does not follow from the rule.
    """

    table: str
    chain: str
    rule: Rule | None
    matched: bool | None
    remark: str = ""

    @property
    def outcome(self) -> str:
        """What the rule did: "no match", "match, jump", "unknown", "policy ACCEPT" and the like."""
        if self.remark or self.rule is None:
            return self.remark
        if self.matched is None:
            return "unknown"
        if not self.matched:
            return "no match"
        return "match" if self.rule.target is None else f"match, {self.rule.target.verb}"


End = tuple[Action, Rule | None]
"""How a traversal of a table ends, and the rule that ended it."""


class CompiledRule(NamedTuple):
    rule: Rule
    tests: tuple[Test, ...]
    action: Action
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

CompiledRuleset = Sequence[tuple[BaseChain, CompiledChain]]
"""The base chains of a ruleset that are worth asking."""


def compile_ruleset(ruleset: Ruleset) -> CompiledRuleset:
    writer = ruleset.writer if ruleset.backend is Backend.NF_TABLES else None
    chains = {table.name: _compile_table(table, writer) for table in ruleset.tables}
    registered = [(base, chains[base.table][base.name]) for base in base_chains(ruleset)]
    return [(base, chain) for base, chain in registered if _is_worth_asking(base, chain)]


def _is_worth_asking(base: BaseChain, chain: CompiledChain) -> bool:
    """An empty chain is worth a line only where packets could have been captured."""
    return bool(chain.rules) or chain.policy == "DROP" or (base.type == "nat" and base.hook in FIRST)


def traverse(table: str, start: CompiledChain, skb: Skb, hook: str, steps: list[Step], oracle: Oracle) -> End:
    """Take the packet through a built-in chain and what it jumps to.

    Returns:
        ACCEPT, DROP, NAT or TPROXY, and the rule that ended it: None for a policy that no RETURN led to.

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
            return _policy(table, start, steps, returned)
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
            steps.append(Step(table, chain.name, rule, False))
            continue
        action = compiled.action
        if truth is None:
            steps.append(Step(table, chain.name, rule, None))
            if action is Action.CONTINUE or not oracle(compiled, skb):
                continue
        else:
            steps.append(Step(table, chain.name, rule, True))
        if action is Action.CONTINUE:
            continue
        if action is Action.JUMP or action is Action.GOTO:
            hops += 1
            if hops > HOPS:
                raise UsageProblem(messages.CIRCLE(table=table, chain=chain.name))
            if action is Action.JUMP:
                stack.append((chain, index))
            chain, index = compiled.argument, 0  # type: ignore[assignment]
        elif action is Action.RETURN:
            returned = rule
            if not stack:
                return _policy(table, start, steps, returned)
            chain, index = stack.pop()
        elif action is Action.EFFECT:
            compiled.argument(skb)  # type: ignore[operator]
        elif action is Action.ACCEPT or action is Action.DROP or action is Action.TPROXY:
            return action, rule
        elif action is Action.NAT:
            return _translate(compiled, skb, hook, steps), rule
        else:
            raise Unforeseeable(str(compiled.argument))


def _policy(table: str, chain: CompiledChain, steps: list[Step], returned: Rule | None) -> End:
    steps.append(Step(table, chain.name, None, True, f"policy {chain.policy or 'ACCEPT'}"))
    return (Action.DROP, None) if chain.policy == "DROP" else (Action.ACCEPT, returned)


def _translate(compiled: CompiledRule, skb: Skb, hook: str, steps: list[Step]) -> Action:
    if translate(compiled.argument, skb, hook):  # type: ignore[arg-type]
        return Action.NAT
    address = f"{skb.incoming} has no address to redirect to"
    steps[-1] = steps[-1]._replace(remark=f"match, dropped: {address}")
    return Action.DROP


def _compile_table(table: Table, writer: str | None) -> dict[str, CompiledChain]:
    captures = table.name == "nat" or any(isinstance(rule.target, Tproxy) for rule in table.rules())
    chains = {c.name: CompiledChain(c.name, c.policy, captures=captures) for c in table.chains}
    for chain in table.chains:
        chains[chain.name].rules = tuple(
            _compile_rule(rule, table.name, chains, writer) for rule in chain.rules
        )
    return chains


def _compile_rule(
    rule: Rule, table: str, chains: Mapping[str, CompiledChain], writer: str | None
) -> CompiledRule:
    faulty = [written_faultily(match, writer) for match in rule.matches]
    tests = tuple(
        compile_faulty(match) if wrong else compile_match(match)
        for match, wrong in zip(rule.matches, faulty, strict=True)
    )
    action, argument = _compile_target(rule.target, table, chains)
    return CompiledRule(rule, tests, action, argument, any(faulty))


def _compile_target(
    target: Target | None, table: str, chains: Mapping[str, CompiledChain]
) -> tuple[Action, object]:
    """The target's action, with what that needs: a chain, an effect, a target of nat, why it is unknown."""
    action = action_of(target)
    if isinstance(target, Jump | Goto):
        if target.chain not in chains:
            return Action.UNKNOWN, _not_in_the_text(target.chain, table)
        return action, chains[target.chain]
    if action is Action.EFFECT:
        return action, effect_of(target)  # type: ignore[arg-type]
    if action is Action.UNKNOWN:
        if isinstance(target, Extended) and not target.options and target.name not in TARGETS:
            return action, _not_in_the_text(target.name, table)
        return action, f"what `{target}` does to a packet is not modelled"
    return action, target


def _not_in_the_text(chain: str, table: str) -> str:
    return f"chain {chain} of table {table}, to which a rule goes, is not in the text"
