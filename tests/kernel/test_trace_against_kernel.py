"""The tracer says of random packets and rules what this machine's kernel does with them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from kernel_comparison import disagreements, explain
from kernel_generator import Generator
from kernel_testbed import Kernel, why_impossible

PAIRS = 5_500
"""Rulesets and packets to try for each back end and family: 22,000 in all."""
PACKETS = 50
"""Packets for each ruleset."""
REFUSED, REFUSED_SHARE = 5, 0.05
"""Rulesets, and share of them, that the kernel may refuse before the generator is worth a look."""

_WHY = why_impossible()
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY)


def seed_of_this_run() -> str:
    """TRACE_SEED where it is set, always the same in CI, and random elsewhere."""
    return os.environ.get("TRACE_SEED") or (
        "1" if "CI" in os.environ else str(random.SystemRandom().randrange(10**6))
    )


@pytest.fixture(params=["legacy", "nft"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def kernel(request: pytest.FixtureRequest, backend: str, tmp_path) -> Iterator[Kernel]:
    with Kernel(backend, request.param, tmp_path) as made:
        yield made


def test_the_tracer_agrees_with_the_kernel_on_random_rules_and_packets(
    kernel: Kernel, request: pytest.FixtureRequest
) -> None:
    seed = seed_of_this_run()
    told = request.node.user_properties
    told.append(("seed", seed))
    generator = Generator(
        f"{seed} {kernel.backend} {kernel.family}", kernel.family, inverted_pairs=_stored_right(kernel)
    )
    pairs = rulesets = refused = 0
    while pairs < PAIRS:
        rules, packets = generator.rules(), generator.packets(PACKETS)
        rulesets += 1
        loaded = kernel.load(rules.text())
        if loaded.returncode != 0:
            refused += 1
            assert refused <= REFUSED + REFUSED_SHARE * rulesets, (
                f"TRACE_SEED={seed}: {refused} of {rulesets} rulesets refused, the last with: {loaded.stderr}"
            )
            continue
        wrong = disagreements(kernel, packets)
        if wrong:
            pytest.fail(explain(kernel, rules, packets, wrong, seed), pytrace=False)
        pairs += len(packets)
    told.append(("pairs", pairs))


def _stored_right(kernel: Kernel) -> bool:
    return kernel.backend == "legacy" or kernel.writer() not in ("1.8.8", "1.8.9", "1.8.10")
