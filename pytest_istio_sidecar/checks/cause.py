"""Why a packet fares as it does: which rules set it apart from the release that was expected.

Knows how to ask which differences matter to this packet: those without which it would fare otherwise. Does
not know whether it fares well. Invariant: what a pod's rules are held against is the run's own release and
options, where they are known (`Ruleset.expected_from`); where they are not, the cause says what it was
compared with. No verdict rests on a cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from pytest_istio_sidecar.checks.wording import numbered
from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio.option_wording import as_a_pod_asks
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.release import in_effect
from pytest_istio_sidecar.istio.rules import ERAS, expected_ruleset
from pytest_istio_sidecar.istio.tables import PREFIX
from pytest_istio_sidecar.istio.versions import number_of
from pytest_istio_sidecar.netfilter.model import Family, PodRules, Rule, Rules, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate
from pytest_istio_sidecar.netfilter.trace.trace import Trace, trace

_NO_CHAIN_OF_ISTIO = "no chain of Istio's is in these rules"
_ALIKE = 0.5
"""Share of a release's rules that a ruleset must have for the two to be worth comparing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expectation:
    """What a pod's rules are held against; `options` None: nothing is known of release and options."""

    version: str
    ruleset: Ruleset
    options: IstioOptions | None


def expecting(rules: PodRules, version: str, options: IstioOptions) -> PodRules:
    """The same rules, which know what is expected of them.

    Raises:
        UsageProblem: as `expected_ruleset`.
    """
    return replace(
        rules,
        rulesets=tuple(
            replace(
                ruleset,
                expected_from=expected_ruleset(version, family=ruleset.family, options=options).origin,
            )
            for ruleset in rules.rulesets
        ),
    )


def cause_of(traced: Trace, rules: Rules) -> str:
    """What of rules or routes has a packet fare otherwise than the expected ones would, or ""."""
    if led := _led_away(traced, rules):
        return led
    rulesets = rulesets_of(rules, traced.packet.family)
    if not rulesets:
        return ""
    main = max(rulesets, key=lambda ruleset: sum(rule.chain.startswith(PREFIX) for rule in ruleset.rules()))
    expectation = _expectation(main)
    if expectation is None:
        decided = traced.deciding_rule is not None or _has_chains_of_istio(main)
        return "" if decided else _NO_CHAIN_OF_ISTIO
    there = trace(expectation.ruleset, traced.packet, host=traced.host)
    if there.fate is Fate.UNKNOWN:
        return ""
    if _end(there) == _end(traced):
        return _as_asked(traced, expectation)
    parts = [
        *_missing(there, main, expectation),
        *_additional(traced, rulesets, main, expectation),
    ] or [*_in_other_order(traced, there, main, expectation)]
    against = f" (compared with Istio {expectation.version}'s defaults: release and options are not known)"
    return "; ".join(parts) + (against if parts and expectation.options is None else "")


def _has_chains_of_istio(ruleset: Ruleset) -> bool:
    return any(chain.name.startswith(PREFIX) for table in ruleset.tables for chain in table.chains)


def _led_away(traced: Trace, rules: Rules) -> str:
    """Which rules and routes have a packet fare otherwise than the host's addresses tell, or ""."""
    host, family = traced.host, traced.packet.family
    if family not in host.policies or _end(trace(rules, traced.packet, host=host.meant)) == _end(traced):
        return ""
    routed = [step.outcome for step in traced.steps if step.table == "routing"]
    led = next((outcome for outcome in routed if outcome.startswith("by ")), None)
    added = "rules and routes that somebody added to the namespace"
    return f"{added} lead it {led}" if led else f"by {added} it is {routed[0]}" if routed else ""


def _expectation(main: Ruleset) -> _Expectation | None:
    origin = main.expected_from or main.completed_from
    if not origin:
        return _nearest(main)
    _, version, *words = origin
    options = IstioOptions.from_pairs(words[1::2])
    try:
        ruleset = expected_ruleset(version, family=main.family, options=options)
    except UsageProblem:  # what no release installs sets nothing apart
        return None
    return _Expectation(version=version, ruleset=ruleset, options=options)


def _nearest(main: Ruleset) -> _Expectation | None:
    """The described release from whose defaults a ruleset differs least, if they have enough in common."""
    own = set(main.rules())
    best: tuple[int, str, Ruleset] | None = None
    for version in ERAS:
        expected = _defaults(version, main.family)
        wanted = set(expected.rules())
        differing = len(wanted ^ own)
        alike = len(wanted & own) >= _ALIKE * len(wanted)
        if alike and (best is None or differing < best[0]):
            best = differing, version, expected
    return _Expectation(version=best[1], ruleset=best[2], options=None) if best else None


@cache
def _defaults(version: str, family: Family) -> Ruleset:
    return expected_ruleset(version, family=family)


def _end(traced: Trace) -> tuple[Fate, Endpoint, Rule | None]:
    return traced.fate, traced.destination, traced.deciding_rule


