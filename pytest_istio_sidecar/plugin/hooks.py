"""The pytest plugin: options, markers, and when a test is skipped, undecided or summed up.

Knows pytest's hooks. Does not know rules or pods: fixtures do, and nothing
heavy is imported until one of them is asked for. Invariant: what prevented a
verdict is reported as ERROR, apart from failures, and is never a pass.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Generator
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_istio_sidecar.environments.choices import EnvironmentName
from pytest_istio_sidecar.errors import IstioSidecarError, VerdictAgainst
from pytest_istio_sidecar.plugin import (
    claims,
    collector,
    markers,
    options,
    settings,
    terminal,
    workers,
    workloads,
)

if TYPE_CHECKING:
    from pytest_istio_sidecar.reports.document import Report

MARKERS = (
    "needs_traffic: the test sends real requests; skipped where the environment has none.",
    "needs_listeners: the test reads Envoy's listeners; skipped where the environment has none.",
    'istio_version(specifier): the test holds for these releases only, e.g. ">=1.8,<1.13".',
)

PACKAGE = Path(__file__).parents[1]
SUITE = PACKAGE / "suite"

FAILED = pytest.StashKey[bool]()
"""Whether a test failed, as the session's end has it; not set where the session did not end by itself."""

GATHERING = pytest.StashKey[collector.Gathering]()
REPORT: pytest.StashKey[tuple[Report, list[str]]] = pytest.StashKey()
"""The report of the run, and what of it could not be written."""


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """Before pytest captures, which takes standard input away."""
    if settings.reads_standard_input(early_config):
        from pytest_istio_sidecar.plugin import standard_input

        standard_input.save(early_config)
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if not hasattr(config, "workerinput"):
        # Here pytest does not capture; when a fixture tells how far it is, it does.
        config.stash[workers.STDOUT] = os.dup(1)
        config.pluginmanager.register(workers.ProgressSettling(config), "istio-sidecar-progress")
        config.stash[GATHERING] = collector.Gathering()
        config.pluginmanager.register(config.stash[GATHERING], "istio-sidecar-gathering")
        _refuse_early(config)
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(workers.WorkerSetup(), "istio-sidecar-workers")


def _refuse_early(config: pytest.Config) -> None:
    """Refuse what cannot be meant now, once, before a test is collected or anything is brought up.

    Raises:
        pytest.UsageError: an option that cannot be meant; the message names what can.
    """
    if config.getoption("help", default=False):
        return
    chosen = settings.refuse_early(config)
    if any(table.endswith("-") for table in chosen.tables):
        from pytest_istio_sidecar.plugin import standard_input

        standard_input.read(config, chosen.tables)


