"""`istio-sidecar bypasses`: what it prints, and with which exit status."""

import json

import pytest

from pytest_istio_sidecar import expected_ruleset, render_save
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
