"""The shipped suite on pods with options of their own, and of every era."""

from __future__ import annotations

import json

import pytest

from pytest_istio_sidecar import IstioOptions, expected_ruleset, render_save

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
    ("pairs", "accepted"),
    [
        ([OPENED], ["excludeInboundPorts"]),
        (["inbound_ports_include=80,8080"], ["inbound_ports_include"]),
        (
            ["outbound_ip_ranges_include=10.0.0.0/8", "outbound_ports_exclude=3306"],
            ["includeOutboundIPRanges,excludeOutboundPorts"],
        ),
        (["inbound_interception_mode=TPROXY"], []),
        (["proxy_uid=2000", "proxy_gid=2000"], []),
    ],
    ids=["excluded", "included", "outbound", "tproxy", "uid"],
)
def test_a_pod_with_its_own_options_passes_and_a_changed_table_does_not(run_suite, pairs, accepted):
    told = [f"--istio-option={pair}" for pair in pairs]
    told += [f"--istio-accept-options={names}" for names in accepted]
    rules = saved("1.20.8", *pairs)
    assert "failed" not in run_suite(rules, "1.20.8", *told).parseoutcomes()
    changed = rules.replace("REDIRECT --to-ports 15001", "REDIRECT --to-ports 15101")
    assert run_suite(changed, "1.20.8", *told).parseoutcomes()["failed"] >= 1


def test_what_options_open_fails_unless_it_is_accepted(run_suite):
    told = [saved("1.8.3", OPENED), "1.8.3", f"--istio-option={OPENED}"]
    result = run_suite(*told)
    assert (result.ret, result.parseoutcomes()["failed"]) == (1, 1)
    result.stdout.fnmatch_lines(
        [
            "E *inbound tcp 8443 gets by without Envoy, and is not reviewed (excludeInboundPorts: 8443)*",
            "E *or accept whatever the option opens: --istio-accept-options=inbound_ports_exclude",
            "E *replay   istio-sidecar trace *pod.rules --inbound tcp/8443",
            "traffic of *pod.rules gets past Envoy: inbound tcp 8443 (excludeInboundPorts: 8443)",
        ]
    )
    result = run_suite(*told, "--istio-accept-options=inbound_ports_exclude")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*, except what Istio 1.8.3 lets by, and what the pod's options open (accepted): inbound*",
            "*inbound tcp 8443 gets by without Envoy, as the pod asks for it (excludeInboundPorts: 8443)",
        ]
    )


ALL_OUT = ("inbound_ports_include=", "outbound_ip_ranges_include=")


def test_a_pod_that_takes_itself_out_of_envoy_fails_and_the_report_says_against(run_suite, pytester):
    told = [saved("1.20.8", *ALL_OUT), "1.20.8", *(f"--istio-option={pair}" for pair in ALL_OUT)]
    result = run_suite(*told, "--istio-report=r.json")
    report = json.loads((pytester.path / "r.json").read_text())
    assert (result.ret, report["answer"]["verdict"]) == (1, "against")
    assert report["answer"]["text"].partition("pod.rules ")[2] == (
        'does not go through Envoy: inbound tcp not 15008,15020-15021,15090 (includeInboundPorts: ""); '
        'outbound tcp from uid not 1337 gid not 1337 by eth0 (includeOutboundIPRanges: "")'
    )
    accepted = "--istio-accept-options=includeInboundPorts,includeOutboundIPRanges"
    result = run_suite(*told, "--istio-report=r.json", accepted)
    report = json.loads((pytester.path / "r.json").read_text())
    assert (result.ret, report["answer"]["verdict"]) == (0, "holds")
    assert "does not go through Envoy, as it need not" in report["answer"]["text"]


def test_what_no_test_judged_is_no_verdict_in_the_report(run_suite, pytester):
    told = [saved("1.8.3", OPENED), "1.8.3", f"--istio-option={OPENED}", "-k", "redirect_redirects"]
    result = run_suite(*told, "--istio-report=r.json")
    answer = json.loads((pytester.path / "r.json").read_text())["answer"]
    assert (result.ret, answer["verdict"]) == (0, "undecided")
    assert answer["text"].endswith("; no test that ran judges this")


def test_a_pod_without_interception_fails(run_suite):
    told = ["1.20.8", "--istio-option=inbound_interception_mode=NONE"]
    rules = saved("1.20.8", "inbound_interception_mode=NONE")
    assert run_suite(rules, *told).ret == 1
    assert run_suite(rules, *told, "--istio-accept-options=interceptionMode").ret == 0


def test_what_an_option_opens_of_ipv6_fails(run_suite, pytester):
    pairs = ["outbound_ip_ranges_exclude=::/0", "enable_ipv6=true"]
    options = IstioOptions.from_pairs(pairs)
    (pytester.path / "pod6.rules").write_text(
        render_save(expected_ruleset("1.20.8", family=6, options=options))
    )
    told = ["1.20.8", "--istio-table=ip6:pod6.rules", *(f"--istio-option={pair}" for pair in pairs)]
    result = run_suite(render_save(expected_ruleset("1.20.8", options=options)), *told)
    assert (result.ret, result.parseoutcomes()["failed"]) == (1, 1)
    result.stdout.fnmatch_lines(
        ["E *replay   istio-sidecar trace ip6:pod6.rules --outbound '[[]2001:db8::20]:80'*"]
    )


