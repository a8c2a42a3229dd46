"""iptables-save text, as it was printed by kernels and pods, and as nobody should ever see it."""

from __future__ import annotations

from pathlib import Path

import pytest
from netfilter_data import experiment_rulesets, in_a_table, istio_tables, observed, vectors

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.netfilter.matches import (
    Address,
    Extension,
    Hidden,
    Interface,
    Multiport,
    Option,
    Owner,
    Protocol,
    Range,
    Transport,
)
from pytest_istio_sidecar.netfilter.model import Backend, Rule, Ruleset
from pytest_istio_sidecar.netfilter.targets import Extended, Goto, Jump, Redirect, SetMark, Verdict
from pytest_istio_sidecar.netfilter.text.parse import parse_iptables
from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save

FRONT_ENDS = ("1.6.1/legacy", "1.8.4/nft", "1.8.9/legacy", "1.8.9/nft", "1.8.11/nft", "1.8.13/nft")
SAVES = [path for path in observed("*save*.txt") if "stderr" not in path.name]
NOT_AS_NEW = {
    "-A S -p 47 -j RETURN": "-A S -p gre -j RETURN",  # 1.8.11 has no name for it, 1.8.9 has
    # Up to 1.8.7 two blanks stand there.
    "-A OUTPUT -j NFLOG --nflog-prefix  x --nflog-group 5": (
        "-A OUTPUT -j NFLOG --nflog-prefix x --nflog-group 5"
    ),
}
ORDER_AS_WRITTEN = {
    # iptables-save writes the options of these in an order of its own, whatever was typed.
    "--ctorigdst 192.0.2.0/24 --ctorigdstport 80 --ctproto 6 --ctdir ORIGINAL",
    "addrtype ! --dst-type LOCAL --src-type UNICAST",
    "recent --name KUBE-SEP --rcheck --seconds 10800 --reap",
    "recent --name KUBE-SEP --set",
    "--nflog-group 5 --nflog-prefix",
    # It leaves out the default level, writes out the default answer, and asks /etc/passwd.
    "--log-level 4",
    "-j REJECT",
    "--uid-owner root",
}


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def rule(text: str, table: str = "nat") -> Rule:
    (found,) = parse_iptables_save(in_a_table(text, table)).rules()
    return found


def refused(text: str, family: int = 4) -> ParseError:
    with pytest.raises(ParseError) as caught:
        parse_iptables_save(text, family=6 if family == 6 else 4, source="pod.rules")
    assert caught.value.source == "pod.rules"
    return caught.value


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("form", ["save", "savec", "saveall", "S", "Sv"])
def test_istios_table_is_the_same_from_every_front_end_in_every_lossless_form(
    front_end: str, form: str
) -> None:
    read = parse_iptables_save(vectors()["listing_fixtures_istio"][front_end][form])
    wanted = expected_ruleset("1.8.3").nat
    assert {chain.name: chain for chain in read.nat.chains} == {chain.name: chain for chain in wanted.chains}


@pytest.mark.parametrize("entry", vectors()["grammar"], ids=lambda entry: entry["rule"])
def test_a_rule_reads_back_as_iptables_save_wrote_it_in_every_version(entry: dict[str, object]) -> None:
    for save in entry["forms"]["save"]:  # type: ignore[index]
        written = save["text"].rstrip()
        assert rule(written, str(entry["table"])).text == NOT_AS_NEW.get(written, written)


def test_what_was_typed_reads_as_what_iptables_save_makes_of_it() -> None:
    for entry in vectors()["grammar"]:
        typed = entry["rule"]
        if not any(part in typed for part in ORDER_AS_WRITTEN):
            newest = next(
                s["text"]
                for s in entry["forms"]["save"]
                if s["versions"] == "all" or {"1.8.9L", "1.8.9N"} & set(s["versions"])
            )
            assert rule(typed, entry["table"]).text == newest.rstrip()


def test_every_table_of_istios_rule_builder_parses_line_by_line() -> None:
    tables = istio_tables()
    for text, family in tables:
        read = parse_iptables_save(text, family=family)
        assert [r.text for r in read.rules()] == [line for line in text.splitlines() if line.startswith("-A")]
    assert len(tables) == 121


def test_every_ruleset_that_an_experiment_loaded_parses() -> None:
    read = [parse_iptables_save(text, family=family) for _, text, family in experiment_rulesets()]
    assert len(read) > 170
    assert all(ruleset.tables for ruleset in read)


