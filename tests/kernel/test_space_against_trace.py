"""All packets at once, held against one packet at a time, on random rulesets that meet at every edge."""

import ipaddress
from dataclasses import replace
from itertools import islice
from random import Random

import pytest
from diagram_points import answers_at, volume
from kernel_generator import Generator
from kernel_testbed import HOST
from test_trace_against_kernel import seed_of_this_run

from pytest_istio_sidecar import Fate, parse_iptables_save, trace
from pytest_istio_sidecar.netfilter.diagram.paths import paths
from pytest_istio_sidecar.netfilter.kernel.hooks import STANDS
from pytest_istio_sidecar.netfilter.model import ALL_BUILT_IN, TABLES
from pytest_istio_sidecar.netfilter.namespace.routing import Routing
from pytest_istio_sidecar.netfilter.space.cubes import Cube
from pytest_istio_sidecar.netfilter.space.nat import OWN
from pytest_istio_sidecar.netfilter.space.space import IMPOSSIBLE, Space, agreed, differing

SEEDS = range(24)
HOOKS = ("PREROUTING", "OUTPUT")
WITNESSES = 150
PAIRS = 100_000
"""Rulesets and packets to try in all, some 40 rulesets."""
PACKETS = 4_000
"""Packets for each ruleset, of which the host can see most."""


def random_rules(seed):
    family = 6 if seed % 3 == 2 else 4
    generator = Generator(f"space {seed}", family, inverted_pairs=True)
    return parse_iptables_save(generator.rules().text(), family=family), generator


def point_of(fields, packet):
    """The packet as a point of the fields' levels."""
    out = packet.out_interface or Routing(fields.host).out(packet.destination)
    values = {
        "protocol": packet.protocol,
        "interface": fields.interfaces.index(packet.in_interface if packet.hook == "PREROUTING" else out),
        "uid": 0 if packet.uid is None else packet.uid + 1,
        "gid": 0 if packet.gid is None else packet.gid + 1,
        "mark": packet.mark,
        "source": int(packet.source),
        "destination": int(packet.destination),
        "destination_port": packet.destination_port,
        "source_port": packet.source_port,
    }
    point = {}
    for field in fields:
        for part in field.parts:
            point[part.level] = part.press(values[field.name])
        if not field.parts:
            point[field.level] = values[field.name]
    return point


def told(outcome, packet):
    if outcome.fate is Fate.UNKNOWN:
        return "unknown"
    address = packet.destination if outcome.address == OWN else outcome.address
    port = packet.destination_port if outcome.port == OWN else outcome.port
    return outcome.fate, address, port


def traced(way):
    return (
        "unknown" if way.fate is Fate.UNKNOWN else (way.fate, way.destination.address, way.destination.port)
    )


def read_in_part(seed, rules=None):
    """Random rules of which tables, single chains or the legacy back end were not read."""
    generator = None
    if rules is None:
        rules, generator = random_rules(seed)
    chance = Random(f"unread {seed}")
    tables = frozenset(chance.sample(sorted(TABLES), chance.randrange(len(TABLES))))
    lost = {place for place in ALL_BUILT_IN if place[0] in tables or chance.random() < 0.15}
    shown = [
        replace(table, chains=tuple(c for c in table.chains if (table.name, c.name) not in lost))
        for table in rules.tables
        if table.name not in tables
    ]
    beside_legacy = chance.random() < 0.2
    parts = replace(rules, tables=tuple(shown), unread=frozenset(lost), beside_legacy=beside_legacy)
    return parts, generator


@pytest.mark.parametrize("read", [random_rules, read_in_part])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_packet_has_the_fate_that_trace_gives_it(seed, read):
    rules, generator = read(seed)
    packets = generator.packets(60)
    for hook in HOOKS:
        space = Space([rules], hook, host=HOST, family=rules.family)
        node = space.within(space.outcomes())
        asked = [packet for packet in packets if packet.hook == hook]
        asked += [Cube(space.fields, box).witness for box, _ in islice(paths(node), WITNESSES)]
        compared = 0
        for packet in asked:
            answers = answers_at(node, point_of(space.fields, packet))
            if IMPOSSIBLE not in answers:
                compared += 1
                assert told(agreed(answers), packet) == traced(trace(rules, packet, host=HOST)), packet
        assert compared > 10


@pytest.mark.parametrize("seed", range(60))
def test_hidden_chains_never_capture_what_was_decided_without_them(seed):
    rules, generator = random_rules(seed)
    part, _ = read_in_part(seed, rules)
    for packet in generator.packets(200):
        fate = trace(part, packet, host=HOST).fate
        if fate not in (Fate.UNKNOWN, *STANDS):
            assert trace(rules, packet, host=HOST).fate not in STANDS, packet


def test_random_packets_have_the_fate_that_trace_gives_them(request):
    seed = seed_of_this_run()
    request.node.user_properties.append(("seed", seed))
    pairs = rulesets = 0
    while pairs < PAIRS:
        family = 6 if rulesets % 3 == 2 else 4
        generator = Generator(f"many {seed} {rulesets}", family, inverted_pairs=True)
        rules = parse_iptables_save(generator.rules().text(), family=family)
        packets = generator.packets(PACKETS)
        for hook in HOOKS:
            space = Space([rules], hook, host=HOST, family=family)
            node = space.within(space.outcomes())
            for packet in packets:
                if packet.hook != hook:
                    continue
                answers = answers_at(node, point_of(space.fields, packet))
                if IMPOSSIBLE not in answers:
                    pairs += 1
                    said = told(agreed(answers), packet)
                    assert said == traced(trace(rules, packet, host=HOST)), (
                        f"TRACE_SEED={seed}, ruleset {rulesets}: {packet}\n{rules}"
                    )
        rulesets += 1
    request.node.user_properties.append(("pairs", pairs))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_volumes_of_all_classes_add_up_to_the_space(seed):
    rules, _ = random_rules(seed)
    for hook in HOOKS:
        space = Space([rules], hook, host=HOST, family=rules.family)
        size = 1
        for top in space.diagrams.tops:
            size *= top + 1
        assert sum(volume(space.within(space.outcomes()), space.diagrams.tops).values()) == size


@pytest.mark.parametrize("seed", SEEDS)
def test_a_difference_is_one_for_its_witness(seed):
    rules, _ = random_rules(seed)
    others, _ = random_rules(seed + 3)
    for hook in HOOKS:
        for difference in differing(rules, others, hook, host=HOST, family=rules.family)[:20]:
            packet = difference.witness
            assert told(difference.observed, packet) == traced(trace(rules, packet, host=HOST))
            assert told(difference.expected, packet) == traced(trace(others, packet, host=HOST))
            assert told(difference.observed, packet) != told(difference.expected, packet)


def test_a_witness_is_a_packet_that_the_host_can_see():
    rules, _ = random_rules(0)
    space = Space([rules], "OUTPUT", host=HOST, family=4)
    node = space.within(space.outcomes())
    for box, answers in islice(paths(node), 200):
        if IMPOSSIBLE not in answers:
            packet = Cube(space.fields, box).witness
            local = HOST.is_local(packet.destination)
            assert (packet.out_interface == "lo") is local
            assert HOST.is_local(packet.source)
            assert local or not ipaddress.ip_address(packet.source).is_loopback
