"""Are these the rules that a release of Istio installs, or do they do the same?

Knows which rules a pod's are held against, and how a difference is explained by options. Does not
know how rules are compared. Invariant: text that differs without any packet being affected is told,
and fails nothing unless the text was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.comparison.alignment import Change
from pytest_istio_sidecar.checks.comparison.comparison import Comparison, compare
from pytest_istio_sidecar.checks.comparison.effects import Effect, not_allowed
from pytest_istio_sidecar.checks.comparison.foreign import REPEATED
from pytest_istio_sidecar.checks.comparison.unread import each_ruleset, with_unread_taken
from pytest_istio_sidecar.checks.finding import Finding, Kind, Severity
from pytest_istio_sidecar.checks.other_hosts import other_hosts
from pytest_istio_sidecar.checks.tracing import not_stated, of_pod, routing_facts
from pytest_istio_sidecar.checks.wording import PacketClass, of_family
from pytest_istio_sidecar.errors import Undecided, UsageProblem
from pytest_istio_sidecar.istio.messages import OPTIONS_TWICE
from pytest_istio_sidecar.istio.option_table import OptionFields
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.rules import ERAS, expected_ruleset, shown_by_image
from pytest_istio_sidecar.istio.search import explain, nearest, same_in
from pytest_istio_sidecar.istio.tables import has_istio, ipv6_is_untold, other_mode
from pytest_istio_sidecar.netfilter.model import Family, PodRules, Rules, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.netfilter.text.complete import with_hidden_as_expected

_FAMILIES: tuple[Family, ...] = (4, 6)
_EFFECTS = 6
"""Classes of packets that a message names; the rest are counted."""

_GUESSES = 8
"""Explanations that are held against the rules by effect; they come nearest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonFinding(Finding):
    """A finding about all rules, beside the ones expected."""

    comparison: Comparison


def check_matches_istio(
    rules: Rules,
    version: str,
    exact: bool = False,
    *,
    options: IstioOptions | None = None,
    host: Host | None = None,
    allowed: Sequence[PacketClass] = (),
    **given: Unpack[OptionFields],
) -> list[ComparisonFinding]:
    """Whether rules do to every packet what those of a release with these options do.

    Args:
        rules: of a pod, both families are held against the expectation; IPv6 where the options tell whether
            it is programmed, or where Istio's rules are in ip6tables.
        exact: whether the text has to be the same too.
        options: what istio-init was told; None: `given`, else what the template passes.
        allowed: packets that may get by without Envoy, whatever the release does with them.

    Returns:
        One violation, or one notice where only the text or what is allowed differs, with its `comparison`;
        none where that is the same too.

    Raises:
        Undecided: the rules do not tell what becomes of some packet, or are of another way of capturing.
        UsageProblem: as `expected_ruleset`, or these are no rules.
    """
    if options is not None and given:
        raise UsageProblem(OPTIONS_TWICE())
    asked_for = IstioOptions.of(given) if options is None else options
    if isinstance(rules, PodRules) and (mode := other_mode(rules)):
        raise Undecided(messages.OTHER_MODE(mode=mode))
    if ipv6_is_untold(rules, asked_for.enable_ipv6) and not rulesets_of(rules, 4):
        raise Undecided(messages.IPV6_UNTOLD(pod=of_pod(rules)))
    expected = expected_of(rules, version, asked_for)
    observed = completed(rules, expected)
    comparison = compare(observed, expected, host=host)
    if comparison.equal_text and not comparison.effects:
        return []
    effects = not_allowed(comparison.effects, allowed)
    for rule, other in () if effects else other_hosts(observed, expected, host):
        if not_allowed(compare(observed, expected, host=other).effects, allowed):
            raise not_stated(rules, rule)
    wrong_text = exact and not comparison.equal_text
    unharmed = "only what is allowed gets by" if comparison.effects else "no packet is affected"
    return [
        ComparisonFinding(
            severity=Severity.VIOLATION if effects or wrong_text else Severity.NOTICE,
            kind=Kind.RULES,
            failure=messages.LED_ASTRAY(version=version, pod=of_pod(rules))
            if comparison.equal_text
            else messages.NOT_ISTIOS(
                chains=_chains(comparison),
                pod=of_pod(rules),
                verb=_verb(comparison),
                version=version,
                differences=counted(comparison),
                effect="" if effects else f"; {unharmed}",
            ),
            comparison=comparison,
            facts=(
                *_facts(comparison, effects or comparison.effects, observed, expected, version),
                *routing_facts(host),
            ),
            cause=_second_run(comparison, expected) or drift(observed, version, asked_for, host=host),
            assumptions=comparison.assumptions,
        )
    ]


