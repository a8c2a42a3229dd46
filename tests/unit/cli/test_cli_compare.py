"""`istio-sidecar compare`, as a user of the command line meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_istio_sidecar import Packet, expected_ruleset, render_save, trace
from pytest_istio_sidecar.cli import main

LISTING = str(Path(__file__).parents[2] / "data" / "lab-listing-1.8.3.txt")


@pytest.fixture
def drifted(tmp_path: Path) -> str:
    path = tmp_path / "pod.rules"
    path.write_text(render_save(expected_ruleset("1.8.3", inbound_ports_exclude="15090,15021,8443,15020")))
    return str(path)


def test_the_lab_listing_is_its_releases_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", LISTING, "--istio-version", "1.8.3"]) == 0
    first, blank, *rest = capsys.readouterr().out.splitlines()
    assert (first, blank) == ("these are Istio 1.8.3's rules, rule for rule", "")
    said = " ".join(" ".join(rest).split())
    assert "assumed PREROUTING 1, OUTPUT 1" in said
    assert "tables raw, mangle, filter and security: not read, taken to have no rule" in said
    assert "note not read: the rules of IPv6 not read: one of the two back ends" in said


def test_a_guess_says_what_was_not_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    nat = expected_ruleset("1.8.3").nat
    lines = [f"-P {chain.name} ACCEPT" if chain.policy else f"-N {chain.name}" for chain in nat.chains]
    file = tmp_path / "nat.S"
    file.write_text("\n".join([*lines, *(rule.text for rule in nat.rules())]))
    assert main(["compare", str(file), "--guess"]) == 0
    assert "note     not read: tables raw, mangle, filter and security\n" in capsys.readouterr().out


def test_json_has_what_was_not_read_beside_it(drifted: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", drifted, "--istio-version", "1.8.3", "--json"])
    assert "note: not read: the rules of IPv6\n" in capsys.readouterr().err


def test_a_difference_with_an_effect_is_a_verdict_against(
    drifted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", drifted, "--istio-version", "1.8.3"]) == 1
    told = capsys.readouterr().out
    assert "inbound tcp 8443: expected redirected to :15006, here unchanged" in told
    assert "as with excludeInboundPorts: 8443" in told


def test_options_are_part_of_the_expectation(drifted: str) -> None:
    option = "inbound_ports_exclude=15090,15021,8443,15020"
    assert main(["compare", drifted, "--istio-version", "1.8.3", "--option", option, "--exact"]) == 0


def test_a_difference_of_text_alone_holds_unless_the_text_was_asked_for(drifted: str) -> None:
    option = "inbound_ports_exclude=15090,8443,15021,15020"
    arguments = ["compare", drifted, "--istio-version", "1.8.3", "--option", option]
    assert main(arguments) == 0
    assert main([*arguments, "--exact"]) == 1


def test_json_has_differences_effects_and_their_explanation(
    drifted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", drifted, "--istio-version", "1.8.3", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["equal_text"], told["equivalent"]) == (False, False)
    assert [(held["kind"], held["chain"]) for held in told["differences"]] == [("extra", "ISTIO_INBOUND")]
    assert told["effects"][0]["where"][0]["destination_port"] == [[8443, 8443]]
    witness = Packet(**told["effects"][0]["witness"])
    assert str(trace(expected_ruleset("1.8.3"), witness).fate) == "redirected"
    assert told["as_with"] == "as with excludeInboundPorts: 8443"


def test_a_guess_prints_what_the_rules_may_come_from(
    drifted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", drifted, "--guess"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "Istio 1.7.0 to 1.12.9 with excludeInboundPorts: 8443: rule for rule"


def test_what_the_listing_hides_is_undecided(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", LISTING, "--istio-version", "1.20.8"]) == 3
    assert "does not show" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--guess", "--option", "proxy_uid=1"], ["--istio-version", "nonsense"]],
    ids=["mixed", "no release"],
)
def test_wrong_use_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", LISTING, *arguments]) == 2
    assert capsys.readouterr().err.startswith("istio-sidecar: ")


def test_rules_of_a_release_are_guessed_though_they_leave_packets_untold(tmp_path, capsys):
    rules = tmp_path / "pod.rules"
    rules.write_text(render_save(expected_ruleset("1.5.0", inbound_interception_mode="TPROXY")))
    assert main(["compare", str(rules), "--guess"]) == 0
    assert capsys.readouterr().out.startswith(
        "Istio 1.5.0 to 1.5.1 with interceptionMode: TPROXY: rule for rule"
    )
    rules.write_text(rules.read_text().replace("--dport 22 -j RETURN", "--dport 23 -j RETURN"))
    assert main(["compare", str(rules), "--guess"]) == 3


def test_what_is_undecided_of_ipv6_is_told_beside_what_is_against(tmp_path, capsys):
    rules, empty = tmp_path / "pod.rules", tmp_path / "empty.rules"
    text = render_save(expected_ruleset("1.8.3"))
    rules.write_text(text.replace("--to-ports 15006", "--to-ports 15007"))
    empty.write_text("*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
    assert main(["compare", str(rules), f"ip6:{empty}", "--istio-version", "1.8.3"]) == 1
    assert "whether IPv6 is to go through Envoy cannot be told" in capsys.readouterr().err
