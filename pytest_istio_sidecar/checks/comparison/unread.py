"""What was not read of a pod's rules, taken to be as an expectation has it.

Knows which of a family's back ends the expected rules belong to. Does not know what may be taken
(`complete`). Invariant: what is taken is in the `assumptions` of its ruleset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pytest_istio_sidecar.istio.tables import has_istio
from pytest_istio_sidecar.netfilter.model import Family, PodRules, Rules, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.text.complete import with_unread_as_expected

_FAMILIES: tuple[Family, ...] = (4, 6)


def each_ruleset(rules: Rules, change: Callable[[Ruleset], Ruleset]) -> Rules:
    """The same rules, each ruleset as `change` makes it; the same object where none is another."""
    if isinstance(rules, PodRules):
        changed = tuple(map(change, rules.rulesets))
        same = all(one is other for one, other in zip(changed, rules.rulesets, strict=True))
        return rules if same else replace(rules, rulesets=changed)
    if isinstance(rules, Ruleset):
        return change(rules)
    changed_ruleset = change(rules.ruleset)
    return rules if changed_ruleset is rules.ruleset else changed_ruleset


def with_unread_taken(rules: Rules, expected: Rules) -> Rules:
    """The same rules, with tables that were not read as they are expected.

    Where Istio's chains are in one back end, nothing is expected of the other.
    """
    mains = {family: next(filter(has_istio, rulesets_of(rules, family)), None) for family in _FAMILIES}

    def full(ruleset: Ruleset) -> Ruleset:
        wanted: Sequence[Ruleset] = rulesets_of(expected, ruleset.family)
        if not wanted or not ruleset.unread:
            return ruleset
        main = mains[ruleset.family]
        beside = main is not None and ruleset is not main
        return with_unread_as_expected(ruleset, replace(wanted[0], tables=()) if beside else wanted[0])

    return each_ruleset(rules, full)
