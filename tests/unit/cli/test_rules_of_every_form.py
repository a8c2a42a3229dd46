"""Where RULES stand: texts of every form, prefixes, and the folder that a reading wrote."""

import json
from io import BytesIO
from types import SimpleNamespace

import pytest
from netfilter_data import DATA

from pytest_istio_sidecar import Fate, inbound, trace
from pytest_istio_sidecar.cli import main
from pytest_istio_sidecar.environments.excerpts import pod_as_evidence
from pytest_istio_sidecar.environments.file import read_given
from pytest_istio_sidecar.errors import ParseError, UsageProblem
from pytest_istio_sidecar.machine.command import CommandResult, kept
from pytest_istio_sidecar.machine.evidence import write_evidence
from pytest_istio_sidecar.reports.replay import replay_command

REPORTS = DATA / "reports"
LOG = str(REPORTS / "01-istio-init-log-1.5-swallowed-x.txt")
FAMILIES = str(REPORTS / "31-both-families.txt")
PASTE = str(REPORTS / "21d-prompt-save.txt")


@pytest.fixture
def folder(tmp_path):
    observed = DATA / "observed-1.20.8"
    answers = [
        CommandResult(
            argv=(program, "-c"),
            exit_status=0,
            stdout=(observed / f"{program}_-c.txt").read_text(),
            stderr="",
            seconds=0,
        )
        for program in (
            "iptables-legacy-save",
            "iptables-nft-save",
            "ip6tables-legacy-save",
            "ip6tables-nft-save",
        )
    ]
    pod = pod_as_evidence(json.loads((observed / "pod.json").read_text()))
    write_evidence(tmp_path, {**kept(answers), "pod.json": pod})
    return str(tmp_path)


def test_a_log_is_traced_and_told_to_be_of_the_start(capsys):
    assert main(["trace", LOG, "--outbound", "10.1.2.3:443"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0].endswith("redirected to 127.0.0.1:15001")
    assert told.err.splitlines()[0].startswith("istio-sidecar: note: as loaded at start, not as now")


def test_which_tables_were_given_stands_in_the_first_line_and_what_was_left_out_beside_it(capsys):
    assert main(["trace", PASTE, "--inbound", "80"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0].endswith(" (nat only was given)")
    assert told.err.count("note: left out") == 1
    assert "nat only" not in told.err


def test_what_was_left_out_of_a_paste_is_told_beside_json(capsys):
    assert main(["bypasses", PASTE, "--json"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["inbound"]
    assert (
        "left out, as no part of a listing: line 1 (`istio-proxy@httpbin-0:/$ sudo iptables-save`)"
        in told.err
    )


@pytest.mark.parametrize(
    ("address", "end"), [("10.1.2.3:10334", "127.0.0.1:15001"), ("[2001:db8::1]:443", "unchanged")]
)
def test_one_text_of_both_families_answers_for_both(capsys, address, end):
    assert main(["trace", FAMILIES, "--outbound", address, "--interface", "eth0=192.0.2.10/24",
                 "--interface", "eth0=2001:db8::10/64"]) == 0  # fmt: skip
    assert capsys.readouterr().out.splitlines()[0].endswith(end)


@pytest.mark.parametrize("text", [FAMILIES, str(REPORTS / "32-both-backends.txt")])
def test_a_text_of_several_listings_is_replayed_by_its_name_alone(text):
    traced = trace(read_given([text]).rules, inbound(80))
    assert replay_command(traced) == f"istio-sidecar trace {text} --inbound tcp/80"


def test_a_folder_needs_no_release_and_no_option(folder, capsys):
    assert main(["bypasses", folder]) == 0
    assert main(["compare", folder]) == 0
    assert "these are Istio 1.20.8's rules" in capsys.readouterr().out
    assert main(["trace", folder, "--inbound", "80"]) == 0


def test_options_beside_a_folder_leave_what_its_pod_tells_of_ipv6(folder):
    option = "inbound_ports_exclude=15090,15021,8443,15020"
    assert main(["bypasses", folder, "--option", option]) == 0
    assert main(["bypasses", folder, "--option", "enable_ipv6=true"]) == 1


def test_a_release_that_is_named_counts_more_than_the_folders(folder):
    assert main(["compare", folder, "--istio-version", "1.5.0"]) == 1


def test_without_a_release_a_file_is_compared_with_nothing(capsys):
    assert main(["compare", PASTE]) == 2
    assert "--istio-version names the release, --guess finds it" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["ip6:nft:", "nft:ip6:", "ip6:native:"])
def test_prefixes_stand_in_any_order(prefix, monkeypatch):
    text = b"*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j RETURN\nCOMMIT\n"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=BytesIO(text)))
    (ruleset,) = read_given([f"{prefix}-"]).rules.rulesets
    assert (ruleset.family, str(ruleset.backend)) == (6, "nf_tables")


def test_nft_and_native_are_one_back_end(tmp_path):
    nat, raw = tmp_path / "nat", tmp_path / "raw"
    nat.write_text("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
    raw.write_text("*raw\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
    (ruleset, _) = read_given([f"nft:{nat}", f"native:{raw}"]).rules.rulesets
    assert [table.name for table in ruleset.tables] == ["nat", "raw"]


NFT_JSON, OF_IPTABLES = (str(DATA / "nft" / name) for name in ("iptables-nft.json", "iptables-nft-save.txt"))


@pytest.mark.parametrize("files", [[f"native:{NFT_JSON}", f"nft:{OF_IPTABLES}"], [OF_IPTABLES, NFT_JSON]])
def test_two_files_of_the_same_rules_by_nft_and_by_iptables_are_one_ruleset(files):
    rules = read_given(files).rules
    assert len(rules.of_family(4)) == 1
    assert rules.native_read
    assert trace(rules, inbound(80)).fate is Fate.TPROXIED


def test_notes_of_several_files_name_theirs(tmp_path):
    raw = tmp_path / "raw"
    raw.write_text("*raw\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
    notes = read_given([PASTE, str(raw)]).rules.notes
    assert [note.partition(":")[0] for note in notes] == [PASTE]


def test_a_prefix_that_a_text_contradicts_is_refused():
    with pytest.raises(UsageProblem, match="was written by legacy, but is given as nf_tables"):
        read_given([f"nft:{PASTE}"])
    with pytest.raises(ParseError, match="the text is of iptables, but was to be read as one of ip6tables"):
        read_given([f"ip6:{PASTE}"])
