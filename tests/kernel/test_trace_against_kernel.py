"""The tracer says of random packets and rules what this machine's kernel does with them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from kernel_comparison import disagreements, explain
from kernel_generator import Generator, Rules
from kernel_testbed import HOST, Kernel, key_of, why_impossible

from pytest_istio_sidecar import parse_iptables_save, trace
from pytest_istio_sidecar.netfilter.packet import Fate, Packet

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


@pytest.mark.parametrize("hook", ["PREROUTING", "OUTPUT"])
def test_the_kernel_picks_a_port_at_random_only_where_a_range_has_several(kernel: Kernel, hook: str) -> None:
    first = next(
        packet
        for packet in Generator("random ports", kernel.family, inverted_pairs=False).packets(PACKETS)
        if packet.hook == hook and packet.protocol == 6
    )
    packets = [replace(first, source_port=30000 + number) for number in range(24)]
    assert arrived_at(kernel, f"{hook} -p tcp -j REDIRECT --random", packets) == {first.destination_port}
    assert arrived_at(kernel, f"{hook} -p tcp -j REDIRECT --to-ports 15006 --random", packets) == {15006}
    some = arrived_at(kernel, f"{hook} -p tcp -j REDIRECT --to-ports 15006-15010 --random", packets)
    assert len(some) > 1
    assert some <= set(range(15006, 15011))


def arrived_at(kernel: Kernel, rule: str, packets: list[Packet]) -> set[int | None]:
    """The ports at which packets arrive under one rule; `trace` says the same, or that it cannot be told."""
    rules = Rules(kernel.family)
    rules.chains["nat", rule.partition(" ")[0]] = [rule.partition(" ")[2]]
    loaded = kernel.load(rules.text())
    assert loaded.returncode == 0, loaded.stderr
    kernel.forget_connections()
    for packet in packets:
        kernel.send(packet)
    time.sleep(0.2)
    observed = kernel.observe()
    ports = {observed.connections[key_of(packet)][1] for packet in packets}
    told = trace(parse_iptables_save(observed.saved, family=kernel.family), packets[0], host=HOST)
    assert told.fate is Fate.UNKNOWN if len(ports) > 1 else told.destination.port in ports
    return ports


def _stored_right(kernel: Kernel) -> bool:
    return kernel.backend == "legacy" or kernel.writer() not in ("1.8.8", "1.8.9", "1.8.10")
