"""`istio-sidecar check`: the shipped suite.

Knows how pytest's outcomes become an exit status. Does not know what is tested.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pytest_istio_sidecar.cli.command import Commands, Status
from pytest_istio_sidecar.environments.choices import EnvironmentName

if TYPE_CHECKING:
    import pytest


def add(commands: Commands) -> None:
    """Register the command."""
    check = commands.add_parser(
        "check",
        help="run the shipped suite",
        description="Run the shipped suite; other arguments go to pytest.",
    )
    check.set_defaults(command=run)
    check.add_argument(
        "--environment",
        choices=[name.value for name in EnvironmentName],
        help="as pytest's --istio-environment: where the rules under test are (default: kind)",
    )


class _Outcomes:
    """A pytest plugin that tells a verdict against from no verdict; pytest's exit status does not."""

    def __init__(self) -> None:
        self.failed = self.unusable = self.errors = 0
        self.interrupted = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        from pytest_istio_sidecar.plugin.collector import is_unusable, outcome_of

        if report.failed:
            against = outcome_of(report) == "failed"
            self.failed += against
            self.errors += not against
            self.unusable += is_unusable(report)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        from pytest_istio_sidecar.plugin.collector import interruption

        self.interrupted = bool(interruption(excinfo.value))


def run(options: argparse.Namespace) -> Status:
    """Run the suite; what is not ours goes to pytest."""
    import pytest

    chosen = [f"--istio-environment={options.environment}"] if options.environment else []
    outcomes = _Outcomes()
    # Assertions are rewritten as modules are imported, and the command line is imported by now: no loss.
    quiet = "-Wignore:Module already imported:pytest.PytestAssertRewriteWarning"
    arguments = [quiet, "--pyargs", "pytest_istio_sidecar.suite", *chosen, *options.others]
    code = pytest.main(arguments, [outcomes])
    if code == pytest.ExitCode.USAGE_ERROR or outcomes.unusable:
        return Status.UNUSABLE
    if outcomes.failed and not outcomes.interrupted and code != pytest.ExitCode.INTERNAL_ERROR:
        return Status.AGAINST
    if outcomes.errors or code != pytest.ExitCode.OK:
        return Status.UNDECIDED
    return Status.HOLDS