@pytest.mark.parametrize(
    "path", [p for p in observed("*save*.txt") if p.stat().st_size and "stderr" not in p.name], ids=str
)
def test_a_save_of_a_real_pod_tells_its_back_end_family_and_version(path: Path) -> None:
    read = parse_iptables_save(path.read_text(), source=path.name)
    assert read.backend is (Backend.NF_TABLES if "nft" in path.name else Backend.LEGACY)
    assert read.family == (6 if path.name.startswith("ip6") else 4)
    assert read.writer == "1.8.11"
    assert len(list(read.rules())) in (0, 18, 19)


@pytest.mark.parametrize("path", [path for path in SAVES if not path.stat().st_size], ids=name_of)
def test_the_empty_save_of_a_real_pod_is_refused_not_an_empty_ruleset(path: Path) -> None:
    assert refused(path.read_text()).reason == "the text is empty"


def test_a_rule_knows_its_number_counters_and_line() -> None:
    read = parse_iptables_save(
        "*nat\n:OUTPUT ACCEPT [7:420]\n:A - [0:0]\n"
        "[3:180] -A OUTPUT -j A\n-A A -j RETURN\n[1:2] -A OUTPUT\nCOMMIT\n",
        source="pod.rules",
    )
    output = read.nat.chain("OUTPUT")
    assert (output.policy, output.packets, output.bytes) == ("ACCEPT", 7, 420)
    assert [(r.number, r.packets, r.bytes, r.location) for r in output] == [
        (1, 3, 180, "pod.rules:4"),
        (2, 1, 2, "pod.rules:6"),
    ]
    assert read.nat.chain("A").rules[0].packets is None


def test_counters_of_64_bits_are_exact() -> None:
    most = 2**64 - 1
    assert rule(f"[{most}:{most}] -A S -j RETURN").bytes == most


def test_counters_stand_before_the_target_in_the_verbose_form_of_s() -> None:
    read = parse_iptables_save(
        "-P INPUT ACCEPT -c 5 300\n-P FORWARD ACCEPT\n-P OUTPUT DROP\n-A INPUT -p tcp -c 3 180 -j DROP\n"
    )
    (only,) = read.rules()
    assert (only.packets, only.bytes, only.target) == (3, 180, Verdict("DROP"))
    assert read.filter.chain("INPUT").packets == 5
    assert read.filter.chain("OUTPUT").policy == "DROP"


@pytest.mark.parametrize(
    ("builtin", "table"),
    [
        ("PREROUTING INPUT OUTPUT POSTROUTING", "nat"),
        ("PREROUTING OUTPUT POSTROUTING", "nat"),
        ("PREROUTING OUTPUT", "raw"),
        ("PREROUTING INPUT FORWARD OUTPUT POSTROUTING", "mangle"),
        ("INPUT FORWARD OUTPUT", "filter"),
    ],
)
def test_the_builtin_chains_name_the_table_that_s_does_not_name(builtin: str, table: str) -> None:
    read = parse_iptables_save("".join(f"-P {name} ACCEPT\n" for name in builtin.split()))
    assert [held.name for held in read.tables] == [table]


def test_a_target_of_one_table_only_names_it_where_one_chain_was_printed() -> None:
    assert "nat" in parse_iptables_save(
        "-N ISTIO_REDIRECT\n-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n"
    )


def test_one_chain_that_could_be_of_any_table_is_refused_not_guessed() -> None:
    error = refused("-N ISTIO_OUTPUT\n-A ISTIO_OUTPUT -j RETURN\n")
    assert "the table is not named" in str(error)
    assert "iptables-save -t nat" in error.diagnosis


def test_a_restore_text_reads_as_the_kernel_would_hold_it() -> None:
    text = (
        "* nat\n-N ISTIO_INBOUND\n-N ISTIO_REDIRECT\n-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-port 15001 \n"
        "-A ISTIO_INBOUND -p tcp --syn --dport 80 -j ISTIO_REDIRECT\n"
        "-A ISTIO_INBOUND --protocol udp --destination 192.0.2.1 -g ISTIO_REDIRECT\nCOMMIT\n"
    )
    assert [r.text for r in parse_iptables_save(text).nat.rules()] == [
        "-A ISTIO_INBOUND -p tcp -m tcp --dport 80 --tcp-flags FIN,SYN,RST,ACK SYN -j ISTIO_REDIRECT",
        "-A ISTIO_INBOUND -d 192.0.2.1/32 -p udp -g ISTIO_REDIRECT",
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
    ]


