"""What `complete` fills in, and above all what it does not."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.netfilter.kernel.unread import not_shown, unread_legacy, unread_tables
from pytest_istio_sidecar.netfilter.matches import (
    Address,
    Hidden,
    Interface,
    Match,
    Multiport,
    Owner,
    Protocol,
    Range,
    Transport,
)
from pytest_istio_sidecar.netfilter.model import TABLES, Chain, Rule, Ruleset, Table
from pytest_istio_sidecar.netfilter.targets import Verdict
from pytest_istio_sidecar.netfilter.text.complete import complete
from pytest_istio_sidecar.netfilter.text.parse_list import parse_iptables_list

DATA = Path(__file__).parents[3] / "data"
LAB = (DATA / "lab-listing-1.8.3.txt").read_text()
ISTIO = expected_ruleset("1.8.3")
LO = Interface(direction="out", name="lo")
HIDDEN = (Hidden(field="-i"), Hidden(field="-o"))
TCP = Protocol(number=6)


def table(*rules: tuple[Match, ...], family: int = 4) -> Ruleset:
    numbered = tuple(
        Rule(chain="S", matches=matches, target=Verdict("RETURN"), number=number)
        for number, matches in enumerate(rules, 1)
    )
    tables = (Table(name="nat", chains=(Chain(name="S", rules=numbered),)),)
    return Ruleset(tables=tables, family=6 if family == 6 else 4)


def completed(observed: Ruleset, expected: Ruleset) -> list[tuple[Match, ...] | None]:
    """The matches of each rule that is complete now, None for the others."""
    return [None if rule.hidden else rule.matches for rule in complete(observed, expected).rules()]


def without_line(number: int) -> str:
    lines = LAB.splitlines(keepends=True)
    return "".join(lines[:number] + lines[number + 1 :])


RULE_LINES = [
    number
    for number, line in enumerate(LAB.splitlines())
    if line and not line.startswith(("Chain", "target"))
]


def test_the_labs_listing_becomes_istios_table() -> None:
    assert complete(parse_iptables_list(LAB), ISTIO).nat == ISTIO.nat


def test_what_was_assumed_is_said_rule_by_rule() -> None:
    assert complete(parse_iptables_list(LAB), ISTIO).assumptions == (
        (
            "PREROUTING 1, OUTPUT 1, ISTIO_INBOUND 1-6, ISTIO_IN_REDIRECT 1, ISTIO_OUTPUT 4,7-9, "
            "ISTIO_REDIRECT 1: no interface named, as in Istio 1.8.3's rules; the listing does not show it"
        ),
        "ISTIO_OUTPUT 1-3,5,6: interface taken from Istio 1.8.3's rules, the listing does not show it",
        "ISTIO_OUTPUT 2,5,8: address localhost taken as 127.0.0.1/32, as in Istio 1.8.3's rules",
        "ISTIO_OUTPUT 2-4: user istio-proxy taken as 1337, as in Istio 1.8.3's rules",
        "ISTIO_OUTPUT 5-7: group istio-proxy taken as 1337, as in Istio 1.8.3's rules",
        "tables raw, mangle, filter and security: not read, taken to have no rule, as in Istio 1.8.3's rules",
    )


def test_the_name_of_a_service_is_taken_for_the_expected_port_and_said() -> None:
    text = (DATA / "observed-1.8.3/iptables-L.txt").read_text()
    ruleset = complete(parse_iptables_list(text), ISTIO)
    assert ruleset.nat == ISTIO.nat
    assert "ISTIO_INBOUND 2: service ssh taken as 22, as in Istio 1.8.3's rules" in ruleset.assumptions


@pytest.mark.parametrize(
    "front_end", ["1.6.1/legacy", "1.8.4/nft", "1.8.9/legacy", "1.8.9/nft", "1.8.11/nft", "1.8.13/nft"]
)
@pytest.mark.parametrize("form", ["L", "Ln", "Lvxl", "Lnl"])
def test_istios_table_is_completed_from_every_front_end_in_every_form(front_end: str, form: str) -> None:
    with gzip.open(DATA / "netfilter-vectors.json.gz", "rt") as file:
        text = json.load(file)["listing_fixtures_istio"][front_end][form]
    chains = {chain.name: chain for chain in complete(parse_iptables_list(text), ISTIO).nat.chains}
    assert chains == {chain.name: chain for chain in ISTIO.nat.chains}


@pytest.mark.parametrize("number", RULE_LINES)
def test_a_rule_taken_out_leaves_no_other_unknown(number: int) -> None:
    ruleset = complete(parse_iptables_list(without_line(number)), ISTIO)
    rules = list(ruleset.rules())
    assert [rule.text for rule in rules if rule.hidden] == []
    kept = [rule for index, rule in enumerate(ISTIO.rules()) if index != RULE_LINES.index(number)]
    assert rules == kept


def test_a_completed_rule_keeps_number_counters_and_place() -> None:
    observed = table((*HIDDEN, TCP))
    rule = replace(next(observed.rules()), packets=7, bytes=420, location="pod.txt:3")
    chain = Chain(name="S", rules=(rule,))
    observed = replace(observed, tables=(Table(name="nat", chains=(chain,)),))
    (found,) = complete(observed, table((TCP,))).rules()
    assert (found.number, found.packets, found.bytes, found.location) == (1, 7, 420, "pod.txt:3")


def test_a_rule_that_is_not_expected_stays_unknown() -> None:
    assert completed(table((*HIDDEN, TCP)), table((LO,))) == [None]


def test_a_visible_field_that_differs_keeps_the_rule_unknown() -> None:
    port = Transport(module="tcp", destination=Range(low=80, high=80))
    other = Transport(module="tcp", destination=Range(low=81, high=81))
    assert completed(table((*HIDDEN, TCP, port)), table((TCP, other))) == [None]


def test_an_expected_condition_that_the_listing_would_show_keeps_the_rule_unknown() -> None:
    assert completed(table(HIDDEN), table((TCP,))) == [None]


def test_an_additional_match_keeps_the_rule_unknown() -> None:
    comment = Hidden(field="-m", shown="/* x */ tcp dpt:22 /* y */")
    assert completed(table((*HIDDEN, TCP, comment)), table((TCP,))) == [None]


def test_the_order_of_matches_is_that_of_the_expected_rule() -> None:
    owner = Owner(uid=Range(low=0, high=0))
    assert completed(table((*HIDDEN, TCP, owner)), table((owner, TCP))) == [(owner, TCP)]


def test_two_expected_rules_that_look_alike_are_told_apart_by_their_order() -> None:
    observed = table(HIDDEN, (*HIDDEN, TCP), HIDDEN)
    assert completed(observed, table((LO,), (TCP,), ())) == [(LO,), (TCP,), ()]


def test_one_of_two_expected_rules_that_look_alike_stays_unknown() -> None:
    assert completed(table(HIDDEN), table((LO,), ())) == [None]


def test_a_rule_listed_twice_but_expected_once_stays_unknown() -> None:
    """One of the two was added by somebody, and the listing does not tell which."""
    assert completed(table(HIDDEN, HIDDEN), table((LO,))) == [None, None]


def test_an_additional_rule_leaves_its_neighbours_complete() -> None:
    extra = Transport(module="tcp", destination=Range(low=8443, high=8443))
    observed = table((*HIDDEN, TCP), (*HIDDEN, TCP, extra), HIDDEN)
    assert completed(observed, table((TCP,), (LO,))) == [(TCP,), None, (LO,)]


def test_rules_in_another_order_are_not_completed_against_it() -> None:
    first, second = (TCP,), (Protocol(number=17),)
    assert completed(table((*HIDDEN, *second), (*HIDDEN, *first)), table(first, second)) == [None, None]


@pytest.mark.parametrize(
    ("hidden", "value", "fits"),
    [
        (Hidden(field="--uid-owner", shown="istio-proxy"), Owner(uid=Range(low=1337, high=1337)), True),
        (Hidden(field="--uid-owner", shown="istio-proxy"), Owner(uid=Range(low=1338, high=1338)), False),
        (Hidden(field="--uid-owner", shown="istio-proxy"), Owner(gid=Range(low=1337, high=1337)), False),
        (
            Hidden(field="--uid-owner", shown="root", negated=True),
            Owner(uid=Range(low=0, high=0, negated=True)),
            True,
        ),
        (Hidden(field="--uid-owner", shown="root"), Owner(uid=Range(low=0, high=0, negated=True)), False),
        (Hidden(field="--uid-owner", shown="envoy"), Owner(uid=Range(low=1337, high=1337)), False),
        (
            Hidden(field="-d", shown="localhost"),
            Address(side="destination", family=4, network=0x7F000001, mask=0xFFFFFFFF),
            True,
        ),
        (
            Hidden(field="-d", shown="localhost"),
            Address(side="destination", family=4, network=0x7F000006, mask=0xFFFFFFFF),
            False,
        ),
        (
            Hidden(field="-d", shown="localhost", negated=True),
            Address(side="destination", family=4, network=0x7F000001, mask=0xFFFFFFFF),
            False,
        ),
        (
            Hidden(field="-d", shown="loopback/8"),
            Address(side="destination", family=4, network=0x7F000000, mask=0xFF000000),
            True,
        ),
        (
            Hidden(field="-s", shown="localhost"),
            Address(side="destination", family=4, network=0x7F000001, mask=0xFFFFFFFF),
            False,
        ),
        (
            Hidden(field="--dports", shown="domain,15053"),
            Multiport(side="destination", ranges=((53, 53), (15053, 15053))),
            True,
        ),
        (
            Hidden(field="--dports", shown="domain,15054"),
            Multiport(side="destination", ranges=((53, 53), (15053, 15053))),
            False,
        ),
    ],
)
def test_a_name_is_taken_only_for_the_value_it_is_known_for(hidden: Hidden, value: Match, fits: bool) -> None:
    assert completed(table((hidden,)), table((value,))) == [(value,) if fits else None]


def test_a_name_that_the_expected_rule_does_not_ask_for_keeps_the_rule_unknown() -> None:
    assert completed(table((Hidden(field="--uid-owner", shown="root"),)), table(())) == [None]


def test_localhost_is_the_address_of_its_family() -> None:
    loopback = Address(side="destination", family=6, network=1, mask=(1 << 128) - 1)
    observed = table((Hidden(field="-d", shown="localhost"),), family=6)
    assert completed(observed, table((loopback,), family=6)) == [(loopback,)]


def test_anywhere_of_ip6tables_is_taken_as_any_address_and_said() -> None:
    ruleset = complete(table((Hidden(field="-s", shown="anywhere"), TCP), family=6), table((TCP,), family=6))
    assert [rule.matches for rule in ruleset.rules()] == [(TCP,)]
    assert ruleset.assumptions == ("S 1: address anywhere taken as any, as in the expected rules",)


def test_a_listing_that_hides_nothing_comes_back_as_it_is() -> None:
    listing = parse_iptables_list((DATA / "observed-1.8.3/iptables-Lnvx.txt").read_text())
    ruleset = replace(listing, unread=frozenset())
    assert complete(ruleset, table()) is ruleset
    assert ruleset.assumptions == ()


def test_a_table_that_was_not_read_is_taken_with_the_rules_that_are_expected_and_said() -> None:
    dns = expected_ruleset("1.20.8", redirect_dns=True, capture_all_dns=True)
    listing = replace(dns, tables=(dns.nat,), unread=not_shown("nat", TABLES["nat"]))
    ruleset = complete(listing, dns)
    assert {table.name: table for table in ruleset.tables} == {table.name: table for table in dns.tables}
    assert ruleset.unread == frozenset()
    count = sum(1 for _ in dns.raw.rules())
    assert count > 0
    assert ruleset.assumptions == (
        "tables mangle, filter and security: not read, taken to have no rule, as in Istio 1.20.8's rules",
        f"table raw: not read, its {count} rules taken from Istio 1.20.8's rules",
    )


def test_what_captures_is_never_taken_from_the_expectation() -> None:
    tproxy = expected_ruleset("1.20.8", inbound_interception_mode="TPROXY")
    for shown, left in (("nat", "mangle"), ("mangle", "nat"), ("filter", "nat")):
        listing = replace(tproxy, tables=(tproxy.table(shown),), unread=not_shown(shown, TABLES[shown]))
        ruleset = complete(listing, tproxy)
        assert left not in ruleset
        assert left in unread_tables(ruleset.unread)


def test_a_chain_that_was_not_read_is_taken_only_where_no_rule_is_expected_in_it() -> None:
    parts = replace(ISTIO, unread=frozenset({("nat", "POSTROUTING"), ("nat", "OUTPUT")}))
    without = parts.nat.chains
    parts = parts.with_table(
        replace(parts.nat, chains=tuple(c for c in without if c.name not in ("POSTROUTING", "OUTPUT")))
    )
    assert complete(parts, ISTIO).unread == {("nat", "OUTPUT")}


def test_a_back_end_of_which_nothing_was_read_is_not_taken_for_empty() -> None:
    ruleset = unread_legacy(4)
    assert complete(ruleset, ISTIO) is ruleset


def test_rules_of_the_other_family_complete_nothing() -> None:
    with pytest.raises(UsageProblem, match="IPv6 cannot complete a listing of IPv4"):
        complete(parse_iptables_list(LAB), replace(ISTIO, family=6))


def test_a_chain_that_is_not_expected_stays_unknown() -> None:
    other = LAB.replace("ISTIO_REDIRECT", "OTHER_REDIRECT")
    ruleset = complete(parse_iptables_list(other), ISTIO)
    assert [rule.chain for rule in ruleset.rules() if rule.hidden] == ["ISTIO_OUTPUT", "OTHER_REDIRECT"]
