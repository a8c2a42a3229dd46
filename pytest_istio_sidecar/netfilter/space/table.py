"""All packets at once through one table: chains as diagrams.

Knows chains, jump, goto, RETURN, policies, and what each target does to a packet's view. Does not
know the order of tables and hooks (`space`). Invariant: at every point a chain's diagram answers
what `traversal.walk` answers for that packet, both ways where a condition is in doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import IntEnum
from typing import NamedTuple, cast

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.diagram.diagram import FALL, Node
from pytest_istio_sidecar.netfilter.matches import Protocol
from pytest_istio_sidecar.netfilter.model import Backend, Chain, Rule, Ruleset
from pytest_istio_sidecar.netfilter.space.match import Conditions
from pytest_istio_sidecar.netfilter.space.packet_state import Changing, View
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
from pytest_istio_sidecar.netfilter.trace.effects import PASSING, compile_effect
from pytest_istio_sidecar.netfilter.trace.nat import WITH_PORTS
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb

Place = tuple[str, str]
"""A table and a chain of it."""


class Kind(IntEnum):
    """How a way through a chain ends. `ON`: at the chain's end, with a changed view."""

    ON = 0
    RETURN = 1
    ACCEPT = 2
    DROP = 3
    NAT = 4
    TPROXY = 5
    UNKNOWN = 6


class Way(NamedTuple):
    """One way through a chain: how it ends, what ended it where that matters, and the packet by then."""

    kind: Kind
    target: Target | None
    view: View


