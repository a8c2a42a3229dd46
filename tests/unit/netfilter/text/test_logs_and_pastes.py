"""What programs and people put around rules is taken off, and what is missing is noticed."""

from __future__ import annotations

import json

import pytest
from netfilter_data import DATA

from pytest_istio_sidecar import ParseError, PodRules, parse_iptables, parse_rules

SAVE = (DATA / "reports" / "13c-save.txt").read_text()
RESTORE = (DATA / "reports" / "13b-restore-only.txt").read_text()
LOG_1_5 = (DATA / "reports" / "01-istio-init-log-1.5-swallowed-x.txt").read_text()
LOG_1_14 = (DATA / "reports" / "13-oke-init-log-dns.txt").read_text()
TRACE_1_1 = (DATA / "reports" / "04-shell-trace-1.1.txt").read_text()
LISTING = (DATA / "lab-listing-1.8.3.txt").read_text()
NAT = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n"
MOMENT = "2023-06-12T20:59:22.598644Z"
AT_START = "as loaded at start, not as now"


def chains(rules: PodRules, table: str = "nat") -> dict[str, list[str]]:
    return {chain.name: [rule.text for rule in chain] for chain in rules.rulesets[0].table(table).chains}


def before_each(line_start: str, text: str) -> str:
    return "".join(f"{line_start}{line}\n" for line in text.splitlines())


def as_json(*messages: str, **more: str) -> str:
    return "".join(
        json.dumps({"level": "info", "time": MOMENT, **more, "msg": message}) + "\n" for message in messages
    )


def of_docker(text: str) -> str:
    return "".join(
        json.dumps({"log": f"{line}\n", "stream": "stdout", "time": MOMENT}) + "\n"
        for line in text.splitlines()
    )


JSON_LOG = as_json(
    "Istio iptables environment:\nENVOY_PORT=",
    f"Running iptables restore with: iptables-restore and the following input:\n{RESTORE.strip()}",
    f"Final iptables state (IPv4):\n{SAVE}",
)
CUT_BY_RUNTIME = "".join(
    f"{MOMENT} stdout P {line[:9]}\n{MOMENT} stdout F {line[9:]}\n" for line in LOG_1_5.splitlines()
)
LINKERDS = "".join(
    f'time="2022-02-03T21:30:23Z" level=info msg={json.dumps(line)}\n'
    for line in TRACE_1_1.replace("+ iptables", "/sbin/iptables-legacy").replace("'!'", "!").splitlines()
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        pytest.param(JSON_LOG, SAVE, id="the JSON of Istio's logger"),
        pytest.param(of_docker(LOG_1_5), LOG_1_5, id="docker's JSON"),
        pytest.param(of_docker(JSON_LOG), SAVE, id="JSON in docker's JSON"),
        pytest.param(before_each(f"{MOMENT} stderr F ", JSON_LOG), SAVE, id="JSON in CRI"),
        pytest.param(before_each(f"{MOMENT} stdout F ", LOG_1_5), LOG_1_5, id="CRI"),
        pytest.param(CUT_BY_RUNTIME, LOG_1_5, id="CRI whose lines are cut"),
        pytest.param(before_each("[pod/web-5c6-x2/istio-init] ", LOG_1_5), LOG_1_5, id="kubectl --prefix"),
        pytest.param(before_each(f"{MOMENT} ", LOG_1_14), LOG_1_14, id="kubectl --timestamps"),
        pytest.param(
            before_each(f"[pod/web-5c6-x2/istio-init] {MOMENT} ", LOG_1_14), LOG_1_14, id="kubectl, both"
        ),
        pytest.param(before_each("web-5c6-x2 istio-init ", JSON_LOG), SAVE, id="stern of JSON"),
        pytest.param(before_each("web-5c6-x2 istio-init ", LOG_1_14), LOG_1_14, id="stern"),
        pytest.param(before_each("init-1  | ", LOG_1_5), LOG_1_5, id="docker compose"),
        pytest.param(before_each("Jul 19 09:03:35 vm init.sh[671]: ", LOG_1_5), LOG_1_5, id="journald"),
        pytest.param(before_each("7月 19 09:03:35 vm init.sh[671]: ", LOG_1_5), LOG_1_5, id="of a locale"),
        pytest.param(before_each(f"{MOMENT} ", TRACE_1_1), TRACE_1_1, id="a trace with times"),
        pytest.param(
            TRACE_1_1.replace("+ iptables", "iptables").replace("'!'", "!"), TRACE_1_1, id="1.3's commands"
        ),
        pytest.param(LINKERDS, TRACE_1_1, id="logfmt"),
        pytest.param(before_each("> > ", SAVE), SAVE, id="a mail within a mail"),
        pytest.param(
            "".join(f"{number}:{line}\n" for number, line in enumerate(SAVE.splitlines(), 1)),
            SAVE,
            id="grep -n",
        ),
        pytest.param(
            "".join(f"{number:>4} | {line}\n" for number, line in enumerate(SAVE.splitlines(), 1)),
            SAVE,
            id="an editor's numbers",
        ),
        pytest.param(
            f"Hi,\n\nthis is ours:\n\n```console\n{SAVE}```\n\nRegards\n-- \nme\n", SAVE, id="a page"
        ),
        pytest.param(before_each("    ", f"$ sudo iptables -t nat -L\n{LISTING}"), LISTING, id="an indent"),
        pytest.param(SAVE.replace("-A ", "-A\u00a0").replace(" -j", "\u00a0-j"), SAVE, id="a page's blanks"),
        pytest.param(SAVE.replace("\n", "\r\r\n"), SAVE, id="a terminal's line ends"),
        pytest.param(f"PS C:\\> kubectl logs web\n{LOG_1_5}", LOG_1_5, id="another shell"),
    ],
)
def test_what_stands_around_rules_is_taken_off(text: str, plain: str) -> None:
    assert chains(parse_rules(text)) == chains(parse_rules(plain))


