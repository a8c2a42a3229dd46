"""The marker istio_version: which tests it skips, and what ends the run."""

import pytest


def test_a_test_is_skipped_where_its_marker_leaves_the_release_out(pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.istio_version(">=1.13")
        def test_newer(): raise AssertionError

        @pytest.mark.istio_version(">=1.8,<1.13")
        def test_this(): pass
        """
    )
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED *holds for Istio >=1.13; this is 1.8.3"])


def test_every_marker_of_a_test_counts_that_of_its_class_too(pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.istio_version("<1.13")
        class TestOld:
            def test_all(self): pass

            @pytest.mark.istio_version("!=1.8.3")
            def test_but_one(self): raise AssertionError
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1, skipped=1)


def test_a_marker_on_one_parameter_leaves_the_others_alone(pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.istio_version(">=1.20")), 3])
        def test_n(n): assert n != 2
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=2, skipped=1)


def test_no_environment_is_brought_up_for_a_test_that_is_skipped(pytester, monkeypatch):
    monkeypatch.setenv("PATH", "")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.istio_version(">=1.13")
        def test_newer(pod_rules): raise AssertionError
        """
    )
    pytester.runpytest_subprocess("--istio-environment=kind").assert_outcomes(skipped=1)


def test_the_release_is_that_of_the_pod_with_its_variant_left_out(pytester):
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def istio_version(): return "1.20.8-distroless"
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.istio_version("==1.20.8")
        def test_this(): pass

        @pytest.mark.istio_version("<1.20")
        def test_older(): raise AssertionError
        """
    )
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*holds for Istio <1.20; this is 1.20.8-distroless"])


@pytest.mark.parametrize("written", ['"newer than 1.13"', "", '""', '">=1.8", "<1.13"', "1.8", 'since="1.8"'])
def test_a_marker_that_cannot_be_meant_ends_the_run_before_any_test(pytester, written):
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.istio_version({written})
        def test_it(): raise AssertionError

        def test_other(): raise AssertionError
        """
    )
    result = pytester.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.assert_outcomes()
    result.stderr.fnmatch_lines(
        ["ERROR: *::test_it: @pytest.mark.istio_version(*): expected one specifier such as '>=1.8,<1.13'"]
    )


def test_in_a_worker_a_marker_that_cannot_be_meant_is_the_error_of_its_test(pytester):
    pytester.makepyfile("import pytest\n@pytest.mark.istio_version('new')\ndef test_it(): pass")
    result = pytester.runpytest_subprocess("-n1")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*UsageError: *expected one specifier such as*"])
