"""The comparison with the kernel under nf_tables can fail: errors put into the model are found by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import nft_comparison
import pytest
from kernel_testbed import why_impossible
from nft_comparison import Differences, NftKernel, disagreements
from nft_generator import NftGenerator

from pytest_istio_sidecar.netfilter.kernel import hooks
from pytest_istio_sidecar.netfilter.matches import AnyOf, Match
from pytest_istio_sidecar.netfilter.model import Chain, PodRules, Rule, Table
from pytest_istio_sidecar.netfilter.relations import Interfaces, Relation
from pytest_istio_sidecar.netfilter.targets import Assign, Block, Goto, Jump, Target, Tproxy, Verdict
from pytest_istio_sidecar.netfilter.trace import relation

PAIRS, PACKETS = 12_000, 50
"""At most, and for each ruleset."""

_WHY = why_impossible()
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY)


def _mapped(
    pod: PodRules,
    *,
    table: Callable[[Table], Table] = lambda table: table,
    match: Callable[[Match], Match] = lambda match: match,
    target: Callable[[Target | None], Target | None] = lambda target: target,
) -> PodRules:
    """The rules with each table, condition or target as the error has it."""

    def changed(rule: Rule) -> Rule:
        made = target(rule.target)
        if isinstance(made, Block):
            made = replace(made, rules=tuple(map(changed, made.rules)))
        return replace(rule, matches=tuple(map(match, rule.matches)), target=made)

    def of_chain(chain: Chain) -> Chain:
        return replace(chain, rules=tuple(map(changed, chain.rules)))

    def of_table(own: Table) -> Table:
        return table(replace(own, chains=tuple(map(of_chain, own.chains))))

    return replace(
        pod,
        rulesets=tuple(
            replace(ruleset, tables=tuple(map(of_table, ruleset.tables))) for ruleset in pod.rulesets
        ),
    )


def _first_value(match: Match) -> Match:
    if isinstance(match, Relation) and match.mask is None and not match.is_of_loading:
        return replace(match, intervals=tuple((low, low) for low, _ in match.intervals))
    return match


def _exact_flags(match: Match) -> Match:
    if isinstance(match, Relation) and match.key == "ct state" and match.mask is not None:
        return replace(match, intervals=((match.mask, match.mask),), mask=None)
    return match


def _one_part_of_several(match: Match) -> Match:
    if isinstance(match, AnyOf):
        return replace(match, alternatives=tuple(each[:1] for each in match.alternatives))
    return match


def _no_wildcard(match: Match) -> Match:
    return (
        replace(match, names=tuple(n.rstrip("*") for n in match.names))
        if isinstance(match, Interfaces)
        else match
    )


def _keeps_all_bits(target: Target | None) -> Target | None:
    return (
        replace(target, keep=0xFFFFFFFF) if isinstance(target, Assign) and target.of != "nothing" else target
    )


def _ends_at_a_map(target: Target | None) -> Target | None:
    return replace(target, exclusive=False) if isinstance(target, Block) else target


CHANGES: dict[str, Callable[[PodRules], PodRules]] = {
    "a dormant table acts": lambda pod: _mapped(pod, table=lambda table: replace(table, dormant=False)),
    "of two chains with one priority the older is first": lambda pod: _mapped(
        pod, table=lambda table: replace(table, chains=table.chains[::-1])
    ),
    "goto comes back": lambda pod: _mapped(
        pod, target=lambda target: Jump(target.chain) if isinstance(target, Goto) else target
    ),
    "a map is asked again behind a jump": lambda pod: _mapped(pod, target=_ends_at_a_map),
    "tproxy ends the chain": lambda pod: _mapped(
        pod, target=lambda target: replace(target, goes_on=False) if isinstance(target, Tproxy) else target
    ),
    "return ends the base chain": lambda pod: _mapped(
        pod, target=lambda target: Verdict("ACCEPT") if target == Verdict("RETURN") else target
    ),
    "a range is its first value": lambda pod: _mapped(pod, match=_first_value),
    "ct state asks for all of its states": lambda pod: _mapped(pod, match=_exact_flags),
    "of a concatenation the first part is asked": lambda pod: _mapped(pod, match=_one_part_of_several),
    "a mark keeps every bit": lambda pod: _mapped(pod, target=_keeps_all_bits),
    "* is part of an interface's name": lambda pod: _mapped(pod, match=_no_wildcard),
}
PATCHES = (
    "nat chains stand by priority among filter chains",
    "what cannot be loaded holds inverted",
    "a connection's mark is there before the connection",
)


def _by_priority_alone(hook, chains):
    nat = [each for each in chains if each[0].type == "nat"]
    others = [each for each in chains if each[0].type != "nat"]
    placed = [(each[0].priority, 0, (each,)) for each in [*others, *nat]]
    placed += [(priority, 1, moment) for priority, moment in hooks.MOMENTS.get(hook, ())]
    placed.sort(key=lambda each: each[:2])
    return [step for _, _, step in placed]


@pytest.mark.parametrize("error", [*CHANGES, *PATCHES])
def test_an_error_in_the_model_of_nf_tables_is_noticed(error: str, monkeypatch, tmp_path, request) -> None:
    read = nft_comparison.rules_read
    change = CHANGES.get(error, lambda pod: pod)
    monkeypatch.setattr(nft_comparison, "rules_read", lambda *given: change(read(*given)))
    if error.startswith("nat chains"):
        monkeypatch.setattr(hooks, "_in_order", _by_priority_alone)
    elif error.startswith("what cannot"):
        compiled = relation.compile_relation
        monkeypatch.setattr(
            "pytest_istio_sidecar.netfilter.trace.match.compile_relation",
            lambda match: _or_inverted(match, compiled),
        )
    elif error.startswith("a connection's"):
        monkeypatch.setitem(relation._LOADS, "ct mark", lambda skb: skb.connmark)  # type: ignore[arg-type]
    pairs = 0
    wrong = Differences()
    with NftKernel(4, tmp_path) as kernel:
        generator = NftGenerator("errors", 4)
        while not wrong and pairs < PAIRS:
            rules, sent = generator.nft_rules(), generator.packets(PACKETS)
            if kernel.load_nft(rules.text()).returncode == 0:
                wrong = disagreements(kernel, sent, patience=(0, 0.1))
                pairs += len(sent)
    request.node.user_properties.append(("noticed", f"noticed within {pairs} pairs"))
    assert wrong


def _or_inverted(match: Relation, compiled):
    test, loads = (
        compiled(match),
        relation._load(match.key) if match.key not in relation._PARTLY_KNOWN else None,
    )
    return lambda skb: (
        True if match.negated and loads is not None and loads(skb) == relation.BREAK else test(skb)
    )