def test_what_was_taken_off_and_left_out_is_told() -> None:
    text = before_each("> ", f"My rules:\n$ iptables-save\n\x1b[1m{SAVE}").replace("> ", ">  ")
    off, left = parse_rules(text).notes
    assert off == "taken off: colours of a terminal, `>` in front of 48 lines"
    assert left == "left out, as no part of a listing: line 1 (`My rules:`), line 2 (`$ iptables-save`)"


def test_a_plain_listing_has_no_note() -> None:
    assert parse_rules(SAVE).notes == parse_rules(LISTING).notes == ()


@pytest.mark.parametrize("text", [LOG_1_5, JSON_LOG, RESTORE, TRACE_1_1])
def test_a_log_and_commands_are_told_to_be_of_the_start(text: str) -> None:
    assert parse_rules(text).notes[0].startswith(AT_START)


# What is missing


@pytest.mark.parametrize(
    "cut",
    ["...", "…", "[...]", "<snip>", "-- snip --", "< truncated lines 31-90 >", "(12 more lines)", "# ..."],
)
@pytest.mark.parametrize("place", ["-A ISTIO_OUTPUT -d", "*nat", "-A PREROUTING"])
def test_a_text_that_somebody_cut_is_refused_where_it_was_cut(cut: str, place: str) -> None:
    text = SAVE.replace(place, f"{cut}\n{place}", 1)
    with pytest.raises(ParseError, match="lines were left out") as raised:
        parse_rules(text)
    assert raised.value.line == text.split("\n").index(cut) + 1


def test_a_command_with_a_filter_behind_it_is_refused() -> None:
    with pytest.raises(ParseError, match="some lines of the listing through"):
        parse_rules(f"$ sudo iptables-save | grep -v DOCKER\n{SAVE}")


def test_a_listing_of_fewer_jumps_than_it_tells_of_is_refused() -> None:
    rows = [line for line in LISTING.splitlines() if not line.startswith("ISTIO_OUTPUT ")]
    with pytest.raises(ParseError, match="chain ISTIO_OUTPUT has 1 references, and 0 of the rules shown"):
        parse_rules("\n".join(rows))


def test_rows_that_something_parts_from_their_listing_are_not_lost() -> None:
    row = "ISTIO_OUTPUT  tcp  --  anywhere             anywhere            "
    text = LISTING.replace(row, f"look here:\n\nnext the second one\n{row}")
    with pytest.raises(ParseError):
        parse_rules(text)


@pytest.mark.parametrize("broken_at", [" -j ", " -m owner", "ISTIO_IN_REDIRECT"])
def test_a_rule_that_was_broken_into_two_lines_is_refused(broken_at: str) -> None:
    rule = "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT"
    text = (DATA / "reports" / "21j-prompt-S.txt").read_text()
    assert rule in text
    with pytest.raises(ParseError):
        parse_rules(text.replace(rule, rule.replace(broken_at, f"\n{broken_at.strip()}", 1)))


def test_a_line_inside_of_a_table_that_is_none_of_its_lines_is_refused() -> None:
    with pytest.raises(ParseError, match="stands inside a table") as raised:
        parse_rules(f"{NAT}this one is odd:\n-A OUTPUT -j RETURN\nCOMMIT\n")
    assert raised.value.line == 6


