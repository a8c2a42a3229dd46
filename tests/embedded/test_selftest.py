"""`istio-sidecar selftest`: the score, in words and as JSON, and the exit statuses."""

import json

import pytest

from pytest_istio_sidecar.cli import main
from pytest_istio_sidecar.machine.lease import leases_directory
from pytest_istio_sidecar.selftest import score

pytestmark = pytest.mark.usefixtures("able_machine", "runtime_directory")


def test_a_judge_that_sees_everything_exits_with_0_and_the_named_faults_are_told(capsys):
    assert main(["selftest", "--mutants", "10"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("Istio 1.8.3, IPv4")
    assert "  named faults    6 of 6 caught" in lines
    assert "    PREROUTING emptied" in lines
    assert "      inbound tcp 80 reaches the application without Envoy" in lines
    assert lines[-1].endswith("a green suite means something")
    assert err == "Istio 1.8.3: 10 of 10 mutants judged\n"


def test_a_judge_that_sees_nothing_exits_with_1_and_the_first_missed_is_explained(monkeypatch, capsys):
    monkeypatch.setattr(score, "judge", lambda *_, **__: iter(()))
    assert main(["selftest", "--mutants", "6"]) == 1
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("  missed          6")
    rules, packet, before, after, suite = lines[place + 1 : place + 6]
    assert rules.startswith("    rules         a mutant that ")
    assert packet.startswith("    packet        ")
    assert " port 15001" in before or " port 15006" in before
    assert after != before
    assert suite == "    suite         nothing against these rules"
    assert "      MISSED" in lines
    assert lines[-1].startswith("wrong verdicts: 6 missed, 0 false alarms")


def test_json_has_a_score_for_each_release_and_nothing_else_on_standard_output(capsys):
    releases = ["--istio-version", "1.6.14", "--istio-version", "1.30.3"]
    assert main(["selftest", "--mutants", "7", "--json", *releases]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["perfect"] is True
    assert [(held["istio"], held["backend"]) for held in document["releases"]] == [
        ("1.6.14", "legacy"),
        ("1.30.3", "nf_tables"),
    ]
    for held in document["releases"]:
        assert (held["mutants"], held["missed"], held["false_alarms"]) == (7, [], [])
        assert held["caught"] == held["change_a_fate"] >= 6
        assert [fault["caught"] for fault in held["named_faults"]] == [True] * 6


def test_no_pod_is_left(capsys):
    main(["selftest", "--mutants", "6"])
    assert list(leases_directory().iterdir()) == []
