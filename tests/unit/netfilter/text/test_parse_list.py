"""`iptables -L` in every form, read back.

The listings in `netfilter-vectors.json.gz` were printed by iptables 1.6.0 to 1.8.13, legacy and
nf_tables, from rules whose iptables-save text is beside them.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.netfilter.matches import (
    Address,
    Extension,
    Hidden,
    Interface,
    Option,
    Owner,
    Protocol,
    Range,
    Transport,
)
from pytest_istio_sidecar.netfilter.model import HOOKS, Backend, Rule, Ruleset
from pytest_istio_sidecar.netfilter.targets import VERDICTS, Extended, Goto, Jump, Redirect, Verdict
from pytest_istio_sidecar.netfilter.text.listing_targets import TARGETS
from pytest_istio_sidecar.netfilter.text.parse_list import parse_iptables_list
from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save

DATA = Path(__file__).parents[3] / "data"
LAB = (DATA / "lab-listing-1.8.3.txt").read_text()
COLUMNS = {
    "L": "target     prot opt source               destination",
    "Ln": "target     prot opt source               destination",
    "Lv": " pkts bytes target     prot opt in     out     source               destination",
    "Lnv": " pkts bytes target     prot opt in     out     source               destination",
}
TCP = Protocol(number=6)


@cache
def vectors() -> dict[str, Any]:
    with gzip.open(DATA / "netfilter-vectors.json.gz", "rt") as file:
        loaded: dict[str, Any] = json.load(file)
    return loaded


def one_rule(line: str, *, form: str = "Lnv", chain: str = "S", family: int = 4) -> Rule:
    text = f"Chain {chain} (1 references)\n{COLUMNS[form]}\n{line}\n"
    ruleset = parse_iptables_list(text, family=6 if family == 6 else 4)
    (rule,) = ruleset.rules()
    return rule


def listed(tail: str, target: str = "RETURN") -> Rule:
    return one_rule(
        f"    0     0 {target:<9}  all  --  *      *       0.0.0.0/0            0.0.0.0/0            {tail}"
    )


def saved_rule(text: str) -> Rule:
    """The rule that the save parser makes of a line, with every chain there that one may jump to."""
    chain = text.split()[1]
    names = sorted({*HOOKS, chain, *re.findall(r"-[jg] (\w+)", text)} - TARGETS - set(VERDICTS))
    head = "".join(f":{name} {'ACCEPT' if name in HOOKS else '-'} [0:0]\n" for name in names)
    (rule,) = parse_iptables_save(f"*nat\n{head}{text}\nCOMMIT\n").rules()
    return rule


def grammar(form: str) -> Iterator[tuple[Rule, set[str]]]:
    """Each listed rule, and the iptables-save texts that the same versions print for it."""
    for vector in vectors()["grammar"]:
        for listing in vector["forms"][form]:
            versions = listing["versions"]
            saved = {
                save["text"].strip().replace("--nflog-prefix  ", "--nflog-prefix ")
                for save in vector["forms"]["save"]
                if "all" in (save["versions"], versions) or set(save["versions"]) & set(versions)
            }
            chain = min(saved).split()[1]
            yield one_rule(listing["text"], form=form, chain=chain), saved


def without_interfaces(text: str) -> str:
    return re.sub(r"(?: !)? -[io] (?:<not shown>|\S+)", "", text)


def shown(rule: Rule) -> bool:
    return not any(hidden.shown for hidden in rule.hidden)


def test_every_rule_listed_with_numbers_and_interfaces_is_the_rule_that_save_prints() -> None:
    wrong = [rule.text for rule, saved in grammar("Lnv") if rule.text not in saved]
    # A comment that holds `*/` could be two comments with a condition between them.
    assert {re.sub("<.*>", "", text) for text in wrong} == {
        "-A S -p tcp -m  -m tcp --dport 443 -j RETURN",
        "-A S -p tcp -m tcp --dport 443 -m  -j RETURN",
    }


def test_every_rule_listed_with_numbers_and_interfaces_equals_what_the_save_parser_reads() -> None:
    pairs = list(grammar("Lnv"))
    wrong = [rule for rule, saved in pairs if rule not in [saved_rule(text) for text in saved]]
    assert len(pairs) == 322
    assert [rule.hidden[0].shown for rule in wrong] == ["/* default/kubernetes:https */ cluster IP */"] * 3


def test_every_rule_listed_with_numbers_only_is_the_saved_rule_but_for_interfaces() -> None:
    wrong = [
        rule.text
        for rule, saved in grammar("Ln")
        if without_interfaces(rule.text) not in {without_interfaces(text) for text in saved}
    ]
    assert {re.sub("<.*>", "", text) for text in map(without_interfaces, wrong)} == {
        "-A S -p tcp -m  -m tcp --dport 443 -j RETURN",
        "-A S -p tcp -m tcp --dport 443 -m  -j RETURN",
    }


@pytest.mark.parametrize("form", ["L", "Lv"])
def test_every_rule_listed_with_names_is_the_saved_rule_or_says_which_name_hides_a_value(form: str) -> None:
    rules = list(grammar(form))
    wrong = [
        rule.text
        for rule, saved in rules
        if shown(rule) and without_interfaces(rule.text) not in {without_interfaces(text) for text in saved}
    ]
    assert wrong == []
    assert sum(shown(rule) for rule, _ in rules) > 115


@pytest.mark.parametrize("form", ["L", "Ln"])
def test_without_v_every_rule_hides_the_interfaces_that_its_chain_allows(form: str) -> None:
    allowed = {"PREROUTING": "-i", "INPUT": "-i", "OUTPUT": "-o", "POSTROUTING": "-o"}
    for rule, _ in grammar(form):
        hidden = [hidden.field for hidden in rule.hidden if not hidden.shown]
        assert hidden == ([allowed[rule.chain]] if rule.chain in allowed else ["-i", "-o"])


@pytest.mark.parametrize(
    "front_end", ["1.6.1/legacy", "1.8.4/nft", "1.8.9/legacy", "1.8.9/nft", "1.8.11/nft", "1.8.13/nft"]
)
@pytest.mark.parametrize("form", ["L", "Ln", "Lnv", "Lvxl", "Lnl"])
def test_istios_table_parses_from_every_front_end_in_every_form(front_end: str, form: str) -> None:
    ruleset = parse_iptables_list(vectors()["listing_fixtures_istio"][front_end][form])
    wanted = expected_ruleset("1.8.3").nat
    assert [table.name for table in ruleset.tables] == ["nat"]
    assert {chain.name: len(chain) for chain in ruleset.nat.chains} == {
        chain.name: len(chain) for chain in wanted.chains
    }
    if form == "Lnv":
        assert {chain.name: chain.rules for chain in ruleset.nat.chains} == {
            chain.name: chain.rules for chain in wanted.chains
        }


def test_a_listing_of_a_real_pod_with_numbers_and_interfaces_is_istios_table() -> None:
    ruleset = parse_iptables_list((DATA / "observed-1.8.3/iptables-Lnvx.txt").read_text(), source="pod.txt")
    assert ruleset.nat == expected_ruleset("1.8.3").nat
    readiness = ruleset.nat.chain("ISTIO_INBOUND").rules[3]
    assert (readiness.number, readiness.packets, readiness.bytes) == (4, 347, 20820)
    assert readiness.location == "pod.txt:20"
    prerouting = ruleset.nat.chain("PREROUTING")
    assert (prerouting.policy, prerouting.packets, prerouting.bytes) == ("ACCEPT", 347, 20820)


def test_the_labs_listing_says_what_it_hides() -> None:
    chain = parse_iptables_list(LAB).nat.chain("ISTIO_OUTPUT")
    assert chain.rules[1].matches == (
        Hidden(field="-d", shown="localhost", negated=True),
        Hidden(field="-i"),
        Hidden(field="-o"),
        Hidden(field="--uid-owner", shown="istio-proxy"),
    )
    assert chain.rules[2].hidden[-1] == Hidden(field="--uid-owner", shown="istio-proxy", negated=True)


def test_a_service_name_hides_the_port_but_not_the_protocol() -> None:
    text = (DATA / "observed-1.8.3/iptables-L.txt").read_text()
    rule = parse_iptables_list(text).nat.chain("ISTIO_INBOUND").rules[1]
    assert rule.matches == (
        Hidden(field="-i"),
        Hidden(field="-o"),
        TCP,
        Transport(module="tcp"),
        Hidden(field="--dport", shown="ssh"),
    )


def test_numbers_beside_names_stay_known() -> None:
    rule = listed("owner UID match istio-proxy ! owner GID match 1337")
    assert rule.matches == (
        Owner(gid=Range(low=1337, high=1337, negated=True)),
        Hidden(field="--uid-owner", shown="istio-proxy"),
    )


def test_a_rule_without_target_keeps_its_columns() -> None:
    assert one_rule(
        "    0     0            tcp  --  *      *       0.0.0.0/0            192.0.2.1"
    ).matches == (
        Address(side="destination", family=4, network=0xC0000201, mask=0xFFFFFFFF),
        TCP,
    )
    assert one_rule("           tcp  --  anywhere             anywhere", form="L").target is None


def test_a_rule_without_target_keeps_its_columns_beside_line_numbers() -> None:
    text = "Chain S (0 references)\nnum  target     prot opt source               destination\n"
    (rule,) = parse_iptables_list(text + "1               tcp  --  anywhere             anywhere\n").rules()
    assert (rule.target, rule.matches[-1]) == (None, TCP)


def test_counters_in_thousands_are_multiplied() -> None:
    rule = one_rule("  12K  345M RETURN     all  --  *      *       0.0.0.0/0            0.0.0.0/0")
    assert (rule.packets, rule.bytes) == (12_000, 345_000_000)


def test_goto_is_not_a_jump() -> None:
    assert listed("[goto] mark match 0x1", "ONE").target == Goto("ONE")
    assert listed("mark match 0x1", "ONE").target == Jump("ONE")


def test_an_interface_is_kept_with_its_inversion() -> None:
    rule = one_rule("    0     0 RETURN     all  --  !eth+  verylongifname0  0.0.0.0/0            0.0.0.0/0")
    assert rule.matches == (
        Interface(direction="in", name="eth+", negated=True),
        Interface(direction="out", name="verylongifname0"),
    )


def test_a_redirect_whose_text_cannot_be_read_is_not_a_redirect() -> None:
    rule = listed("redir ports 99999", "REDIRECT")
    assert rule.target == Extended(name="REDIRECT")
    assert rule.hidden == (Hidden(field="-m", shown="redir ports 99999"),)
    assert listed("redir ports 15006 random", "REDIRECT").target == Redirect(
        ports=(15006, 15006), flags=("--random",)
    )


def test_a_match_that_is_not_known_is_kept_as_hidden_with_its_text() -> None:
    rule = listed('tcp dpt:80 STRING match  "GET" ALGO name bm redir ports 15006', "REDIRECT")
    assert rule.matches[-1] == Hidden(field="-m", shown='STRING match  "GET" ALGO name bm')
    assert rule.target == Redirect(ports=(15006, 15006))


def test_one_comment_is_read_whatever_it_says() -> None:
    rule = listed('/* tcp dpt:22 "x" -j ACCEPT */ mark match 0x1')
    assert rule.matches[0] == Extension(
        module="comment", options=(Option(name="--comment", values=('tcp dpt:22 "x" -j ACCEPT',)),)
    )
    assert len(rule.matches) == 2


@pytest.mark.parametrize(
    "comment", ["/* x */ tcp dpt:22 /* y */", "/* x */ tcp dpt:22 */", "/* /* x */ tcp dpt:22 */"]
)
def test_text_between_comment_marks_that_a_comment_could_hold_is_unknown(comment: str) -> None:
    rule = listed(f"mark match 0x1 {comment} owner UID match 5")
    assert [type(match).__name__ for match in rule.matches] == ["Mark", "Hidden", "Owner"]
    assert rule.hidden == (Hidden(field="-m", shown=comment),)


def test_ip6tables_before_1_8_9_leaves_the_opt_column_blank() -> None:
    rule = one_rule(
        "RETURN     tcp      anywhere             !localhost            tcp dpt:80", form="L", family=6
    )
    assert rule.hidden[1] == Hidden(field="-d", shown="localhost", negated=True)
    assert rule.target == Verdict("RETURN")
    rule = one_rule(
        "    0     0            tcp      *      lo      ::/0                 2001:db8::/32", family=6
    )
    assert rule.text == "-A S -d 2001:db8::/32 -o lo -p tcp"


def test_anywhere_of_ip6tables_is_unknown_because_it_prints_networks_of_address_zero_so() -> None:
    line = "    0     0 RETURN     all  --  any    any     anywhere             anywhere"
    assert one_rule(line, form="Lv", family=6).matches == (
        Hidden(field="-s", shown="anywhere"),
        Hidden(field="-d", shown="anywhere"),
    )
    assert one_rule(line, form="Lv").matches == ()


def test_two_owner_matches_that_ask_the_same_stay_two() -> None:
    assert listed("owner socket exists ! owner socket exists").matches == (
        Owner(socket_exists=True),
        Owner(socket_exists=False),
    )


def test_a_protocol_that_fills_its_column_is_set_apart() -> None:
    assert one_rule("RETURN     udplite--  anywhere             anywhere", form="L").matches[-1] == Protocol(
        number=136
    )


def test_a_chain_name_with_a_blank_is_found() -> None:
    text = (
        "Chain OUTPUT (policy ACCEPT)\ntarget     prot opt source               destination\n"
        "a b        tcp  --  anywhere             anywhere\n\n"
        "Chain a b (1 references)\ntarget     prot opt source               destination\n"
    )
    (rule,) = parse_iptables_list(text).rules()
    assert rule.target == Jump("a b")


def test_line_ends_of_windows_change_nothing() -> None:
    assert parse_iptables_list(LAB.replace("\n", "\r\n")) == parse_iptables_list(LAB)


def test_the_warning_about_legacy_tables_tells_the_back_end() -> None:
    warning = "# Warning: iptables-legacy tables present, use iptables-legacy to see them\n"
    assert parse_iptables_list(warning + LAB).backend is Backend.NF_TABLES
    assert parse_iptables_list(LAB).backend is None


def chains(names: str, rule: str = "") -> Ruleset:
    heads = (f"Chain {name} (policy ACCEPT)\n{COLUMNS['L']}\n{rule}\n" for name in names.split())
    return parse_iptables_list("".join(heads))


@pytest.mark.parametrize(
    ("names", "table"),
    [
        ("PREROUTING INPUT OUTPUT POSTROUTING", "nat"),
        ("PREROUTING INPUT POSTROUTING OUTPUT", "nat"),
        ("PREROUTING OUTPUT POSTROUTING", "nat"),
        ("PREROUTING INPUT FORWARD OUTPUT POSTROUTING", "mangle"),
        ("PREROUTING OUTPUT", "raw"),
        ("INPUT FORWARD OUTPUT", "filter"),
        ("OUTPUT", "filter"),
        ("PREROUTING", "nat"),
    ],
)
def test_the_table_is_inferred_from_its_built_in_chains(names: str, table: str) -> None:
    assert [found.name for found in chains(names).tables] == [table]


@pytest.mark.parametrize(
    ("target", "table"),
    [("REDIRECT", "nat"), ("DNAT", "nat"), ("TPROXY", "mangle"), ("CT", "raw"), ("RETURN", "filter")],
)
def test_the_table_of_one_chain_is_inferred_from_its_targets(target: str, table: str) -> None:
    text = f"Chain X (1 references)\n{COLUMNS['L']}\n{target:<9}  tcp  --  anywhere             anywhere\n"
    assert [found.name for found in parse_iptables_list(text).tables] == [table]


def test_one_chain_alone_may_jump_to_chains_that_are_not_shown() -> None:
    start = LAB.index("Chain ISTIO_OUTPUT")
    ruleset = parse_iptables_list(LAB[start : LAB.index("Chain ISTIO_REDIRECT")])
    assert len(list(ruleset.rules())) == 9