def _as_asked(traced: Trace, expectation: _Expectation) -> str:
    """Which options have a packet fare as it does, where it fares as expected; "" where none are known."""
    asked, version = expectation.options, expectation.version
    if asked is None:
        return ""
    family = traced.packet.family
    number = number_of(version)
    unset = IstioOptions(mode=asked.mode)
    for name in asked.changed():
        without = replace(asked, **{name: getattr(unset, name)})
        rules = expected_ruleset(version, family=family, options=without)
        words = as_a_pod_asks(number, in_effect(number, without), in_effect(number, asked))
        if words and _end(trace(rules, traced.packet, host=traced.host)) != _end(traced):
            return f"the pod asks for it: Istio {version} does the same with {' and '.join(words)}"
    return f"Istio {version}'s own rules do the same" + (
        " with this pod's options" if asked.changed() else ""
    )


def _missing(there: Trace, main: Ruleset, expectation: _Expectation) -> Iterator[str]:
    """Expected rules that the packet would meet, and fare otherwise with."""
    rules = [
        met
        for met in _matched(there)
        if met.rule not in _rules(main, met)
        and _end(_without(expectation.ruleset, met, there)) != _end(there)
    ]
    if rules and not any(rule.chain.startswith(PREFIX) for rule in main.rules()):
        none = "no chain of Istio's has a rule here" if _has_chains_of_istio(main) else _NO_CHAIN_OF_ISTIO
        yield f"{none}, and Istio {expectation.version} makes some"
        return
    for where, of_chain in _by_chain(rules):
        texts = ", ".join(f"`{rule.text.removeprefix(f'-A {rule.chain} ')}`" for rule in of_chain)
        yield f"{where} lacks Istio {expectation.version}'s {texts}"


def _additional(
    traced: Trace, rulesets: Sequence[Ruleset], main: Ruleset, expectation: _Expectation
) -> Iterator[str]:
    """Rules that are not expected, without which the packet would fare otherwise."""
    here = PodRules(rulesets=tuple(rulesets), order_known=getattr(traced.rules, "order_known", True))
    rules = [
        met
        for met in _matched(traced)
        if (_other(rulesets, main, met) or met.rule not in _rules(expectation.ruleset, met))
        and _end(_without(here, met, traced)) != _end(traced)
    ]
    for backend in dict.fromkeys(_other(rulesets, main, met) for met in rules):
        for where, of_chain in _by_chain([met for met in rules if _other(rulesets, main, met) == backend]):
            numbers = [rule.number for rule in of_chain]
            first = min(of_chain, key=lambda rule: rule.number)
            place = f" ({first.location})" if first.location else ""
            are = "is" if len(numbers) == 1 else "are"
            yield f"{numbered(numbers)} of {where}{backend}{place} {are} not Istio {expectation.version}'s"


def _in_other_order(here: Trace, there: Trace, main: Ruleset, expectation: _Expectation) -> Iterator[str]:
    """Chains on the packet's way that have the expected rules, and not as expected."""
    chains = {_named(met): met for traced in (here, there) for met in _matched(traced)}
    for where, met in chains.items():
        own, wanted = _rules(main, met), _rules(expectation.ruleset, met)
        if own == wanted or set(own) != set(wanted):
            continue
        if len(own) == len(wanted):
            yield f"the rules of {where} are in another order than Istio {expectation.version}'s"
        else:
            yield f"{where} has rules of Istio {expectation.version}'s more than once"


@dataclass(frozen=True, slots=True)
class _Met:
    """A rule that a packet matched."""

    table: str
    rule: Rule


def _matched(traced: Trace) -> list[_Met]:
    met = [_Met(step.table, step.rule) for step in traced.steps if step.matched and step.rule is not None]
    return list({id(each.rule): each for each in met}.values())


def _rules(ruleset: Ruleset, met: _Met) -> tuple[Rule, ...]:
    """The rules that a ruleset has in the chain of one."""
    table = ruleset.table(met.table)
    return table.chain(met.rule.chain).rules if met.rule.chain in table else ()


def _other(rulesets: Sequence[Ruleset], main: Ruleset, met: _Met) -> str:
    """The back end of a rule that does not stand beside Istio's, as messages name it."""
    for ruleset in rulesets:
        if ruleset is not main and any(rule is met.rule for rule in ruleset.table(met.table).rules()):
            return f" in {ruleset.backend or 'another back end'}"
    return ""


def _without(rules: Rules, met: _Met, traced: Trace) -> Trace:
    """How the packet fares without one rule."""
    left = tuple(
        ruleset.map_rules(lambda _, rule: None if rule is met.rule else rule)
        for ruleset in rulesets_of(rules, traced.packet.family)
    )
    changed = PodRules(rulesets=left, order_known=getattr(rules, "order_known", True))
    return trace(changed, traced.packet, host=traced.host)


def _by_chain(rules: Sequence[_Met]) -> Iterator[tuple[str, list[Rule]]]:
    chains: dict[str, list[Rule]] = {}
    for met in rules:
        chains.setdefault(_named(met), []).append(met.rule)
    yield from chains.items()


def _named(met: _Met) -> str:
    """A chain; of another table than nat, where the product speaks of it, with its table."""
    return met.rule.chain if met.table == "nat" else f"{met.table} {met.rule.chain}"