def test_an_option_after_another_match_belongs_to_the_match_that_knows_it() -> None:
    assert rule("-A S -p tcp -m comment --comment ssh --dport 22 -j RETURN").matches == (
        Protocol(number=6),
        Extension(module="comment", options=(Option(name="--comment", values=("ssh",)),)),
        Transport(module="tcp", destination=Range(low=22, high=22)),
    )
    assert rule("-A S -p tcp -j REDIRECT --dport 22 --to-ports 15001").text == (
        "-A S -p tcp -m tcp --dport 22 -j REDIRECT --to-ports 15001"
    )


def test_an_option_that_nothing_takes_is_refused_where_it_would_change_a_condition() -> None:
    for text in (
        "-A S -m comment --comment x --dport 22",
        "-A S --dport 22 -j RETURN",
        "-A S -j RETURN --dport 1",
    ):
        assert "--dport belongs to no match" in refused(in_a_table(text)).reason


def test_a_declared_chain_is_jumped_to_and_any_other_name_is_an_unknown_target() -> None:
    assert rule("-A S -j ONE").target == Jump("ONE")
    assert rule("-A S -g ONE").target == Goto("ONE")
    assert rule("-A S -j ELSEWHERE").target == Extended(name="ELSEWHERE")


def test_a_match_or_target_that_is_not_modelled_keeps_its_text() -> None:
    for text in (
        '-A S -m future ! --thing "a b" --other 1 2 -j NEWTARGET --to -5 --flag',
        '-A S -m set --match-set "--dport" src -m u32 --u32 "0x6&0xff=0x1" -j RETURN',
        "-A S -m recent --set --name x y --rsource -j RETURN",
        '-A S -j LOG --log-prefix "a:b" --log-uid',
        '-A S -m string --string "--dport \\"80\\"" --algo bm --to 65535 -j RETURN',
        "-A S -p tcp -m tcp --dport 80 --dport 81 -j RETURN",
        "-A S -p tcp -m owner --uid-owner root -j RETURN",
        "-A ONE -p tcp -j DNAT --to-destination 192.0.2.1:80-90/8080",
    ):
        assert rule(text).text == text


def test_the_words_of_a_comment_are_no_options() -> None:
    spoof = '-A S -m comment --comment "x -p tcp --dport 22 -j ACCEPT" -j RETURN'
    assert len(rule(spoof).matches) == 1
    assert rule(spoof).target == Verdict("RETURN")
    assert rule("-A S -m comment --comment --dport -j RETURN").matches[0].options[0].values == ("--dport",)  # type: ignore[union-attr]
    assert rule("-A S -m comment --comment -j -j RETURN").target == Verdict("RETURN")
    assert rule('-A S -m comment --comment "!" -j RETURN').target == Verdict("RETURN")


def test_a_comment_may_hold_line_ends_quotes_and_whole_forged_lines() -> None:
    forged = "a\n-A OUTPUT -j ACCEPT\nCOMMIT\n*filter\n\"b\" \\ 'c'"
    escaped = forged.replace("\\", "\\\\").replace('"', '\\"').replace("'", "\\'")
    rules = f'-A OUTPUT -m comment --comment "{escaped}" -j RETURN\n-A OUTPUT -j RETURN'
    read = parse_iptables_save(f"*nat\n:OUTPUT ACCEPT [0:0]\n{rules}\nCOMMIT\n", source="x")
    first, second = read.nat.chain("OUTPUT")
    assert first.matches[0].options[0].values == (forged,)  # type: ignore[union-attr]
    assert (first.location, second.location) == ("x:3", "x:8")
    assert [table.name for table in read.tables] == ["nat"]


def test_a_comment_may_hold_control_characters_and_a_rule_may_not() -> None:
    assert rule('-A S -m comment --comment "\x1b[31m" -j RETURN').target == Verdict("RETURN")
    assert "control character" in refused(in_a_table("-A S -m comment --comment \x1b[31m -j RETURN")).reason


@pytest.mark.parametrize("name", ["a:b", ":x", "#x", 'q"r', '"q', "it's", "ä\u00a0ö", "A B", "/", "[1:2]"])
def test_a_chain_may_have_any_name_that_iptables_takes(name: str) -> None:
    read = parse_iptables_save(
        f"*nat\n:OUTPUT ACCEPT [0:0]\n:{name} - [0:0]\n"
        f"-A OUTPUT -p tcp -j {name}\n-A {name} -j RETURN\nCOMMIT\n"
    )
    assert read.nat.chain("OUTPUT").rules[0].target == Jump(name)
    assert read.nat.chain(name).rules[0].target == Verdict("RETURN")


