"""Faults that change what becomes of a packet are caught, and no others; the kernel says which do.

A sample of the mutants of each era; `istio-sidecar selftest` judges all of them.
"""

from functools import partial

import pytest

from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.selftest import judge
from pytest_istio_sidecar.selftest.kernel import ask_kernel, can_be_sent
from pytest_istio_sidecar.selftest.score import Score, default_rules, judge_mutants, mutants_of

DEFAULT, BOTH = IstioOptions(), IstioOptions(enable_ipv6=True)


@pytest.fixture(scope="module")
def score(able_machine, own_runtime_directory):
    """A function: the score of some mutants, in a pod whose rules are exchanged for theirs."""
    pod = EmbeddedEnvironment.start()
    host = pod.pod().host

    def measure(version, made, options=DEFAULT):
        if options.enable_ipv6 and host.primary(host.external(), 6) is None:
            pytest.skip("this kernel has no IPv6")
        ask = partial(ask_kernel, pod)
        judged = judge_mutants(version, made, ask, options=options, host=host, can_be_sent=can_be_sent)
        return Score(version=version, original=default_rules(version, options), judged=tuple(judged))

    yield measure
    pod.stop()


def wrong(score: Score) -> list[str]:
    """Every verdict that is not as the kernel has it, and every named fault that is not caught."""
    return [
        *(f"missed: {held.mutant.change}: {held.change}" for held in score.missed),
        *(f"false alarm: {held.mutant.change}: {held.caught}" for held in score.false_alarms),
        *(f"not caught: {held.name}" for held in score.named if not (held.caught and held.change)),
    ]


@pytest.mark.parametrize("version", ["1.5.10", "1.6.14", "1.8.3", "1.17.8", "1.24.6", "1.30.3"])
def test_a_sample_of_every_era_is_judged_as_the_kernel_does(score, version):
    found = score(version, mutants_of(version, DEFAULT, 30))
    assert wrong(found) == []
    assert len(found.named) == 6
    assert found.perfect
    assert len(found.harmful) >= 12
    assert len(found.judged) - len(found.harmful) >= 3


def test_a_sample_of_both_families_is_judged_as_the_kernel_does(score):
    found = score("1.20.8", mutants_of("1.20.8", BOTH, 40), BOTH)
    assert wrong(found) == []
    ipv6 = [held for held in found.harmful if held.change.packet.family == 6]
    assert len(ipv6) >= 6


def test_the_lost_half_of_a_family_is_caught_and_one_in_the_other_back_end_is_none(score):
    lost = ("drop the half of a family", "move to the other back end")
    made = [mutant for mutant in mutants_of("1.8.3", BOTH) if mutant.operator in lost]
    halves = {
        held.mutant.change: (bool(held.change), bool(held.caught))
        for held in score("1.8.3", made, BOTH).judged
    }
    assert halves == {
        "drops the IPv4 half": (True, True),
        "drops the IPv6 half": (True, True),
        "moves the IPv4 half to nf_tables": (False, False),
        "moves the IPv6 half to nf_tables": (False, False),
    }


def test_what_a_blind_judge_misses_is_seen(score, monkeypatch):
    monkeypatch.setattr(judge, "check_matches_istio", lambda *_, **__: [])
    own_pod = "makes -A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -m owner --uid-owner 1337"
    made = [mutant for mutant in mutants_of("1.8.3", DEFAULT) if mutant.change.startswith(own_pod)]
    found = score("1.8.3", made)
    assert found.missed
    assert not found.perfect


def test_the_alarm_of_a_judge_of_texts_is_seen_to_be_false(score, monkeypatch):
    exact = partial(judge.check_matches_istio, exact=True)
    monkeypatch.setattr(judge, "check_matches_istio", exact)
    found = score("1.8.3", mutants_of("1.8.3", DEFAULT, 20))
    assert found.false_alarms
    assert not found.perfect
