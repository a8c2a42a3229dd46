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

    from pytest_istio_sidecar.reports.document import Answer, Judged, Report

VERSIONS = ("istio", "kubernetes", "kind", "envoy", "httpbin", "iptables", "kernel")
"""Facts about an environment that share a line."""

_MARKUP = {"holds": {"green": True}, "against": {"red": True}, "undecided": {"yellow": True}}
_REASONS = 6
"""Reasons for skipped tests that are told; the rest are counted."""
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
            yield from _let_by(each["answer"])
            common = {**report["environment"], "workload": each["name"]}
            yield from _facts(
                {name: text for name, text in each["environment"].items() if common.get(name) != text}
            )
            yield from _captured(each)
    else:
        yield from _let_by(report["answer"])
        yield "verdicts", ", ".join(counted) or "none"
        yield from (("skipped", text) for text in _skipped(report))
        yield from _facts(report["environment"])
        yield from _captured(report)
    yield from (("notice", text) for text in report["notices"])
    if report["evidence"]:
        yield "evidence", report["evidence"]


def _let_by(answer: Answer) -> Iterator[tuple[str, str]]:
    for label, texts in (("inbound", answer["inbound"]), ("outbound", answer["outbound"])):
        yield from ((f"  {label}", text) for text in _by_design(texts, label, answer["unexpected"]))


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


def _by_design(texts: Sequence[str], direction: str, unexpected: Sequence[str]) -> Iterator[str]:
    """What gets by in a direction; where some of all is not by design, that and the rest each marked."""
    against = {text.replace(f"{direction} ", "", 1) for text in unexpected}
    outcomes = [text for text in texts if text in against]
    meant = [text for text in texts if text not in against]
    if outcomes:
        yield f"NOT BY DESIGN: {'; '.join(outcomes)}"
    if meant:
        yield ("by design: " if unexpected else "") + "; ".join(meant)


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