def test_lines_may_end_as_a_terminal_sends_them() -> None:
    assert parse_iptables_save("*nat\r\n:OUTPUT ACCEPT [0:0]\r\n-A OUTPUT -j RETURN\r\nCOMMIT\r\n") == (
        parse_iptables_save("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j RETURN\nCOMMIT\n")
    )


def test_the_typed_matches_hold_their_values() -> None:
    found = rule(
        "-A OUTPUT ! -s 192.0.2.0/255.0.255.0 ! -o eth+ ! -p 6 -m multiport ! --dports 80,1000:2000 "
        "-m owner ! --uid-owner 5-6 --gid-owner 1337 -j MARK --set-mark 0x1/0xf0"
    )
    assert found.matches == (
        Address(side="source", family=4, network=0xC0000200, mask=0xFF00FF00, negated=True),
        Interface(direction="out", name="eth+", negated=True),
        Protocol(number=6, negated=True),
        Multiport(side="destination", ranges=((80, 80), (1000, 2000)), negated=True),
        Owner(uid=Range(low=5, high=6, negated=True), gid=Range(low=1337, high=1337)),
    )
    assert found.target == SetMark(value=0x1, mask=0xF1)
    assert rule("-A ONE -j REDIRECT").target == Redirect()


def test_a_protocol_by_a_name_that_is_not_known_here_is_hidden_not_guessed() -> None:
    assert rule("-A S -p ospf").matches == (Protocol(number=89),)
    assert rule("-A S ! -p homegrown").matches == (Hidden(field="-p", shown="homegrown", negated=True),)


def test_an_inverted_flag_of_a_target_is_not_the_flag() -> None:
    target = rule("-A ONE -p tcp -j REDIRECT --to-ports 80 ! --random").target
    assert isinstance(target, Extended)


def test_the_family_comes_from_the_banner_and_must_fit_the_addresses() -> None:
    banner = "# Generated by ip6tables-save v1.8.9 on Mon Nov 23\n"
    six = "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -d 2001:db8::1/128 -j RETURN\nCOMMIT\n"
    assert parse_iptables_save(banner + six).family == 6
    assert parse_iptables_save(six, family=6).family == 6
    assert "IPv6 address" in refused(six).reason
    assert "IPv4 address" in refused(six.replace("2001:db8::1/128", "192.0.2.1/32"), 6).reason
    error = refused(f"# Generated by iptables-save v1.8.9 on x\n{six}", 6)
    assert "to be read as one of ip6tables" in error.reason


@pytest.mark.parametrize(
    ("banner", "backend"),
    [
        ("iptables-save v1.6.1 on", Backend.LEGACY),
        ("xtables-save v1.8.2 on", Backend.NF_TABLES),
        ("iptables-nft-save v1.8.4 on", Backend.NF_TABLES),
        ("iptables-nft-save v1.8.9 (nf_tables) on", Backend.NF_TABLES),
        ("iptables-save v1.8.13 (nf_tables) on", Backend.NF_TABLES),
        ("iptables-save v1.8.9 on", Backend.LEGACY),
    ],
)
def test_the_banner_tells_back_end_and_version(banner: str, backend: Backend) -> None:
    read = parse_iptables_save(f"# Generated by {banner} Mon\n*nat\nCOMMIT\n")
    assert read.backend is backend
    assert read.writer == banner.split()[1].removeprefix("v")


def test_a_text_without_banner_does_not_tell_its_back_end() -> None:
    assert parse_iptables_save("*nat\nCOMMIT\n") == Ruleset(
        tables=parse_iptables_save("*nat\nCOMMIT\n").tables
    )


def test_the_warning_about_the_other_back_end_is_no_fault() -> None:
    warning = "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them\n"
    assert "nat" in parse_iptables_save(f"{warning}*nat\nCOMMIT\n")
    assert "iptables-legacy-save" in refused(warning).diagnosis


def test_a_table_that_iptables_cannot_show_is_refused_though_the_exit_status_was_0() -> None:
    error = refused("*filter\nCOMMIT\n# Table `nat' is incompatible, use 'nft' tool.\n")
    assert (error.line, error.text) == (3, "# Table `nat' is incompatible, use 'nft' tool.")
    assert "nft list ruleset" in error.diagnosis


