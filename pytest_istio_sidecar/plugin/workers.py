"""One run, many processes: what the controller and its xdist workers share.

Knows the folder they share, who owns it, and how the first that needs the
environment brings it up while the others wait. Does not know what an
environment is made of. Invariant: only the owner takes anything down.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_istio_sidecar.environments.choices import EnvironmentName
from pytest_istio_sidecar.plugin.settings import Settings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pytest_istio_sidecar.machine.progress import ProgressDisplay
    from pytest_istio_sidecar.machine.signals import EndingSignals

_PROGRESS = "progress.jsonl"
_TELLING_SECONDS = 600.0
"""Longer than a workload takes to be looked at by another worker."""


class Run(NamedTuple):  # as Settings
    """What belongs to one `pytest` command, seen from one of its processes.

    Attributes:
        directory: shared by all processes of the run; made when first needed.
        evidence: where what was read is kept; made when first needed.
        start: where pytest was run, which paths in messages start from.
        owner: process id of the controller, or of the only process.
    """

    directory: Path
    evidence: Path
    start: Path
    owner: int

    @property
    def is_owner(self) -> bool:
        return os.getpid() == self.owner

    def place(self, path: Path) -> Path:
        """A path as messages name it, whatever directory a test has gone to."""
        return Path(os.path.relpath(path, self.start))

    @property
    def state(self) -> Path:
        """Where the environment that was brought up is described for the other processes."""
        return self.make_directory() / "state.json"

    @property
    def progress(self) -> Path:
        """Where the process that brings the environment up tells how far it is."""
        return self.make_directory() / _PROGRESS

    def make_directory(self) -> Path:
        """The shared folder, under a lease by which `istio-sidecar clean` finds it after a crash."""
        if not self.directory.exists():
            from pytest_istio_sidecar.machine.lease import Lease

            Lease.of("run", self.owner, name=self.directory.name).write()
            self.directory.mkdir(mode=0o700, exist_ok=True)
        return self.directory

    def exclusive(self, timeout: float) -> AbstractContextManager[object]:
        """A lock among the processes of this run; waits `timeout` seconds at most.

        The kernel frees it when its holder dies, so a crashed worker blocks nobody.
        """
        from filelock import FileLock

        return FileLock(self.make_directory() / "lock", timeout=timeout)

    def first_to_tell(self, about: str, test: str) -> str:
        """The test that tells something which every test would tell: this one where none has yet."""
        with self.exclusive(_TELLING_SECONDS):
            path = self.make_directory() / "told.json"
            tests: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
            if about not in tests:
                tests[about] = test
                path.write_text(json.dumps(tests))
        return tests[about]

    def record(self, kind: str, **content: object) -> None:
        """Leave a fact for the summary, which the owner prints."""
        line = json.dumps({"kind": kind, **content}, default=str) + "\n"
        descriptor = os.open(
            self.make_directory() / "records.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
        )
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def records(self) -> Iterator[dict[str, object]]:
        """Facts left so far, oldest first."""
        path = self.directory / "records.jsonl"
        if path.exists():
            for line in path.read_text().splitlines():
                yield json.loads(line)

    def remove(self) -> None:
        """Remove the shared folder and its lease; the evidence stays."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.with_name(f"{self.directory.name}.json").unlink(missing_ok=True)


RUN = pytest.StashKey[Run]()
STDOUT = pytest.StashKey[int]()
"""A descriptor of the real standard output, which pytest captures while tests run."""
_DISPLAY: pytest.StashKey[ProgressDisplay] = pytest.StashKey()
SIGNALS: pytest.StashKey[EndingSignals] = pytest.StashKey()
"""Not set before an environment is asked for: the signals of other runs are none of ours."""
_ASKING = frozenset({"istio_environment", "istio_version"})
"""Fixtures, one of which is among those of every test that asks for an environment."""


