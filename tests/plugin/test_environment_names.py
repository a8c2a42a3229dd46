"""An environment that cannot be had stops the run with one sentence."""

import pytest


@pytest.fixture
def without_kind(monkeypatch, tmp_path):
    """A PATH with no kind on it, whatever this machine has, and nowhere to get one from."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("ISTIO_SIDECAR_MIRROR", "http://127.0.0.1:9")


@pytest.mark.parametrize("processes", [[], ["-n2"]], ids=["alone", "xdist"])
def test_a_cluster_that_cannot_be_made_stops_the_run_and_names_what_needs_none(
    pytester, without_kind, processes
):
    result = pytester.runpytest_subprocess("--pyargs", "pytest_istio_sidecar.suite", *processes)
    assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    result.stdout.fnmatch_lines(
        [
            "*there is no kind on the PATH, and 0.17.0 could not be downloaded*",
            "*install kind, *",
            "*without a cluster: --istio-environment=embedded*",
        ]
    )
    assert result.parseoutcomes().keys() <= {"error", "errors", "skipped"}
    assert result.parseoutcomes().get("error", result.parseoutcomes().get("errors")) <= 2


def test_a_release_whose_rules_are_not_known_is_refused_by_name(pytester):
    result = pytester.runpytest_subprocess(
        "--pyargs", "pytest_istio_sidecar.suite", "--istio-environment=embedded", "--istio-version=0.9.1"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the rules of Istio 0.9.1 are not described; *"])


def test_a_listing_that_is_not_there_is_named(pytester):
    result = pytester.runpytest_subprocess(
        "--pyargs", "pytest_istio_sidecar.suite", "--istio-environment=file", "--istio-table=nowhere.txt"
    )
    result.stdout.fnmatch_lines(["*cannot read nowhere.txt: No such file or directory*"])
    assert "passed" not in result.parseoutcomes()


def test_a_project_that_asks_for_no_fixture_has_no_summary_and_no_folder(pytester):
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*istio sidecar*")
    assert not (pytester.path / ".istio-sidecar").exists()


def test_a_run_begins_with_what_it_was_asked_for(pytester):
    pytester.makeini("[pytest]\nistio_version = 1.6.14\n")
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest_subprocess("--istio-environment=embedded", "--istio-traffic")
    result.stdout.fnmatch_lines(
        ["istio sidecar: --istio-environment=embedded --istio-version=1.6.14 --istio-traffic", "rootdir: *"]
    )