CIRCLE = (
    "*nat\n:OUTPUT ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n"
    "-A OUTPUT -j A\n-A A -j B\n-A B -p tcp -j A\nCOMMIT\n"
)


def test_a_circle_of_chains_that_packets_reach_is_refused_by_name() -> None:
    error = refused(CIRCLE)
    assert error.reason == "chains jump in a circle: A -> B -> A"
    assert (error.line, error.text) == (7, "-A B -p tcp -j A")


@pytest.mark.parametrize(
    "text",
    [
        CIRCLE.replace("-A OUTPUT -j A\n", ""),
        CIRCLE.replace("-A OUTPUT -j A\n", "-A OUTPUT -j RETURN\n-A OUTPUT -j A\n"),
    ],
    ids=["no built-in chain leads there", "behind an unconditional verdict"],
)
def test_a_circle_that_no_packet_reaches_is_kept_as_kernels_keep_it(text: str) -> None:
    assert parse_iptables_save(text).nat.chain("B").rules[0].target == Jump("A")


LEGACY = "# Generated by iptables-save v1.8.9 on x\n"
BAD = {
    "nothing": ("", 0, "empty"),
    "blanks": (" \n\t\n", 0, "empty"),
    "only a comment": ("# hello\n", 0, "no table, chain or rule"),
    "cut off": ("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j RETURN\n", 1, "no COMMIT"),
    "cut off in a quote": ('*nat\n:S - [0:0]\n-A S -m comment --comment "x\nCOMMIT\n', 3, "never closed"),
    "head cut off": ("-A OUTPUT -j RETURN\nCOMMIT\n", 1, "not declared"),
    "tail only": ("COMMIT\n", 1, "COMMIT without a table"),
    "table in a table": ("*nat\n*filter\nCOMMIT\n", 2, "no COMMIT before"),
    "a table twice": ("*nat\nCOMMIT\n*nat\nCOMMIT\n", 3, "stands twice"),
    "a chain twice": ("*nat\n:A - [0:0]\n:A - [0:0]\nCOMMIT\n", 3, "stands twice"),
    "two tables of -S": ("-P OUTPUT ACCEPT\n-P OUTPUT ACCEPT\n", 2, "stands twice"),
    "an undeclared chain": ("*nat\n-A NOWHERE -j RETURN\nCOMMIT\n", 2, "chain NOWHERE is not declared"),
    "a chain without table": (":OUTPUT ACCEPT [0:0]\n", 1, "outside of a table"),
    "a rule behind COMMIT": ("*nat\n:A - [0:0]\nCOMMIT\n-A A -j RETURN\n", 4, "outside of a table"),
    "a policy that is none": ("*nat\n:OUTPUT MAYBE [0:0]\nCOMMIT\n", 2, "MAYBE is no policy"),
    "a policy missing": ("*nat\n:OUTPUT\nCOMMIT\n", 2, "lacks its name or policy"),
    "a command": ("*nat\n:A - [0:0]\n-D A -j RETURN\nCOMMIT\n", 3, "-D stands in no listing"),
    "no chain": ("*nat\n-A\nCOMMIT\n", 2, "no line of iptables-save"),
    "two protocols": (in_a_table("-A S -p tcp -p udp"), 14, "-p stands twice"),
    "two targets": (in_a_table("-A S -j RETURN -j ACCEPT"), 14, "two targets"),
    "an end too soon": (in_a_table("-A S -p"), 14, "-p lacks its value"),
    "a bare !": (in_a_table("-A S -p tcp !"), 14, "ends with !"),
    "an address that is none": (in_a_table("-A S -s 300.1.1.1/32"), 14, "no address"),
    "a prefix too long": (in_a_table("-A S -s 192.0.2.1/33"), 14, "longer than 32"),
    "an absurd protocol": (in_a_table("-A S -p 99999999"), 14, "no protocol"),
    "absurd counters": (in_a_table(f"[{'9' * 30}:0] -A S"), 14, "no line of iptables-save"),
    "an absurd number": (in_a_table(f"-A S -c {'9' * 5000} 1"), 14, "is no number"),
    "a very long line": (in_a_table("-A S -m comment --comment " + "x" * 20_000), 14, "20,026 characters"),
    "NUL": ("*nat\n\0\nCOMMIT\n", 2, "binary"),
    "a tar file": ("etc/\0\0\0\0\0\0000755\0", 1, "binary"),
    "both back ends": (
        f"{LEGACY}*nat\nCOMMIT\n# Generated by iptables-nft-save v1.8.9 (nf_tables)\n",
        4,
        "both back ends",
    ),
    "both families": (
        "*nat\nCOMMIT\n# Generated by ip6tables-save v1.8.9 on x\n*raw\nCOMMIT\n",
        3,
        "both families",
    ),
}


