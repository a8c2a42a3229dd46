"""How the detection power reads: in words, and as JSON has it.

Knows what a user wants to hear of a score. Does not know how it came about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pytest_istio_sidecar.checks.wording import describe, packet_fields
from pytest_istio_sidecar.selftest.score import Judged, Score, named_faults

_WIDTH = 16


def render_score(score: Score) -> str:
    """One release's score, with the first fault that was judged wrongly."""
    return "\n".join(_lines(score))


def conclusion(scores: Sequence[Score]) -> str:
    """What all of it means to somebody who sees a green suite."""
    if all(score.perfect for score in scores):
        return "every change that matters was caught, and no other: a green suite means something"
    missed = sum(len(score.missed) for score in scores)
    alarms = sum(len(score.false_alarms) for score in scores)
    if not missed and not alarms:
        return (
            "nothing was judged wrongly, but not every named fault was made and caught: the score says less "
            f"than it should; {len(named_faults(scores[0].version))} mutants have them all"
        )
    return (
        f"wrong verdicts: {missed} missed, {alarms} false alarms; this is a fault of istio-sidecar: report it"
    )


def score_fields(score: Score) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "istio": score.version,
        "families": [ruleset.family for ruleset in score.original.rulesets],
        "backend": str(score.original.rulesets[0].backend),
        "mutants": len(score.judged),
        "change_a_fate": len(score.harmful),
        "caught": len(score.harmful) - len(score.missed),
        "missed": list(map(_fields, score.missed)),
        "false_alarms": list(map(_fields, score.false_alarms)),
        "named_faults": [
            {
                "name": name,
                "caught": judged is not None and _rightly_caught(judged),
                "said": judged and judged.caught,
            }
            for name, judged in _named(score)
        ],
        "perfect": score.perfect,
    }


def _fields(judged: Judged) -> dict[str, Any]:
    entry: dict[str, Any] = {"operator": judged.mutant.operator, "change": judged.mutant.change}
    if judged.caught:
        entry["said"] = judged.caught
    if judged.change is not None:
        packet = packet_fields(judged.change.packet)
        entry |= {"packet": packet, "before": judged.change.before, "after": judged.change.after}
    return entry


def _lines(score: Score) -> Iterator[str]:
    rulesets = score.original.rulesets
    families = " and ".join(f"IPv{ruleset.family}" for ruleset in rulesets)
    yield f"Istio {score.version}, {families}, rules in {rulesets[0].backend}"
    harmful, missed, alarms = len(score.harmful), len(score.missed), len(score.false_alarms)
    harmless = len(score.judged) - harmful
    yield _line("mutants", f"{len(score.judged)}: the release's rules with one change each")
    yield _line("change a fate", f"{harmful}: the kernel treats some packet otherwise")
    yield _line("caught", f"{harmful - missed} of {harmful}")
    yield _line("missed", str(missed))
    yield from _explained(score.missed)
    yield _line("false alarms", f"{alarms} among the {harmless} that change no packet's fate")
    yield from _explained(score.false_alarms)
    named = list(_named(score))
    caught = [name for name, judged in named if judged is not None and _rightly_caught(judged)]
    yield _line("named faults", f"{len(caught)} of {len(named)} caught")
    for name, judged in named:
        yield f"    {name}"
        yield f"      {_verdict_on(judged)}"


def _line(name: str, text: str) -> str:
    return f"  {name:<{_WIDTH}}{text}"


def _explained(wrong: Sequence[Judged]) -> Iterator[str]:
    """The first of some that were judged wrongly."""
    for judged in wrong[:1]:
        yield _line("  rules", f"a mutant that {judged.mutant.change}")
        if judged.change is not None:
            yield _line("  packet", describe(judged.change.packet))
            yield _line("  before", judged.change.before)
            yield _line("  with it", judged.change.after)
        yield _line("  suite", judged.caught or "nothing against these rules")


def _named(score: Score) -> Iterator[tuple[str, Judged | None]]:
    made = {judged.name: judged for judged in score.named}
    for name in named_faults(score.version).values():
        yield name, made.get(name)


def _rightly_caught(judged: Judged) -> bool:
    return bool(judged.caught) and judged.change is not None


def _verdict_on(judged: Judged | None) -> str:
    if judged is None:
        return "not made"
    if judged.change is None:
        return "changes no packet's fate, says the kernel"
    return judged.caught or "MISSED"
