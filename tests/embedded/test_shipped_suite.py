"""The shipped suite on an embedded pod, as a user runs it: alone, with workers, and when a worker dies."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

SUITE = ("--pyargs", "pytest_istio_sidecar.suite", "--istio-environment=embedded")

WHICH_POD = """
    import os, pytest

    @pytest.mark.parametrize("number", range(8))
    def test_notes_the_pod(istio_environment, number):
        with open("pods.txt", "a") as file:
            file.write(f"{istio_environment._directory}\\n")
"""

CRASH = """
    import os

    def test_first(istio_environment): pass

    def test_crashes(istio_environment, worker_id):
        if not os.path.exists("crashed"):
            open("crashed", "w").close()
            os._exit(3)

    def test_last(iptables_nat): assert iptables_nat.chains
"""


@pytest.fixture
def runtime(pytester, monkeypatch):
    """A private place for leases, so that what a run leaves behind is seen."""
    place = pytester.path / "runtime"
    place.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    return place


def left_in(runtime: Path) -> list[str]:
    return sorted(path.name for path in runtime.rglob("*") if path.name != "istio-sidecar")


def processes_that_mention(text: str) -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in command:
                found.append(command)
    return found


def ended(runtime: Path, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while processes_that_mention(str(runtime)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_every_claim_of_the_lab_passes_and_nothing_skips(pytester, runtime):
    result = pytester.runpytest_subprocess(*SUITE)
    assert result.parseoutcomes().keys() == {"passed"}, result.stdout.str()
    assert result.parseoutcomes()["passed"] >= 40


def test_the_summary_tells_what_was_tested_and_pytests_line_is_the_last(pytester, runtime):
    result = pytester.runpytest_subprocess(*SUITE)
    result.stdout.fnmatch_lines(
        [
            "*- istio sidecar -*",
            "traffic of embedded/httpbin goes through Envoy, except what Istio 1.8.3 lets by:",
            "  inbound *not tcp; tcp 22,15008,15020-15021,15090; all IPv6: no rules",
            "verdicts *as wanted*",
            "environment *embedded*",
            "pod *embedded/httpbin*",
            "redirected *inbound tcp not 22,15008,15020-15021,15090 -> :15006",
            "real requests *inbound to 80, 8443: captured by Envoy's inbound listener",
            "evidence *",
        ]
    )
    assert " passed in " in result.stdout.lines[-1]
    assert result.stderr.str() == ""


def test_four_workers_share_one_pod_and_the_controller_takes_it_down(pytester, runtime):
    pytester.makepyfile(WHICH_POD)
    result = pytester.runpytest_subprocess("-n4", "--istio-environment=embedded")
    result.assert_outcomes(passed=8)
    assert len(set((pytester.path / "pods.txt").read_text().split())) == 1
    assert left_in(runtime) == []
    assert ended(runtime)


def test_a_crashed_worker_leaves_the_pod_to_the_others_and_nothing_behind(pytester, runtime):
    pytester.makepyfile(CRASH)
    result = pytester.runpytest_subprocess("-n1", "--istio-environment=embedded")
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"]) == (2, 1)
    assert left_in(runtime) == []
    assert ended(runtime)


def test_a_failing_test_leaves_nothing_behind_but_the_evidence(pytester, runtime):
    pytester.makepyfile(
        """
        from pytest_istio_sidecar import assert_redirect_target

        def test_wrong(iptables_nat): assert_redirect_target(iptables_nat, "ISTIO_REDIRECT", 15006)
        """
    )
    result = pytester.runpytest_subprocess("--istio-environment=embedded", "--istio-evidence=kept")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E  *replay   istio-sidecar trace kept/*/iptables-legacy-save_c.txt *"])
    (folder,) = (pytester.path / "kept").iterdir()
    assert "ISTIO_REDIRECT" in (folder / "iptables-legacy-save_c.txt").read_text()
    assert left_in(runtime) == []
    assert ended(runtime)


def test_a_listing_kept_as_evidence_replays_the_verdict(pytester, runtime):
    pytester.makepyfile(
        """
        from pytest_istio_sidecar import assert_redirected, inbound

        def test_wrong(pod_rules): assert_redirected(pod_rules, inbound(22))
        """
    )
    result = pytester.runpytest_subprocess("--istio-environment=embedded", "--istio-report=report.json")
    (line,) = [line for line in result.outlines if line.startswith("E ") and "  replay   " in line]
    command = line.partition("replay   istio-sidecar ")[2].split()
    replayed = pytester.run(sys.executable, "-m", "pytest_istio_sidecar", *command)
    assert replayed.outlines[0] == "inbound tcp 22: unchanged (nat only was given)"
    (test,) = json.loads((pytester.path / "report.json").read_text())["tests"]
    rule = test["problems"][0]["rule"]
    file, _, number = rule["location"].rpartition(":")
    assert (pytester.path / file).read_text().splitlines()[int(number) - 1].endswith(f"] {rule['text']}")
    os.chdir(test["evidence"])
    command = Path("replay.txt").read_text().removeprefix("istio-sidecar ").split()
    replayed = pytester.run(sys.executable, "-m", "pytest_istio_sidecar", *command)
    assert json.loads(replayed.outlines[0])["fate"] == "unchanged"


def test_clean_finds_the_folder_of_a_run_that_was_killed(pytester, runtime):
    pytester.makepyfile(
        """
        import os, signal

        def test_killed(istio_environment): os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    pytester.runpytest_subprocess("--istio-environment=embedded")
    assert ended(runtime)
    cleaned = pytester.run(sys.executable, "-m", "pytest_istio_sidecar", "clean")
    assert any("run-" in line for line in cleaned.outlines)
    assert left_in(runtime) == []


