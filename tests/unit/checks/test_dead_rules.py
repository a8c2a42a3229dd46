"""Why a rule is dead: what this very table says, never a sentence that was written before."""

from pathlib import Path

import pytest

from pytest_istio_sidecar import (
    Table,
    check_dead_rules,
    expected_ruleset,
    parse_iptables,
    parse_iptables_save,
    render_save,
)

REPORTS = Path(__file__).parents[2] / "data" / "reports"
ISTIO = render_save(expected_ruleset("1.8.3"))


def reasons(nat: Table, chain: str = "ISTIO_OUTPUT") -> dict[int, str]:
    return {
        finding.rule.number: finding.summary.partition(": ")[2]
        for finding in check_dead_rules(nat)
        if finding.rule is not None and finding.rule.chain == chain
    }


def with_(old: str, new: str) -> Table:
    assert old in ISTIO
    return parse_iptables_save(ISTIO.replace(old, new)).nat


def test_the_rules_that_take_the_packets_of_istios_dead_ones_are_named():
    assert reasons(expected_ruleset("1.8.3").nat) == {
        5: "rules 1-3 of ISTIO_OUTPUT take every packet that it would match",
        6: "rules 1-4 of ISTIO_OUTPUT take every packet that it would match",
        8: "rules 1, 3 and 4 of ISTIO_OUTPUT take every packet that it would match",
    }


def test_a_rule_that_takes_only_other_packets_is_not_named():
    rule = "-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN\n"
    above = "-A ISTIO_OUTPUT -p tcp -m tcp --dport 8080 -d 198.51.100.7/32 -j RETURN\n"
    assert reasons(with_(rule, f"{above}{rule}"))[9].startswith("rules 1, 3 and 4 of")


def test_a_rule_that_only_counts_takes_no_packet():
    first = "-A ISTIO_OUTPUT -s 127.0.0.6/32"
    counted = reasons(with_(first, f"-A ISTIO_OUTPUT -o lo\n{first}"))
    assert counted[6] == "rules 2-4 of ISTIO_OUTPUT take every packet that it would match"


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (
            "-A PREROUTING -i eth7 -j RETURN",
            "no route of this host makes a packet that it would match",
        ),
        (
            "-A PREROUTING -p tcp -j ISTIO_INBOUND\n-A PREROUTING -p tcp -m tcp --dport 9 -j DROP",
            "",
        ),
    ],
    ids=["another interface", "alive"],
)
def test_what_no_route_makes_is_told_apart_from_what_rules_take(rule, reason):
    found = reasons(
        with_("-A PREROUTING -p tcp -j ISTIO_INBOUND", f"{rule}\n-A PREROUTING -j RETURN"), "PREROUTING"
    )
    assert [found.get(1, "")] == [reason]


def test_a_condition_that_the_way_into_a_chain_rules_out_is_told_as_that():
    jump = "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT\n"
    found = reasons(with_(jump, f"{jump}-A ISTIO_INBOUND -p udp -j RETURN\n"), "ISTIO_INBOUND")
    assert found[7] == "no packet that comes to ISTIO_INBOUND is one that it would match"


def test_a_chain_that_nothing_jumps_to_is_told_as_that():
    found = reasons(with_("-A PREROUTING -p tcp -j ISTIO_INBOUND\n", ""), "ISTIO_INBOUND")
    assert set(found.values()) == {"no packet comes to ISTIO_INBOUND"}


def test_rules_of_postrouting_are_not_called_dead_as_nobody_followed_packets_there():
    nat = parse_iptables((REPORTS / "07n-vm-docker-L-n-v.txt").read_text()).nat
    assert any(nat.chain("POSTROUTING"))
    assert reasons(nat, "POSTROUTING") == {}


def test_of_a_rule_that_stands_twice_the_copy_that_packets_match_is_alive():
    nat = parse_iptables((REPORTS / "02b-nft-save-thrice.txt").read_text()).nat
    copies = [
        rule.number for rule in nat.chain("ISTIO_OUTPUT") if "! --uid" in rule.text or "-d 127" in rule.text
    ]
    assert set(copies) - reasons(nat).keys()


def test_a_dead_rule_of_ipv6_says_so():
    summaries = [finding.summary for finding in check_dead_rules(expected_ruleset("1.20.8", family=6).nat)]
    assert summaries
    assert all(summary.startswith("IPv6 ISTIO_OUTPUT rule ") for summary in summaries)