def pytest_report_header(config: pytest.Config) -> str | None:
    """What the run was asked for, where it was asked for anything: the plugin is loaded by every run."""
    asked = settings.asked(config)
    return f"istio sidecar: {' '.join(asked)}" if asked else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = [name for name in ("needs_traffic", "needs_listeners") if item.get_closest_marker(name)]
    if not needed:
        return
    chosen = settings.Settings.from_config(item.config)
    if chosen.environment is EnvironmentName.FILE:
        what = "sends requests" if "needs_traffic" in needed else "reads Envoy's listeners"
        pytest.skip(f"{what}; the file environment has listings only")
    if "needs_traffic" in needed and chosen.environment is EnvironmentName.EXISTING and not chosen.traffic:
        pytest.skip("sends requests; on a cluster of yours --istio-traffic allows them")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    workloads.parametrise(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    markers.require_version_fixture(config, items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    raised = call.excinfo.value if call.excinfo is not None else None
    if isinstance(raised, IstioSidecarError):
        _hide_own_frames(raised)
    report = yield
    if (
        call.when == "call"
        and report.failed
        and isinstance(raised, IstioSidecarError)
        and not isinstance(raised, VerdictAgainst)
    ):
        report.when = claims.UNDECIDED  # type: ignore[assignment]
    claims.settle(item, report, raised)
    if report.failed and (isinstance(raised, IstioSidecarError) or SUITE in item.path.parents):
        from pytest_istio_sidecar.plugin.traceback import tidy

        tidy(report, of_suite=SUITE in item.path.parents, columns=_columns(item.config))
    collector.leave(item, report, raised)
    return report


def _columns(config: pytest.Config) -> int | None:
    """Of the terminal that pytest writes to; None: it is none, or a worker's."""
    output = config.stash.get(workers.STDOUT, None)
    if output is None or not os.isatty(output):
        return None
    return config.get_terminal_writer().fullwidth


def _hide_own_frames(raised: IstioSidecarError) -> None:
    """Hide the package's own works from the traceback: the message says it all. `--full-trace` shows them."""
    for frame, _ in traceback.walk_tb(raised.__traceback__):
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents and SUITE not in path.parents:
            frame.f_globals["__tracebackhide__"] = methodcaller("errisinstance", IstioSidecarError)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    if report.when == claims.UNDECIDED and report.failed:
        return "error", "E", "ERROR"
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    made = config.stash.get(REPORT, None)
    if made is None:
        return
    report, problems = made
    terminal.summarise(terminalreporter, report, problems)
    # Another plugin that annotates would say everything twice.
    others = config.pluginmanager.hasplugin("pytest_github_actions_annotate_failures")
    if os.environ.get("GITHUB_ACTIONS") == "true" and not others:
        from pytest_istio_sidecar.reports.formats.github import error_commands

        terminal.annotate(terminalreporter, error_commands(report))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Report: before JUnit XML is written, and before the summary."""
    config = session.config
    config.stash[FAILED] = bool(session.testsfailed)
    if session.exitstatus == pytest.ExitCode.INTERRUPTED and workers.SIGNALS in config.stash:
        # SIGTERM after Ctrl-C, or a second one: workers and fixtures are being ended already.
        config.stash[workers.SIGNALS].ending = True
    gathered = config.stash.get(GATHERING, None)
    if gathered is None:
        return
    paths = settings.report_paths(config)
    run = config.stash.get(workers.RUN, None)
    unused = run is None or next(run.records(), None) is None
    if unused and not paths and not gathered.tests:
        return
    run = workers.run_of(config)
    report = collector.report_of(run, gathered)
    collector.add_to_junit(config, report)
    problems = collector.write_reports(report, paths)
    config.stash[REPORT] = report, [*problems, *collector.add_to_step_summary(report)]


@pytest.hookimpl(wrapper=True)
def pytest_unconfigure(config: pytest.Config) -> Generator[None]:
    """Take down what the run brought up: here, because this hook also runs after Ctrl-C, and last.

    As a wrapper, so that whatever fails before it (a terminal that was closed) keeps it from nothing.
    """
    signals = config.stash.get(workers.SIGNALS, None)
    if signals is not None:
        signals.ending = True
    try:
        yield
    finally:
        try:
            _take_down(config)
        finally:
            if signals is not None:
                signals.restore()


def _take_down(config: pytest.Config) -> None:
    run = config.stash.get(workers.RUN, None)
    if run is not None and run.is_owner and run.directory.exists():
        from pytest_istio_sidecar.environments.shared import take_down
        from pytest_istio_sidecar.machine.progress import Progress
        from pytest_istio_sidecar.plugin import messages

        keep = settings.Settings.from_config(config).keep
        keep_it = keep == "always" or (keep == "failed" and config.stash.get(FAILED, True))
        failed = False
        workers.settle_progress(config)
        try:
            left = take_down(
                run.directory / "state.json", run.evidence, keep_it=keep_it, progress=Progress(run.progress)
            )
        except (IstioSidecarError, KeyboardInterrupt) as problem:
            failed = True
            failure = (
                problem.failure
                if isinstance(problem, IstioSidecarError)
                else messages.TAKE_DOWN_INTERRUPTED()
            )
            on_file = "what this run made is on file; remove it: istio-sidecar clean"
            left = str(failure.and_facts([("left", on_file)]))
        finally:
            workers.end_progress(config)
            run.remove()
        if left:
            with contextlib.suppress(OSError):  # the terminal was closed
                sys.stderr.write(f"\nistio-sidecar: {left}\n")
        if failed and not config.stash.get(FAILED, True):
            sys.exit(pytest.ExitCode.TESTS_FAILED)  # nobody looks for what a green run has left behind
    descriptor = config.stash.get(workers.STDOUT, None)
    if descriptor is not None:
        os.close(descriptor)
