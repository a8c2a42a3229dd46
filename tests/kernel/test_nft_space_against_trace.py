"""All packets at once, held against one packet at a time, on random rulesets of nf_tables."""

from __future__ import annotations

import pytest
from diagram_points import answers_at, volume
from kernel_testbed import HOST
from nft_generator import NftGenerator
from test_space_against_trace import HOOKS, point_of, told, traced
from test_trace_against_kernel import seed_of_this_run

from pytest_istio_sidecar import parse_nftables, trace
from pytest_istio_sidecar.netfilter.model import PodRules
from pytest_istio_sidecar.netfilter.space.space import IMPOSSIBLE, Space, agreed

PAIRS = 30_000
"""Rulesets and packets to try in all, some 30 rulesets."""
PACKETS = 1_000


def random_rules(name: str, number: int) -> tuple[PodRules, NftGenerator]:
    """Rules as nft takes them; it is `test_nft_against_kernel` that reads them as it prints them."""
    generator = NftGenerator(f"{name} {number}", 6 if number % 3 == 2 else 4)
    generator.scattered = False
    return parse_nftables(generator.nft_rules().text().removeprefix("flush ruleset\n")), generator


def test_random_packets_have_the_fate_that_trace_gives_them_under_rules_of_nf_tables(request) -> None:
    seed = seed_of_this_run()
    request.node.user_properties.append(("seed", seed))
    pairs = rulesets = 0
    while pairs < PAIRS:
        rules, generator = random_rules(f"nft {seed}", rulesets)
        packets = generator.packets(PACKETS)
        for hook in HOOKS:
            space = Space([rules], hook, host=HOST, family=generator.family)
            node = space.within(space.outcomes())
            for packet in packets:
                if packet.hook != hook:
                    continue
                answers = answers_at(node, point_of(space.fields, packet))
                if IMPOSSIBLE not in answers:
                    pairs += 1
                    said = told(agreed(answers), packet)
                    assert said == traced(trace(rules, packet, host=HOST)), (
                        f"TRACE_SEED={seed}, ruleset {rulesets}: {packet}"
                    )
        rulesets += 1
    request.node.user_properties.append(("pairs", pairs))


@pytest.mark.parametrize("number", range(6))
def test_the_volumes_of_all_classes_add_up_to_the_space_of_nf_tables(number: int) -> None:
    rules, generator = random_rules("volumes", number)
    for hook in HOOKS:
        space = Space([rules], hook, host=HOST, family=generator.family)
        size = 1
        for top in space.diagrams.tops:
            size *= top + 1
        assert sum(volume(space.within(space.outcomes()), space.diagrams.tops).values()) == size
