"""What the user asked for, from command line, ini file and defaults.

Knows their order of precedence, and which choices exclude each other. Does not know what is done
with them. Invariant: a `Settings` is valid; what cannot be meant has been refused with the
accepted values named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_istio_sidecar.environments.choices import Choices, EnvironmentName, Keep
from pytest_istio_sidecar.environments.option import Option, key_of
from pytest_istio_sidecar.plugin import messages
from pytest_istio_sidecar.plugin.options import FIELDS, OPTIONS

_DEFAULT_CLUSTER = "pytest-kind"
"""The name that pytest-kind gives when none is given."""
_TABLE = key_of("--istio-table")


class Settings(Choices):
    """The options of this run, checked; None where neither given nor defaulted."""

    @classmethod
    def from_config(cls, config: pytest.Config) -> Settings:
        """Read the options; the command line wins over the ini file, both over the default.

        Raises:
            pytest.UsageError: a value that cannot be meant; the message names the accepted ones.
        """
        values: dict[str, Any] = {
            field: _value(config, option, given)
            for field, option in FIELDS.items()
            if (given := _given(config, option))
        }
        chosen = cls(**values, version_given="version" in values)
        _refuse_what_excludes(chosen)
        if not config.getoption("keep_cluster", default=False):
            return chosen
        if config.getoption("istio_keep") and chosen.keep is not Keep.ALWAYS:
            raise pytest.UsageError(str(messages.KEEP_DIFFERS(keep=chosen.keep)))
        return chosen.replace(keep=Keep.ALWAYS)


def report_paths(config: pytest.Config) -> tuple[Path, ...]:
    """The reports to write.

    Raises:
        pytest.UsageError: one of no known form.
    """
    names = _given(config, FIELDS["reports"])
    if not names:
        return ()
    from pytest_istio_sidecar.reports.form import ReportForm

    for name in names:
        if Path(name).suffix not in tuple(ReportForm):
            raise pytest.UsageError(str(messages.NO_REPORT(name=name, known=", ".join(ReportForm))))
    return tuple(config.invocation_params.dir / name for name in names)


def named_workloads(config: pytest.Config) -> tuple[str, tuple[str, ...]]:
    """The environment that was asked for, and the workloads, each once; unchecked, for collection."""
    environment = _ours(config, FIELDS["environment"]) or [""]
    return environment[0], tuple(dict.fromkeys(_ours(config, FIELDS["workloads"])))


def refuse_early(config: pytest.Config) -> Settings:
    """What was chosen, after all of it was looked at that can be without an environment.

    Raises:
        pytest.UsageError: something cannot be meant; the message names what can.
    """
    report_paths(config)
    chosen = Settings.from_config(config)
    made = chosen.environment is EnvironmentName.EMBEDDED and chosen.version_given
    if chosen.options or made or chosen.reviewed_bypasses:
        _refuse_what_istio_would(chosen)
    return chosen


def reads_standard_input(config: pytest.Config) -> bool:
    """Whether a listing may be standard input, by what pytest knows before it captures."""
    given = getattr(config.known_args_namespace, _TABLE, None) or config.getini(_TABLE) or ()
    return any(table.endswith("-") for table in given)


def asked(config: pytest.Config) -> tuple[str, ...]:
    """The options that were given, on the command line or in the ini file, as they are written."""
    return tuple(
        option.name if option.flag else f"{option.name}={value}"
        for option in OPTIONS
        for value in _ours(config, option)
    )


def _value(config: pytest.Config, option: Option, given: list[str]) -> object:
    """What the given text means.

    Raises:
        pytest.UsageError: it cannot be meant.
    """
    if option.flag:
        return True
    folder = config.invocation_params.dir
    checked = []
    for text in given:
        try:
            checked.append(option.check(text, folder))
        except ValueError as problem:
            raise pytest.UsageError(
                str(messages.OPTION_UNUSABLE(option=option.name, text=text, problem=problem))
            ) from None
    return tuple(checked) if option.repeat else checked[0]


def _given(config: pytest.Config, option: Option) -> list[str]:
    """What was given of a choice; nothing where neither this plugin nor pytest-kind was told.

    Raises:
        pytest.UsageError: both were, and differ.
    """
    ours = _ours(config, option) if option.name else []
    theirs: object = config.getoption(key_of(option.theirs), default=None) if option.theirs else None
    if not theirs or theirs == _DEFAULT_CLUSTER:
        return ours
    if ours and ours != [theirs]:
        raise pytest.UsageError(
            str(messages.PLUGINS_DIFFER(ours=option.name, value=ours[0], theirs=option.theirs, other=theirs))
        )
    return [str(theirs)]


def _ours(config: pytest.Config, option: Option) -> list[str]:
    """The option's value or values; none at all where neither it nor its ini twin is given."""
    given: object = config.getoption(option.key) or config.getini(option.key)
    if isinstance(given, list):
        return [str(value) for value in given]
    return [str(given)] if given else []


def _refuse_what_istio_would(chosen: Settings) -> None:
    """Look at the options against the release, and at the list; imported only where there is one of them."""
    from pytest_istio_sidecar.checks.bypass.reviewed import parse_reviewed_bypasses
    from pytest_istio_sidecar.errors import UsageProblem
    from pytest_istio_sidecar.istio.options import IstioOptions
    from pytest_istio_sidecar.istio.rules import expected_ruleset
    from pytest_istio_sidecar.machine.given_file import text_of

    path = chosen.reviewed_bypasses
    try:
        if chosen.options or chosen.version_given:
            expected_ruleset(chosen.version, options=IstioOptions.from_pairs(chosen.options))
        if path is not None:
            parse_reviewed_bypasses(text_of(path), source=str(path))
    except UsageProblem as problem:
        raise pytest.UsageError(str(problem.failure)) from None


def _refuse_what_excludes(chosen: Settings) -> None:
    environment = chosen.environment
    if environment is EnvironmentName.FILE and not chosen.tables:
        raise pytest.UsageError(str(messages.TABLE_MISSING()))
    if chosen.tables and environment is not EnvironmentName.FILE:
        raise pytest.UsageError(str(messages.TABLE_WITHOUT_FILE(environment=environment)))
    if chosen.embedded_setup is not None and environment is not EnvironmentName.EMBEDDED:
        raise pytest.UsageError(str(messages.SETUP_ELSEWHERE(environment=environment)))
    if chosen.options and environment not in (EnvironmentName.EMBEDDED, EnvironmentName.FILE):
        raise pytest.UsageError(str(messages.OPTION_OF_POD(environment=environment)))
