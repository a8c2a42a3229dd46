"""A packet's way in sentences.

Knows how each thing that rules do is said. Does not know how a way was found. Invariant: every
rule that the packet met is told of, in the order it met them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from pytest_istio_sidecar.checks.wording import describe
from pytest_istio_sidecar.netfilter.model import HOOKS, Rule
from pytest_istio_sidecar.netfilter.packet import Fate
from pytest_istio_sidecar.netfilter.targets import Goto, Jump, Redirect, SetMark, Target, Verdict
from pytest_istio_sidecar.netfilter.trace.table import Step
from pytest_istio_sidecar.netfilter.trace.trace import Trace
from pytest_istio_sidecar.reports.path import short_rule
from pytest_istio_sidecar.reports.way import Way, way_of

_HOOKS = {
    "PREROUTING": "as it comes in",
    "INPUT": "as it is handed to a process of the pod",
    "FORWARD": "as it is passed on",
    "OUTPUT": "as a process of the pod sends it",
    "POSTROUTING": "as it goes out",
}
_VERDICTS = {
    "ACCEPT": "it is accepted, and no other rule of this table is asked",
    "DROP": "it is dropped",
    "RETURN": "it goes back to where it came from",
    "QUEUE": "it is handed to a program",
}


def explain(trace: Trace) -> list[str]:
    """The way, one sentence a line: chain by chain, and where it ends."""
    lines = []
    for (table, chain), steps in groupby(trace.steps, key=lambda step: (step.table, step.chain)):
        asked = f", {_HOOKS[chain]}" if chain in HOOKS else ""
        lines.append(f"Chain {chain} of table {table}{asked}:")
        lines += [f"  {sentence}" for sentence in _sentences(list(steps), trace)]
    if not lines:
        lines.append("No rule and no policy that was read applies to it.")
    return [*lines, _end(way_of(trace), trace)]


def _sentences(steps: list[Step], trace: Trace) -> Iterator[str]:
    for step in steps:
        rule = step.rule
        if rule is None:
            yield f"no rule is left; the {step.outcome} holds."
        elif step.matched is False:
            yield f"rule {rule.number} is for {_condition(rule)}, which this packet is not."
        elif step.matched is None:
            yield f"rule {rule.number} is for {_condition(rule)}; whether this packet is cannot be told."
        else:
            decides = " This decides." if rule is trace.deciding_rule else ""
            yield f"rule {rule.number} is for {_condition(rule)}: {_effect(rule.target)}.{decides}"


def _condition(rule: Rule) -> str:
    text = short_rule(rule)
    for option in (" -j ", " -g "):
        text = f" {text}".partition(option)[0].strip()
    return f"`{text}`" if text else "every packet"


def _effect(target: Target | None) -> str:
    match target:
        case None:
            return "it is counted and goes on"
        case Verdict(name=name):
            return _VERDICTS.get(name, name)
        case Jump(chain=chain):
            return f"it goes through {chain} and, if nothing there decides, comes back"
        case Goto(chain=chain):
            return f"it goes on in {chain}"
        case Redirect(ports=ports) if ports is not None:
            span = f"{ports[0]}" if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"
            return f"it is redirected to port {span} of this pod"
        case Redirect():
            return "it is redirected to this pod"
        case SetMark():
            return f"its mark is changed (`{target}`)"
        case _:
            return f"`{target}` acts on it"


def _end(way: Way, trace: Trace) -> str:
    if trace.fate is Fate.UNKNOWN:
        return "What becomes of it cannot be told."
    what = f"So {describe(trace.packet)}"
    match way["end"]:
        case "proxy":
            return f"{what} comes to {trace.destination}: {way['listener']}."
        case "nowhere":
            return f"{what} goes nowhere: it is {trace.outcome}."
        case "application":
            return f"{what} comes to {trace.destination} itself, without Envoy."
        case _:
            return f"{what} leaves the pod for {trace.destination}, without Envoy."
