"""Two rulesets laid side by side, chain by chain and rule by rule.

Knows how rules are paired: what stands in the same order, what moved, what was changed, what
only one side has. Does not know what a difference does to a packet. Invariant: every rule of both
sides is in exactly one line, and a chain's lines are in the order of the expected rules, with
what is there besides where it was observed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from enum import StrEnum

from pytest_istio_sidecar.checks.wording import of_family
from pytest_istio_sidecar.netfilter.kernel.hooks import base_chains
from pytest_istio_sidecar.netfilter.model import TABLES, Backend, Chain, Family, Rule, Ruleset, Table

_ALIKE = 0.75
"""Share of their words that two rules have in common where one is taken for the other, changed."""


class Change(StrEnum):
    """How a rule, or a chain's policy, differs from what was expected."""

    SAME = "same"
    MISSING = "missing"
    EXTRA = "extra"
    MOVED = "moved"
    CHANGED = "changed"
    NEVER_REACHED = "never reached"
    """It stands where it should, but rules above it take every packet that it is there for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One rule of one side or of both.

    Attributes:
        expected, observed: None where that side has no such rule.
        shadowed_by: number of the rule that takes the packets of one that is never reached.
    """

    change: Change
    expected: Rule | None = None
    observed: Rule | None = None
    shadowed_by: int | None = None

    @property
    def rule(self) -> Rule:
        """The rule as it is, or, where it is missing, as it should be."""
        rule = self.observed or self.expected
        if rule is None:
            raise ValueError("a line without a rule")
        return rule


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedChain:
    """A chain of both sides.

    Attributes:
        backend: where it was observed.
        expected_policy, observed_policy: of a built-in chain; None of any other, or where a side has no
            such chain. Without rules and policy of its own a chain lets packets by.
        hangs: how a base chain that nft wrote hangs at its hook, or that it hangs nowhere; "": as iptables'
            chain of that name does.
    """

    table: str
    name: str
    family: Family
    backend: Backend | None
    lines: tuple[Line, ...]
    expected_policy: str | None = None
    observed_policy: str | None = None
    hangs: str = ""

    @property
    def place(self) -> str:
        """Table and chain, as messages name them: "nat OUTPUT", "IPv6 nat OUTPUT"."""
        return f"{of_family(self.family)}{self.table} {self.name}"

    @property
    def differs(self) -> bool:
        changed = any(line.change is not Change.SAME for line in self.lines)
        return bool(self.hangs) or self.policy_differs or changed

    @property
    def policy_differs(self) -> bool:
        policies = (self.expected_policy, self.observed_policy)
        return None not in policies and policies[0] != policies[1]


def align(observed: Ruleset, expected: Ruleset) -> tuple[AlignedChain, ...]:
    """Every chain of either side that holds a rule or has another policy, in the kernel's order of tables."""
    chains = []
    for table in dict.fromkeys((*TABLES, *(table.name for table in observed.tables))):
        names = dict.fromkeys(
            chain.name for side in (expected, observed) for chain in side.table(table).chains
        )
        for name in names:
            here, there = _chain(observed, table, name), _chain(expected, table, name)
            aligned = AlignedChain(
                table=table,
                name=name,
                family=observed.family,
                backend=observed.backend,
                lines=tuple(align_rules(here.rules, there.rules)),
                expected_policy=there.policy or ("ACCEPT" if here.policy else None),
                observed_policy=here.policy,
                hangs=_hangs(observed.table(table), here, observed),
            )
            if aligned.lines or aligned.policy_differs:
                chains.append(aligned)
    return tuple(chains)


def _hangs(table: Table, chain: Chain, ruleset: Ruleset) -> str:
    """How a base chain hangs, where it does not hang as iptables' chain of that table and name."""
    if not table.nft_family or chain.registered is None:
        return ""
    if table.dormant is not False:
        return "in a dormant table" if table.dormant else "in a table that may be dormant"
    own = replace(ruleset, tables=(replace(table, nft_family=""),))
    usual = [base[:3] for base in base_chains(own) if (base.table, base.name) == (table.name, chain.name)]
    hook, priority, kind, devices = chain.registered
    if usual == [chain.registered[:3]]:
        return ""
    at = f" of {', '.join(devices)}" if devices else ""
    return f"{kind} hook {hook.lower()}{at} priority {priority}"


def align_rules(observed: Sequence[Rule], expected: Sequence[Rule]) -> list[Line]:
    """Pair the rules of one chain."""
    lines = list(_in_order(observed, expected))
    return list(_with_changed(_with_moved(lines)))


def _chain(ruleset: Ruleset, table: str, name: str) -> Chain:
    chains = ruleset.table(table)
    return chains.chain(name) if name in chains else Chain(name=name)


def _in_order(observed: Sequence[Rule], expected: Sequence[Rule]) -> Iterator[Line]:
    matcher = SequenceMatcher(a=expected, b=observed, autojunk=False)
    for tag, low, high, start, end in matcher.get_opcodes():
        if tag == "equal":
            for there, here in zip(expected[low:high], observed[start:end], strict=True):
                yield Line(change=Change.SAME, expected=there, observed=here)
            continue
        for rule in expected[low:high]:
            yield Line(change=Change.MISSING, expected=rule)
        for rule in observed[start:end]:
            yield Line(change=Change.EXTRA, observed=rule)


def _with_moved(lines: Sequence[Line]) -> list[Line]:
    """A rule that is missing in one place and extra in another has moved."""
    kept: list[Line | None] = list(lines)
    for place, line in enumerate(lines):
        if line.change is not Change.EXTRA:
            continue
        for other, candidate in enumerate(kept):
            if (
                candidate is not None
                and candidate.change is Change.MISSING
                and candidate.expected == line.observed
            ):
                kept[other] = Line(change=Change.MOVED, expected=candidate.expected, observed=line.observed)
                kept[place] = None
                break
    return [line for line in kept if line is not None]


def _with_changed(lines: Sequence[Line]) -> Iterator[Line]:
    """A missing rule whose place an extra one of much the same words has taken was changed into it."""
    missing: list[Line] = []
    extra: list[Line] = []
    for line in [*lines, None]:
        if line is not None and line.change is Change.MISSING:
            missing.append(line)
        elif line is not None and line.change is Change.EXTRA:
            extra.append(line)
        else:
            yield from _changed_in_gap(missing, extra)
            missing, extra = [], []
            if line is not None:
                yield line


def _changed_in_gap(missing: list[Line], extra: list[Line]) -> Iterator[Line]:
    left = list(missing)
    for line in extra:
        alike = [(_likeness(line.rule, candidate.rule), candidate) for candidate in left]
        best = max(alike, key=lambda pair: pair[0], default=(0.0, line))
        if best[0] < _ALIKE:
            yield line
            continue
        before = left.index(best[1])
        yield from left[:before]
        left = left[before + 1 :]
        yield Line(change=Change.CHANGED, expected=best[1].expected, observed=line.observed)
    yield from left


def _likeness(one: Rule, other: Rule) -> float:
    return SequenceMatcher(a=one.text.split(), b=other.text.split(), autojunk=False).ratio()
