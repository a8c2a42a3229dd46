"""Why a packet goes where it goes: what sets its chains apart from Istio's own.

Knows how to hold the chains that a packet passed against a described release.
Does not judge. Invariant: it names a difference of text only; the verdict rests
on the trace.
"""

from __future__ import annotations

from functools import cache

from pytest_istio_sidecar.istio.rules import ERAS, expected_ruleset
from pytest_istio_sidecar.netfilter.model import Chain, Family, Rule, Rules, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.targets import Goto, Jump
from pytest_istio_sidecar.netfilter.trace.trace import Trace

ALIKE = 0.5
"""Share of a release's rules that a ruleset must hold for the two to be worth comparing."""


def cause_of(way: Trace, rules: Rules) -> str:
    """What sets the chains of nat that a packet passed apart from Istio's, or ""."""
    steps = [step for step in way.steps if step.table == "nat"]
    passed = {step.chain for step in steps}
    for step in steps:
        if step.matched and step.rule is not None and isinstance(step.rule.target, Jump | Goto):
            passed.add(step.rule.target.chain)
    for ruleset in rulesets_of(rules, way.packet.family):
        version, expected = _nearest(ruleset)
        if expected is None:
            continue
        parts = [
            part
            for chain in expected.nat.chains
            if chain.name in passed
            for part in _differences(chain, _chain(ruleset, chain.name), version)
        ]
        if parts:
            return "; ".join(parts)
    return ""


def _nearest(ruleset: Ruleset) -> tuple[str, Ruleset | None]:
    """The described release from which this ruleset differs least, if they have enough in common."""
    held = set(ruleset.nat.rules())
    best: tuple[int, str, Ruleset] | None = None
    for version in ERAS:
        expected = _expected(version, ruleset.family)
        wanted = set(expected.nat.rules())
        differing = len(wanted ^ held)
        alike = len(wanted & held) >= ALIKE * len(wanted)
        if alike and (best is None or differing < best[0]):
            best = differing, version, expected
    return (best[1], best[2]) if best else ("", None)


@cache
def _expected(version: str, family: Family) -> Ruleset:
    return expected_ruleset(version, family=family)


def _chain(ruleset: Ruleset, name: str) -> Chain:
    return ruleset.nat.chain(name) if name in ruleset.nat else Chain(name=name)


def _differences(expected: Chain, held: Chain, version: str) -> list[str]:
    missing = [rule for rule in expected if rule not in held.rules]
    foreign = [rule for rule in held if rule not in expected.rules]
    parts = []
    if missing:
        parts.append(f"{expected.name} lacks Istio {version}'s {_listed(missing)}")
    if foreign:
        numbers = ", ".join(str(rule.number) for rule in foreign)
        which = f"rule{'s' if len(foreign) > 1 else ''} {numbers}"
        where = f" ({foreign[0].location})" if foreign[0].location else ""
        parts.append(f"{which} of {expected.name}{where} is not Istio {version}'s")
    if not parts and held.rules != expected.rules:
        parts.append(f"the rules of {expected.name} are in another order than Istio {version}'s")
    return parts


def _listed(rules: list[Rule]) -> str:
    return ", ".join(f"`{rule.text.removeprefix(f'-A {rule.chain} ')}`" for rule in rules)