def test_a_table_whose_end_is_missing_is_refused_before_a_fence() -> None:
    with pytest.raises(ParseError, match="no COMMIT: the text is cut off"):
        parse_rules(f"```\n{NAT}-A OUTPUT -j RETURN\n```\n")


@pytest.mark.parametrize("text", [LOG_1_14, RESTORE])
def test_an_input_of_iptables_restore_whose_end_is_missing_is_refused(text: str) -> None:
    cut = text[: text.index("-A ISTIO_OUTPUT -d")]
    with pytest.raises(ParseError, match="table nat has no COMMIT") as raised:
        parse_rules(cut)
    assert raised.value.text == "*nat"


def test_a_refused_text_tells_where_in_it_listings_begin() -> None:
    with pytest.raises(ParseError) as raised:
        parse_rules(f"Hi\n\n{SAVE}\n...\n{LISTING}")
    assert dict(raised.value.failure.facts)["begins"] == "line 4: iptables-save\nline 51: iptables -L"


def test_a_native_listing_without_an_end_is_refused() -> None:
    with pytest.raises(ParseError, match="a brace is not closed"):
        parse_rules("table inet x {\n\tchain y {\n")


# Which of several


def test_two_pods_in_one_log_are_refused() -> None:
    one, other = (before_each(f"{pod} istio-init ", LOG_1_5) for pod in ("web-0", "web-1"))
    with pytest.raises(ParseError, match="several places: web-0 istio-init, web-1 istio-init"):
        parse_rules(one + other)


def test_lines_of_two_pods_in_turns_are_refused() -> None:
    lines = LOG_1_5.splitlines()
    text = "".join(f"web-0 {line}\nweb-1 {line}\n" for line in lines)
    with pytest.raises(ParseError, match="several places"):
        parse_rules(text)


def test_a_later_state_in_a_log_counts() -> None:
    empty = f"{NAT}COMMIT\n"
    rules = parse_rules(as_json(f"Command output: \n{empty}", f"Final iptables state (IPv4):\n{SAVE}"))
    assert chains(rules) == chains(parse_rules(SAVE))
    assert "later moment" in " ".join(rules.notes)


def test_what_a_log_loads_after_a_state_is_added_to_it() -> None:
    before = f"{NAT}-A OUTPUT -p udp -j RETURN\nCOMMIT\n"
    text = as_json(
        f"Command output: \n{before}",
        "Running iptables restore with: iptables-restore and the following input:\n"
        "* nat\n-A OUTPUT -p tcp -j RETURN\nCOMMIT",
    )
    assert chains(parse_rules(text))["OUTPUT"] == ["-A OUTPUT -p udp -j RETURN", "-A OUTPUT -p tcp -j RETURN"]


@pytest.mark.parametrize(
    "part",
    [
        "-P PREROUTING ACCEPT\n-P INPUT ACCEPT\n-P OUTPUT ACCEPT\n-P POSTROUTING ACCEPT\n",
        (
            "Chain OUTPUT (policy ACCEPT)\ntarget  prot opt source    destination\n"
            "REDIRECT  tcp  --  anywhere  anywhere  redir ports 15001\n"
        ),
    ],
    ids=["S", "L"],
)
def test_commands_do_not_go_on_from_a_listing_that_shows_a_part(part: str) -> None:
    run = f"{MOMENT}\tinfo\tRunning command: iptables -t nat"
    with pytest.raises(ParseError, match="is followed by commands at line"):
        parse_rules(f"{run} -S\n{part}{run} -A OUTPUT -p udp -j RETURN\n")


def test_two_states_in_the_log_of_a_node_are_refused_as_they_are_of_two_pods() -> None:
    texts = (f"{NAT}COMMIT\n", SAVE)
    with pytest.raises(ParseError, match="table nat of IPv4 stands at lines 1 and 2"):
        parse_rules(as_json(*(f"Command output: \n{text}" for text in texts), scope="cni"))


def test_two_states_in_a_paste_are_refused() -> None:
    with pytest.raises(ParseError, match="table nat of IPv4 stands at lines"):
        parse_rules(f"{SAVE}\n{SAVE.replace('15006', '15001')}")


def test_the_same_listing_twice_is_one() -> None:
    (ruleset,) = parse_rules(f"{SAVE}\n{SAVE}").rulesets
    assert ruleset == parse_iptables(SAVE)


def test_a_prompt_says_of_which_family_and_back_end_the_next_listing_is() -> None:
    listing = "Chain INPUT (policy ACCEPT)\ntarget     prot opt source               destination\n"
    text = (
        f"# iptables-legacy -L INPUT\n{listing}# iptables-nft -L INPUT\n{listing}"
        f"$ kubectl exec web -- ip6tables -L INPUT\n{listing}"
    )
    told = [(ruleset.family, str(ruleset.backend)) for ruleset in parse_rules(text).rulesets]
    assert told == [(4, "legacy"), (4, "nf_tables"), (6, "None")]


