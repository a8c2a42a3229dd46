"""Checks of rules that were read in part: a verdict where it rests on what was read, none elsewhere."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_istio_sidecar import (
    BypassError,
    Fate,
    PodRules,
    RuleSetMismatch,
    Undecided,
    assert_inbound_exclusions,
    assert_jump,
    assert_matches_istio,
    assert_not_redirected,
    assert_only_bypasses,
    assert_redirect_target,
    assert_redirected,
    assert_rules_reach_listeners,
    bypasses,
    check_dead_rules,
    check_matches_istio,
    compare,
    expected_ruleset,
    inbound,
    outbound,
    parse_iptables,
    trace,
)
from pytest_istio_sidecar.checks.comparison.expectation import completed, expected_of, guess
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.netfilter.kernel.unread import not_shown
from pytest_istio_sidecar.netfilter.model import TABLES, Backend, Ruleset

REPORTS = Path(__file__).parents[2] / "data" / "reports"
ISTIO = expected_ruleset("1.8.3")
FILTER = parse_iptables((REPORTS / "24-iptables-L-without-t-nat.txt").read_text())
WARNED = parse_iptables((REPORTS / "40-nft-with-legacy-warning.txt").read_text())
DNS = {"redirect_dns": True, "capture_all_dns": True}


def listing_of(ruleset, name="nat"):
    """One of its tables, as a listing shows it."""
    return replace(ruleset, tables=(ruleset.table(name),), unread=not_shown(name, TABLES[name]), origin=())


NAT = listing_of(ISTIO)
UNTOLD = [
    lambda rules: assert_jump(rules.nat, "PREROUTING", "ISTIO_INBOUND"),
    lambda rules: assert_redirect_target(rules.nat, "ISTIO_REDIRECT", 15001),
    lambda rules: assert_inbound_exclusions(rules, {15008}),
    lambda rules: assert_redirected(rules, inbound(80)),
    lambda rules: assert_not_redirected(rules, inbound(15008)),
    lambda rules: assert_not_redirected(rules, outbound("198.51.100.7", 80)),
    lambda rules: assert_only_bypasses(rules, []),
    lambda rules: assert_matches_istio(rules, "1.8.3"),
    lambda rules: assert_rules_reach_listeners(rules, ()),
    lambda rules: check_dead_rules(rules.nat),
    lambda rules: compare(rules, ISTIO).equivalent,
]


@pytest.mark.parametrize("asked", UNTOLD)
def test_nothing_of_nat_is_told_from_a_listing_of_filter(asked):
    with pytest.raises(Undecided, match="nat"):
        asked(FILTER)


def test_a_jump_in_nat_is_told_without_the_other_tables():
    assert_jump(NAT.nat, "PREROUTING", "ISTIO_INBOUND")
    assert_redirect_target(NAT.nat, "ISTIO_IN_REDIRECT", 15006)
    opened = parse_iptables(
        "-P PREROUTING ACCEPT\n-P INPUT ACCEPT\n-P OUTPUT ACCEPT\n-P POSTROUTING ACCEPT\n-N ISTIO_INBOUND\n"
        "-A PREROUTING -p tcp --dport 9000 -j RETURN\n-A PREROUTING -p tcp -j ISTIO_INBOUND\n"
    )
    with pytest.raises(BypassError, match="inbound tcp 9000"):
        assert_jump(opened.nat, "PREROUTING", "ISTIO_INBOUND")
    with pytest.raises(RuleSetMismatch, match="no chain ISTIO_REDIRECT"):
        assert_redirect_target(opened.nat, "ISTIO_REDIRECT", 15001)


def test_what_comes_to_a_chain_that_is_listed_alone_is_not_told():
    alone = parse_iptables(
        "-N ISTIO_IN_REDIRECT\n-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006\n"
    ).nat
    assert_redirect_target(alone, "ISTIO_IN_REDIRECT", 15006)
    for asked in (
        lambda: assert_jump(alone, "PREROUTING", "ISTIO_IN_REDIRECT"),
        lambda: assert_redirected(alone, inbound(80)),
        lambda: check_dead_rules(alone),
        lambda: assert_redirect_target(alone, "ISTIO_REDIRECT", 15001),
    ):
        with pytest.raises(Undecided, match="nat"):
            asked()


def test_what_certainly_gets_by_is_against_whatever_else_cannot_be_told():
    with pytest.raises(BypassError, match="from uid 1337"):
        assert_only_bypasses(NAT, ["outbound not tcp", "outbound gid 1337"])
    by_design = [each.in_brief for each in bypasses(NAT).outbound]
    with pytest.raises(Undecided, match="mangle was not read"):
        assert_only_bypasses(NAT, by_design)


def test_a_class_of_packets_without_a_rule_is_not_told_to_have_none_where_nat_was_not_read():
    report = bypasses(FILTER)
    assert (report.inbound, report.outbound) == ((), ())
    assert [each.text for each in report.conditional] == ["all inbound", "all outbound"]
    assert "not read: tables raw, mangle, nat and security" in report.unseen


def test_a_listing_of_nat_is_not_told_to_lack_rules_of_another_table():
    listing = listing_of(expected_ruleset("1.20.8", **DNS))
    assert check_matches_istio(listing, "1.20.8", **DNS) == []
    assert compare(listing, expected_ruleset("1.20.8", **DNS)).equal_text
    filled = completed(listing, expected_of(listing, "1.20.8", IstioOptions.of(DNS)))
    assert any(text.startswith("table raw: not read, its ") for text in filled.assumptions)


def test_the_release_of_a_listing_of_nat_is_guessed_without_the_rules_of_raw():
    nearest, *_ = guess(listing_of(expected_ruleset("1.20.8", **DNS)))
    assert nearest.comparison.equal_text
    assert "1.20.8" in nearest.versions


def test_where_mangle_is_to_capture_a_listing_of_nat_leaves_inbound_undecided():
    options = {"inbound_interception_mode": "TPROXY"}
    listing = listing_of(expected_ruleset("1.20.8", **options))
    filled = completed(listing, expected_of(listing, "1.20.8", IstioOptions.of(options)))
    assert trace(filled, outbound("198.51.100.7", 80)).fate is Fate.REDIRECTED
    with pytest.raises(Undecided, match="mangle was not read"):
        assert_redirected(filled, inbound(80))
    with pytest.raises(Undecided, match="mangle was not read"):
        assert_matches_istio(listing, "1.20.8", **options)


def test_beside_istios_back_end_unread_tables_of_the_other_are_taken_to_be_empty():
    legacy = replace(ISTIO, backend=Backend.LEGACY)
    rules = PodRules(rulesets=(legacy, replace(FILTER, backend=Backend.NF_TABLES)))
    assert trace(rules, inbound(15008)).fate is Fate.UNKNOWN
    filled = completed(rules, expected_of(rules, "1.8.3", IstioOptions()))
    assert trace(filled, inbound(15008)).fate is Fate.UNCHANGED
    assert filled.rulesets[0].assumptions == ()
    assert "raw, mangle, nat and security" in filled.rulesets[1].assumptions[0]


def test_rules_that_warn_of_legacy_tables_are_not_judged_as_the_whole():
    assert_redirected(WARNED, inbound(80))
    for asked in (
        lambda: assert_not_redirected(WARNED, inbound(15008)),
        lambda: assert_inbound_exclusions(WARNED, {15008, 15090, 15021, 15020}),
        lambda: assert_matches_istio(WARNED, "1.20.8"),
        lambda: assert_only_bypasses(WARNED, [], expected=expected_ruleset("1.20.8")),
    ):
        with pytest.raises(Undecided, match="iptables-legacy"):
            asked()
    both = PodRules(rulesets=(Ruleset(backend=Backend.LEGACY), WARNED))
    assert_matches_istio(both, "1.20.8")
    assert_only_bypasses(both, [], expected=expected_ruleset("1.20.8"))


def test_listeners_are_not_said_to_be_reached_by_rules_that_may_be_there():
    six = replace(FILTER, family=6)
    with pytest.raises(Undecided, match="ip6tables -t nat -S"):
        assert_rules_reach_listeners(PodRules(rulesets=(six,)), ())
