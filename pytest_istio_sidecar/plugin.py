"""The pytest plugin: options, markers, and when a test is skipped, undecided or summed up.

Knows pytest's hooks. Does not know rules or pods: fixtures do, and nothing
heavy is imported until one of them is asked for. Invariant: what prevented a
verdict is reported as ERROR, apart from failures, and is never a pass.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Generator
from operator import methodcaller
from pathlib import Path

import pytest

from pytest_istio_sidecar import options, settings, terminal, version_marker, workers
from pytest_istio_sidecar.environments.choices import EnvironmentName
from pytest_istio_sidecar.errors import IstioSidecarError, VerdictAgainst

pytest_plugins = ["pytest_istio_sidecar.fixtures"]

MARKERS = (
    "needs_traffic: the test sends real requests; skipped where the environment has none.",
    "needs_listeners: the test reads Envoy's listeners; skipped where the environment has none.",
    'istio_version(specifier): the test holds for these releases only, e.g. ">=1.8,<1.13".',
)

PACKAGE = Path(__file__).parent
SUITE = PACKAGE / "suite"

FAILED = pytest.StashKey[bool]()
"""Whether a test failed, as the session's end has it; not set where the session did not end by itself."""

UNDECIDED = "verdict"
"""Phase given to the report of a test that reached no verdict: pytest shows it as an error."""


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if not hasattr(config, "workerinput"):
        # Here pytest does not capture; when a fixture tells how far it is, it does.
        config.stash[workers.STDOUT] = os.dup(1)
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(workers.WorkerSetup(), "istio-sidecar-workers")


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    version_marker.require_version_fixture(config, items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
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
        report.when = UNDECIDED  # type: ignore[assignment]
    return report


def _hide_own_frames(raised: IstioSidecarError) -> None:
    """Hide the package's own works from the traceback: the message says it all. `--full-trace` shows them."""
    for frame, _ in traceback.walk_tb(raised.__traceback__):
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents and SUITE not in path.parents:
            frame.f_globals["__tracebackhide__"] = methodcaller("errisinstance", IstioSidecarError)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    if report.when == UNDECIDED and report.failed:
        return "error", "E", "ERROR"
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run = config.stash.get(workers.RUN, None)
    if run is not None and run.is_owner:
        terminal.summarise(terminalreporter, run)


def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.stash[FAILED] = bool(session.testsfailed)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take down what the run brought up: here, because this hook also runs after Ctrl-C, and last."""
    run = config.stash.get(workers.RUN, None)
    if run is not None and run.is_owner and run.directory.exists():
        from pytest_istio_sidecar.environments.progress import Progress
        from pytest_istio_sidecar.environments.shared import take_down

        keep = settings.Settings.from_config(config).keep
        keep_it = keep == "always" or (keep == "failed" and config.stash.get(FAILED, True))
        try:
            left = take_down(
                run.directory / "state.json", run.evidence, keep_it=keep_it, progress=Progress(run.progress)
            )
        finally:
            workers.end_progress(config)
            run.remove()
        if left:
            sys.stderr.write(f"\nistio-sidecar: {left}\n")
    descriptor = config.stash.get(workers.STDOUT, None)
    if descriptor is not None:
        os.close(descriptor)
