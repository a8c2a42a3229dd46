"""Which packets come to each rule and each chain of a table.

Knows how packets go on behind a rule that lets them. Does not know what becomes of them in the end.
Invariant: a packet that may come to a rule is in its set; one that is not there never comes.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeVar

from pytest_istio_sidecar.netfilter.diagram.diagram import FALL, HOLDS, Node, answers_within
from pytest_istio_sidecar.netfilter.matches import Mark
from pytest_istio_sidecar.netfilter.model import Rule, Ruleset
from pytest_istio_sidecar.netfilter.space.match import Conditions
from pytest_istio_sidecar.netfilter.space.packet_state import ENTERED, Bits, View
from pytest_istio_sidecar.netfilter.space.space import Space
from pytest_istio_sidecar.netfilter.space.table import Chains, Kind, Way
from pytest_istio_sidecar.netfilter.targets import Goto, Jump

Key = TypeVar("Key")

_BEFORE = {"raw": (), "mangle": ("raw",), "nat": ("raw", "mangle")}
"""The tables that a packet meets before each one at PREROUTING and OUTPUT."""


@dataclass(frozen=True, slots=True)
class Reached:
    """Conditions over a space's fields: which packets come to each chain, and which match each rule.

    Rules are named by chain and number. Chains and rules that no packet comes to are left out.
    """

    entering: dict[str, Node]
    matching: dict[tuple[str, int], Node]


def reached(space: Space, ruleset: Ruleset, table: str, arriving: Node) -> Reached:
    """Follow the packets of a space's hook through one of its tables.

    Args:
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
        marks = any(isinstance(match, Mark) for match in space.fields.matches)
        self.chains = Chains(ruleset, self.conditions, marks_matter=marks)

    def through(self, table: str, arriving: Node) -> Reached:
        hook = self.space.hook
        out = hook == "OUTPUT"
        view = View(
            incoming="" if out else ENTERED,
            outgoing=ENTERED if out else "",
            has_socket=out,
            connmark=Bits(0, 0),
        )
        held = {view: arriving}
        for before in _BEFORE[table]:
            held = self._left(before, self._tracked(held) if before != "raw" else held)
        found = Reached({}, {})
        for after, packets in self._tracked(held).items() if table != "raw" else held.items():
            if self.chains.decides(table, hook):
                self._walk(table, hook, after, packets, found)
        return found

    def _tracked(self, held: dict[View, Node]) -> dict[View, Node]:
        found: dict[View, Node] = {}
        for view, packets in held.items():
            after = view
            if view.state == "INVALID":
                after = view._replace(state="NEW", tracked=True)
            self._add(found, after, packets)
        return found

    def _left(self, table: str, held: dict[View, Node]) -> dict[View, Node]:
        """Packets that go on behind a table, by how they have become."""
        hook = self.space.hook
        if not self.chains.decides(table, hook):
            return held
        found: dict[View, Node] = {}
        for view, packets in held.items():
            ways = self.diagrams.when(packets, self.chains.builtin(table, hook, view, self.diagrams.leaf))
            for answer in answers_within(ways, {}):
                if isinstance(answer, Way) and answer.kind is not Kind.DROP:
                    self._add(found, answer.view, self._where(ways, answer))
        return found

    def _walk(self, table: str, hook: str, view: View, packets: Node, found: Reached) -> None:
        """From a built-in chain on, each chain after all that jump to it."""
        waiting: dict[tuple[str, int, View], Node] = {(hook, 0, view): packets}
        order = {name: place for place, name in enumerate(self.chains.callers_first(table, hook))}
        while waiting:
            name, start, view = min(waiting, key=lambda place: (order[place[0]], place[1]))
            packets = waiting.pop((name, start, view))
            if start == 0 and packets is not self.diagrams.fall:
                self._add(found.entering, name, packets)
            for rule in self.chains.rules_from(table, name, start):
                packets = self._behind(table, rule, view, packets, waiting, found)

    def _behind(
        self,
        table: str,
        rule: Rule,
        view: View,
        packets: Node,
        waiting: dict[tuple[str, int, View], Node],
        found: Reached,
    ) -> Node:
        """The packets that go on to the next rule unchanged; others are put where they go on."""
        condition = self.diagrams.when(packets, self.conditions.guard(rule, view, self.diagrams.holds))
        matching = self._possible(condition)
        if matching is self.diagrams.fall:
            return packets
        self._add(found.matching, (rule.chain, rule.number), matching)
        if isinstance(rule.target, Jump | Goto) and self.chains.has(table, rule.target.chain):
            self._add(waiting, (rule.target.chain, 0, view), matching)
        answers = self.diagrams.when(
            packets, self.diagrams.first(self.chains.rule(table, rule, view), self._on)
        )
        for answer in answers_within(answers, {}):
            if isinstance(answer, Way) and answer.kind is Kind.ON:
                self._add(waiting, (rule.chain, rule.number, answer.view), self._where(answers, answer))
        return self._where(answers, _ON)

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

    def _add(self, held: dict[Key, Node], key: Key, packets: Node) -> None:
        held[key] = self._or(held.get(key), packets)


_ON = "goes on"