@pytest.mark.parametrize(
    ("version", "options", "accepted"),
    [
        ("1.8.3", ["inbound_ports_exclude=15090,15021,8443,15020"], "excludeInboundPorts"),
        ("1.20.8", ["inbound_ports_include=8080"], "includeInboundPorts"),
        (
            "1.27.3",
            ["outbound_ip_ranges_include=198.51.100.0/24", "drop_invalid=true"],
            "includeOutboundIPRanges",
        ),
        ("1.20.8", ["redirect_dns=true", "capture_all_dns=true"], ""),
        ("1.20.8", ["redirect_dns=true", "dns_servers_v4=192.0.2.53"], ""),
        ("1.20.8", ["inbound_interception_mode=TPROXY", "enable_ipv6=true"], ""),
        ("1.20.8", ["inbound_interception_mode=NONE"], "interceptionMode"),
    ],
    ids=["an excluded port", "a list of ports", "a range", "dns", "dns of its servers", "tproxy", "none"],
)
@pytest.mark.usefixtures("runtime")
def test_the_suite_passes_on_a_pod_with_options_of_its_own_once_what_they_open_is_accepted(
    pytester, version, options, accepted
):
    told = [f"--istio-version={version}", *(f"--istio-option={option}" for option in options)]
    accept = [f"--istio-accept-options={accepted}"] if accepted else []
    result = pytester.runpytest_subprocess(*SUITE, *told, *accept)
    outcomes = result.parseoutcomes()
    assert not {"failed", "error", "errors"} & outcomes.keys()
    assert outcomes["passed"] >= 20
    if accept:
        result = pytester.runpytest_subprocess(*SUITE, *told, "-k", "options_of_the_pod")
        result.assert_outcomes(failed=1)


def test_dns_that_is_sent_where_nobody_listens_is_in_the_summary(pytester):
    told = ["--istio-version=1.20.8", "--istio-option=redirect_dns=true"]
    told += ["--istio-option=dns_servers_v4=192.0.2.53"]
    result = pytester.runpytest_subprocess(*SUITE, *told, "-k", "every_captured_packet")
    result.assert_outcomes(passed=1)
    assert "DNS by udp is sent to 127.0.0.1:15053, where" in " ".join(result.stdout.str().split())
