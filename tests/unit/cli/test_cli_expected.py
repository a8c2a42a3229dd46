"""`istio-sidecar expected`, as somebody at a terminal uses it."""

from __future__ import annotations

import json

from pytest_istio_sidecar import expected_ruleset, parse_iptables_save
from pytest_istio_sidecar.cli import main


def test_the_text_is_what_iptables_restore_takes(capsys) -> None:
    assert main(["expected", "1.8.3"]) == 0
    told = capsys.readouterr()
    assert parse_iptables_save(told.out).tables == expected_ruleset("1.8.3").tables
    assert told.err == ""


def test_options_are_written_by_name(capsys) -> None:
    given = ["--option", "inbound_ports_include=80,8080", "--option", "redirect_dns=true"]
    assert main(["expected", "1.30.3", *given, "--option", "capture_all_dns=true", "--family", "6"]) == 0
    told = parse_iptables_save(capsys.readouterr().out, family=6)
    wanted = expected_ruleset(
        "1.30.3", family=6, inbound_ports_include="80,8080", redirect_dns=True, capture_all_dns=True
    )
    assert told.tables == wanted.tables


def test_the_json_is_one_document(capsys) -> None:
    assert main(["expected", "1.8.3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["rules_of"]) == ("1.8.3", "1.8.3")
    assert "ISTIO_INBOUND" in told["iptables_save"]


def test_a_release_that_is_not_known_is_told_with_the_one_it_is_taken_for(capsys) -> None:
    assert main(["expected", "1.99.0"]) == 0
    assert "1.99.0 is taken to have the rules of 1.31.0-rc.0" in capsys.readouterr().err
    assert expected_ruleset("1.20.8-distroless").source == "Istio 1.20.8-distroless, with the rules of 1.20.8"


def test_an_option_that_is_none_is_wrong_use(capsys) -> None:
    assert main(["expected", "1.8.3", "--option", "inbound_ports_includ=80"]) == 2
    assert "Istio has no option inbound_ports_includ; inbound_ports_include?" in capsys.readouterr().err
    assert main(["expected", "1.8.3", "--option", "drop_invalid"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err
