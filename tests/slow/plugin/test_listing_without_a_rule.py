"""The shipped suite on the lab's listing without one of its rules: it never passes but for a dead one."""

import re
from pathlib import Path

import pytest

LAB = Path(__file__).parents[2] / "data" / "lab-listing-1.8.3.txt"


def rules_of(listing: str) -> list[str]:
    lines = listing.splitlines()
    return [line for line in lines if line and not line.startswith(("Chain ", "target "))]


RULES = rules_of(LAB.read_text())


@pytest.fixture
def run_suite(pytester, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")

    def run(listing: str):
        path = pytester.path / "listing.txt"
        path.write_text(listing)
        return pytester.runpytest_subprocess(
            "-p",
            "no:cacheprovider",
            "--pyargs",
            "pytest_istio_sidecar.suite",
            "--istio-environment=file",
            f"--istio-table={path}",
            "-q",
        )

    return run


def without_a_reference(listing: str, chain: str) -> str:
    """As iptables prints it where one rule less goes to the chain."""
    pattern = rf"(?<=^Chain {chain} \()\d+(?= references)"
    return re.sub(pattern, lambda match: f"{int(match[0]) - 1}", listing, flags=re.MULTILINE)


def is_dead(number: int) -> bool:
    """Rules 5, 6 and 8 of ISTIO_OUTPUT decide nothing: the lab's listing has them at these places."""
    first = next(i for i, line in enumerate(RULES) if "127.0.0.6" in line)
    return number - first + 1 in (5, 6, 8)


@pytest.mark.parametrize("number", range(len(RULES)), ids=[" ".join(rule.split()) for rule in RULES])
def test_the_listing_without_one_rule_passes_only_when_that_rule_is_dead(run_suite, number):
    listing = LAB.read_text()
    lines = listing.splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if line.rstrip("\n") in RULES]
    target, *_ = lines.pop(places[number]).split()
    result = run_suite(without_a_reference("".join(lines), target))
    outcomes = result.parseoutcomes()
    if is_dead(number):
        assert outcomes.keys() == {"passed", "skipped"}
        result.stdout.fnmatch_lines(["*ISTIO_OUTPUT has no*nothing changes*"])
    else:
        assert outcomes.keys() & {"failed", "errors", "error"}
        verdicts = [line for line in result.outlines if line.startswith(("FAILED ", "ERROR "))]
        assert all(
            any(
                name in line
                for name in (
                    "BypassError",
                    "RedirectError",
                    "RuleSetMismatch",
                    "Undecided",
                    "matches packets of this pod",
                )
            )
            for line in verdicts
        ), verdicts
