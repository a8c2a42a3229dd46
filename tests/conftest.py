"""Prints the seeds and figures of the random tests at the end of every run, by workers or not."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            told = dict(report.user_properties)
            name = report.nodeid.rpartition("::")[2]
            if "seed" in told:
                terminalreporter.write_line(
                    f"{name}: TRACE_SEED={told['seed']}, {told.get('pairs', 0)} pairs agreed"
                )
            elif "noticed" in told:
                terminalreporter.write_line(f"{name}: {told['noticed']}")
