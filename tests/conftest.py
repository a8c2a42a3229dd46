"""What tests of several folders share, and what every run says at its end, by workers or not: the seeds and
figures of the random tests, and how much of the documentation was run."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from _pytest._io.wcwidth import wcwidth
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, not whether the test holds.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

DOCS = Path(__file__).parent / "docs"


def machine_problem() -> str | None:
    """Why this machine can have no embedded pod; None where it can. Whether one starts is for the tests."""
    from pytest_istio_sidecar.environments.embedded import envoy, namespaces
    from pytest_istio_sidecar.errors import EnvironmentProblem

    try:
        command = namespaces.unshare_command()
        envoy.require_distributions("httpbin", "gunicorn")
        envoy.find_envoy()
        for program in ("ip", "setpriv", "iptables-legacy-restore", "iptables-nft-restore"):
            namespaces.require_program(program)
    except EnvironmentProblem as problem:
        return str(problem)
    trial = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=10, check=False)
    return namespaces.explain_failed_unshare(trial.stderr) if trial.returncode else None


@pytest.fixture(scope="session")
def able_machine():
    """Skips where this machine can have no embedded pod."""
    problem = machine_problem()
    if problem is not None:
        pytest.skip(problem)


@pytest.fixture
def processes_with():
    """Asks for the processes that have a variable in their environment, `NAME=value`: their command lines."""

    def processes_with(variable: str) -> list[str]:
        commands = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if variable.encode() in (process / "environ").read_bytes().split(b"\0"):
                    commands.append((process / "cmdline").read_text())
        return commands

    return processes_with


@pytest.fixture
def rows_of():
    """Asks for what stands on a terminal that was sent a text: its rows, from the top.

    A double of a terminal: carriage return, line feed, erase to the end of the row (ECMA-48), a row that goes
    on in the next one as soon as its last column is written to. How wide a character is, says pytest.
    """
    return _rows_of


def _rows_of(text: str, *, columns: int) -> list[str]:
    rows: list[list[str]] = [[]]
    at = 0
    for part in re.findall(r"\x1b\[[\d;]*[A-Za-z]|.", text, re.DOTALL):
        if part == "\n":
            rows.append([])
            at = 0
        elif part == "\r":
            at = 0
        elif part == "\x1b[K":
            del rows[-1][at:]
        elif not part.startswith("\x1b") and (width := wcwidth(part)):
            if at + width > columns:
                rows.append([])
                at = 0
            rows[-1][at : at + width] = [part, *[""] * (width - 1)]
            at += width
            if at == columns:
                rows.append([])
                at = 0
    return ["".join(row) for row in rows]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    run = 0
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            run += "test_blocks.py::test_a_block_runs" in report.nodeid
            properties = dict(report.user_properties)
            name = report.nodeid.rpartition("::")[2]
            if "seed" in properties:
                terminalreporter.write_line(
                    f"{name}: TRACE_SEED={properties['seed']}, {properties.get('pairs', 0)} pairs agreed"
                )
            elif "noticed" in properties:
                terminalreporter.write_line(f"{name}: {properties['noticed']}")
    if run:
        terminalreporter.write_line(f"documentation: {run} blocks run, {_not_run()}")


def _not_run() -> str:
    """How many blocks of the documentation are marked as not run, and why."""
    sys.path.insert(0, str(DOCS))
    try:
        from markdown_blocks import every_block
    finally:
        sys.path.remove(str(DOCS))
    reasons = Counter(block.not_run for block in every_block() if block.not_run is not None)
    needed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    return (
        f"{reasons.total()} marked as not run (they need: {needed})" if reasons else "none marked as not run"
    )
