"""A packet's path, as few lines as tell it.

Knows how to fold rules that did not match into one line, and which line
decides. Does not know how a path is laid out. Invariant: every rule that the
packet met is in one line, in the order it met them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import TypedDict

from pytest_istio_sidecar.netfilter.model import HOOKS, Rule
from pytest_istio_sidecar.netfilter.trace.table import Step
from pytest_istio_sidecar.netfilter.trace.trace import Trace

_JOINED = 48
"""Columns of rules that are told as one, at most."""


class PathLine(TypedDict):
    """One line of a path; JSON, as it is part of every report.

    Attributes:
        hook: of the kernel, in which the chain is run.
        where: table and chain.
        numbers: of the rules in this line, "3" or "1-5"; "" for the chain's policy.
        text: the rule, what the rules have in common, or the policy.
        outcome: "match, jump", "no match" …; "" for the policy, whose text says it.
        decides: the deciding rule is in this line.
    """

    hook: str
    where: str
    numbers: str
    text: str
    outcome: str
    decides: bool


def path_of(trace: Trace) -> list[PathLine]:
    """The lines of a packet's path."""
    lines = []
    hook = ""
    for steps in _telling(trace.steps):
        hook = steps[0].chain if steps[0].chain in HOOKS else hook
        lines.append(_line(steps, hook, trace))
    return lines


def _telling(steps: Iterable[Step]) -> list[list[Step]]:
    """Steps in groups: the run of rules of one chain that did not match is one line."""
    groups = groupby(
        steps, key=lambda step: (step.table, step.chain, step.rule is not None and step.matched is False)
    )
    shown = []
    for (_, _, missed), group in groups:
        run = list(group)
        shown += [run] if missed else [[step] for step in run]
    return shown


def _line(group: list[Step], hook: str, trace: Trace) -> PathLine:
    first, last = group[0], group[-1]
    where = f"{first.table} {first.chain}"
    if first.rule is None:
        return PathLine(hook=hook, where=where, numbers="", text=first.outcome, outcome="", decides=False)
    numbers = f"{first.rule.number}"
    if last is not first and last.rule is not None:
        numbers += f"-{last.rule.number}"
    return PathLine(
        hook=hook,
        where=where,
        numbers=numbers,
        text=_conditions(group),
        outcome=first.outcome,
        decides=first.rule is trace.deciding_rule and bool(first.matched),
    )


def _conditions(group: list[Step]) -> str:
    if len(group) == 1:
        rule = group[0].rule
        return short_rule(rule) if rule is not None else ""
    texts = [short_rule(step.rule).partition(" -j ")[0] for step in group if step.rule is not None]
    shared = _common(texts)
    differing = [text.removeprefix(shared).strip() for text in texts]
    option = shared.rpartition(" ")[2]
    joined = f"{option} {' | '.join(differing)}"
    if option.startswith("--") and all(differing) and len(joined) <= _JOINED:
        return joined
    return f"{len(texts)} rules"


def short_rule(rule: Rule) -> str:
    """A rule without its chain and without the `-m tcp` that a port option implies."""
    return re.sub(r" -m (tcp|udp)(?= )", "", rule.text.removeprefix(f"-A {rule.chain} "))


def _common(texts: list[str]) -> str:
    """The words that all texts begin with."""
    words = [text.split(" ") for text in texts]
    shared = []
    for column in zip(*words, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return " ".join(shared)
