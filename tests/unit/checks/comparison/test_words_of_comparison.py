"""What a comparison says of rules that are not Istio's, of IPv6, and of packets that keep their port."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_istio_sidecar import (
    PodRules,
    Ruleset,
    check_matches_istio,
    compare,
    expected_ruleset,
    parse_iptables,
    parse_iptables_save,
    render_save,
)
from pytest_istio_sidecar.reports.comparison import render_comparison

EXPECTED = expected_ruleset("1.8.3")
JUMP = "-A PREROUTING -p tcp -j ISTIO_INBOUND\n"


def changed(*changes: tuple[str, str]) -> Ruleset:
    text = render_save(EXPECTED)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_iptables_save(text)


def test_where_one_rule_is_too_long_where_rules_are_stands_first_in_every_chain() -> None:
    long = "-A ISTIO_OUTPUT ! -d 127.0.0.0/8 -p tcp -m multiport --dports 1001,1002,1003,1004 -j RETURN\n"
    comparison = compare(changed((JUMP, ""), ("-A ISTIO_OUTPUT -s", f"{long}-A ISTIO_OUTPUT -s")), EXPECTED)
    lines = render_comparison(comparison)
    assert [line.strip() for line in lines if line.strip().startswith(("nat", "here"))] == [
        "nat PREROUTING (legacy)",
        "here",
        "nat ISTIO_OUTPUT (legacy)",
        "here",
    ]


REPORTS = Path(__file__).parents[3] / "data" / "reports"


@pytest.mark.parametrize(
    ("name", "owner", "count"),
    [
        ("10-telepresence-2.6.txt", "Telepresence", 4),
        ("10-telepresence-2.6.txt", "nobody who is known here", 1),
        ("19-kubevirt-L-n-v.txt", "KubeVirt", 4),
        ("19-kubevirt-L-n-v.txt", "nobody who is known here", 3),
    ],
)
def test_rules_of_others_in_built_in_chains_are_foreign_whether_they_jump_or_not(name, owner, count) -> None:
    comparison = compare(parse_iptables((REPORTS / name).read_text()), EXPECTED)
    assert [held.count for held in comparison.foreign if held.owner == owner] == [count]


def test_a_rule_that_lets_by_from_a_built_in_chain_is_told_to_matter() -> None:
    comparison = compare(
        changed((JUMP, f"-A PREROUTING -p tcp -m tcp --dport 80 -j RETURN\n{JUMP}")), EXPECTED
    )
    assert [held.text for held in comparison.foreign] == [
        "1 rule of nobody who is known here (nat PREROUTING): packets are affected"
    ]


@pytest.mark.parametrize("prefix", ["KUBEVIRT_PREINBOUND", "MIRRORD_INPUT_a1b2c"])
def test_tools_that_intercept_are_known_by_their_chains(prefix) -> None:
    comparison = compare(
        changed(
            (":ISTIO_INBOUND", f":{prefix} - [0:0]\n:ISTIO_INBOUND"),
            (JUMP, f"-A PREROUTING -j {prefix}\n{JUMP}-A {prefix} -p tcp -j REDIRECT --to-ports 9\n"),
        ),
        EXPECTED,
    )
    assert [held.owner for held in comparison.foreign] == [
        {"KUBEVIRT": "KubeVirt", "MIRRORD": "mirrord"}[prefix.partition("_")[0]]
    ]


def test_what_differs_in_ipv6_is_named_as_ipv6_everywhere() -> None:
    expected = PodRules(rulesets=tuple(expected_ruleset("1.20.8", family=family) for family in (4, 6)))
    catch_all = "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT\n"
    six = (
        render_save(expected.rulesets[1])
        .replace(catch_all, f"-A ISTIO_INBOUND -p tcp -m tcp --dport 80 -j RETURN\n{catch_all}")
        .replace("-A PREROUTING", "-A PREROUTING -p tcp -m tcp --dport 81 -j RETURN\n-A PREROUTING", 1)
    )
    observed = PodRules(rulesets=(expected.rulesets[0], parse_iptables_save(six, family=6)))
    (finding,) = check_matches_istio(observed, "1.20.8", enable_ipv6=True)
    assert finding.summary.startswith("IPv6 PREROUTING and ISTIO_INBOUND are not Istio 1.20.8's")
    assert all("IPv6" in effect.text for effect in finding.comparison.effects)
    assert all(difference.text.startswith("IPv6 nat ") for difference in finding.comparison.differences)
    assert [held.places for held in finding.comparison.foreign] == [("IPv6 nat PREROUTING",)]


def test_packets_that_go_to_the_port_already_are_told_with_the_others() -> None:
    text = (REPORTS / "19-kubevirt-L-n-v.txt").read_text()
    told = [f"{effect.text}: {effect.fates}" for effect in compare(parse_iptables(text), EXPECTED).effects]
    assert not [line for line in told if line.endswith("redirected") or "redirected, here" in line]
    assert (
        len([line for line in told if line.startswith("inbound tcp") and "here redirected to :15001" in line])
        == 2
    )


def test_a_dnat_that_names_no_port_is_told_without_inner_words() -> None:
    text = (REPORTS / "F1b-istio-1.8.3-and-a-udp-dnat.txt").read_text()
    told = [f"{effect.text}: {effect.fates}" for effect in compare(parse_iptables(text), EXPECTED).effects]
    assert told == ["inbound udp 9: expected unchanged, here translated to its own address"]
