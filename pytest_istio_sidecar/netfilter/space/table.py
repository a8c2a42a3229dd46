"""All packets' traversal of one table at once: chains as diagrams.

Knows chains, jump, goto, RETURN and policies. Does not know what targets do (`actions`, `nat`), nor the
order of tables and hooks (`hooks`). Invariant: at every point a chain's diagram answers what
`trace.table.traverse` answers for that packet, both ends where a condition is in doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.diagram.diagram import FALL, Node
from pytest_istio_sidecar.netfilter.kernel.actions import (
    Action,
    action_of,
    effect_of,
    is_about_tracking,
    takes_every_packet,
)
from pytest_istio_sidecar.netfilter.kernel.hooks import BaseChain, base_chains
from pytest_istio_sidecar.netfilter.matches import Protocol
from pytest_istio_sidecar.netfilter.model import Backend, Chain, Rule, Ruleset
from pytest_istio_sidecar.netfilter.space.match import Conditions
from pytest_istio_sidecar.netfilter.space.packet_state import Changed, Skb
from pytest_istio_sidecar.netfilter.targets import (
    Assign,
    Block,
    Extended,
    Goto,
    Inner,
    Jump,
    Redirect,
    SetMark,
    Target,
    Translate,
    Zone,
    called_by,
    targets_in,
)
from pytest_istio_sidecar.netfilter.trace.nat import WITH_PORTS

_AGAIN = 10
"""Branches of diagrams that a rule stands for which is met again by packets that other rules changed."""
_WITHIN = "\0"
"""Begins a name that no chain has."""

Place = tuple[str, str]
"""A table and a chain of it."""


class End(NamedTuple):
    """How a traversal of a chain ends, what ended it where that matters, and the packet by then.

    CONTINUE: at the chain's end, with the packet changed.
    """

    action: Action
    target: Target | None
    skb: Skb


class CompiledRuleset:
    """The chains of one ruleset as diagrams, each made once for each skb it is entered with."""

    def __init__(self, ruleset: Ruleset, conditions: Conditions, *, marks_matter: bool) -> None:
        self._conditions = conditions
        self._diagrams = conditions.diagrams
        self._writer = ruleset.writer if ruleset.backend is Backend.NF_TABLES else None
        self._marks_matter = marks_matter
        own = {
            (table.name, chain.name): _reached(chain) for table in ruleset.tables for chain in table.chains
        }
        self._rules: dict[Place, tuple[Rule | Inner, ...]] = {**own}
        self._own = own
        self._policies = {
            (table.name, chain.name): chain.policy for table in ruleset.tables for chain in table.chains
        }
        self._within: dict[int, str] = {}
        """By identity of a block, the name under which its rules are kept."""
        for (table, _), rules in own.items():
            for rule in rules:
                self._keep_within(table, rule)
        self.base_chains = [
            base
            for base in base_chains(ruleset)
            if self._rules[base.table, base.name] or self._policies[base.table, base.name] == "DROP"
        ]
        """Those that do anything."""
        self._acting = {(base.table, base.name) for base in self.base_chains}
        callers = self._callers()
        self._changing = self._leading_to(self._is_change, callers)
        self._returning = self._changing | self._leading_to(_is_return, callers)
        self._suffixes: dict[tuple[str, str, Skb], dict[int, Node]] = {}
        self._entered: set[tuple[str, str]] = set()
        self._called: dict[tuple[str, str, Skb, bool], Node] = {}
        self._inside: list[tuple[str, str, Skb]] = []

    def _keep_within(self, table: str, rule: Rule | Inner) -> None:
        if isinstance(rule.target, Block):
            name = self._within[id(rule.target)] = f"{_WITHIN}{len(self._within)}"
            self._rules[table, name] = rule.target.rules
            for inner in rule.target.rules:
                self._keep_within(table, inner)

    def acts(self, base: BaseChain) -> bool:
        """Whether a base chain does anything."""
        return (base.table, base.name) in self._acting

    def has(self, table: str, name: str) -> bool:
        """Whether there is such a chain."""
        return (table, name) in self._rules

    def rules_from(self, table: str, name: str, start: int) -> tuple[Rule, ...]:
        """A chain's rules from number `start + 1` on, up to the last that a packet can come to."""
        return self._own[table, name][start:]

    def callers_first(self, table: str, start: str) -> list[str]:
        """The chains that packets can come to from one chain, each behind all that lead to it.

        Raises:
            UsageProblem: chains jump in a circle.
        """
        done: list[str] = []
        path: dict[str, Iterator[str]] = {start: self._callees(table, start)}
        while path:
            name, callees = next(reversed(path.items()))
            following = next(callees, None)
            if following is None:
                del path[name]
                done.append(name)
            elif following in path:
                raise UsageProblem(messages.CIRCLE(table=table, chain=following))
            elif following not in done:
                path[following] = self._callees(table, following)
        return done[::-1]

    def _callees(self, table: str, name: str) -> Iterator[str]:
        for rule in self._rules[table, name]:
            for called in called_by(rule.target):
                if self.has(table, called):
                    yield called

    def traverse(self, table: str, name: str, skb: Skb, follow: Callable[[End], Node]) -> Node:
        """A base chain with its policy, each end of it followed: none falls, goes on or returns.

        Raises:
            UsageProblem: chains jump in a circle.
        """
        policy = Action.DROP if self._policies[table, name] == "DROP" else Action.ACCEPT

        def ended(end: object) -> Node:
            if not isinstance(end, End):
                return follow(End(policy, None, skb))
            at_policy = end.action in (Action.CONTINUE, Action.RETURN)
            return follow(end._replace(action=policy) if at_policy else end)

        return self._diagrams.bind(self._from(table, name, 0, skb), ended)

    def _from(self, table: str, name: str, start: int, skb: Skb) -> Node:
        """A chain from its rule number `start + 1` on; composed once, from its end."""
        rules = self._rules[table, name]
        if (table, name, skb) not in self._suffixes:
            if (table, name) in self._entered:
                # Again, with what rules wrote: each mark of hundreds takes as long as the chain is.
                self._diagrams.spend(_AGAIN * (len(rules) + 10))
            self._entered.add((table, name))
        known = self._suffixes.setdefault((table, name, skb), {len(rules): self._diagrams.fall})
        if start in known:
            return known[start]
        end = min(position for position in known if position > start)
        rest = known[end]
        run: list[Node] = []
        for position in range(end, start, -1):
            rule = rules[position - 1]
            made = self.rule(table, rule, skb)
            if made is self._diagrams.fall:
                continue
            run.append(made)
            if self._changes(table, rule):
                # What goes on with another skb must not meet the rest under this one.
                run.pop()
                rest = known[position] = self._composed(run, rest)
                run = []
                rest = self._diagrams.first(self._followed(made, table, name, position), rest)
        known[start] = self._composed(run, rest)
        return known[start]

    def _composed(self, run: list[Node], rest: Node) -> Node:
        """Diagrams that were made from the last to the first, before what follows them."""
        return self._diagrams.first(self._diagrams.chain(run[::-1]), rest)

    def _followed(self, made: Node, table: str, name: str, position: int) -> Node:
        """What goes on with another skb, taken through the rest of the chain."""

        def follow(end: object) -> Node:
            if not isinstance(end, End) or end.action is not Action.CONTINUE:
                return self._diagrams.leaf(end)
            rest = self._from(table, name, position, end.skb)
            return self._diagrams.relabel(rest, lambda answer: end if answer == FALL else answer)

        return self._diagrams.bind(made, follow)

    def rule(self, table: str, rule: Rule | Inner, skb: Skb) -> Node:
        """What one rule answers; it falls where its conditions do not hold, or it changes nothing."""
        if isinstance(rule, Rule):
            self._diagrams.at = rule
        inside = self._act(table, rule, skb)
        if inside is self._diagrams.fall:
            return inside
        return self._conditions.guard(rule, skb, inside, self._writer)

    def _act(self, table: str, rule: Rule | Inner, skb: Skb) -> Node:
        leaf = self._diagrams.leaf
        target = rule.target
        if isinstance(target, Jump | Goto):
            if not self.has(table, target.chain):
                return leaf(End(Action.UNKNOWN, None, skb))
            return self._call(table, target.chain, skb, goto=isinstance(target, Goto))
        if isinstance(target, Block):
            return self._inside_of(table, target, skb)
        action = action_of(target)
        if action is Action.CONTINUE:
            return self._diagrams.fall
        if action is Action.HAND_OVER:
            socket: Any = target
            handed = skb._replace(socket=socket, has_socket=True, owner_known=False)
            return leaf(End(Action.CONTINUE, None, handed))
        if action is Action.EFFECT:
            changed = self._changed(target, skb)  # type: ignore[arg-type]
            return self._diagrams.fall if changed == skb else leaf(End(Action.CONTINUE, None, changed))
        if action is Action.NAT:
            return self._translation(rule, target, skb)  # type: ignore[arg-type]
        return leaf(End(action, target if action is Action.TPROXY else None, skb))

    def _inside_of(self, table: str, block: Block, skb: Skb) -> Node:
        """The rules within a rule: what they do not answer goes on behind the rule."""
        if not block.exclusive:
            return self._from(table, self._within[id(block)], 0, skb)
        behind = End(Action.CONTINUE, None, skb)
        parts = []
        for rule in block.rules:
            inside = self._act(table, rule, skb)
            if inside.falls:
                # What comes back from here must not meet the other rules.
                inside = self._diagrams.relabel(inside, lambda answer: behind if answer == FALL else answer)
            parts.append(self._conditions.guard(rule, skb, inside, self._writer))
        node = self._diagrams.chain(parts)
        return self._diagrams.relabel(node, lambda answer: FALL if answer == behind else answer)

    def _translation(self, rule: Rule | Inner, target: Redirect | Translate | Extended, skb: Skb) -> Node:
        """Ports are given only to protocols that have them."""
        done = self._diagrams.leaf(End(Action.NAT, target, skb))
        if isinstance(target, Extended) or target.ports is None:
            return done
        if any(isinstance(m, Protocol) and not m.negated and m.number in WITH_PORTS for m in rule.matches):
            return done
        field = self._conditions.fields["protocol"]
        ported = field.intervals(self._diagrams, [(number, number) for number in sorted(WITH_PORTS)])
        without = self._diagrams.leaf(End(Action.NAT, replace(target, ports=None), skb))
        return self._diagrams.first(self._diagrams.when(ported, done), without)

    def _call(self, table: str, name: str, skb: Skb, *, goto: bool) -> Node:
        """A chain as its caller meets it: back from a jump one goes on, back from a goto one returns."""
        key = (table, name, skb, goto)
        known = self._called.get(key)
        if known is None:
            if key[:3] in self._inside:
                raise UsageProblem(messages.CIRCLE(table=table, chain=name))
            self._inside.append(key[:3])
            node = self._from(table, name, 0, skb)
            self._inside.pop()
            if not goto and (table, name) not in self._returning:
                self._called[key] = node
                return node

            def back(end: object) -> object:
                if not isinstance(end, End):
                    return End(Action.RETURN, None, skb) if goto else end
                if goto:
                    return end._replace(action=Action.RETURN) if end.action is Action.CONTINUE else end
                if end.action is not Action.RETURN:
                    return end
                return FALL if end.skb == skb else end._replace(action=Action.CONTINUE)

            known = self._called[key] = self._diagrams.relabel(node, back)
        return known

    def _changed(self, target: SetMark | Extended | Assign | Zone, skb: Skb) -> Skb:
        """The packet after an effect, as far as a rule can ask for what that changes."""
        effect = effect_of(target)
        if effect is None or not (self._marks_matter or is_about_tracking(target)):
            return skb
        changed = Changed(skb)
        effect(changed)
        return changed.skb()

    def _changes(self, table: str, rule: Rule | Inner) -> bool:
        return self._is_change(rule) or any(
            (table, called) in self._changing for called in called_by(rule.target)
        )

    def _is_change(self, rule: Rule | Inner) -> bool:
        return any(map(self._is_changing, targets_in(rule.target)))

    def _is_changing(self, target: Target | None) -> bool:
        action = action_of(target)
        matters = self._marks_matter or is_about_tracking(target)
        return action is Action.HAND_OVER or (matters and action is Action.EFFECT)

    def _callers(self) -> dict[Place, list[Place]]:
        """The chains that jump or go to each chain."""
        callers: dict[Place, list[Place]] = {}
        for (table, name), rules in self._rules.items():
            for rule in rules:
                for called in called_by(rule.target):
                    callers.setdefault((table, called), []).append((table, name))
        return callers

    def _leading_to(
        self, meant: Callable[[Rule | Inner], bool], callers: Mapping[Place, Sequence[Place]]
    ) -> frozenset[Place]:
        """The chains that hold such a rule, also by what they jump to."""
        waiting = [place for place, rules in self._rules.items() if any(map(meant, rules))]
        leading = set(waiting)
        while waiting:
            for caller in callers.get(waiting.pop(), ()):
                if caller not in leading:
                    leading.add(caller)
                    waiting.append(caller)
        return frozenset(leading)


def _is_return(rule: Rule | Inner) -> bool:
    """Whether packets may come back to the caller from here other than from the chain's end."""
    return any(action_of(target) in (Action.GOTO, Action.RETURN) for target in targets_in(rule.target))


def _reached(chain: Chain) -> tuple[Rule, ...]:
    """The rules up to the first that takes every packet; behind it even circles do no harm."""
    for place, rule in enumerate(chain.rules, 1):
        if takes_every_packet(rule):
            return chain.rules[:place]
    return chain.rules
