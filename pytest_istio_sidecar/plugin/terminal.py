"""The section that ends a run: the answer, what was under test, and what came of it.

Knows how a report is laid out on a terminal. Does not know how it was made.
Invariant: printed by the owner of the run only, above pytest's own last line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_istio_sidecar.failure import wrapped

if TYPE_CHECKING:
    import pytest

    from pytest_istio_sidecar.reports.document import Judged, Report

VERSIONS = ("istio", "kubernetes", "kind", "envoy", "httpbin", "iptables", "kernel")
"""Facts about an environment that share a line."""

_MARKUP = {"holds": {"green": True}, "against": {"red": True}, "undecided": {"yellow": True}}
_REASONS = 6
"""Reasons for skipped tests that are told; the rest are counted."""
_STANDINGS = {"open": "NOT BY DESIGN", "moved": "taken for Envoy's"}
"""Whether what gets by may, in other words than a report's."""
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

    counted = [f"{count} {_COUNTED[name]}" for name, count in counted_by_outcome(report).items()]
    if report["workloads"]:
        yield "verdicts", ", ".join(counted)
        yield from (("skipped", text) for text in _skipped(report))
        yield from _facts(report["environment"])
        for each in report["workloads"]:
            yield "workload", f"{each['name']}: {each['answer']['text']}"
            yield from _let_by(each)
            common = {**report["environment"], "workload": each["name"]}
            yield from _facts(
                {name: text for name, text in each["environment"].items() if common.get(name) != text}
            )
            yield from _captured(each)
    else:
        yield from _let_by(report)
        yield "verdicts", ", ".join(counted) or "none"
        yield from (("skipped", text) for text in _skipped(report))
        yield from _facts(report["environment"])
        yield from _captured(report)
    yield from (("notice", text) for text in report["notices"])
    if report["evidence"]:
        yield "evidence", report["evidence"]


def _let_by(judged: Judged | Report) -> Iterator[tuple[str, str]]:
    """What gets by in each direction; where some of all is not by design, each standing marked."""
    from pytest_istio_sidecar.reports.document import BY_DESIGN, by_standing

    if judged["capture"] is None:
        return
    by_direction = by_standing(judged["capture"])
    marked = any(standing != BY_DESIGN for groups in by_direction.values() for standing in groups)
    for direction, groups in by_direction.items():
        for standing, texts in groups.items():
            mark = f"{_STANDINGS.get(standing, standing)}: " if marked else ""
            yield f"  {direction}", mark + "; ".join(texts)


def _facts(facts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield from ((label, text) for label, text in facts.items() if label not in VERSIONS)
    versions = ", ".join(_version(name, facts[name]) for name in VERSIONS if name in facts)
    if versions:
        yield "versions", versions


def _captured(judged: Judged | Report) -> Iterator[tuple[str, str]]:
    capture = judged["capture"]
    if capture is not None:
        yield from ((label, text) for label, text in capture["lines"])
        yield from (("undecided", problem) for problem in capture["problems"])
    yield from ((label, text) for label, text in judged["requests"])


def _skipped(report: Report) -> Iterator[str]:
    """Why tests were skipped, the commonest reason first."""
    reasons = Counter(test["message"] for test in report["tests"] if test["outcome"] == "skipped")
    for reason, count in reasons.most_common(_REASONS):
        yield f"{count}: {reason or 'no reason given'}"
    left = sum(count for _, count in reasons.most_common()[_REASONS:])
    if left:
        yield f"{left} for other reasons: pytest -rs"


def _version(name: str, text: str) -> str:
    """A version in words; of iptables whose it is, and of which back end the plain command."""
    if name != "iptables":
        return f"{name} {text}"
    number, _, backend = text.partition(" ")
    which = f" (plain `iptables` is {backend.strip('()')})" if backend else ""
    return f"the reader's iptables {number}{which}"