def _second_run(comparison: Comparison, expected: PodRules) -> str:
    """What accounts for rules that are there twice; options would be found for them too, and mean nothing."""
    twice = sum(foreign.count for foreign in comparison.foreign if foreign.owner == REPEATED)
    if twice * 2 <= sum(1 for ruleset in expected.rulesets for _ in ruleset.rules()):
        return ""
    return "istio-init ran again in a namespace that had its rules already, or one of another release did"


def expected_of(rules: Rules, version: str, options: IstioOptions) -> PodRules:
    """What a release installs, for every family of these rules that there is an expectation for."""
    families: list[Family] = [family for family in (4, 6) if rulesets_of(rules, family)]
    if 4 in families and ipv6_is_untold(rules, options.enable_ipv6):
        families = [4]
    return PodRules(
        rulesets=tuple(expected_ruleset(version, family=family, options=options) for family in families),
        order_known=True,
    )


def completed(rules: Rules, expected: PodRules) -> Rules:
    """The same rules, what a listing does not show taken from the expected ones: fields, and tables."""

    def full(ruleset: Ruleset) -> Ruleset:
        wanted = expected.of_family(ruleset.family)
        return with_hidden_as_expected(ruleset, wanted[0]) if wanted else ruleset

    return with_unread_taken(each_ruleset(rules, full), expected)


def drift(rules: Rules, version: str, options: IstioOptions, *, host: Host | None = None) -> str:
    """What would have made these rules instead: "as with excludeInboundPorts: 8443", or "".

    Options of this release, or another release with the same ones, whichever accounts for every rule.
    """
    rulesets = istio_rulesets(rules)
    if not rulesets:
        return ""
    before = explain(rulesets, version, options, rounds=0)
    explanation = explain(rulesets, version, options)
    if explanation.apart and (releases := same_in(rulesets, options)):
        return f"as Istio {_span(releases)} installs them"
    if explanation.apart >= before.apart:
        return ""
    words = " and ".join(explanation.changes_from(before.options))
    if explanation.apart == 0:
        return f"as with {words}"
    expected = expected_of(rules, version, explanation.options)
    same = compare(rules, expected, host=host).equivalent
    return f"as with {words}" if same else f"in part as with {words}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """Releases, and what they are told, that rules may come from.

    Attributes:
        versions: releases that install the same, oldest first.
        changes: how a pod asks for the options, beyond the template's: "excludeInboundPorts: 8443".
        comparison: of the rules with what these releases install.
    """

    versions: tuple[str, ...]
    changes: tuple[str, ...]
    comparison: Comparison

    @property
    def text(self) -> str:
        return f"Istio {_span(self.versions)}" + (
            f" with {' and '.join(self.changes)}" if self.changes else ""
        )


def guess(rules: Rules, *, host: Host | None = None) -> tuple[Guess, ...]:
    """The releases and options whose rules are equivalent to these, nearest first; else the nearest.

    Raises:
        Undecided: no chain of Istio's is there; or the rules do not tell what becomes of some packet, and are
            no release's rule for rule.
    """
    rules = each_ruleset(rules, _most_complete)
    rulesets = istio_rulesets(rules)
    if not rulesets:
        mode = other_mode(rules) if isinstance(rules, PodRules) else ""
        raise Undecided(messages.OTHER_MODE(mode=mode) if mode else messages.NO_ISTIO_CHAIN())
    guesses: list[Guess] = []
    untold: Undecided | None = None
    for explanation in nearest(rulesets)[:_GUESSES]:
        expected = PodRules(
            rulesets=tuple(
                expected_ruleset(explanation.versions[-1], family=ruleset.family, options=explanation.options)
                for ruleset in rulesets
            ),
            order_known=True,
        )
        comparison = compare(rules, expected, host=host)
        try:
            comparison.effects  # noqa: B018 - where it cannot be told beside one release, none is worth a try
        except Undecided as problem:
            untold = problem
            break
        guesses.append(
            Guess(versions=explanation.versions, changes=explanation.changes, comparison=comparison)
        )
    equivalent = tuple(each for each in guesses if each.comparison.equivalent)
    if untold is not None and not equivalent:
        raise untold
    return equivalent or tuple(guesses[:1])


def _most_complete(ruleset: Ruleset) -> Ruleset:
    """A lossy listing as the release would have it whose rules leave the fewest fields hidden."""
    if not any(rule.hidden for rule in ruleset.rules()):
        return ruleset
    candidates = [
        with_hidden_as_expected(ruleset, expected_ruleset(era, family=ruleset.family)) for era in ERAS
    ]
    return min(candidates, key=lambda candidate: sum(len(rule.hidden) for rule in candidate.rules()))


def istio_rulesets(rules: Rules) -> list[Ruleset]:
    """Of every family the ruleset that has Istio's chains."""
    first = (next(filter(has_istio, rulesets_of(rules, family)), None) for family in _FAMILIES)
    return [ruleset for ruleset in first if ruleset is not None]


