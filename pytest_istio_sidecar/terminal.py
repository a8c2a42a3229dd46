"""The section that ends a run: what was under test, and what came of it.

Knows how to lay facts out on the terminal. Does not know how they were found.
Invariant: printed by the owner of the run only, above pytest's own last line.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from pytest_istio_sidecar.workers import Run

VERSIONS = ("istio", "envoy", "httpbin", "iptables", "kernel")
"""Facts about an environment that share a line."""

NOTICE = "istio-notice"
"""Name of the user property by which a test leaves a notice for the summary."""


def summarise(reporter: pytest.TerminalReporter, run: Run) -> None:
    """Print environment, capture, requests, notices and evidence, as far as there are any."""
    lines: list[tuple[str, str]] = []
    evidence: dict[str, None] = {}
    seen: set[str] = set()
    requests = []
    for record in run.records():
        kind = str(record["kind"])
        if kind == "observation":
            requests.append(record)
        elif kind == "evidence":
            evidence[str(record["path"])] = None
        elif kind not in seen:
            seen.add(kind)
            lines += _pairs(record)
    if not lines:
        return
    lines += _requests(requests)
    undecided = sum(getattr(report, "when", "") == "verdict" for report in reporter.stats.get("error", []))
    if undecided:
        lines.append(("undecided", f"{undecided} without a verdict, reported as ERROR"))
    lines += [("notice", text) for text in _notices(reporter)]
    lines += [("evidence", os.path.relpath(path)) for path in evidence]
    reporter.write_sep("-", "istio sidecar")
    indent = max(len(label) for label, _ in lines) + 2
    width = max(reporter._tw.fullwidth, 60) - indent  # noqa: SLF001 - no public way to the width
    previous = ""
    for label, text in lines:
        for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False):
            reporter.write_line(f"{'' if label == previous else label:<{indent}}{line}")
            previous = label


def _pairs(record: dict[str, object]) -> list[tuple[str, str]]:
    facts = record.get("facts")
    if isinstance(facts, dict):
        versions = ", ".join(f"{name} {facts[name]}" for name in VERSIONS if name in facts)
        others = [(str(label), str(text)) for label, text in facts.items() if label not in VERSIONS]
        return [*others, *([("versions", versions)] if versions else [])]
    lines = record.get("lines")
    return [(str(label), str(text)) for label, text in lines] if isinstance(lines, list) else []


def _requests(records: Sequence[Mapping[str, object]]) -> list[tuple[str, str]]:
    """Real requests, by what Envoy did with them."""
    groups: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        inbound = record["request"] == "inbound"
        sender = f"uid {record['uid']}" + (f" gid {record['gid']}" if record["gid"] != record["uid"] else "")
        fate = f"captured by Envoy's {record['captured']} listener" if record["captured"] else "not captured"
        group = groups.setdefault((fate, f"{record['request']} {'to' if inbound else 'from'}"), {})
        group[str(record["port"]) if inbound else sender] = None
    return [
        ("real requests", f"{what} {', '.join(held)}: {fate}")
        for (fate, what), held in sorted(groups.items(), key=lambda item: item[0][0].startswith("not"))
    ]


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
