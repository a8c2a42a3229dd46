"""Which packets come to each rule and each chain of a table.

Knows how packets go on behind a rule that lets them. Does not know what becomes of them in the end.
Invariant: a packet that may come to a rule is in its set; one that is not there never comes.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeVar

from pytest_istio_sidecar.netfilter.diagram.diagram import FALL, HOLDS, Node, answers_within
from pytest_istio_sidecar.netfilter.kernel.actions import Action
from pytest_istio_sidecar.netfilter.kernel.hooks import FIRST, BaseChain, Moment, legs
from pytest_istio_sidecar.netfilter.matches import asks_for_marks
from pytest_istio_sidecar.netfilter.model import Rule, Ruleset
from pytest_istio_sidecar.netfilter.space.match import Conditions
from pytest_istio_sidecar.netfilter.space.packet_state import ENTERED, Bits, Skb
from pytest_istio_sidecar.netfilter.space.space import Space
from pytest_istio_sidecar.netfilter.space.table import CompiledRuleset, End
from pytest_istio_sidecar.netfilter.targets import Block, Goto, Inner, Jump, called_by

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Reached:
    """Conditions over a space's fields: which packets come to each chain, and which match each rule.

    Rules are named by chain and number. CompiledRuleset and rules that no packet comes to are left out.
    """

    entering: dict[str, Node]
    matching: dict[tuple[str, int], Node]


def reached(space: Space, ruleset: Ruleset, table: str, arriving: Node) -> Reached:
    """Follow the packets of a space's hook through one of its tables.

    Args:
        table: raw, mangle or nat: what is behind nat is not followed.
        arriving: which packets enter at the hook.

    Raises:
        UsageProblem: chains jump in a circle.
    """
    return _Flow(space, ruleset).through(table, arriving)


class _Flow:
    def __init__(self, space: Space, ruleset: Ruleset) -> None:
        self.space = space
        self.diagrams = space.diagrams
        self.conditions = Conditions(space.fields, space.diagrams)
        marks = any(map(asks_for_marks, space.fields.matches))
        self.rules = CompiledRuleset(ruleset, self.conditions, marks_matter=marks)
        self.steps = legs((base, self.rules) for base in self.rules.base_chains)[FIRST[space.hook]]

    def through(self, table: str, arriving: Node) -> Reached:
        out = self.space.hook == "OUTPUT"
        skb = Skb(
            incoming="" if out else ENTERED,
            outgoing=ENTERED if out else "",
            has_socket=out,
            connmark=Bits(0, 0),
        )
        arrived = {skb: arriving}
        result = Reached({}, {})
        for step in self.steps:
            if step is Moment.TRACK:
                arrived = self._tracked(arrived)
            elif isinstance(step, Moment):
                break
            for base, _ in () if isinstance(step, Moment) else step:
                if base.table == table:
                    for skb, packets in arrived.items():
                        self._walk(base, skb, packets, result)
                    return result
                arrived = self._left(base, arrived)
        return result

    def _tracked(self, arrived: dict[Skb, Node]) -> dict[Skb, Node]:
        tracked: dict[Skb, Node] = {}
        for skb, packets in arrived.items():
            after = skb
            if skb.state != "UNTRACKED":
                after = skb._replace(state="NEW", tracked=True, template=False)
            self._add(tracked, after, packets)
        return tracked

    def _left(self, base: BaseChain, arrived: dict[Skb, Node]) -> dict[Skb, Node]:
        """Packets that go on behind a base chain, by how they have become."""
        left: dict[Skb, Node] = {}
        for skb, packets in arrived.items():
            ends = self.rules.traverse(base.table, base.name, skb, self.diagrams.leaf)
            ends = self.diagrams.when(packets, ends)
            for end in answers_within(ends, {}):
                if isinstance(end, End) and end.action is not Action.DROP:
                    self._add(left, end.skb, self._where(ends, end))
        return left

    def _walk(self, base: BaseChain, skb: Skb, packets: Node, result: Reached) -> None:
        """From a base chain on, each chain after all that jump to it."""
        table = base.table
        waiting: dict[tuple[str, int, Skb], Node] = {(base.name, 0, skb): packets}
        order = {name: place for place, name in enumerate(self.rules.callers_first(table, base.name))}
        while waiting:
            name, start, skb = min(waiting, key=lambda place: (order[place[0]], place[1]))
            packets = waiting.pop((name, start, skb))
            if start == 0 and packets is not self.diagrams.fall:
                self._add(result.entering, name, packets)
            for rule in self.rules.rules_from(table, name, start):
                packets = self._behind(table, rule, skb, packets, waiting, result)

    def _behind(
        self,
        table: str,
        rule: Rule,
        skb: Skb,
        packets: Node,
        waiting: dict[tuple[str, int, Skb], Node],
        result: Reached,
    ) -> Node:
        """The packets that go on to the next rule unchanged; others are put where they go on."""
        condition = self.diagrams.when(packets, self.conditions.guard(rule, skb, self.diagrams.holds))
        matching = self._possible(condition)
        if matching is self.diagrams.fall:
            return packets
        self._add(result.matching, (rule.chain, rule.number), matching)
        self._into(table, rule, skb, matching, waiting)
        answers = self.diagrams.when(
            packets, self.diagrams.first(self.rules.rule(table, rule, skb), self._on)
        )
        for end in answers_within(answers, {}):
            if isinstance(end, End) and end.action is Action.CONTINUE:
                self._add(waiting, (rule.chain, rule.number, end.skb), self._where(answers, end))
        return self._where(answers, _ON)

    def _into(
        self,
        table: str,
        rule: Rule | Inner,
        skb: Skb,
        packets: Node,
        waiting: dict[tuple[str, int, Skb], Node],
    ) -> None:
        """Put the packets that match a rule where its target calls them to."""
        target = rule.target
        if isinstance(target, Jump | Goto) and self.rules.has(table, target.chain):
            self._add(waiting, (target.chain, 0, skb), packets)
        elif isinstance(target, Block) and any(called_by(target)):
            self._inside(table, target, 0, skb, packets, waiting)

    def _inside(
        self,
        table: str,
        block: Block,
        start: int,
        skb: Skb,
        packets: Node,
        waiting: dict[tuple[str, int, Skb], Node],
    ) -> None:
        """Take packets through the rules within a rule, from one of them on."""
        for position, rule in enumerate(block.rules[start:], start + 1):
            guard = self.conditions.guard(rule, skb, self.diagrams.holds)
            matching = self._possible(self.diagrams.when(packets, guard))
            if matching is self.diagrams.fall:
                continue
            self._into(table, rule, skb, matching, waiting)
            if block.exclusive:
                packets = self._possible(self.diagrams.when(packets, self.diagrams.negate(guard)))
                continue
            answers = self.diagrams.when(
                packets, self.diagrams.first(self.rules.rule(table, rule, skb), self._on)
            )
            for end in answers_within(answers, {}):
                if isinstance(end, End) and end.action is Action.CONTINUE:
                    self._inside(table, block, position, end.skb, self._where(answers, end), waiting)
            packets = self._where(answers, _ON)

    @property
    def _on(self) -> Node:
        return self.diagrams.leaf(_ON)

    def _possible(self, condition: Node) -> Node:
        return self._where(condition, HOLDS)

    def _where(self, node: Node, answer: Hashable) -> Node:
        """Where a diagram may give an answer."""
        return self.diagrams.merge(node, lambda answers: HOLDS if answer in answers else FALL)

    def _or(self, one: Node | None, other: Node) -> Node:
        return other if one is None else self.diagrams.first(one, other)

    def _add(self, sets: dict[Key, Node], key: Key, packets: Node) -> None:
        sets[key] = self._or(sets.get(key), packets)


_ON = "goes on"
