"""Annotations on a run of GitHub Actions: workflow commands that mark a line of a test file.

Source: docs.github.com, "Workflow commands for GitHub Actions", setting an error message.
"""

from __future__ import annotations

from pytest_istio_sidecar.reports.document import Report, Test, against, first_line

_MOST = 10
"""Annotations of one kind that GitHub shows for a step."""


def error_commands(report: Report) -> list[str]:
    """One `::error` for each test that did not pass, the last one telling of those left out."""
    failed = against(report)
    lines = [_annotation(test) for test in failed[:_MOST]]
    left = len(failed) - _MOST
    if left > 0:
        lines[-1] = f"::error title=istio sidecar::and {left + 1} more: see the log"
    return lines


def _annotation(test: Test) -> str:
    title = "istio sidecar" if test["outcome"] == "failed" else "istio sidecar: no verdict"
    place = "" if test["path"].startswith("..") else f"file={_property(test['path'])},line={test['line']},"
    return f"::error {place}title={_property(title)}::{_data(test['message'] or first_line(test))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
