"""The shipped suite on a listing: the lab's own passes, and what it leaves out is said."""

from pathlib import Path

import pytest

LAB = Path(__file__).parents[1] / "data" / "lab-listing-1.8.3.txt"


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


LISTING_OF_OTHERS = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING -j ACCEPT\nCOMMIT\n"


def test_rules_without_istios_fail_where_the_release_can_write_no_others(run_suite):
    assert run_suite(LISTING_OF_OTHERS).parseoutcomes()["failed"] > 5


def test_rules_without_istios_are_undecided_where_the_release_can_write_native_tables(run_suite):
    result = run_suite(LISTING_OF_OTHERS, "--istio-version=1.28.0")
    outcomes = result.parseoutcomes()
    assert (outcomes["errors"], outcomes.get("failed", 0)) == (1, 0)
    result.stdout.fnmatch_lines(["*nf_tables' own tables were not read*"])
