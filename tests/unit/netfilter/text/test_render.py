"""A ruleset written and read back is the same ruleset."""

from __future__ import annotations

import pytest
from netfilter_data import DATA, experiment_rulesets, in_a_table, istio_tables, observed, vectors

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.netfilter.model import Backend, Chain, Family, Ruleset, Table
from pytest_istio_sidecar.netfilter.text.parse_list import parse_iptables_list
from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save
from pytest_istio_sidecar.netfilter.text.render import render_save


def again(ruleset: Ruleset) -> Ruleset:
    return parse_iptables_save(render_save(ruleset))


def test_istios_table_survives_in_both_families() -> None:
    for family in (4, 6):
        expected = expected_ruleset("1.8.3", family=family)
        assert again(expected) == expected


def test_every_recorded_table_survives() -> None:
    for text, family in istio_tables():
        read = parse_iptables_save(text, family=family)
        assert again(read) == read
    for _, text, family in experiment_rulesets():
        read = parse_iptables_save(text, family=family)
        assert again(read) == read


def test_every_rule_of_every_version_survives() -> None:
    for entry in vectors()["grammar"]:
        for save in entry["forms"]["save"]:
            read = parse_iptables_save(in_a_table(save["text"], entry["table"]))
            assert again(read) == read


def test_counters_and_places_are_left_out() -> None:
    path = next(path for path in observed("iptables-legacy-save*.txt") if path.stat().st_size)
    read = parse_iptables_save(path.read_text(), source=path.name)
    text = render_save(read)
    assert again(read) == read
    assert {line.split()[-1] for line in text.splitlines() if line.startswith(":")} == {"[0:0]"}
    assert not any(line.startswith("[") for line in text.splitlines())


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("backend", [None, *Backend])
def test_an_empty_ruleset_survives_with_its_family_and_back_end(
    family: Family, backend: Backend | None
) -> None:
    empty = Ruleset(family=family, backend=backend)
    assert again(empty) == empty
    held = Ruleset(family=family, backend=backend, tables=(Table(name="nat"),))
    assert again(held) == held


def test_a_ruleset_of_the_other_family_is_not_read_as_asked_for() -> None:
    text = render_save(Ruleset(family=4))
    with pytest.raises(ParseError, match="to be read as one of ip6tables"):
        parse_iptables_save(text, family=6)


@pytest.mark.parametrize("form", ["L", "Ln", "Lnv", "Lvxl", "Lnl"])
def test_a_lossy_listing_survives_with_what_it_hides(form: str) -> None:
    for fixtures in vectors()["listing_fixtures_istio"].values():
        read = parse_iptables_list(fixtures[form])
        assert again(read) == read


def test_a_listing_of_one_chain_survives_with_its_jumps_to_chains_that_it_does_not_show() -> None:
    whole = parse_iptables_list((DATA / "lab-listing-1.8.3.txt").read_text())
    alone = whole.nat.chain("ISTIO_OUTPUT")
    ruleset = Ruleset(tables=(Table(name="nat", chains=(alone,)),))
    assert again(ruleset) == ruleset


def test_the_listing_of_the_lab_survives_with_what_it_hides() -> None:
    read = parse_iptables_list((DATA / "lab-listing-1.8.3.txt").read_text())
    assert any(rule.hidden for rule in read.rules())
    assert again(read) == read


def test_policies_and_the_order_of_chains_survive() -> None:
    chains = (Chain(name="OUTPUT", policy="DROP"), Chain(name="B"), Chain(name="A"))
    ruleset = Ruleset(tables=(Table(name="nat", chains=chains), Table(name="filter")))
    assert again(ruleset) == ruleset
    assert render_save(ruleset).splitlines()[1:] == [
        "*nat",
        ":OUTPUT DROP [0:0]",
        ":B - [0:0]",
        ":A - [0:0]",
        "COMMIT",
        "*filter",
        "COMMIT",
    ]
