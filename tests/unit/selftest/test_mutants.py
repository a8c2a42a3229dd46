"""Rulesets with one change each: many, all different, and each a change that was meant."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from pytest_istio_sidecar import expected_ruleset, parse_iptables_save, render_save
from pytest_istio_sidecar.netfilter.model import Backend, PodRules, Ruleset
from pytest_istio_sidecar.selftest.mutants import Mutant, mutants


def of(*rulesets: Ruleset) -> list[Mutant]:
    return list(mutants(PodRules(rulesets=rulesets)))


def nat(*lines: str, chains: str = "") -> Ruleset:
    text = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    text += "".join(f":{chain} - [0:0]\n" for chain in chains.split())
    return parse_iptables_save(text + "".join(f"{line}\n" for line in lines) + "COMMIT\n")


def changes(operator: str, *lines: str) -> set[str]:
    """What the first chain's first rule became."""
    found = set()
    for mutant in of(nat(*lines)):
        if mutant.operator == operator:
            found.add(next(mutant.rules.rulesets[0].nat.rules()).text)
    return found


def test_istio_1_8_3_has_more_than_200_mutants_of_every_kind() -> None:
    kinds = Counter(mutant.operator for mutant in of(expected_ruleset("1.8.3")))
    assert kinds.total() >= 200
    assert {"delete", "duplicate", "swap", "negate", "widen", "narrow", "load twice"} <= kinds.keys()
    assert {"insert RETURN", "insert ACCEPT", "insert DROP", "change the policy"} <= kinds.keys()
    assert {
        f"change the {part}" for part in ["port", "protocol", "interface", "owner", "target"]
    } <= kinds.keys()


def test_no_two_mutants_are_equal_and_none_is_the_original() -> None:
    original = expected_ruleset("1.8.3")
    texts = [mutant.rules.rulesets for mutant in of(original)]
    assert len(texts) == len(set(texts))
    assert (original,) not in texts


def test_a_mutant_reads_back_as_it_was_written() -> None:
    for mutant in of(expected_ruleset("1.8.3")):
        (held,) = mutant.rules.rulesets
        assert parse_iptables_save(render_save(held)) == held, mutant.change


def test_a_rule_whose_port_needs_a_protocol_keeps_it() -> None:
    redirect = "-A PREROUTING -p tcp -j REDIRECT --to-ports 15006"
    for mutant in of(nat(redirect)):
        for rule in mutant.rules.rulesets[0].nat.rules():
            assert "REDIRECT --to-ports" not in rule.text or "-p tcp" in rule.text or "-p udp" in rule.text


def test_a_jump_is_never_led_in_a_circle() -> None:
    for mutant in of(nat("-A OUTPUT -j A", "-A A -j B", "-A B -j RETURN", chains="A B")):
        assert all(
            (rule.chain, str(rule.target)) != ("B", "-j A") for rule in mutant.rules.rulesets[0].nat.rules()
        ), mutant.change


def test_what_comes_in_is_never_asked_for_its_owner() -> None:
    lines = "-A PREROUTING -j A", "-A OUTPUT -j B", "-A B -m owner --uid-owner 1337 -j RETURN"
    for mutant in of(nat(*lines, chains="A B")):
        coming_in = [
            rule for rule in mutant.rules.rulesets[0].nat.rules() if rule.chain in ("PREROUTING", "A")
        ]
        assert "-j B" not in [str(rule.target) for rule in coming_in], mutant.change


@pytest.mark.parametrize(
    ("condition", "negated"),
    [
        ("-p tcp", "! -p tcp"),
        ("-d 192.0.2.1/32", "! -d 192.0.2.1/32"),
        ("-o lo", "! -o lo"),
        ("-p tcp -m tcp --dport 80", "-p tcp -m tcp ! --dport 80"),
        ("-p tcp -m multiport --dports 80,443", "-p tcp -m multiport ! --dports 80,443"),
        ("-m owner --uid-owner 1337", "-m owner ! --uid-owner 1337"),
        ("-m mark --mark 0x1", "-m mark ! --mark 0x1"),
    ],
)
def test_each_kind_of_condition_is_negated(condition: str, negated: str) -> None:
    assert f"-A OUTPUT {negated} -j RETURN" in changes("negate", f"-A OUTPUT {condition} -j RETURN")


def test_an_owner_is_asked_for_as_the_other_kind_of_id_too() -> None:
    assert "-A OUTPUT -m owner --gid-owner 1337 -j RETURN" in changes(
        "change the owner", "-A OUTPUT -m owner --uid-owner 1337 -j RETURN"
    )


def test_a_family_is_dropped_where_there_are_two() -> None:
    both = expected_ruleset("1.8.3"), expected_ruleset("1.8.3", family=6)
    halves = [mutant for mutant in of(*both) if mutant.operator == "drop the half of a family"]
    assert [[len(list(held.rules())) > 0 for held in mutant.rules.rulesets] for mutant in halves] == [
        [False, True],
        [True, False],
    ]


@pytest.mark.parametrize("backend", list(Backend))
def test_rules_move_to_the_other_back_end_with_the_family_they_are_of(backend: Backend) -> None:
    (other,) = set(Backend) - {backend}
    held = replace(expected_ruleset("1.8.3"), backend=backend)
    empty = Ruleset(backend=other)
    moved = next(mutant for mutant in of(held, empty) if mutant.operator == "move to the other back end")
    assert [ruleset.backend for ruleset in moved.rules.rulesets] == [other]
    assert moved.rules.rulesets[0].tables == held.tables
