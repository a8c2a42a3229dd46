"""Editing rulesets as values."""

from __future__ import annotations

from dataclasses import replace

from pytest_istio_sidecar import PodRules, expected_ruleset, parse_iptables_save
from pytest_istio_sidecar.netfilter.model import Chain, Table
from pytest_istio_sidecar.netfilter.targets import Verdict

RULES = parse_iptables_save("""*filter
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p tcp -j ACCEPT
-A INPUT -p udp -j DROP
-A OUTPUT -p udp -j DROP
COMMIT
""")


def test_a_chain_with_other_rules_numbers_them_anew() -> None:
    chain = RULES.filter.chain("INPUT")
    first, second = chain.rules
    assert [rule.number for rule in chain.with_rules((second, first, second))] == [1, 2, 3]


def test_a_table_takes_a_chain_in_place_of_its_own() -> None:
    table = RULES.filter.with_chain(Chain(name="INPUT", policy="DROP"))
    assert [(chain.name, len(chain), chain.policy) for chain in table.chains] == [
        ("INPUT", 0, "DROP"),
        ("OUTPUT", 1, "ACCEPT"),
    ]


def test_a_ruleset_takes_a_table_in_place_of_its_own_or_one_more() -> None:
    changed = RULES.with_table(Table(name="filter")).with_table(Table(name="nat"))
    assert [table.name for table in changed.tables] == ["filter", "nat"]
    assert not list(changed.rules())
    assert changed.nat.ruleset is changed


def test_every_rule_can_be_changed_or_left_out_by_its_table_and_itself() -> None:
    def change(table, rule):
        if (table, rule.chain, rule.number) == ("filter", "INPUT", 1):
            return None
        return replace(rule, target=Verdict("RETURN"))

    changed = RULES.map_rules(change)
    assert [(rule.chain, rule.number, str(rule.target)) for rule in changed.rules()] == [
        ("INPUT", 2, "-j RETURN"),
        ("OUTPUT", 1, "-j RETURN"),
    ]


def test_tables_rulesets_and_all_rules_of_a_pod_show_themselves_in_one_short_line() -> None:
    ruleset = expected_ruleset("1.8.3")
    rules = PodRules(rulesets=(ruleset, expected_ruleset("1.8.3", family=6)), pod="demo/httpbin")
    assert repr(ruleset.nat) == "<Table nat: 19 rules in 8 chains>"
    assert repr(ruleset) == "<Ruleset IPv4 legacy, rules: nat 19>"
    assert repr(rules).startswith(
        "<PodRules of demo/httpbin: <Ruleset IPv4 legacy, rules: nat 19>, <Ruleset IPv6"
    )
    assert "\n" not in repr(rules)


def test_a_ruleset_shows_how_many_rules_each_of_its_tables_has() -> None:
    tables = (Table(name="raw"), *expected_ruleset("1.8.3").tables)
    shown = repr(replace(expected_ruleset("1.8.3"), tables=tables))
    assert shown == "<Ruleset IPv4 legacy, rules: raw 0, nat 19>"
