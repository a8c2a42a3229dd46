"""Rules that nft wrote, beside Istio's in iptables: what they do to packets counts, wherever they hang."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_istio_sidecar import (
    PodRules,
    check_matches_istio,
    expected_ruleset,
    parse_nftables,
)
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.netfilter.model import Backend, Registration
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.reports.message import render_findings

ISTIOS = expected_ruleset("1.8.3")
HOST = Host(interfaces={"eth0": ["192.0.2.77/24"]})
"""A pod whose addresses somebody stated."""


def beside(*tables: str) -> PodRules:
    return replace(
        both := parse_nftables("".join(tables)), rulesets=(ISTIOS, *both.of_family(4)), order_known=True
    )


def chain(hook: str, *rules: str, table: str = "inet other") -> str:
    lines = "".join(f"\t\t{line}\n" for line in (hook, *rules))
    return f"table {table} {{\n\tchain evil {{\n{lines}\t}}\n}}\n"


def told(rules: PodRules, host: Host = HOST) -> str:
    found = [one for one in check_matches_istio(rules, "1.8.3", host=host) if one.severity == "violation"]
    return render_findings(found) if found else ""


EARLY = "type nat hook prerouting priority -150; policy accept;"
INPUT = "type filter hook input priority 0; policy accept;"


def test_a_nat_chain_of_its_own_is_named_with_its_priority_and_the_packet() -> None:
    said = told(beside(chain(EARLY, "tcp dport 80 redirect to :81")))
    assert "inet other evil (nf_tables, nat hook prerouting priority -150)" in said
    assert "inbound tcp 80: expected redirected to :15006, here redirected to :81" in said


def test_a_policy_without_a_rule_is_a_difference() -> None:
    assert "here dropped" in told(beside(chain(INPUT.replace("accept", "drop"))))


def test_a_rule_for_a_state_of_the_connection_is_asked_about_packets_of_that_state() -> None:
    assert "here dropped" in told(beside(chain(INPUT, "ct state established drop")))


def test_a_rule_within_a_rule_is_one_of_the_rules() -> None:
    said = told(beside(chain(INPUT, "ip protocol tcp counter tcp dport vmap { 15006 : drop }")))
    assert "here dropped" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dormant": True}, "in a dormant table"),
        ({"dormant": None}, ""),
        ({"registered": Registration("PREROUTING", 300, "filter")}, "filter hook prerouting priority 300"),
    ],
    ids=["dormant", "perhaps", "elsewhere"],
)
def test_rules_that_are_istios_word_for_word_and_hang_elsewhere_are_told(change, words) -> None:
    own = ISTIOS.nat
    chains = tuple(
        replace(each, registered=change.get("registered") or _usual(each.name)) if each.policy else each
        for each in own.chains
    )
    table = replace(own, nft_family="ip", chains=chains, dormant=change.get("dormant", False))
    rules = PodRules(rulesets=(replace(ISTIOS, tables=(table,), backend=Backend.NF_TABLES),))
    if not words:
        with pytest.raises(Undecided):
            told(rules)
        return
    assert words in told(rules)


def _usual(hook: str) -> Registration:
    return Registration(hook, -100 if hook in ("PREROUTING", "OUTPUT") else 100, "nat")


def test_rules_that_hang_as_iptables_own_are_the_same_though_nft_told_of_them() -> None:
    chains = tuple(
        replace(each, registered=_usual(each.name)) if each.policy else each for each in ISTIOS.nat.chains
    )
    table = replace(ISTIOS.nat, nft_family="ip", chains=chains)
    assert check_matches_istio(PodRules(rulesets=(replace(ISTIOS, tables=(table,)),)), "1.8.3") == []


HARMLESS = [
    chain(INPUT, "tcp dport 15006 accept"),
    chain("type filter hook forward priority 0; policy drop;"),
    chain("type nat hook prerouting priority -50; policy accept;", "tcp dport 80 redirect to :81"),
    chain("type filter hook prerouting priority -120; policy accept;", "meta mark set 0x99"),
    chain(EARLY, "tcp dport 80 redirect to :81").replace("{\n", "{\n\tflags dormant\n", 1),
]


@pytest.mark.parametrize("table", HARMLESS)
def test_what_does_nothing_to_a_packet_is_no_violation(table: str) -> None:
    assert told(beside(table)) == ""


@pytest.mark.parametrize(
    "rule",
    [
        "ip daddr 10.244.1.7 tcp dport 80 redirect to :81",
        "ip daddr 10.244.0.0/16 tcp dport 80 redirect to :81",
        "ip daddr { 203.0.113.9, 10.244.1.7 } tcp dport 80 redirect to :81",
        "ip daddr != 192.0.2.10 tcp dport 80 redirect to :81",
        'iifname "net1" tcp dport 80 redirect to :81',
        'iifname "net*" tcp dport 80 redirect to :81',
    ],
)
def test_a_rule_about_an_address_that_may_be_the_pods_leaves_the_answer_open(rule: str) -> None:
    rules = beside(chain(EARLY, rule))
    with pytest.raises(Undecided, match=r"10\.244|192\.0\.2\.10|net"):
        told(rules, host=Host())
    assert told(rules, host=Host(interfaces={"eth0": ["192.0.2.10/24"]})) == ""
