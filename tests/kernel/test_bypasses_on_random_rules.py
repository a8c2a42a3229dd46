"""What gets by without Envoy, on random rulesets: complete and disjoint by `trace`, and readable back."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from diagram_points import answers_at
from kernel_generator import Generator
from kernel_testbed import HOST
from test_space_against_trace import point_of

from pytest_istio_sidecar import Bypass, Fate, bypasses, check_only_bypasses, parse_iptables_save, trace
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.netfilter.namespace.routing import Routing
from pytest_istio_sidecar.netfilter.space.part import having
from pytest_istio_sidecar.netfilter.space.space import IMPOSSIBLE, Space

SEEDS = range(16)
PACKETS = 150
ENVOY = (15001, 15006, 20001, 20002, 20003)
"""Ports taken for Envoy's: some to which the random rules redirect."""


def random_rules(seed):
    family = 6 if seed % 3 == 2 else 4
    generator = Generator(f"bypasses {seed}", family, inverted_pairs=True)
    return parse_iptables_save(generator.rules().text(), family=family), generator.packets(PACKETS)


def everything(report):
    return (*report.inbound, *report.outbound, *report.conditional)


def contains(where, packet):
    """Whether a packet is in a class, by the published form of `where`."""
    return all(any(_is(_value(packet, name), held) for held in allowed) for name, allowed in where.items())


def _value(packet, name):
    if name == "out_interface":
        return packet.out_interface or Routing(HOST).out(packet.destination)
    return getattr(packet, name)


def _is(value, held):
    if not isinstance(held, str):
        low, high = held
        if isinstance(low, str):
            return int(ip_address(low)) <= int(value) <= int(ip_address(high))
        return value is not None and low <= value <= high
    if "/" not in held:
        names = {"tcp": 6, "udp": 17, "icmp": 1, "ipv6-icmp": 58, "no socket": None}
        return value == names.get(held, held)
    return all(
        any(_under(value, pair) for pair in term.removeprefix("!").split("|")) is not term.startswith("!")
        for term in held.split("&")
    )


def _under(value, pair):
    wanted, mask = (
        int(text, 0) if text.startswith("0x") else int(ip_address(text)) for text in pair.split("/")
    )
    return int(value) & mask == wanted


def taking(way):
    """The ports that take a packet: of the first two, one is for what leaves, the other for what comes."""
    outbound, inbound, *either = ENVOY
    if way.packet.hook == "PREROUTING":
        return (inbound, *either) if way.fate is not Fate.TPROXIED else ENVOY
    to_itself = HOST.is_local(way.packet.destination)
    return ENVOY if to_itself else (outbound, *either)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_packet_is_in_one_class_just_where_trace_says_it_gets_by(seed):
    rules, packets = random_rules(seed)
    report = bypasses(rules, host=HOST, envoy_ports=ENVOY)
    spaces = {hook: Space([rules], hook, host=HOST, family=rules.family) for hook in ("PREROUTING", "OUTPUT")}
    compared = 0
    for packet in packets:
        space = spaces[packet.hook]
        if IMPOSSIBLE in answers_at(space.within(space.outcomes()), point_of(space.fields, packet)):
            continue
        way = trace(rules, packet, host=HOST)
        direction = "inbound" if packet.hook == "PREROUTING" else "outbound"
        holding = [
            found
            for found in everything(report)
            if found.direction == direction and contains(found.where, packet)
        ]
        if way.fate is Fate.UNKNOWN:
            # It may be in doubt where it goes, and yet certain that Envoy is not there.
            assert len(holding) <= 1
            continue
        compared += 1
        translated = way.fate in (Fate.REDIRECTED, Fate.TRANSLATED) and HOST.is_local(way.destination.address)
        captured = (translated or way.fate is Fate.TPROXIED) and way.destination.port in taking(way)
        gets_by = way.fate is not Fate.DROPPED and not captured
        assert len(holding) == gets_by, (
            packet,
            way.fate,
            way.destination,
            [found.where for found in holding],
        )
        assert all(found.certain for found in holding)
    assert compared > PACKETS // 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_class_can_be_read_back_and_covers_its_packets(seed):
    rules, _ = random_rules(seed)
    for found in everything(bypasses(rules, host=HOST, envoy_ports=ENVOY))[:40]:
        Bypass.parse(found.text.partition(": ")[0])
        assert Bypass.parse(str(found.bypass)) == found.bypass
        hook = "PREROUTING" if found.direction == "inbound" else "OUTPUT"
        space = Space([rules], hook, host=HOST, family=rules.family)
        point = point_of(space.fields, found.witness)
        assert answers_at(having(space, dict(found.bypass.where)), point) == {"holds"}
        assert contains(found.where, found.witness)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_two_classes_read_the_same(seed):
    rules, _ = random_rules(seed)
    report = bypasses(rules, host=HOST, envoy_ports=ENVOY)
    for classes in (report.inbound, report.outbound, report.conditional):
        texts = [found.text for found in classes]
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("seed", range(4))
def test_all_classes_together_allow_everything_and_one_less_does_not(seed):
    rules, _ = random_rules(seed)
    classes = everything(bypasses(rules, host=HOST, envoy_ports=ENVOY))
    asked = {"host": HOST, "envoy_ports": ENVOY}
    assert check_only_bypasses(rules, [found.bypass for found in classes], **asked) == []
    for left_out in classes[:: max(1, len(classes) // 5)]:
        allowed = [found.bypass for found in classes if found is not left_out]
        if left_out.certain:
            findings = check_only_bypasses(rules, allowed, **asked)
            assert findings
            assert all(contains(left_out.where, finding.trace.packet) for finding in findings)
        else:
            with pytest.raises(Undecided):
                check_only_bypasses(rules, allowed, **asked)