def run_of(config: pytest.Config) -> Run:
    """The run this process belongs to: the controller's in a worker, its own elsewhere."""
    known = config.stash.get(RUN, None)
    if known is not None:
        return known
    shared: Mapping[str, str] | None = getattr(config, "workerinput", {}).get("istio_run")
    if shared is not None:
        run = Run(
            directory=Path(shared["directory"]),
            evidence=Path(shared["evidence"]),
            start=Path(shared["start"]),
            owner=int(shared["owner"]),
        )
    else:
        from pytest_istio_sidecar.machine.lease import leases_directory

        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.urandom(3).hex()}"
        run = Run(
            directory=leases_directory() / f"run-{name}",
            evidence=_evidence(config) / name,
            start=config.invocation_params.dir,
            owner=os.getpid(),
        )
    config.stash[RUN] = run
    return run


def show_progress(config: pytest.Config, settings: Settings) -> None:
    """Show how far a cluster is, in the process that has the terminal; others come up in no time."""
    run = run_of(config)
    slow = settings.environment in (EnvironmentName.KIND, EnvironmentName.EXISTING)
    if run.is_owner and slow and _DISPLAY not in config.stash:
        from pytest_istio_sidecar.machine.progress import ProgressDisplay

        config.stash[_DISPLAY] = ProgressDisplay(run.directory / _PROGRESS, config.stash[STDOUT])


def heed_signals(config: pytest.Config) -> None:
    """Take SIGTERM and SIGHUP as Ctrl-C until the run's end: there is going to be something to take down."""
    if SIGNALS not in config.stash:
        from pytest_istio_sidecar.machine.signals import EndingSignals

        config.stash[SIGNALS] = EndingSignals()


def settle_progress(config: pytest.Config) -> None:
    """Show what was told by now: whoever writes next, pytest or a test, begins on a line of its own."""
    display = config.stash.get(_DISPLAY, None)
    if display is None:
        return
    with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it any more
        sys.stdout.flush()  # what pytest wrote before comes before
    reporter: pytest.TerminalReporter | None = config.pluginmanager.getplugin("terminalreporter")
    if display.settle() and reporter is not None:
        reporter.currentfspath = None  # it begins its line anew, with the name of the file or the test


def end_progress(config: pytest.Config) -> None:
    """Show what is left of it, and no more."""
    display = config.stash.get(_DISPLAY, None)
    if display is not None:
        display.stop()
        del config.stash[_DISPLAY]


def _evidence(config: pytest.Config) -> Path:
    given: str | None = config.getoption("istio_evidence") or config.getini("istio_evidence")
    if given:
        return config.invocation_params.dir / given
    # Without either the rootdir is what the arguments have in common: of an installed suite, anything.
    asked_for = config.inipath or config.getoption("rootdir", default=None)
    project = config.rootpath if asked_for else config.invocation_params.dir
    return project / ".istio-sidecar"


class ProgressSettling:
    """Settles progress before pytest writes, of one worker while another brings the environment up."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self) -> Generator[None]:
        settle_progress(self._config)
        display = self._config.stash.get(_DISPLAY, None)
        # What another process tells meanwhile waits: it would take the letter's line for an empty one.
        with display.aside() if display is not None else contextlib.nullcontext():
            yield

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_testnodedown(self) -> None:
        settle_progress(self._config)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Generator[None]:
        settle_progress(self._config)
        yield
        settle_progress(
            self._config
        )  # xdist has ended its workers: what they told last, before pytest's last words


class WorkerSetup:
    """Tells each xdist worker which run it belongs to, and the controller whether there is something to end.

    Registered only where xdist is.
    """

    @staticmethod
    def pytest_configure_node(node: object) -> None:
        config: pytest.Config = node.config  # type: ignore[attr-defined]
        run = run_of(config)
        node.workerinput["istio_run"] = {  # type: ignore[attr-defined]
            "directory": str(run.directory),
            "evidence": str(run.evidence),
            "start": str(run.start),
            "owner": str(run.owner),
        }
        show_progress(config, Settings.from_config(config))

    @staticmethod
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(session: pytest.Session) -> None:
        """In a worker, before the controller is told what was collected: leave it the folder as a sign."""
        asking = any(not _ASKING.isdisjoint(getattr(item, "fixturenames", ())) for item in session.items)
        if asking and hasattr(session.config, "workerinput"):
            run_of(session.config).make_directory()

    @staticmethod
    def pytest_xdist_node_collection_finished(node: object) -> None:
        """In the controller, which takes down what a worker brings up."""
        config: pytest.Config = node.config  # type: ignore[attr-defined]
        if run_of(config).directory.exists():
            heed_signals(config)