@pytest.mark.parametrize(("text", "line", "reason"), BAD.values(), ids=BAD.keys())
def test_text_that_is_no_whole_listing_is_refused_with_its_line(text: str, line: int, reason: str) -> None:
    error = refused(text)
    assert reason in error.reason
    assert error.line == line
    assert len(error.reason) < 250
    assert str(error).startswith(f"pod.rules:{line}: " if line else "pod.rules: ")


@pytest.mark.parametrize(
    ("name", "diagnosis"),
    [
        ("cut off", "the command was stopped"),
        ("head cut off", "the beginning of the text is missing"),
        ("a table twice", "more than one listing"),
        ("both families", "more than one listing"),
    ],
)
def test_a_text_that_is_not_one_whole_listing_says_what_happened_to_it(name: str, diagnosis: str) -> None:
    assert diagnosis in refused(BAD[name][0]).diagnosis


@pytest.mark.parametrize(
    ("text", "diagnosis"),
    [
        ("table ip nat {\n\tchain OUTPUT {\n", "what nft prints"),
        ('{"items": []}', "JSON"),
        ("[]", "JSON"),
        ("<!DOCTYPE html>\n<html>", "HTML"),
        ("apiVersion: v1\nkind: Pod\n", "YAML"),
        ('Error from server (NotFound): pods "x" not found\n', "kubectl"),
        (
            'Defaulted container "httpbin" out of: httpbin, istio-proxy\n*nat\nCOMMIT\n',
            "standard error apart",
        ),
        ("Chain PREROUTING (policy ACCEPT)\ntarget prot opt source destination\n", "iptables -L"),
        (
            'sudo: The "no new privileges" flag is set, which prevents sudo from running as root.',
            "forbids privilege escalation",
        ),
    ],
)
def test_another_programs_output_is_refused_and_named(text: str, diagnosis: str) -> None:
    error = refused(text)
    assert error.reason == "this is no line of iptables-save"
    assert error.line == 1
    assert diagnosis in error.diagnosis


def test_a_text_longer_than_any_listing_is_refused_at_once() -> None:
    error = refused("-A OUTPUT -j RETURN\n" * (100 * 2**20 // 20))
    assert "more than 33,554,432 are not read" in error.reason


def test_quotes_that_never_close_do_not_take_time_that_grows_with_the_square() -> None:
    text = in_a_table("\n".join('-A S -m comment --comment "x\n" -j RETURN' for _ in range(5000)))
    assert len(parse_iptables_save(text).nat.chain("S")) == 5000


def test_the_form_is_told_by_the_first_line_that_is_no_comment() -> None:
    fixtures = vectors()["listing_fixtures_istio"]["1.8.9/nft"]
    rules = {form: len(list(parse_iptables(fixtures[form]).rules())) for form in fixtures}
    assert rules == dict.fromkeys(fixtures, 19)


def test_a_comment_that_holds_a_listing_does_not_make_the_text_one() -> None:
    text = in_a_table('-A S -m comment --comment "\nChain OUTPUT (policy ACCEPT)\n" -j RETURN')
    assert "nat" in parse_iptables(text)
    assert len(parse_iptables(text).nat.chain("S")) == 1


def test_reading_either_form_of_nothing_is_an_error() -> None:
    with pytest.raises(ParseError, match="the text is empty"):
        parse_iptables("")


NAMES_OF_PROTOCOLS = [
    line.split()[:2]
    for line in (Path(__file__).parents[3] / "data" / "netbase-6.4-protocols.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.mark.parametrize(("name", "number"), [(name, int(number)) for name, number in NAMES_OF_PROTOCOLS])
def test_a_protocol_has_the_number_that_iptables_takes_its_name_for(name: str, number: int) -> None:
    (rule,) = parse_iptables_save(in_a_table(f"-A INPUT -p {name} -j ACCEPT")).rules()
    assert rule.matches == ((Protocol(number=number),) if number else ())
