"""Options: the command line wins over the ini file; what cannot be meant is refused."""

from itertools import pairwise

import pytest

from pytest_istio_sidecar.cli import main
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
        (
            ["--istio-accept-options=excludeInboundPort"],
            "no option excludeInboundPort; excludeInboundPorts?",
        ),
        (["--istio-accept-options=frob"], "There are proxy_port, "),
        (["--istio-accept-options=proxy_uid,"], "Istio has no option "),
        (["--istio-accept-options="], "to accept none, leave the argument out"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings_for, arguments, message):
    with pytest.raises(pytest.UsageError) as refused:
        settings_for(*arguments)
    assert message in str(refused.value)


def test_accepted_options_are_named_as_istio_does_or_as_python_and_kept_as_fields(settings_for, pytester):
    pytester.makeini("[pytest]\nistio_accept_options =\n    includeInboundPorts\n    outbound_ports_exclude")
    assert settings_for().accepted_options == ("inbound_ports_include", "outbound_ports_exclude")
    annotation = "traffic.sidecar.istio.io/excludeInboundPorts,excludeOutboundPorts"
    assert settings_for(f"--istio-accept-options={annotation}").accepted_options == (
        "inbound_ports_exclude,outbound_ports_exclude",
    )


def test_an_option_that_istio_does_not_have_is_refused_at_the_start(pytester):
    result = pytester.runpytest_subprocess("--istio-accept-options=frob")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--istio-accept-options=frob: Istio has no option frob*"])


LISTING = ("--istio-environment=file", "--istio-table=pod.rules")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--istio-version=bla"], "--istio-version=bla: expected a release such as 1.8.3"),
        (["--istio-timeout=abc"], "--istio-timeout=abc: expected seconds, more than 0 and at most 86400"),
        (["--istio-reader=banana"], "--istio-reader=banana: expected one of auto, exec, *"),
        (["--istio-environment=banana"], "--istio-environment=banana: expected one of kind, *"),
        (["--istio-reviewed-bypasses=nosuch"], "--istio-reviewed-bypasses=nosuch: there is no such file"),
        (["--istio-reviewed-bypasses=broken.toml"], "*broken.toml*"),
        (["--istio-environment=file"], "--istio-environment=file needs a listing: --istio-table FILE"),
        (["--istio-environment=embedded", "--istio-table=x"], "--istio-table is for *"),
        (
            ["--istio-environment=kind", "--istio-embedded-setup=broken.toml"],
            "--istio-embedded-setup is for --istio-environment=embedded; *",
        ),
        (["--istio-environment=embedded", "--istio-version=0.9.1"], "the rules of Istio 0.9.1 are not *"),
        ([*LISTING, "--istio-option=foo=1"], "Istio has no option foo*"),
        ([*LISTING, "--istio-option=proxy_port=port"], "proxy_port: 'port' is no port"),
        ([*LISTING, "--istio-option=proxy_uid=0", "--istio-option=proxy_uid=1"], "proxy_uid is given twice*"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("processes", [[], ["-n1"]], ids=["alone", "xdist"])
def test_a_wrong_option_is_told_once_and_before_any_test(pytester, arguments, message, processes):
    pytester.makefile(".toml", broken="bypass = 3")
    pytester.makepyfile("def test_one(pod_rules): pass\ndef test_two(pod_rules): pass")
    result = pytester.runpytest_inprocess(*processes, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert sum(line.startswith("ERROR: ") for line in result.errlines) == 1
    result.stderr.no_fnmatch_line("*Traceback*")
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    result.stdout.no_fnmatch_line("*collected*")


def test_check_ends_with_2_at_a_wrong_option(pytester):
    assert main(["check", "--istio-version=bla"]) == 2


def test_help_is_shown_whatever_the_ini_file_says(pytester):
    pytester.makeini("[pytest]\nistio_environment = banana")
    assert pytester.runpytest("--help").ret == 0


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


def test_listing_the_tests_needs_no_environment(pytester):
    result = pytester.runpytest_subprocess("--collect-only", "-q", "--pyargs", "pytest_istio_sidecar.suite")
    assert result.ret == 0
    assert any("test_prerouting_sends_all_tcp_to_istio_inbound" in line for line in result.outlines)
