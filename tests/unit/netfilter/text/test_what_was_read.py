"""What a text leaves open: a listing shows one table, a save text all, and some tell of another back end."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_istio_sidecar import (
    ParseError,
    Ruleset,
    Undecided,
    expected_ruleset,
    parse_iptables,
    parse_iptables_save,
    parse_rules,
    render_save,
)
from pytest_istio_sidecar.netfilter.model import ALL_BUILT_IN, TABLES, Backend, joined

DATA = Path(__file__).parents[3] / "data"
REPORTS = DATA / "reports"
WARNING = "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them\n"
SAVE = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
HEAD = "target     prot opt source               destination         \n"


def listed(chain, *rows):
    return f"Chain {chain} (policy ACCEPT)\n{HEAD}" + "".join(f"{row}\n" for row in rows)


def shown(text):
    """The built-in chains that were read."""
    return ALL_BUILT_IN - parse_iptables(text).unread


def all_of(table):
    return {(table, chain) for chain in TABLES[table]}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ((REPORTS / "24-iptables-L-without-t-nat.txt").read_text(), all_of("filter")),
        ((REPORTS / "24b-iptables-S-without-t-nat.txt").read_text(), all_of("filter")),
        ((DATA / "lab-listing-1.8.3.txt").read_text(), all_of("nat")),
        ((REPORTS / "20c-trimmed-L-n-v.txt").read_text(), {("nat", "PREROUTING"), ("nat", "OUTPUT")}),
        ((REPORTS / "20b-S-without-P.txt").read_text(), {("nat", "PREROUTING"), ("nat", "OUTPUT")}),
        ("-P PREROUTING ACCEPT\n-P OUTPUT ACCEPT\n-P POSTROUTING ACCEPT\n", all_of("nat")),
        ("-P PREROUTING ACCEPT\n-P OUTPUT ACCEPT\n", all_of("raw")),
        ("-N A\n-A A -p tcp -j REDIRECT --to-ports 15006\n", set()),
        (listed("OUTPUT", "REDIRECT   tcp  --  anywhere    anywhere    redir ports 1"), {("nat", "OUTPUT")}),
        (listed("OUTPUT"), set()),
        (listed("PREROUTING"), set()),
    ],
    ids=["L", "S", "lab", "trimmed", "without P", "old nat", "raw", "user chain", "one", "any", "several"],
)
def test_a_listing_shows_one_table_and_leaves_the_others_unread(text, read):
    assert shown(text) == read


def test_a_save_text_is_whole_whatever_tables_it_lacks():
    assert shown(SAVE) == ALL_BUILT_IN


@pytest.mark.parametrize(
    ("rules", "table"),
    [
        ("-A PREROUTING -p tcp -j REDIRECT --to-ports 1", "nat"),
        ("-A PREROUTING -p udp -j CT --notrack", "raw"),
        ("-A PREROUTING -p tcp -j TTL --ttl-inc 1", "mangle"),
        ("-A PREROUTING -j ACCEPT", "raw"),
    ],
)
def test_targets_rule_tables_out_before_the_set_of_chains_counts(rules, table):
    text = f"-P PREROUTING ACCEPT\n-P OUTPUT ACCEPT\n{rules}\n"
    assert [each.name for each in parse_iptables(text).tables] == [table]


def test_a_chain_that_only_one_table_has_names_it():
    assert [each.name for each in parse_iptables("-P PREROUTING ACCEPT\n-P FORWARD ACCEPT\n").tables] == [
        "mangle"
    ]


@pytest.mark.parametrize(
    "text",
    [
        WARNING + SAVE,
        SAVE + WARNING,
        WARNING.replace("-save", "") + listed("INPUT"),
        f"-P INPUT DROP\n{WARNING}",
    ],
    ids=["before", "after", "L", "S"],
)
def test_a_text_that_tells_of_legacy_tables_leaves_them_unread(text):
    text = text.replace("-P INPUT DROP", "-P INPUT DROP\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT")
    ruleset = parse_iptables(text)
    assert (ruleset.beside_legacy, ruleset.backend) == (True, "nf_tables")


def test_listings_together_have_read_what_one_of_them_shows():
    nat, filtered = (
        parse_iptables((DATA / name).read_text())
        for name in ("lab-listing-1.8.3.txt", "reports/24-iptables-L-without-t-nat.txt")
    )
    assert ALL_BUILT_IN - joined([nat, filtered]).unread == all_of("nat") | all_of("filter")
    assert joined([parse_iptables(SAVE), filtered]).unread == frozenset()


def test_what_was_not_read_is_written_and_read_back():
    ruleset = parse_iptables((REPORTS / "20c-trimmed-L-n-v.txt").read_text())
    for each in (ruleset, replace(ruleset, backend="nf_tables", beside_legacy=True)):
        again = parse_iptables(render_save(each))
        assert (again.unread, again.beside_legacy) == (each.unread, each.beside_legacy)
        assert again == each


def test_whole_rules_are_written_without_a_word_of_it():
    assert "not read" not in render_save(expected_ruleset("1.8.3"))


def test_a_headless_s_without_any_chain_of_its_own_is_refused_as_before():
    with pytest.raises(ParseError, match="not declared before its rule"):
        parse_iptables("-A PREROUTING -p tcp -j REDIRECT --to-ports 15006\n")


def test_a_chain_of_a_table_that_was_not_read_is_not_said_to_be_absent():
    ruleset = parse_iptables((REPORTS / "24-iptables-L-without-t-nat.txt").read_text())
    with pytest.raises(Undecided, match="iptables -t nat -S as well"):
        ruleset.nat.chain("ISTIO_INBOUND")


@pytest.mark.parametrize(
    "ruleset",
    [
        parse_iptables((REPORTS / "24-iptables-L-without-t-nat.txt").read_text()),
        parse_iptables(WARNING + SAVE),
        Ruleset(family=6, backend=Backend.LEGACY),
        Ruleset(family=4, backend=Backend.LEGACY, unread=ALL_BUILT_IN),
    ],
    ids=["one table", "beside legacy", "no rule", "nothing read"],
)
def test_what_was_not_read_is_written_and_read_back_by_the_reader_of_every_form(ruleset):
    (again,) = parse_rules(render_save(ruleset)).rulesets
    assert (again, again.unread, again.beside_legacy) == (ruleset, ruleset.unread, ruleset.beside_legacy)


@pytest.mark.parametrize("listings", [(0, 1), (1, 0)], ids=["after", "before"])
def test_tables_that_stand_in_a_text_twice_were_read_as_far_as_either_listing_shows(listings):
    s = "-P PREROUTING ACCEPT\n-P OUTPUT ACCEPT\n-A OUTPUT -p tcp -j REDIRECT --to-ports 1\n"
    save = SAVE.replace("COMMIT", "-A OUTPUT -p tcp -j REDIRECT --to-ports 1\nCOMMIT")
    texts = [f"$ iptables-save\n{save}", f"$ iptables -t nat -S\n{s}"]
    (ruleset,) = parse_rules("".join(texts[each] for each in listings)).rulesets
    assert not ruleset.unread


@pytest.mark.parametrize("version", ["1.6.1", "1.8.2", "1.8.7", "1.8.10"])
def test_a_warning_of_legacy_tables_is_of_nf_tables_whatever_the_banner_says(version):
    banner = f"# Generated by iptables-save v{version} on Fri Nov 27 13:00:00 2026\n"
    warning = "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them\n"
    rules = parse_iptables_save(f"{banner}*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n{warning}")
    assert rules.backend is Backend.NF_TABLES
    assert rules.beside_legacy
