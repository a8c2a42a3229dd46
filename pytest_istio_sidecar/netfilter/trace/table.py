"""One packet's traversal of one table at one hook, rule by rule.

Knows chains, jump, goto, RETURN and policies. Does not know what targets do (`actions`, `nat`), nor the
order of tables and hooks (`hooks`). Invariant: a
ruleset is compiled once and never changes; every rule met leaves one step, in the order met.
Semantics: docs/semantics.md, 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.kernel.actions import Action, action_of, effect_of
from pytest_istio_sidecar.netfilter.kernel.hooks import FIRST, BaseChain, base_chains
from pytest_istio_sidecar.netfilter.matches import Match
from pytest_istio_sidecar.netfilter.model import Backend, Rule, Ruleset, Table
from pytest_istio_sidecar.netfilter.targets import (
    TARGETS,
    Block,
    Extended,
    Goto,
    Inner,
    Jump,
    Redirect,
    Target,
    Tproxy,
)
from pytest_istio_sidecar.netfilter.trace.match import compile_faulty, compile_match, written_faultily
from pytest_istio_sidecar.netfilter.trace.nat import Unforeseeable, hand_over, translate
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
    """A rule, or one within a rule, whose `rule` is then the outer one."""

    rule: Rule
    matches: tuple[Match, ...]
    tests: tuple[Test, ...]
    action: Action
    argument: object
    faulty: bool
    verb: str


class CompiledChain:
    """A chain whose jumps point at chains, or the rules within a rule of it (`inline`)."""

    __slots__ = ("captures", "exclusive", "inline", "name", "policy", "rules")

    def __init__(
        self, name: str, policy: str | None = None, *, inline: bool = False, exclusive: bool = False
    ) -> None:
        self.name = name
        self.policy = policy
        self.inline = inline
        self.exclusive = exclusive
        """Of rules within a rule: the first that matches is the last."""
        self.captures = False
        """Whether its table can send packets elsewhere, so that a RETURN in it decides something."""
        self.rules: tuple[CompiledRule, ...] = ()


Oracle = Callable[[CompiledRule, Skb], bool]
"""Answers for a match that cannot be told, so that both answers can be tried."""

CompiledRuleset = Mapping[tuple[str, str], CompiledChain]
"""By table and name, the base chains of a ruleset that are worth asking."""


def compile_ruleset(ruleset: Ruleset) -> CompiledRuleset:
    writer = ruleset.writer if ruleset.backend is Backend.NF_TABLES else None
    chains = {table.name: _Compiler(table, writer).compiled() for table in ruleset.tables}
    handing_over = {
        table.name
        for table in ruleset.tables
        if any(isinstance(target, Tproxy) for rule in table.rules() for target in rule.targets())
    }
    asked: dict[tuple[str, str], CompiledChain] = {}
    for base in base_chains(ruleset):
        chain = chains[base.table][base.name]
        chain.captures = base.type == "nat" or base.table in handing_over
        if _is_worth_asking(base, chain):
            asked[base.table, base.name] = chain
    return asked


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
    stack: list[tuple[CompiledChain, int, int]] = []
    chain, index = start, 0
    outer = -1  # of rules within a rule, the step of that
    returned: Rule | None = None
    hops = 0
    while True:
        if index == len(chain.rules):
            if stack:
                chain, index, outer = stack.pop()
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
        action = compiled.action
        if chain.inline:
            if truth is False:
                continue
            if truth is None:
                if action is Action.CONTINUE and not chain.exclusive:
                    continue
                steps[outer] = steps[outer]._replace(matched=steps[outer].matched or None)
                if not oracle(compiled, skb):
                    continue
            elif action is not Action.BLOCK:
                steps[outer] = _matched(steps[outer], compiled)
            if chain.exclusive:
                index = len(chain.rules)
        else:
            if truth is False:
                steps.append(Step(table, chain.name, rule, False))
                continue
            steps.append(Step(table, chain.name, rule, truth))
            if truth is None and (action is Action.CONTINUE or not oracle(compiled, skb)):
                continue
        if action is Action.CONTINUE:
            continue
        if action is Action.JUMP or action is Action.GOTO:
            hops += 1
            if hops > HOPS:
                raise UsageProblem(messages.CIRCLE(table=table, chain=chain.name))
            if action is Action.JUMP:
                stack.append((chain, index, outer))
            else:
                while chain.inline:
                    chain, index, outer = stack.pop()
            chain, index = compiled.argument, 0  # type: ignore[assignment]
        elif action is Action.RETURN:
            returned = rule
            while chain.inline:
                chain, index, outer = stack.pop()
            if not stack:
                return _policy(table, start, steps, returned)
            chain, index, outer = stack.pop()
        elif action is Action.BLOCK:
            stack.append((chain, index, outer))
            if not chain.inline:
                outer = len(steps) - 1
                # Whether the rule matches is for the rules within it to say.
                steps[outer] = steps[outer]._replace(matched=None if truth is None else False)
            chain, index = compiled.argument, 0  # type: ignore[assignment]
        elif action is Action.EFFECT:
            compiled.argument(skb)  # type: ignore[operator]
        elif action is Action.ACCEPT or action is Action.DROP or action is Action.TPROXY:
            return action, rule
        elif action is Action.HAND_OVER:
            skb.socket, skb.socket_rule = hand_over(compiled.argument, skb), rule  # type: ignore[arg-type]
        elif action is Action.NAT:
            try:
                return _translate(compiled, skb, hook, steps), rule
            except Unforeseeable as why:
                raise Unforeseeable(f"{why} (`{rule.nft or rule.target}`)") from None
        else:
            raise Unforeseeable(str(compiled.argument))


def _matched(step: Step, compiled: CompiledRule) -> Step:
    """The step of a rule one of whose inner rules was met."""
    matched = None if step.matched is None else True
    remark = step.remark if matched is None or not compiled.verb else f"match, {compiled.verb}"
    return step._replace(matched=matched, remark=remark)


def _policy(table: str, chain: CompiledChain, steps: list[Step], returned: Rule | None) -> End:
    steps.append(Step(table, chain.name, None, True, f"policy {chain.policy or 'ACCEPT'}"))
    return (Action.DROP, None) if chain.policy == "DROP" else (Action.ACCEPT, returned)


def _translate(compiled: CompiledRule, skb: Skb, hook: str, steps: list[Step]) -> Action:
    skb.redirected = isinstance(compiled.argument, Redirect)
    if translate(compiled.argument, skb, hook):  # type: ignore[arg-type]
        return Action.NAT
    address = f"{skb.incoming} has no address to redirect to"
    steps[-1] = steps[-1]._replace(remark=f"match, dropped: {address}")
    return Action.DROP


class _Compiler:
    """Compiles the rules of one table."""

    def __init__(self, table: Table, writer: str | None) -> None:
        self.table = table
        self.writer = writer
        self.chains = {chain.name: CompiledChain(chain.name, chain.policy) for chain in table.chains}

    def compiled(self) -> dict[str, CompiledChain]:
        for chain in self.table.chains:
            self.chains[chain.name].rules = tuple(self.rule(rule, rule) for rule in chain.rules)
        return self.chains

    def rule(self, rule: Rule | Inner, outer: Rule) -> CompiledRule:
        faulty = [written_faultily(match, self.writer) for match in rule.matches]
        tests = tuple(
            compile_faulty(match) if wrong else compile_match(match)
            for match, wrong in zip(rule.matches, faulty, strict=True)
        )
        action, argument = self.target(rule.target, outer)
        verb = "" if rule.target is None else rule.target.verb
        return CompiledRule(outer, rule.matches, tests, action, argument, any(faulty), verb)

    def target(self, target: Target | None, outer: Rule) -> tuple[Action, object]:
        """The target's action, with what that needs: a chain, an effect, a target, why it is unknown."""
        action = action_of(target)
        if isinstance(target, Jump | Goto):
            if target.chain not in self.chains:
                return Action.UNKNOWN, self._not_in_the_text(target.chain)
            return action, self.chains[target.chain]
        if isinstance(target, Block):
            inside = CompiledChain(outer.chain, inline=True, exclusive=target.exclusive)
            inside.rules = tuple(self.rule(rule, outer) for rule in target.rules)
            return action, inside
        if action is Action.EFFECT:
            return action, effect_of(target)  # type: ignore[arg-type]
        if action is Action.UNKNOWN:
            if isinstance(target, Extended) and not target.options and target.name not in TARGETS:
                return action, self._not_in_the_text(target.name)
            return action, f"what `{target}` does to a packet is not modelled"
        return action, target

    def _not_in_the_text(self, chain: str) -> str:
        return f"chain {chain} of table {self.table.name}, to which a rule goes, is not in the text"
