"""The shipped suite on listings: the lab's own passes, a damaged one never does."""

from pathlib import Path

import pytest

LAB = Path(__file__).parents[1] / "data" / "lab-listing-1.8.3.txt"


def rules_of(listing: str) -> list[str]:
    lines = listing.splitlines()
    return [line for line in lines if line and not line.startswith(("Chain ", "target "))]


RULES = rules_of(LAB.read_text())


@pytest.fixture
def run_suite(pytester, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")

    def run(listing: str, *arguments: str):
        path = pytester.path / "listing.txt"
        path.write_text(listing)
        return pytester.runpytest_subprocess(
            "-p",
            "no:cacheprovider",
            "--pyargs",
            "pytest_istio_sidecar.suite",
            "--istio-environment=file",
            f"--istio-table={path}",
            *arguments,
        )

    return run


def test_the_printed_listing_of_the_lab_passes(run_suite):
    result = run_suite(LAB.read_text())
    outcomes = result.parseoutcomes()
    assert outcomes.keys() == {"passed", "skipped"}
    result.stdout.fnmatch_lines(["*Istio 1.8.3*the listing does not show it*"])


def test_what_needs_traffic_or_listeners_is_skipped_with_the_reason(run_suite):
    result = run_suite(LAB.read_text(), "-rs")
    result.stdout.fnmatch_lines(
        [
            "SKIPPED *reads Envoy's listeners; the file environment has listings only",
            "SKIPPED *sends requests; the file environment has listings only",
        ]
    )


def is_dead(number: int) -> bool:
    """Rules 5, 6 and 8 of ISTIO_OUTPUT decide nothing: the lab's listing has them at these places."""
    first = next(i for i, line in enumerate(RULES) if "127.0.0.6" in line)
    return number - first + 1 in (5, 6, 8)


@pytest.mark.parametrize("number", range(len(RULES)), ids=[" ".join(rule.split()) for rule in RULES])
def test_the_listing_without_one_rule_passes_only_when_that_rule_is_dead(run_suite, number):
    listing = LAB.read_text()
    lines = listing.splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if line.rstrip("\n") in RULES]
    del lines[places[number]]
    result = run_suite("".join(lines), "-q")
    outcomes = result.parseoutcomes()
    if is_dead(number):
        assert outcomes.keys() == {"passed", "skipped"}
        result.stdout.fnmatch_lines(["*is not there*nothing changes*"])
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
