"""The section that ends a run: the answer, what was under test, and what came of it.

Knows how a report is laid out on a terminal. Does not know how it was made.
Invariant: printed by the owner of the run only, above pytest's own last line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_istio_sidecar.failure import wrapped

if TYPE_CHECKING:
    import pytest

    from pytest_istio_sidecar.reports.document import Report

VERSIONS = ("istio", "kubernetes", "kind", "envoy", "httpbin", "iptables", "kernel")
"""Facts about an environment that share a line."""

_MARKUP = {"holds": {"green": True}, "against": {"red": True}, "undecided": {"yellow": True}}
_COUNTED = {
    "passed": "as wanted",
    "failed": "against",
    "undecided": "undecided, reported as ERROR",
    "error": "not reached, reported as ERROR",
    "error in a test": "no verdict, an error in a test",
    "skipped": "skipped",
}


def summarise(reporter: pytest.TerminalReporter, report: Report, problems: Sequence[str]) -> None:
    """Print the answer in the first line, then the facts.

    Args:
        problems: what of the reports could not be written.
    """
    reporter.write_sep("-", "istio sidecar")
    width = max(reporter._tw.fullwidth, 60)  # noqa: SLF001 - no public way to the width
    answer = report["answer"]
    colon = ":" if answer["verdict"] == "holds" and (answer["inbound"] or answer["outbound"]) else ""
    for line in wrapped(answer["text"] + colon, width):
        reporter.write_line(line, bold=True, **_MARKUP[answer["verdict"]])
    lines = list(_lines(report))
    indent = max(len(label) for label, _ in lines) + 2
    previous = ""
    for label, text in lines:
        for line in wrapped(text, width - indent):
            reporter.write_line(f"{'' if label == previous else label:<{indent}}{line}")
            previous = label
    for problem in problems:
        reporter.write_line(f"istio-sidecar: {problem}", red=True)


def annotate(reporter: pytest.TerminalReporter, lines: Sequence[str]) -> None:
    """Print GitHub's commands, each on a line of its own."""
    reporter.ensure_newline()
    for line in lines:
        reporter._tw._file.write(f"{line}\n")  # noqa: SLF001 - a command must not be wrapped or coloured


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    from pytest_istio_sidecar.reports.document import counted_by_outcome

    answer, capture, facts = report["answer"], report["capture"], report["environment"]
    for label, texts in (("inbound", answer["inbound"]), ("outbound", answer["outbound"])):
        if texts:
            yield f"  {label}", "; ".join(texts)
    counted = [f"{count} {_COUNTED[name]}" for name, count in counted_by_outcome(report).items()]
    yield "verdicts", ", ".join(counted) or "none"
    yield from ((label, text) for label, text in facts.items() if label not in VERSIONS)
    versions = ", ".join(f"{name} {facts[name]}" for name in VERSIONS if name in facts)
    if versions:
        yield "versions", versions
    if capture is not None:
        yield from ((label, text) for label, text in capture["lines"])
        yield from (("undecided", problem) for problem in capture["problems"])
    yield from ((label, text) for label, text in report["requests"])
    yield from (("notice", text) for text in report["notices"])
    if report["evidence"]:
        yield "evidence", report["evidence"]
