"""The shipped suite on pods with options of their own, and of every era."""

from __future__ import annotations

import pytest

from pytest_istio_sidecar import expected_ruleset, render_save

OPENED = "inbound_ports_exclude=15090,15021,8443,15020"
LISTED = """
[[bypass]]
what = "inbound tcp 8443"
why = "scraped in clear text"
until = 2999-01-01
"""


@pytest.fixture
def run_suite(pytester, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")

    def run(rules: str, version: str, *arguments: str):
        path = pytester.path / "pod.rules"
        path.write_text(rules)
        return pytester.runpytest_subprocess(
            "-p", "no:cacheprovider", "--pyargs", "pytest_istio_sidecar.suite", "-rs",
            "--istio-environment=file", f"--istio-table={path}", f"--istio-version={version}", *arguments,
        )  # fmt: skip

    return run


def saved(version: str, *pairs: str) -> str:
    return render_save(expected_ruleset(version, **dict(pair.split("=", 1) for pair in pairs)))


@pytest.mark.parametrize("version", ["1.5.10", "1.6.14", "1.8.3", "1.17.8", "1.24.6", "1.31.0-rc.0"])
def test_one_suite_passes_on_every_era(run_suite, version):
    assert run_suite(saved(version), version).parseoutcomes().keys() == {"passed", "skipped"}


@pytest.mark.parametrize(
    "pairs",
    [
        [OPENED],
        ["inbound_ports_include=80,8080"],
        ["outbound_ip_ranges_include=10.0.0.0/8", "outbound_ports_exclude=3306"],
        ["inbound_interception_mode=TPROXY"],
        ["proxy_uid=2000", "proxy_gid=2000"],
    ],
    ids=["excluded", "included", "outbound", "tproxy", "uid"],
)
def test_a_pod_with_its_own_options_passes_and_a_changed_table_does_not(run_suite, pairs):
    told = [f"--istio-option={pair}" for pair in pairs]
    rules = saved("1.20.8", *pairs)
    assert "failed" not in run_suite(rules, "1.20.8", *told).parseoutcomes()
    changed = rules.replace("REDIRECT --to-ports 15001", "REDIRECT --to-ports 15101")
    assert run_suite(changed, "1.20.8", *told).parseoutcomes()["failed"] >= 1


def test_what_options_open_is_listed_in_the_summary_and_fails_nothing(run_suite):
    result = run_suite(saved("1.8.3", OPENED), "1.8.3", f"--istio-option={OPENED}")
    assert "failed" not in result.parseoutcomes()
    result.stdout.fnmatch_lines(
        ["*inbound tcp 8443 gets by without Envoy, as the pod asks for it (excludeInboundPorts: 8443)"]
    )


@pytest.mark.parametrize(
    ("listed", "failed"),
    [
        (LISTED, 0),
        (LISTED.replace("2999", "2001"), 1),
        (LISTED.replace("8443", "9443"), 1),
    ],
    ids=["reviewed", "past its date", "another port"],
)
def test_an_opened_bypass_must_be_on_the_projects_list_and_in_date(run_suite, pytester, listed, failed):
    path = pytester.path / "reviewed.toml"
    path.write_text(listed)
    result = run_suite(
        saved("1.8.3", OPENED), "1.8.3", f"--istio-option={OPENED}", f"--istio-reviewed-bypasses={path}"
    )
    assert result.parseoutcomes().get("failed", 0) == failed
    if failed:
        result.stdout.fnmatch_lines(["*inbound tcp 8443 gets by without Envoy, and is not reviewed*"])


def test_the_review_that_ended_is_named(run_suite, pytester):
    path = pytester.path / "reviewed.toml"
    path.write_text(LISTED.replace("2999", "2001"))
    result = run_suite(
        saved("1.8.3", OPENED), "1.8.3", f"--istio-option={OPENED}", f"--istio-reviewed-bypasses={path}"
    )
    result.stdout.fnmatch_lines(
        ["*the review of inbound tcp 8443 ended on 2001-01-01: scraped in clear text*"]
    )


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("nonsense", "*Expected '=' after a key*"),
        ("[[bypass]]\nwhat = 'inbound tcp 8443'\n", "*bypass 1 needs what, why and until*"),
        (LISTED.replace("inbound", "sideways"), "*'sideways tcp 8443' is no bypass*"),
    ],
    ids=["no TOML", "incomplete", "no bypass"],
)
def test_a_list_that_cannot_be_read_says_why(run_suite, pytester, listed, said):
    path = pytester.path / "reviewed.toml"
    path.write_text(listed)
    result = run_suite(saved("1.8.3"), "1.8.3", f"--istio-reviewed-bypasses={path}", "-k", "reviewed")
    result.stderr.fnmatch_lines([said])


def test_an_option_is_refused_where_the_pod_tells_it(pytester):
    result = pytester.runpytest_subprocess(
        "--pyargs", "pytest_istio_sidecar.suite", "--istio-environment=existing", f"--istio-option={OPENED}"
    )
    result.stderr.fnmatch_lines(["*--istio-option is for the environments embedded and file*"])