def test_a_banner_that_tells_no_family_leaves_it_to_the_prompt() -> None:
    text = (
        f"# ip6tables-nft-save\n# Generated by xtables-save v1.8.2 on Sun Jul 14 10:00:00 2019\n{NAT}COMMIT\n"
    )
    assert [ruleset.family for ruleset in parse_rules(text).rulesets] == [6]


def test_tables_listed_one_by_one_are_one_ruleset() -> None:
    nat = "-P PREROUTING ACCEPT\n-P INPUT ACCEPT\n-P OUTPUT ACCEPT\n-P POSTROUTING ACCEPT\n"
    mangle = f"{nat}-P FORWARD ACCEPT\n"
    (ruleset,) = parse_rules(f"$ iptables -t nat -S\n{nat}$ iptables -t mangle -S\n{mangle}").rulesets
    assert [table.name for table in ruleset.tables] == ["nat", "mangle"]


# What commands leave behind


def loaded(*commands: str) -> dict[str, list[str]]:
    return chains(parse_rules("".join(f"+ {command}\n" for command in commands)))


def test_commands_insert_replace_delete_and_flush() -> None:
    held = loaded(
        "iptables -t nat -N A",
        "iptables -t nat -A A -p tcp -j RETURN",
        "iptables -t nat -I A 1 -p udp -j RETURN",
        "iptables -t nat -A OUTPUT -j A",
        "iptables -t nat -A OUTPUT -p tcp -j A",
        "iptables -t nat -D OUTPUT -j A",
        "iptables -t nat -R A 2 -p icmp -j RETURN",
        "iptables -t nat -A INPUT -j RETURN",
        "iptables -t nat -F INPUT 2>/dev/null || true",
    )
    assert held["A"] == ["-A A -p udp -j RETURN", "-A A -p icmp -j RETURN"]
    assert held["OUTPUT"] == ["-A OUTPUT -p tcp -j A"]
    assert held["INPUT"] == []


def test_a_command_that_failed_did_nothing() -> None:
    text = (
        "+ iptables -t nat -A OUTPUT -m socket -j RETURN\n"
        "iptables: No chain/target/match by that name.\n"
        "+ iptables -t nat -A OUTPUT -p tcp -j RETURN\n"
    )
    assert chains(parse_rules(text))["OUTPUT"] == ["-A OUTPUT -p tcp -j RETURN"]


def test_an_input_that_iptables_restore_refused_was_not_loaded() -> None:
    with pytest.raises(ParseError, match="nothing of its input was loaded"):
        parse_rules(f"{LOG_1_14}iptables-restore --noflush /tmp/x\niptables-restore: line 2 failed\n")


def test_a_refused_input_of_ip6tables_restore_says_nothing_of_iptables() -> None:
    text = f"{LOG_1_14}ip6tables-restore --noflush /tmp/x\nip6tables-restore: line 2 failed\n"
    assert chains(parse_rules(text)) == chains(parse_rules(LOG_1_14))


def test_a_rule_of_a_chain_that_nothing_made_is_refused() -> None:
    with pytest.raises(ParseError, match="chain ISTIO_OUTPUT is not declared"):
        loaded("iptables -t nat -A ISTIO_OUTPUT -j RETURN")


def test_rules_are_followed_only_so_far() -> None:
    many = "".join(f"-A OUTPUT -s 10.0.{i // 250}.{i % 250} -j RETURN\n" for i in range(6000))
    last = "-D OUTPUT -s 10.9.9.9 -j RETURN\n" * 6000
    with pytest.raises(ParseError, match="more rules than are followed"):
        parse_rules(f"*nat\n-N X\n{many}{last}COMMIT\n")


def test_a_log_of_ip6tables_is_of_ipv6() -> None:
    begin = "Writing following contents to rules file:  /tmp/ip6tables-rules-1.txt\n"
    text = f"{begin}* nat\n-N X\n-A OUTPUT -j X\nCOMMIT\n"
    assert [ruleset.family for ruleset in parse_rules(text).rulesets] == [6]


def test_a_form_that_comes_after_prose_is_named_with_its_line() -> None:
    with pytest.raises(ParseError) as raised:
        parse_rules(f"Hi\n{NAT}-A OUTPUT -p tcp -j\nCOMMIT\n")
    assert ("begins", "line 2: iptables-save") in raised.value.failure.facts
