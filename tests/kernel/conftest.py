"""Prints the seed of the random tests at the end of every run, passed or not."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = {
        f"{report.nodeid.rpartition('::')[2]}: {dict(report.user_properties)['pairs']} pairs"
        f", TRACE_SEED={dict(report.user_properties)['seed']}"
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if {"seed", "pairs"} <= dict(report.user_properties).keys()
    }
    for line in sorted(told):
        terminalreporter.write_line(line)
