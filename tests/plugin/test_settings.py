"""Options: the command line wins over the ini file; what cannot be meant is refused."""

from itertools import pairwise

import pytest

from pytest_istio_sidecar.plugin.options import GROUPS
from pytest_istio_sidecar.plugin.settings import EnvironmentName, Settings


@pytest.fixture
def settings_for(pytester):
    return lambda *arguments: Settings.from_config(pytester.parseconfig(*arguments))


def test_the_default_environment_is_kind_and_the_default_version_1_8_3(settings_for):
    chosen = settings_for()
    assert (chosen.environment, chosen.version, chosen.version_given) == (
        EnvironmentName.KIND,
        "1.8.3",
        False,
    )


def test_an_ini_value_is_used(settings_for, pytester):
    pytester.makeini("[pytest]\nistio_environment = embedded\nistio_timeout = 42")
    chosen = settings_for()
    assert (chosen.environment, chosen.timeout) == (EnvironmentName.EMBEDDED, 42.0)


def test_the_command_line_wins_over_the_ini_file(settings_for, pytester):
    pytester.makeini("[pytest]\nistio_environment = embedded")
    assert settings_for("--istio-environment=kind").environment is EnvironmentName.KIND


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--istio-environment=cloud"],
            "--istio-environment=cloud: expected one of kind, existing, embedded, file",
        ),
        (["--istio-environment=file"], "needs a listing: --istio-table FILE"),
        (["--istio-table=x"], "--istio-table is for --istio-environment=file; the environment is kind"),
        (["--istio-version=latest"], "--istio-version=latest: expected a release such as 1.8.3"),
        (["--istio-timeout=soon"], "--istio-timeout=soon: expected seconds, more than 0 and at most 86400"),
        (["--istio-timeout=0"], "expected seconds, more than 0"),
        (["--istio-timeout=nan"], "expected seconds, more than 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings_for, arguments, message):
    with pytest.raises(pytest.UsageError) as refused:
        settings_for(*arguments)
    assert message in str(refused.value)


def test_every_option_has_an_ini_twin(pytester):
    text = pytester.runpytest("--help").stdout.str()
    from pytest_istio_sidecar.plugin.settings import OPTIONS

    for option in OPTIONS:
        assert option.name in text
        assert f"{option.key} (" in text


def test_options_stand_under_the_environment_that_they_are_for(pytester):
    text = pytester.runpytest("--help").stdout.str()
    headings = ["Istio sidecar interception:", *(f"{name}:" for name in list(GROUPS)[1:])]
    places = [text.index(f"\n{heading}\n") for heading in headings]
    assert places == sorted(places)
    general, kind, existing, embedded = (text[a:b] for a, b in pairwise([*places, text.index("[pytest]")]))
    assert "--istio-environment=" in general
    assert "--istio-keep=" in kind
    assert "--istio-traffic" in existing
    assert "--istio-embedded-setup=" in embedded


def test_a_script_for_the_embedded_pod_is_refused_elsewhere(pytester):
    pytester.makefile(".sh", setup="true")
    pytester.makepyfile("def test_one(istio_settings): pass")
    result = pytester.runpytest("--istio-environment=kind", "--istio-embedded-setup=setup.sh")
    result.assert_outcomes(errors=1)
    assert "--istio-embedded-setup is for --istio-environment=embedded" in result.stdout.str()


def test_listing_the_tests_needs_no_environment(pytester):
    result = pytester.runpytest_subprocess("--collect-only", "-q", "--pyargs", "pytest_istio_sidecar.suite")
    assert result.ret == 0
    assert any("test_prerouting_sends_all_tcp_to_istio_inbound" in line for line in result.outlines)
