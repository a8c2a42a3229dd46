"""The tracer says of random packets and rules of nf_tables what this machine's kernel does with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from kernel_generator import Generator
from kernel_testbed import why_impossible
from nft_comparison import NftKernel, disagreements, explain
from nft_generator import NftGenerator
from test_trace_against_kernel import seed_of_this_run

from pytest_istio_sidecar import parse_nftables
from pytest_istio_sidecar.netfilter.model import Chain, PodRules, Rule

PAIRS = 9_000
"""Rulesets and packets to try for each family; a third of that again with iptables-legacy beside them."""
PACKETS = 50
UNDECIDED_SHARE = 0.01
REFUSED_SHARE = 0.05

_WHY = why_impossible()
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY)


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=[False, True], ids=["nft", "nft beside legacy"])
def kernel(request: pytest.FixtureRequest, family: int, tmp_path) -> Iterator[NftKernel]:
    with NftKernel(family, tmp_path, with_legacy=request.param) as made:
        yield made


def test_the_tracer_agrees_with_the_kernel_on_rules_of_nf_tables(
    kernel: NftKernel, request: pytest.FixtureRequest
) -> None:
    seed = seed_of_this_run()
    told = request.node.user_properties
    told.append(("seed", seed))
    generator = NftGenerator(f"{seed} {kernel.family} {kernel.with_legacy}", kernel.family)
    legacy = Generator(f"legacy {seed} {kernel.family}", kernel.family, inverted_pairs=True)
    wanted = PAIRS // 3 if kernel.with_legacy else PAIRS
    pairs = rulesets = refused = undecided = 0
    why: Counter[str] = Counter()
    while pairs < wanted:
        rules, packets = generator.nft_rules(beside_legacy=kernel.with_legacy), generator.packets(PACKETS)
        rulesets += 1
        loaded = kernel.load_nft(rules.text())
        if loaded.returncode == 0 and kernel.with_legacy:
            loaded = kernel.load(legacy.rules().text())
        if loaded.returncode != 0:
            refused += 1
            assert refused <= 5 + REFUSED_SHARE * rulesets, f"TRACE_SEED={seed}: {loaded.stderr}"
            continue
        wrong = disagreements(kernel, packets)
        if wrong:
            pytest.fail(explain(kernel, rules, packets, wrong, seed), pytrace=False)
        pairs += len(packets)
        undecided += len(wrong.undecided)
        why.update(wrong.undecided.values())
    told += [("pairs", pairs), ("undecided", undecided)]
    told += [("undecided because", f"{count}: {reason[:200]}") for reason, count in why.most_common(5)]
    assert all(why)
    assert undecided <= UNDECIDED_SHARE * pairs, why.most_common(5)


def test_both_forms_in_which_nft_prints_rules_are_the_same_rules(
    kernel: NftKernel, request: pytest.FixtureRequest
) -> None:
    if kernel.with_legacy:
        pytest.skip("nft prints nothing of iptables-legacy")
    generator = NftGenerator(f"forms {seed_of_this_run()}", kernel.family)
    for _ in range(60):
        rules = generator.nft_rules()
        # At the flags of a table nft 1.0.6 may break off its JSON.
        for table in rules.tables:
            table.declared = [each for each in table.declared if "flags dormant" not in each]
        if kernel.load_nft(rules.text()).returncode == 0:
            in_json = _without_devices(parse_nftables(kernel.in_json()))
            for options in ((), ("-a",), ("-n",), ("-s",), ("-a", "-n", "-s")):
                in_text = _without_devices(parse_nftables(kernel.in_text(*options)))
                assert in_text.rulesets == in_json.rulesets, (options, kernel.in_text(*options))


def _without_devices(pod: PodRules) -> PodRules:
    """nft 1.0.6 prints no devices in JSON, wrong flags of tables, those of sets only in part."""

    def rule(rule: Rule) -> Rule:
        return replace(rule, nft="")

    def chain(chain: Chain) -> Chain:
        hung = chain.registered and chain.registered._replace(devices=())
        return replace(chain, registered=hung, rules=tuple(map(rule, chain.rules)))

    return replace(
        pod,
        rulesets=tuple(
            replace(
                ruleset,
                tables=tuple(
                    replace(table, dormant=False, declarations=(), chains=tuple(map(chain, table.chains)))
                    for table in ruleset.tables
                ),
            )
            for ruleset in pod.rulesets
        ),
    )