JUMP = "-A PREROUTING -p tcp -j ISTIO_INBOUND\n"


@pytest.mark.parametrize("place", ["PREROUTING", "ISTIO_INBOUND"])
def test_what_a_foreign_rule_opens_and_is_reviewed_passes_with_a_notice(run_suite, pytester, place):
    path = pytester.path / "reviewed.toml"
    path.write_text(LISTED)
    line = f"-A {place} -p tcp -m tcp --dport 8443 -j RETURN\n"
    first = JUMP if place == "PREROUTING" else "-A ISTIO_INBOUND -p tcp -m tcp --dport 22 -j RETURN\n"
    rules = saved("1.8.3").replace(first, line + first)
    result = run_suite(rules, "1.8.3", f"--istio-reviewed-bypasses={path}")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "traffic of *, and what is open and reviewed: inbound tcp 8443:",
            "*inbound tcp 8443 gets by without Envoy; reviewed until 2999-01-01: scraped in clear text",
        ]
    )
    again = run_suite(rules.replace("8443", "8443:8444"), "1.8.3", f"--istio-reviewed-bypasses={path}")
    assert again.ret == 1
    again.stdout.fnmatch_lines(["traffic of *pod.rules gets past Envoy: inbound tcp 8444"])


def test_a_foreign_rule_outbound_that_is_reviewed_passes(run_suite, pytester):
    path = pytester.path / "reviewed.toml"
    path.write_text(LISTED.replace("inbound tcp 8443", "outbound tcp 443 to 198.51.100.0/24"))
    first = "-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN\n"
    line = "-A ISTIO_OUTPUT -d 198.51.100.0/24 -p tcp -m tcp --dport 443 -j RETURN\n"
    rules = saved("1.8.3").replace(first, line + first)
    result = run_suite(rules, "1.8.3", f"--istio-reviewed-bypasses={path}")
    assert result.ret == 0
    assert run_suite(rules, "1.8.3").ret == 1


def test_a_failure_names_the_review_that_does_not_hold(run_suite, pytester):
    path = pytester.path / "reviewed.toml"
    path.write_text(LISTED + 'pod = "other/*"\n')
    rules = saved("1.8.3").replace(JUMP, f"-A PREROUTING -p tcp -m tcp --dport 8443 -j RETURN\n{JUMP}")
    result = run_suite(rules, "1.8.3", f"--istio-reviewed-bypasses={path}")
    result.stdout.fnmatch_lines(
        ["E *cause    the review of inbound tcp 8443 is for pods other/[*], and this is"]
    )


@pytest.mark.parametrize("text", ["", "bypass = []", "# nothing yet"])
def test_a_list_of_none_is_a_list(run_suite, pytester, text):
    path = pytester.path / "reviewed.toml"
    path.write_text(text)
    assert run_suite(saved("1.8.3"), "1.8.3", f"--istio-reviewed-bypasses={path}").ret == 0


def test_a_test_that_the_release_does_not_hold_to_is_skipped_with_a_reason_that_agrees_with_itself(run_suite):
    pairs = ["inbound_ports_include=8080"]
    told = [f"--istio-option={pairs[0]}", "--istio-accept-options=inbound_ports_include"]
    result = run_suite(saved("1.20.8", *pairs), "1.20.8", *told)
    skips = [line for line in result.outlines if line.startswith("SKIPPED") and "told" in line]
    assert skips
    assert any(
        line.endswith(
            "Istio 1.20.8, told inbound_ports_include=8080, means otherwise: "
            "inbound tcp 80 reaches the application without Envoy"
        )
        for line in skips
    )
    assert not any("is not Istio" in line for line in skips)


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
        ("nonsense", "*reviewed.toml: Expected '=' after a key*"),
        ("[[bypass]]\nwhat = 'inbound tcp 8443'\n", "*bypass 1 needs what, why and until*"),
        (LISTED.replace("inbound", "sideways"), "*'sideways tcp 8443' is no bypass*"),
        (LISTED.encode() + b"# \xff", "*reviewed.toml: 'utf-8' codec*"),
    ],
    ids=["no TOML", "incomplete", "no bypass", "no text"],
)
@pytest.mark.parametrize("environment", ["kind", "file"])
def test_a_list_that_cannot_be_read_is_refused_before_anything_is_brought_up(
    pytester, listed, said, environment
):
    path = pytester.path / "reviewed.toml"
    path.write_bytes(listed if isinstance(listed, bytes) else listed.encode())
    result = pytester.runpytest_subprocess(
        "--pyargs", "pytest_istio_sidecar.suite", f"--istio-environment={environment}",
        "--istio-table=none.rules" if environment == "file" else "--istio-timeout=1",
        f"--istio-reviewed-bypasses={path}",
    )  # fmt: skip
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


def test_an_option_is_refused_where_the_pod_tells_it(pytester):
    result = pytester.runpytest_subprocess(
        "--pyargs", "pytest_istio_sidecar.suite", "--istio-environment=existing", f"--istio-option={OPENED}"
    )
    result.stderr.fnmatch_lines(["*--istio-option is for the environments embedded and file*"])
