"""The comparison with the kernel can fail: errors put into the tracer on purpose are found by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kernel_comparison import Differences, disagreements
from kernel_generator import Generator
from kernel_testbed import Kernel, why_impossible

from pytest_istio_sidecar.netfilter.kernel.hooks import Leg, Moment, legs
from pytest_istio_sidecar.netfilter.matches import Interface, Match, Multiport, Owner, Range
from pytest_istio_sidecar.netfilter.targets import Goto, Jump, Redirect, SetMark, Target, Verdict
from pytest_istio_sidecar.netfilter.trace import table
from pytest_istio_sidecar.netfilter.trace import trace as tracer

PAIRS, PACKETS = 6_000, 50
"""At most, and for each ruleset."""

_WHY = why_impossible()
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY)


def _one(ports: Range | None) -> Range | None:
    return None if ports is None else replace(ports, high=ports.low)


def _wrong_match(match: Match, error: str) -> Match:
    match (match, error):
        case (Interface(), "+ is part of an interface's name"):
            return replace(match, name=match.name.replace("+", "*"))
        case (Interface(), "an interface cannot be inverted"):
            return replace(match, negated=False)
        case (Owner(), "an owner's range is its first id"):
            return replace(match, uid=_one(match.uid), gid=_one(match.gid))
        case (Multiport(side="either"), "--ports asks for the destination"):
            return replace(match, side="destination")
    return match


def _wrong_target(target: Target | None, error: str) -> Target | None:
    match (target, error):
        case (Goto(chain=chain), "goto comes back"):
            return Jump(chain)
        case (Verdict(name="RETURN"), "RETURN ends the table"):
            return Verdict("ACCEPT")
        case (SetMark(), "MARK ends the table"):
            return Verdict("ACCEPT")
        case (Redirect(ports=(low, _)), "REDIRECT takes the first port"):
            return Redirect(ports=(low, low))
    return target


ERRORS = (
    "+ is part of an interface's name",
    "an interface cannot be inverted",
    "an owner's range is its first id",
    "--ports asks for the destination",
    "goto comes back",
    "RETURN ends the table",
    "MARK ends the table",
    "REDIRECT takes the first port",
    "lo's packets meet nat again",
)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_the_model_is_noticed(error: str, monkeypatch, tmp_path, request) -> None:
    match, target = table.compile_match, table._Compiler.target
    monkeypatch.setattr(table, "compile_match", lambda given: match(_wrong_match(given, error)))
    monkeypatch.setattr(
        table._Compiler, "target", lambda own, given, *rest: target(own, _wrong_target(given, error), *rest)
    )
    if error.startswith("lo's"):
        monkeypatch.setattr(tracer, "legs", _with_nat_behind_lo)
    pairs = 0
    wrong: Differences = {}
    with Kernel("legacy", 4, tmp_path) as kernel:
        generator = Generator("errors", 4, inverted_pairs=True)
        while not wrong and pairs < PAIRS:
            ruleset, sent = generator.rules(), generator.packets(PACKETS)
            if kernel.load(ruleset.text()).returncode == 0:
                wrong = disagreements(kernel, sent)
                pairs += len(sent)
    request.node.user_properties.append(("noticed", f"noticed within {pairs} pairs"))
    assert wrong


def _with_nat_behind_lo(chains):
    course = dict(legs(chains))
    received = (step for step in course[Leg.RECEIVE] if not isinstance(step, Moment))
    return {**course, Leg.LOOP: (*received, *course[Leg.DELIVER])}
