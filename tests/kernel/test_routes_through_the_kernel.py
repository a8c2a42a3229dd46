"""Policy rules and routes lead where this machine's kernel sends packets, one by one and all at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
from diagram_points import answers_at
from kernel_comparison import disagreements
from kernel_generator import Generator
from kernel_routes import routing_lines
from kernel_testbed import HOST, Kernel, why_impossible
from test_space_against_trace import point_of, told, traced
from test_trace_against_kernel import seed_of_this_run

from pytest_istio_sidecar import parse_iptables_save, trace
from pytest_istio_sidecar.netfilter.diagram.paths import paths
from pytest_istio_sidecar.netfilter.space.cubes import Cube
from pytest_istio_sidecar.netfilter.space.space import IMPOSSIBLE, Space, agreed
from pytest_istio_sidecar.netfilter.text.parse_routes import parse_routes

PAIRS = 2_000
"""Of routes, rules and packets, for each family."""
PACKETS = 50
SPACES = 12
"""Rulesets and routes for which all packets are asked about."""
WITNESSES = 120

_WHY = why_impossible()


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def kernel(request: pytest.FixtureRequest, tmp_path) -> Iterator[Kernel]:
    with Kernel("legacy", request.param, tmp_path) as made:
        yield made


def host_with(kernel: Kernel):
    """The test bed's host, with what `ip` tells of it by now."""
    rules, routes = (kernel.ip(words) for words in ("rule show", "route show table all"))
    return replace(HOST, routes=(parse_routes(rules, routes, family=kernel.family),))


@pytest.mark.skipif(bool(_WHY), reason=_WHY)
def test_random_routes_lead_where_the_kernel_sends_packets(kernel, request):
    seed = seed_of_this_run()
    request.node.user_properties.append(("seed", seed))
    generator = Generator(f"routes {seed} {kernel.family}", kernel.family, inverted_pairs=True)
    pairs = turn = odd = 0
    while pairs < PAIRS:
        turn += 1
        rules = generator.rules()
        if kernel.family == 6 and "LOCAL" in rules.text():
            continue  # of IPv6 all rules and routes tell which addresses are local, and this is not modelled
        # What comes in is looked up a second time for its source, by other rules than these packets show.
        packets = [each for each in generator.packets(PACKETS) if each.hook == "OUTPUT"]
        if kernel.load(rules.text()).returncode != 0:
            continue
        kernel.restore_routes()
        kernel.route(routing_lines(f"{seed} {turn}", kernel.family))
        if "local default dev lo" in kernel.ip("route show table all"):
            continue  # what TPROXY rests on is taken for given
        host = host_with(kernel)
        odd += bool(host.policies)
        packets = [each for each in packets if "nowhere" not in first_hop(host, each)]
        wrong = disagreements(kernel, packets, host=host)
        assert not wrong, "\n".join(
            [f"TRACE_SEED={seed}, turn {turn}", kernel.ip("rule show"), kernel.ip("route show table all"),
             rules.text(), *(f"{packet}: {texts}" for packet, texts in wrong.items())]
        )  # fmt: skip
        pairs += len(packets)
    assert odd > turn / 8
    request.node.user_properties.append(("pairs", pairs))


def first_hop(host, packet):
    """Of a packet that no route takes there is none: no process can send it."""
    from pytest_istio_sidecar.netfilter.namespace.routing import Routing
    from pytest_istio_sidecar.netfilter.trace.packet_state import Skb
    from pytest_istio_sidecar.netfilter.trace.route import Flow, look_up

    policy = host.policies.get(packet.family)
    if policy is None:
        return "sent"
    return look_up(policy, Flow.of(Skb(packet, Routing(host)), uid=packet.uid)).hop.kind


@pytest.mark.skipif(bool(_WHY), reason=_WHY)
def test_every_packet_has_the_fate_that_trace_gives_it_by_random_routes(kernel, request):
    seed = seed_of_this_run()
    request.node.user_properties.append(("seed", seed))
    compared = 0
    for turn in range(SPACES):
        generator = Generator(f"space of routes {seed} {turn}", kernel.family, inverted_pairs=True)
        rules = parse_iptables_save(generator.rules().text(), family=kernel.family)
        kernel.restore_routes()
        kernel.route(routing_lines(f"space {seed} {turn}", kernel.family))
        host = host_with(kernel)
        for hook in ("PREROUTING", "OUTPUT"):
            space = Space([rules], hook, host=host, family=kernel.family)
            node = space.within(space.outcomes())
            asked = [packet for packet in generator.packets(400) if packet.hook == hook]
            asked += [Cube(space.fields, box).witness for box, _ in islice(paths(node), WITNESSES)]
            for packet in asked:
                answers = answers_at(node, point_of(space.fields, packet))
                if IMPOSSIBLE not in answers:
                    compared += 1
                    said, done = told(agreed(answers), packet), traced(trace(rules, packet, host=host))
                    assert said == done, (
                        f"TRACE_SEED={seed} {turn}: {packet}\n{kernel.ip('rule show')}"
                        f"{kernel.ip('route show table all')}\n{rules}"
                    )
    assert compared > 500
    request.node.user_properties.append(("pairs", compared))
