"""`judge`, by which the detection power is measured, asks of a pod's rules what the shipped suite asks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_istio_sidecar import IstioOptions, expected_ruleset, render_save

RECORDER = Path(__file__).with_name("recorded_checks.py")
NOT_OF_ITS_RULES = ("check_reviewed_bypasses", "check_replicas")
"""Asked of the options, and of other pods."""


@pytest.fixture
def calls(pytester, monkeypatch):
    """A function: the checks that the suite, or `judge`, makes of a listing."""
    noted = pytester.path / "calls.json"
    monkeypatch.setenv("RECORDED_CHECKS", str(noted))
    monkeypatch.setenv("PYTHONPATH", str(RECORDER.parent))
    listing = pytester.path / "pod.rules"

    def of_suite(rules: str, version: str, *pairs: str) -> set[str]:
        listing.write_text(rules)
        pytester.runpytest_subprocess(
            "-p", RECORDER.stem, "-p", "no:cacheprovider", "--pyargs", "pytest_istio_sidecar.suite",
            "--istio-environment=file", f"--istio-table={listing}", f"--istio-version={version}",
            *(f"--istio-option={pair}" for pair in pairs),
        )  # fmt: skip
        return {call for call in json.loads(noted.read_text()) if not call.startswith(NOT_OF_ITS_RULES)}

    def of_judge(rules: str, version: str, *pairs: str) -> set[str]:
        listing.write_text(rules)
        command = [sys.executable, str(RECORDER), str(listing), version, *pairs]
        subprocess.run(command, timeout=60, check=True)
        return set(json.loads(noted.read_text()))

    return of_suite, of_judge


@pytest.mark.parametrize(
    ("version", "pairs"),
    [
        ("1.5.10", ()),
        ("1.8.3", ()),
        ("1.30.3", ()),
        ("1.20.8", ("inbound_ports_exclude=15090,15021,8443,15020", "enable_ipv6=true")),
    ],
)
def test_the_suite_and_judge_ask_the_same(calls, version, pairs):
    of_suite, of_judge = calls
    rules = render_save(expected_ruleset(version, options=IstioOptions.from_pairs(pairs)))
    asked = of_suite(rules, version, *pairs)
    assert asked == of_judge(rules, version, *pairs)
    assert len(asked) >= 15


def test_they_ask_the_same_of_rules_that_fail(calls):
    of_suite, of_judge = calls
    rules = render_save(expected_ruleset("1.8.3")).replace("-A PREROUTING -p tcp -j ISTIO_INBOUND\n", "")
    assert of_suite(rules, "1.8.3") == of_judge(rules, "1.8.3")
