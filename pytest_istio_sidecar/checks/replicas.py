"""Have all replicas of a workload the same rules?

Knows how rules of pods are held side by side. Does not know how they were read.
Invariant: a verdict on one pod is a verdict on all of which this finds nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.finding import Finding, Kind
from pytest_istio_sidecar.netfilter.model import PodRules

_SHOWN = 8


def check_replicas(rules: PodRules, others: Mapping[str, PodRules]) -> list[Finding]:
    """Whether other pods have the rules of this one, in every family and back end.

    Args:
        others: the rules of the other pods, by the pod's name.
    """
    return [
        Finding(
            kind=Kind.RULES,
            failure=messages.REPLICA_DIFFERS(replica=name, pod=rules.pod),
            wanted=f"the rules of {rules.pod}",
            got=_counted(other),
            facts=tuple(_differences(rules, other)),
            cause="their sidecars were injected with different options, or somebody changed one of them",
        )
        for name, other in others.items()
        if _signature(other) != _signature(rules)
    ]


def _signature(rules: PodRules) -> list[tuple[object, ...]]:
    """What the pod has, whichever empty back ends were read beside it."""
    return [
        (ruleset.family, ruleset.backend, ruleset.tables)
        for ruleset in rules.rulesets
        if any(ruleset.rules())
    ]


def _counted(rules: PodRules) -> str:
    parts = [
        f"{sum(1 for _ in ruleset.rules())} in {ruleset.backend} (IPv{ruleset.family})"
        for ruleset in rules.rulesets
        if any(ruleset.rules())
    ]
    return ", ".join(parts) or "no rules"


def _differences(rules: PodRules, other: PodRules) -> Iterator[tuple[str, str]]:
    here, there = (
        Counter(
            f"IPv{ruleset.family} {table.name} {rule.text}"
            for ruleset in pod.rulesets
            for table in ruleset.tables
            for rule in table.rules()
        )
        for pod in (rules, other)
    )
    missing, extra = list((here - there).elements()), list((there - here).elements())
    if not missing and not extra:
        yield "rules", "the same, in another order or back end"
    for label, lines in (("missing", missing), ("extra", extra)):
        if lines:
            more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
            yield label, "\n".join([*lines[:_SHOWN], *more])
