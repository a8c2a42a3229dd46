"""The section that ends a run: what was under test, and what came of it.

Knows how to lay facts out on the terminal. Does not know how they were found.
Invariant: printed by the owner of the run only, above pytest's own last line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from pytest_istio_sidecar.workers import Run

NOTICE = "istio-notice"
"""Name of the user property by which a test leaves a notice for the summary."""


def summarise(reporter: pytest.TerminalReporter, run: Run) -> None:
    """Print environment, capture, requests, notices and evidence, as far as there are any."""
    lines: list[tuple[str, str]] = []
    evidence: dict[str, None] = {}
    seen: set[str] = set()
    requests = {True: 0, False: 0}
    for record in run.records():
        kind = str(record["kind"])
        if kind == "observation":
            requests[bool(record["captured"])] += 1
        elif kind == "evidence":
            evidence[str(record["path"])] = None
        elif kind not in seen:
            seen.add(kind)
            lines += _pairs(record)
    if not lines:
        return
    if any(requests.values()):
        seen_by = f"{requests[True]} seen by Envoy, {requests[False]} not"
        lines.append(("requests", f"{sum(requests.values())} sent: {seen_by}"))
    undecided = sum(getattr(report, "when", "") == "verdict" for report in reporter.stats.get("error", []))
    if undecided:
        lines.append(("undecided", f"{undecided} without a verdict, reported as ERROR"))
    lines += [("notice", text) for text in _notices(reporter)]
    lines += [("evidence", path) for path in evidence]
    reporter.write_sep("-", "istio sidecar")
    width = max(len(label) for label, _ in lines) + 2
    previous = ""
    for label, text in lines:
        reporter.write_line(f"{'' if label == previous else label:<{width}}{text}")
        previous = label


def _pairs(record: dict[str, object]) -> list[tuple[str, str]]:
    facts = record.get("facts")
    if isinstance(facts, dict):
        return [(str(label), str(text)) for label, text in facts.items()]
    lines = record.get("lines")
    return [(str(label), str(text)) for label, text in lines] if isinstance(lines, list) else []


def _notices(reporter: pytest.TerminalReporter) -> list[str]:
    """What tests left as user properties; they travel from workers with the reports."""
    found = {
        str(value): None
        for reports in reporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == NOTICE
    }
    return list(found)
