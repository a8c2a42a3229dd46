"""`istio-sidecar bypasses`: what it prints, and with which exit status."""

import json

import pytest

from pytest_istio_sidecar import expected_ruleset, render_save
from pytest_istio_sidecar.checks.bypass.rows import rows_of
from pytest_istio_sidecar.cli import main

ISTIO = render_save(expected_ruleset("1.8.3"))
JUMP = "-A PREROUTING -p tcp -j ISTIO_INBOUND\n"
OPENED = ISTIO.replace(JUMP, f"-A PREROUTING -p tcp -m tcp --dport 8443 -j RETURN\n{JUMP}")


@pytest.fixture
def listing(tmp_path):
    def write(text):
        path = tmp_path / "rules"
        path.write_text(text)
        return str(path)

    return write


def test_istios_own_rules_hold_against_their_release(listing, capsys):
    assert main(["bypasses", listing(ISTIO), "--istio-version", "1.8.3"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0] == "by design"
    assert "inbound tcp 22,15008,15020-15021,15090" in told.out
    assert told.err == ""


def test_what_is_not_by_design_is_named_with_its_rule(listing, capsys):
    assert main(["bypasses", listing(OPENED), "--istio-version", "1.8.3"]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[:2] == [
        "NOT BY DESIGN",
        "  inbound tcp 8443  -A PREROUTING -p tcp -m tcp --dport 8443 -j RETURN",
    ]
    assert "neither by design nor allowed: inbound tcp 8443 reaches the application" in told.err


@pytest.mark.parametrize("text", ["inbound tcp 8443", "inbound 8443", "inbound tcp/8443"])
def test_what_is_allowed_holds(listing, text):
    arguments = ["bypasses", listing(OPENED), "--istio-version", "1.8.3", "--allow", text]
    assert main(arguments) == 0


def test_without_a_release_nothing_is_by_design(listing):
    assert main(["bypasses", listing(ISTIO)]) == 1


def test_a_doubt_is_no_verdict(listing, capsys):
    doubtful = ISTIO.replace(JUMP, f"-A PREROUTING -p tcp -m set --match-set friends src -j RETURN\n{JUMP}")
    assert main(["bypasses", listing(doubtful), "--istio-version", "1.8.3"]) == 3
    assert "--match-set friends src" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--allow", "inbound frob"], ["--option", "redirect_dns=true"]])
def test_what_cannot_be_meant_is_wrong_use(listing, more):
    assert main(["bypasses", listing(ISTIO), *more]) == 2


def test_json_is_one_document_of_the_contract(listing, capsys):
    main(["bypasses", listing(OPENED), "--istio-version", "1.8.3", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [held["text"] for held in told["inbound"] if not held["by_design"]] == ["inbound tcp 8443"]


ENTRY = """
[[bypass]]
what = "inbound tcp 8443"
why = "scraped in clear text"
until = 2999-01-01
"""


@pytest.fixture
def reviews(tmp_path):
    def write(text):
        path = tmp_path / "reviewed.toml"
        path.write_text(text)
        return str(path)

    return write


def test_what_is_reviewed_holds_and_is_told_apart(listing, reviews, capsys):
    told = ["bypasses", listing(OPENED), "--istio-version", "1.8.3", "--reviewed", reviews(ENTRY)]
    assert main(told) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["reviewed", "  inbound tcp 8443  -A PREROUTING -p tcp -m tcp --dport 8443 -j RETURN"]
    assert main([*told, "--json"]) == 0
    (entry,) = (held for held in json.loads(capsys.readouterr().out)["inbound"] if not held["by_design"])
    assert (entry["text"], entry["standing"]) == ("inbound tcp 8443", "reviewed")


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (ENTRY.replace("2999", "2001"), "the review of inbound tcp 8443 ended on 2001-01-01: scraped in"),
        (ENTRY + "family = 6", "the review of inbound tcp 8443 is for IPv6, and this is IPv4"),
        (ENTRY + 'pod = "default/*"', "the review of inbound tcp 8443 is for pods default/*, and this is /"),
    ],
)
def test_a_review_that_does_not_hold_is_named(listing, reviews, capsys, entry, why):
    told = ["bypasses", listing(OPENED), "--istio-version", "1.8.3", "--reviewed", reviews(entry)]
    assert main(told) == 1
    assert f"istio-sidecar: {why}" in capsys.readouterr().err


def test_the_name_of_the_listing_stands_for_its_pod(listing, reviews):
    entry = f'{ENTRY}pod = "*/rules"'
    told = [
        "bypasses",
        listing(OPENED),
        "--istio-version",
        "1.8.3",
        "--istio-reviewed-bypasses",
        reviews(entry),
    ]
    assert main(told) == 0


@pytest.mark.parametrize("text", ["nonsense", "[[bypass]]", None])
def test_a_broken_list_is_wrong_use(listing, reviews, text):
    path = reviews(text) if text else "not-there.toml"
    assert main(["bypasses", listing(ISTIO), "--istio-version", "1.8.3", "--reviewed", path]) == 2


def test_a_range_that_the_release_passes_over_is_told(listing, capsys):
    told = ["--istio-version", "1.8.3", "--option", "outbound_ip_ranges_exclude=10.0.0.1"]
    assert main(["bypasses", listing(ISTIO), *told]) == 0
    assert "'10.0.0.1' is no range in CIDR; istio-init of 1.8.3 passes it over" in capsys.readouterr().err


EXCLUDED = "inbound_ports_exclude=15090,15021,8443,15020"


@pytest.fixture
def excluded(listing):
    return listing(render_save(expected_ruleset("1.8.3", inbound_ports_exclude=EXCLUDED.partition("=")[2])))


def test_what_an_option_opens_is_not_by_design_and_names_the_option(excluded, capsys):
    assert main(["bypasses", excluded, "--istio-version", "1.8.3", "--option", EXCLUDED]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[:2] == [
        "NOT BY DESIGN",
        "  inbound tcp 8443 (excludeInboundPorts: 8443)",
    ]
    assert "reaches the application without Envoy (excludeInboundPorts: 8443)" in told.err


@pytest.mark.parametrize(
    "more",
    [
        ["--allow", "inbound tcp 8443"],
        ["--accept-options", "excludeInboundPorts"],
        ["--istio-accept-options", "proxy_uid, inbound_ports_exclude"],
    ],
    ids=["allowed", "accepted", "accepted by its field"],
)
def test_what_an_option_opens_may_be_allowed_or_the_option_accepted(excluded, capsys, more):
    assert main(["bypasses", excluded, "--istio-version", "1.8.3", "--option", EXCLUDED, *more]) == 0
    assert "NOT BY DESIGN" not in capsys.readouterr().out


def test_a_name_that_no_option_has_cannot_be_accepted(excluded):
    assert main(["bypasses", excluded, "--istio-version", "1.8.3", "--accept-options", "frob"]) == 2


def test_moved_ports_are_envoys(listing):
    moved = render_save(expected_ruleset("1.8.3", proxy_port="15101", inbound_capture_port="15106"))
    options = ["--option", "proxy_port=15101", "--option", "inbound_capture_port=15106"]
    assert main(["bypasses", listing(moved), "--istio-version", "1.8.3", *options]) == 0
    assert main(["bypasses", listing(moved), "--istio-version", "1.8.3"]) == 1


EMPTY = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"


@pytest.mark.parametrize("command", ["bypasses", "compare"])
@pytest.mark.parametrize(
    ("more", "status"),
    [
        ([], 3),
        (["--option", "enable_ipv6=false"], 0),
        (["--option", "enable_ipv6=true"], 1),
        (["--interface", "eth0=10.244.0.7/24"], 0),
    ],
    ids=["nobody said", "said not to", "said to", "no address"],
)
def test_of_ipv6_without_a_rule_the_answer_is_open_where_nobody_said(
    listing, tmp_path, capsys, command, more, status
):
    (tmp_path / "empty.rules").write_text(EMPTY)
    rules = [listing(ISTIO), f"ip6:{tmp_path / 'empty.rules'}"]
    assert main([command, *rules, "--istio-version", "1.8.3", *more]) == status
    assert ("whether IPv6 is to go through Envoy cannot be told" in capsys.readouterr().err) is (status == 3)


@pytest.mark.parametrize(
    ("more", "titles"),
    [
        ([], ["WITHOUT ENVOY"]),
        (["--allow", "inbound tcp 8443"], ["NOT ALLOWED", "allowed"]),
        (["--allow", "inbound", "--allow", "outbound"], ["allowed"]),
        (["--istio-version", "1.8.3", "--allow", "inbound tcp 8443"], ["allowed", "by design"]),
        (["--istio-version", "1.8.3", "--allow", "inbound tcp 8444"], ["NOT BY DESIGN", "by design"]),
        (["--reviewed", "reviewed.toml"], ["NOT REVIEWED", "reviewed"]),
        (
            ["--reviewed", "reviewed.toml", "--allow", "outbound"],
            ["NEITHER ALLOWED NOR REVIEWED", "allowed or reviewed"],
        ),
    ],
)
def test_classes_are_titled_by_what_was_said_of_them(listing, tmp_path, monkeypatch, capsys, more, titles):
    monkeypatch.chdir(tmp_path)
    entry = '[[bypass]]\nwhat = "inbound tcp 8443"\nwhy = "scraped"\nuntil = 2999-01-01\n'
    (tmp_path / "reviewed.toml").write_text(entry)
    main(["bypasses", listing(OPENED), *more])
    sections = capsys.readouterr().out.partition("\nrules cannot show:")[0].splitlines()
    assert [line for line in sections if line and not line.startswith(" ")] == titles


def test_what_is_allowed_stands_under_that_title(listing, capsys):
    main(["bypasses", listing(OPENED), "--istio-version", "1.8.3", "--allow", "inbound tcp 8443"])
    assert "allowed\n  inbound tcp 8443  -A PREROUTING" in capsys.readouterr().out


def test_what_holds_for_both_families_is_one_line_and_reads_back(tmp_path, capsys):
    options = {"inbound_interception_mode": "TPROXY", "enable_ipv6": True}
    names = []
    for family in (4, 6):
        names.append(f"{'ip6:' if family == 6 else ''}{tmp_path / f'{family}.save'}")
        (tmp_path / f"{family}.save").write_text(
            render_save(expected_ruleset("1.20.8", family=family, **options))
        )
    assert main(["bypasses", *names]) == 1
    lines = capsys.readouterr().out.partition("\nrules cannot show:")[0].splitlines()
    assert "  inbound not tcp (IPv6 too)" in lines
    outbound = [line for line in lines if line.startswith("  outbound")]
    assert len(outbound) <= 20
    assert len({line for line in lines if line.startswith("      ")}) < len(outbound) // 2
    words = [
        word for line in lines if line.startswith(("  in", "  out")) for word in ("--allow", line.strip())
    ]
    assert main(["bypasses", *names, *words]) == 0


def test_classes_that_differ_in_one_condition_are_one_line():
    def told(text, rule):
        return {"text": text, "rules": [rule], "by_design": False}

    rows = rows_of(
        {
            "outbound": [
                told("outbound tcp to 127.0.0.1 by lo mark not 0x539", "-A A -j RETURN"),
                told("outbound tcp to 127.0.0.1 by lo mark 0x539", "-A B -j RETURN"),
                told("outbound tcp to 127.0.0.2 by eth0 mark 0x539", "-A B -j RETURN"),
                told("outbound tcp 80: sent to 192.0.2.1:1", "-A B -j RETURN"),
                told("outbound tcp 81: sent to 192.0.2.2:1", "-A B -j RETURN"),
            ]
        }
    )
    assert [(row.packets, row.rules) for row in rows] == [
        ("outbound tcp to 127.0.0.1 by lo", ("-A A -j RETURN", "-A B -j RETURN")),
        ("outbound tcp to 127.0.0.2 by eth0 mark 0x539", ("-A B -j RETURN",)),
        ("outbound tcp 80: sent to 192.0.2.1:1", ("-A B -j RETURN",)),
        ("outbound tcp 81: sent to 192.0.2.2:1", ("-A B -j RETURN",)),
    ]


def test_what_leaves_several_classes_open_is_said_once(tmp_path, capsys):
    file = tmp_path / "nat.S"
    file.write_text("-P PREROUTING ACCEPT\n-P INPUT ACCEPT\n-P OUTPUT ACCEPT\n-P POSTROUTING ACCEPT\n")
    main(["bypasses", str(file)])
    assert capsys.readouterr().out.count("mangle was not read and could capture it") <= 2


def test_what_is_only_allowed_is_not_called_reviewed(listing, reviews, capsys):
    other = ENTRY.replace("8443", "9443")
    told = ["--istio-version", "1.8.3", "--reviewed", reviews(other), "--allow", "inbound tcp 8443"]
    assert main(["bypasses", listing(OPENED), *told]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "allowed"


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (["--istio-version", "1.8.3"], "inbound_ports_exclude is as the release's template has it"),
        ([], "inbound_ports_exclude takes effect with --istio-version"),
    ],
)
def test_an_accepted_option_that_opens_nothing_is_said(listing, capsys, told, why):
    main(["bypasses", listing(ISTIO), *told, "--accept-options", "excludeInboundPorts"])
    assert f"note: --accept-options: {why}\n" in capsys.readouterr().err


def test_an_accepted_option_that_opens_something_is_not_remarked(listing, capsys):
    opened = render_save(expected_ruleset("1.8.3", inbound_ports_exclude="+8443"))
    told = ["--istio-version", "1.8.3", "--option", "excludeInboundPorts=8443"]
    assert main(["bypasses", listing(opened), *told, "--accept-options", "excludeInboundPorts"]) == 0
    assert "--accept-options" not in capsys.readouterr().err


def test_beside_what_gets_by_it_is_said_that_of_other_packets_it_cannot_be_told(listing, capsys):
    unknown = "-A PREROUTING -p udp -m set --match-set a dst -j REDIRECT --to-ports 15006\n"
    text = OPENED.replace("-A PREROUTING", f"{unknown}-A PREROUTING", 1)
    assert main(["bypasses", listing(text), "--istio-version", "1.8.3"]) == 1
    said = capsys.readouterr()
    assert "CANNOT BE TOLD" in said.out
    assert "of the packets under CANNOT BE TOLD it is not known" in said.err


@pytest.mark.parametrize(
    "option",
    [
        "excludeInboundPorts=8443",
        "traffic.sidecar.istio.io/excludeInboundPorts=8443",
        "excludeInboundPorts: 8443",
        "ISTIO_LOCAL_EXCLUDE_PORTS=15090,15021,8443,15020",
    ],
)
@pytest.mark.parametrize("name", ["--option", "--istio-option"])
def test_an_option_is_given_by_any_name_of_istios(excluded, capsys, name, option):
    arguments = ["bypasses", excluded, "--istio-version", "1.8.3", name, option]
    assert main([*arguments, "--accept-options", "excludeInboundPorts"]) == 0
    assert "inbound tcp 8443 (excludeInboundPorts: 8443)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--istio-version=1.8.3"], "neither by design nor allowed: inbound tcp 8443"),
        (["--istio-version=1.8.3", "--allow=outbound"], "neither by design nor allowed: inbound tcp 8443"),
        (["--istio-version=1.8.3", "--reviewed=no.toml"], "neither by design nor reviewed: inbound tcp 8443"),
        (
            ["--istio-version=1.8.3", "--reviewed=no.toml", "--allow=outbound"],
            "not by design, allowed or reviewed: inbound tcp 8443",
        ),
        (["--allow=outbound"], "not allowed: inbound "),
        (["--reviewed=no.toml"], "not reviewed: inbound "),
        (["--reviewed=no.toml", "--allow=outbound"], "neither allowed nor reviewed: inbound "),
    ],
)
def test_what_may_not_get_by_is_told_by_what_was_said(listing, tmp_path, monkeypatch, capsys, more, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no.toml").write_text("bypass = []")
    assert main(["bypasses", listing(OPENED), *more]) == 1
    assert f"istio-sidecar: {said}" in capsys.readouterr().err


def test_what_another_pods_address_would_change_is_told_beside_what_is_against(listing, capsys):
    own = "-A PREROUTING -d 10.244.0.7/32 -p tcp -j RETURN"
    rules = listing(OPENED.replace(JUMP, f"{own}\n{JUMP}"))
    assert main(["bypasses", rules, "--istio-version", "1.8.3"]) == 1
    told = capsys.readouterr().err
    assert f"and not decided, whatever becomes of that: whether `{own}`" in told
    assert main(["bypasses", rules, "--istio-version", "1.8.3", "--allow", "inbound tcp 8443"]) == 3