class Chains:
    """The chains of one ruleset as diagrams, each made once for each view it is entered with."""

    def __init__(self, ruleset: Ruleset, conditions: Conditions, *, marks_matter: bool) -> None:
        self._conditions = conditions
        self._diagrams = conditions.diagrams
        self._writer = ruleset.writer if ruleset.backend is Backend.NF_TABLES else None
        self._marks_matter = marks_matter
        self._rules = {
            (table.name, chain.name): _reached(chain) for table in ruleset.tables for chain in table.chains
        }
        self._policies = {
            (table.name, chain.name): chain.policy for table in ruleset.tables for chain in table.chains
        }
        self._deciding = {
            place for place, rules in self._rules.items() if rules or self._policies[place] == "DROP"
        }
        self._changing = self._callers_of(self._is_change)
        self._returning = self._changing | self._callers_of(_is_return)
        self._suffixes: dict[tuple[str, str, View], dict[int, Node]] = {}
        self._called: dict[tuple[str, str, View, bool], Node] = {}
        self._inside: list[tuple[str, str, View]] = []

    def decides(self, table: str, hook: str) -> bool:
        """Whether a built-in chain is there and does anything."""
        return (table, hook) in self._deciding

    def has(self, table: str, name: str) -> bool:
        """Whether there is such a chain."""
        return (table, name) in self._rules

    def rules_from(self, table: str, name: str, start: int) -> tuple[Rule, ...]:
        """A chain's rules from number `start + 1` on, up to the last that a packet can come to."""
        return self._rules[table, name][start:]

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
            if isinstance(rule.target, Jump | Goto) and self.has(table, rule.target.chain):
                yield rule.target.chain

    def builtin(self, table: str, hook: str, view: View, follow: Callable[[Way], Node]) -> Node:
        """A built-in chain with its policy, each way through it followed: none falls, goes on or returns.

        Raises:
            UsageProblem: chains jump in a circle.
        """
        kind = Kind.DROP if self._policies[table, hook] == "DROP" else Kind.ACCEPT

        def ended(answer: object) -> Node:
            if not isinstance(answer, Way):
                return follow(Way(kind, None, view))
            return follow(answer._replace(kind=kind) if answer.kind in (Kind.ON, Kind.RETURN) else answer)

        return self._diagrams.bind(self._from(table, hook, 0, view), ended)

    def _from(self, table: str, name: str, start: int, view: View) -> Node:
        """A chain from its rule number `start + 1` on; composed once, from its end."""
        rules = self._rules[table, name]
        known = self._suffixes.setdefault((table, name, view), {len(rules): self._diagrams.fall})
        if start in known:
            return known[start]
        end = min(position for position in known if position > start)
        rest = known[end]
        run: list[Node] = []
        for position in range(end, start, -1):
            rule = rules[position - 1]
            made = self.rule(table, rule, view)
            if made is self._diagrams.fall:
                continue
            run.append(made)
            if self._changes(table, rule):
                # What goes on with another view must not meet the rest under this one.
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
        """Ways that go on with another view, taken through the rest of the chain."""

        def follow(answer: object) -> Node:
            if not isinstance(answer, Way) or answer.kind is not Kind.ON:
                return self._diagrams.leaf(answer)
            rest = self._from(table, name, position, answer.view)
            return self._diagrams.relabel(rest, lambda held: answer if held == FALL else held)

        return self._diagrams.bind(made, follow)

    def rule(self, table: str, rule: Rule, view: View) -> Node:
        """What one rule answers; it falls where its conditions do not hold, or it changes nothing."""
        inside = self._act(table, rule, view)
        if inside is self._diagrams.fall:
            return inside
        return self._conditions.guard(rule, view, inside, self._writer)

    def _act(self, table: str, rule: Rule, view: View) -> Node:
        leaf, fall = self._diagrams.leaf, self._diagrams.fall
        target = rule.target
        match target:
            case Jump(chain=name) | Goto(chain=name):
                if (table, name) not in self._rules:
                    return leaf(Way(Kind.UNKNOWN, None, view))
                return self._call(table, name, view, goto=isinstance(target, Goto))
            case Verdict(name=name) if name in _VERDICTS:
                return leaf(Way(_VERDICTS[name], None, view))
            case Redirect() | Translate() | Extended(name="MASQUERADE"):
                return self._translation(rule, target, view)
            case Tproxy():
                return leaf(Way(Kind.TPROXY, target, view))
            case Extended(name="REJECT"):
                return leaf(Way(Kind.DROP, None, view))
            case SetMark() | Extended():
                changed = self._changed(target, view)
                if changed is None:
                    return leaf(Way(Kind.UNKNOWN, None, view))
                return fall if changed == view else leaf(Way(Kind.ON, None, changed))
            case None:
                return fall
        return leaf(Way(Kind.UNKNOWN, None, view))

    def _translation(self, rule: Rule, target: Redirect | Translate | Extended, view: View) -> Node:
        """Ports are given only to protocols that have them."""
        done = self._diagrams.leaf(Way(Kind.NAT, target, view))
        if isinstance(target, Extended) or target.ports is None:
            return done
        if any(isinstance(m, Protocol) and not m.negated and m.number in WITH_PORTS for m in rule.matches):
            return done
        field = self._conditions.fields["protocol"]
        ported = field.intervals(self._diagrams, [(number, number) for number in sorted(WITH_PORTS)])
        without = self._diagrams.leaf(Way(Kind.NAT, replace(target, ports=None), view))
        return self._diagrams.first(self._diagrams.when(ported, done), without)

    def _call(self, table: str, name: str, view: View, *, goto: bool) -> Node:
        """A chain as its caller meets it: back from a jump one goes on, back from a goto one returns."""
        key = (table, name, view, goto)
        known = self._called.get(key)
        if known is None:
            if key[:3] in self._inside:
                raise UsageProblem(messages.CIRCLE(table=table, chain=name))
            self._inside.append(key[:3])
            node = self._from(table, name, 0, view)
            self._inside.pop()
            if not goto and (table, name) not in self._returning:
                self._called[key] = node
                return node

            def back(answer: object) -> object:
                if not isinstance(answer, Way):
                    return Way(Kind.RETURN, None, view) if goto else answer
                if goto:
                    return answer._replace(kind=Kind.RETURN) if answer.kind is Kind.ON else answer
                if answer.kind is not Kind.RETURN:
                    return answer
                return FALL if answer.view == view else answer._replace(kind=Kind.ON)

            known = self._called[key] = self._diagrams.relabel(node, back)
        return known

    def _changed(self, target: SetMark | Extended, view: View) -> View | None:
        """The view after a target that lets the packet go on; None where what it does is not modelled."""
        if isinstance(target, Extended) and target.name in PASSING:
            return view
        effect = compile_effect(target)
        if effect is None:
            return None
        if not self._marks_matter and not _about_tracking(target):
            return view
        changed = Changing(view)
        effect(cast(Skb, changed))
        return changed.view()

    def _changes(self, table: str, rule: Rule) -> bool:
        if isinstance(rule.target, Jump | Goto):
            return (table, rule.target.chain) in self._changing
        return self._is_change(rule)

    def _is_change(self, rule: Rule) -> bool:
        target = rule.target
        if not isinstance(target, SetMark | Extended) or getattr(target, "name", "") in _NO_CHANGE:
            return False
        return self._marks_matter or _about_tracking(target)

    def _callers_of(self, meant: Callable[[Rule], bool]) -> frozenset[Place]:
        """The chains that hold such a rule, also by what they jump to."""
        callers: dict[Place, list[Place]] = {}
        waiting = []
        for (table, name), rules in self._rules.items():
            for rule in rules:
                if isinstance(rule.target, Jump | Goto):
                    callers.setdefault((table, rule.target.chain), []).append((table, name))
            if any(map(meant, rules)):
                waiting.append((table, name))
        found = set(waiting)
        while waiting:
            for caller in callers.get(waiting.pop(), ()):
                if caller not in found:
                    found.add(caller)
                    waiting.append(caller)
        return frozenset(found)


_VERDICTS = {"ACCEPT": Kind.ACCEPT, "DROP": Kind.DROP, "RETURN": Kind.RETURN}
_NO_CHANGE = PASSING | {"REJECT", "MASQUERADE"}


def _is_return(rule: Rule) -> bool:
    """Whether a way may come back to the caller from here other than from the chain's end."""
    return isinstance(rule.target, Goto) or rule.target == _RETURN


_RETURN = Verdict("RETURN")


def _about_tracking(target: SetMark | Extended) -> bool:
    return isinstance(target, Extended) and target.name in ("CT", "NOTRACK")


def _reached(chain: Chain) -> tuple[Rule, ...]:
    """The rules up to the first that takes every packet; behind it even circles do no harm."""
    for place, rule in enumerate(chain.rules, 1):
        if not rule.matches and isinstance(rule.target, Verdict | Goto):
            return chain.rules[:place]
    return chain.rules
