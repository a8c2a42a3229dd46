"""What prevented a verdict is an error, apart from failures, and never a pass."""

from xml.etree import ElementTree as ET

import pytest

SOURCE = """
    import pytest
    from pytest_istio_sidecar import BypassError, Undecided

    def test_nobody_can_tell():
        raise Undecided("the listing hides the interface")

    def test_it_is_wrong():
        raise BypassError("inbound tcp/8443 reaches the application without Envoy")

    def test_it_holds():
        pass
"""


@pytest.fixture
def suite(pytester):
    pytester.makepyfile(SOURCE)
    return pytester


@pytest.mark.parametrize("processes", [[], ["-n1"]], ids=["alone", "xdist"])
def test_a_missing_verdict_is_counted_as_an_error_and_not_as_a_failure(suite, processes):
    result = suite.runpytest_subprocess(*processes)
    result.assert_outcomes(passed=1, failed=1, errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_its_message_stands_under_errors(suite):
    result = suite.runpytest_subprocess("-k", "nobody_can_tell")
    result.stdout.fnmatch_lines(
        ["*= ERRORS =*", "*test_nobody_can_tell*", "E *Undecided: the listing hides the interface"]
    )
    result.stdout.no_fnmatch_line("*= FAILURES =*")


def test_junit_reports_it_as_an_error_and_the_verdict_as_a_failure(suite):
    suite.runpytest_subprocess("--junitxml=junit.xml")
    cases = {
        case.get("name"): [child.tag for child in case if child.tag in ("error", "failure")]
        for case in ET.parse(suite.path / "junit.xml").iter("testcase")
    }
    assert cases == {"test_nobody_can_tell": ["error"], "test_it_is_wrong": ["failure"], "test_it_holds": []}


def test_pytests_own_summary_stays_the_last_line(suite):
    last = suite.runpytest_subprocess().stdout.lines[-1]
    assert "1 failed, 1 passed, 1 error" in last