def _span(versions: Sequence[str]) -> str:
    return versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"


def counted(comparison: Comparison) -> str:
    """How many differences of which kind: "1 rule missing, 1 moved"."""
    kinds = [difference.kind for difference in comparison.differences]
    parts = [f"{kinds.count(kind)} {kind}" for kind in Change if kind in kinds]
    if not parts:
        hanging = next((chain for chain in comparison.chains if chain.hangs), None)
        return "another policy" if hanging is None else f"{hanging.place} is {hanging.hangs}"
    number, _, kind = parts[0].partition(" ")
    return ", ".join([f"{number} rule{'s' if number != '1' else ''} {kind}", *parts[1:]])


def _chains(comparison: Comparison) -> str:
    """The chains that differ, by family: "ISTIO_INBOUND and ISTIO_OUTPUT, IPv6 ISTIO_INBOUND"."""
    return ", ".join(
        of_family(family) + (f"{', '.join(names[:-1])} and {names[-1]}" if names[1:] else names[0])
        for family in _FAMILIES
        if (names := _differing(comparison, family))
    )


def _differing(comparison: Comparison, family: Family) -> list[str]:
    chains = (chain for chain in comparison.chains if chain.family == family and chain.differs)
    return list(dict.fromkeys(chain.name for chain in chains))


def _verb(comparison: Comparison) -> str:
    return "is" if sum(len(_differing(comparison, family)) for family in _FAMILIES) == 1 else "are"


def _facts(
    comparison: Comparison, effects: Sequence[Effect], observed: Rules, expected: PodRules, version: str
) -> list[tuple[str, str]]:
    shown = [f"{effect.text}: {effect.fates}" for effect in effects[:_EFFECTS]]
    left = len(effects) - _EFFECTS
    if left > 0:
        shown.append(f"and {left} more class{'es' if left > 1 else ''} of packets")
    facts = [("effect", "\n".join(shown) or "no packet is affected")]
    if comparison.foreign:
        facts.append(("foreign", "\n".join(foreign.text for foreign in comparison.foreign)))
    where = _other_backend(istio_rulesets(observed), expected, version)
    if where:
        facts.append(("back end", where))
    source = _source(comparison, observed)
    return [*facts, *([("source", source)] if source else [])]


def _other_backend(observed: Sequence[Ruleset], expected: PodRules, version: str) -> str:
    for ruleset in observed:
        wanted = expected.of_family(ruleset.family)
        if wanted and ruleset.backend is not None and ruleset.backend is not wanted[0].backend:
            return (
                f"the rules are in {ruleset.backend}; istio-init of {version} writes {wanted[0].backend} in "
                f"a clean namespace, and its image's iptables shows {shown_by_image(version)}"
            )
    return ""


def _source(comparison: Comparison, observed: Rules) -> str:
    """Where the rules that differ were read."""
    places: dict[str, list[int]] = {}
    for difference in comparison.differences:
        rule = difference.line.observed
        file, _, line = rule.location.rpartition(":") if rule is not None else ("", "", "")
        if file and line.isdecimal():
            places.setdefault(file, []).append(int(line))
    named = [
        f"{file}:{min(lines)}" + (f"-{max(lines)}" if max(lines) > min(lines) else "")
        for file, lines in places.items()
    ]
    if named:
        return ", ".join(named)
    return ", ".join(
        dict.fromkeys(
            ruleset.source for family in (4, 6) for ruleset in rulesets_of(observed, family) if ruleset.source
        )
    )
