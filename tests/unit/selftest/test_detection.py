"""What the detection power is measured with: the mutants, the named faults, the packets, the score."""

from collections import Counter
from itertools import count
from types import SimpleNamespace

import pytest

from pytest_istio_sidecar.cli import main
from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.netfilter.packet import Host, inbound
from pytest_istio_sidecar.selftest.probes import WITNESSES_FROM, random_packets, witnesses
from pytest_istio_sidecar.selftest.score import (
    Change,
    Judged,
    Score,
    default_rules,
    mutants_of,
    named_faults,
)

ERAS = ("1.5.10", "1.6.14", "1.8.3", "1.17.8", "1.24.6", "1.30.3")
DEFAULT, BOTH = IstioOptions(), IstioOptions(enable_ipv6=True)
NAMES = [
    "PREROUTING emptied",
    "last rule of ISTIO_OUTPUT removed",
    "RETURN of port 80 first in ISTIO_INBOUND",
    "RETURN of port 443 first in ISTIO_OUTPUT",
    "ISTIO_IN_REDIRECT to 15001",
    "ACCEPT of tcp first in PREROUTING",
]


def five_tuple(packet):
    return packet.protocol, packet.source, packet.destination, packet.source_port, packet.destination_port


@pytest.mark.parametrize("version", ERAS)
def test_every_era_has_at_least_200_distinct_mutants_and_the_six_named_faults(version):
    made = mutants_of(version, DEFAULT)
    assert len({mutant.rules.rulesets for mutant in made}) == len(made) >= 200
    faults = named_faults(version)
    assert list(faults.values()) == NAMES
    assert faults.keys() <= {mutant.change for mutant in made}


def test_a_pod_of_both_families_has_mutants_of_both_and_can_lose_either():
    changes = {mutant.change for mutant in mutants_of("1.8.3", BOTH)}
    assert {"drops the IPv4 half", "drops the IPv6 half", "moves the IPv6 half to nf_tables"} <= changes
    assert sum("of ip6tables" in change for change in changes) >= 200


def test_a_sample_is_of_that_size_and_always_the_same_with_the_named_faults():
    sample = mutants_of("1.8.3", DEFAULT, 20)
    assert len(sample) == 20
    assert sample == mutants_of("1.8.3", DEFAULT, 20)
    assert named_faults("1.8.3").keys() <= {mutant.change for mutant in sample}


@pytest.mark.parametrize("family", [4, 6])
def test_no_two_random_packets_are_of_one_connection(family):
    packets = random_packets(family, Host(), "1")
    assert len({five_tuple(packet) for packet in packets}) == len(packets) == 400
    assert Counter(packet.hook for packet in packets) == {"PREROUTING": 200, "OUTPUT": 200}
    assert {packet.family for packet in packets} == {family}


@pytest.mark.parametrize("on_lo", ["::6/128", "::1/128"])
def test_processes_send_from_addresses_that_the_pod_has(on_lo):
    host = Host({"lo": ["127.0.0.1/8", "::1/128", on_lo], "eth0": ["192.0.2.10/24", "2001:db8::10/64"]})
    sources = {packet.source for packet in random_packets(6, host, "1") if packet.hook == "OUTPUT"}
    assert all(map(host.is_local, sources))
    assert ("::6" in map(str, sources)) is (on_lo == "::6/128")


def test_witnesses_of_mutants_that_meet_one_kernel_are_of_connections_of_their_own():
    numbers = count(WITNESSES_FROM)
    original = default_rules("1.8.3", DEFAULT)
    shown = [
        packet
        for mutant in mutants_of("1.8.3", DEFAULT, 12)
        for packet in witnesses(original, mutant.rules, 4, Host(), numbers)
    ]
    assert len({five_tuple(packet) for packet in shown}) == len(shown) > 12


def judged(*, harmful, caught, name=""):
    return Judged(
        mutant=mutants_of("1.8.3", DEFAULT)[0],
        change=Change(packet=inbound(80), before="a", after="b") if harmful else None,
        caught="said" if caught else "",
        name=name,
    )


ALL_NAMED = tuple(judged(harmful=True, caught=True, name=name) for name in NAMES)


def test_a_score_is_perfect_when_what_matters_is_caught_and_nothing_else():
    score = Score(
        original=default_rules("1.8.3", DEFAULT),
        version="1.8.3",
        judged=(*ALL_NAMED, judged(harmful=False, caught=False)),
    )
    assert (len(score.harmful), score.missed, score.false_alarms) == (6, (), ())
    assert score.perfect


@pytest.mark.parametrize(
    ("harmful", "missed", "false_alarms"), [(True, 1, 0), (False, 0, 1)], ids=["missed", "false alarm"]
)
def test_one_wrong_verdict_is_not_perfect(harmful, missed, false_alarms):
    score = Score(
        original=default_rules("1.8.3", DEFAULT),
        version="1.8.3",
        judged=(*ALL_NAMED, judged(harmful=harmful, caught=not harmful)),
    )
    assert (len(score.missed), len(score.false_alarms)) == (missed, false_alarms)
    assert not score.perfect


def test_a_named_fault_that_was_not_made_is_not_perfect():
    assert not Score(original=default_rules("1.8.3", DEFAULT), version="1.8.3", judged=ALL_NAMED[1:]).perfect


def test_too_few_mutants_for_the_named_faults_are_no_verdict(monkeypatch, capsys):
    class Pod:
        def pod(self):
            return SimpleNamespace(host=Host())

        def stop(self):
            pass

    few = Score(original=default_rules("1.8.3", DEFAULT), version="1.8.3", judged=ALL_NAMED[:3])
    monkeypatch.setattr(EmbeddedEnvironment, "start", lambda **_: Pod())
    monkeypatch.setattr("pytest_istio_sidecar.cli.selftest._score", lambda *_: few)
    assert main(["selftest", "--mutants", "3"]) == 3
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("nothing was judged wrongly, but not every named fault was made and caught: ")
    assert said.endswith("; 6 mutants have them all")
