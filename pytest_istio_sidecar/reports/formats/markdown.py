"""A report as Markdown, for the page of a CI job or a comment.

Knows GitHub's Markdown. Does not know how a report was made. Invariant: text of a pod stands in code
or is escaped, so that it cannot become markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_istio_sidecar.checks.bypass.rows import HEADS, POLICY, rows_of
from pytest_istio_sidecar.reports.document import Judged, Report, against, counted_by_outcome, first_line
from pytest_istio_sidecar.reports.summary import Capture

_SIGNS = {"holds": "\N{WHITE HEAVY CHECK MARK}", "against": "\N{CROSS MARK}", "undecided": "\N{WARNING SIGN}"}
_FAILURES = 20
"""Failing tests whose messages are shown whole; GitHub takes 1 MiB for a step."""


def render_markdown(report: Report) -> str:
    """The answer, what gets by, what failed and what was under test."""
    return "\n".join(_blocks(report)) + "\n"


def _blocks(report: Report) -> Iterator[str]:
    answer, capture = report["answer"], report["capture"]
    yield f"## Istio sidecar\n\n{_SIGNS[answer['verdict']]} **{_escaped(answer['text'])}**\n"
    counted = [f"{count} {name}" for name, count in counted_by_outcome(report).items()]
    yield f"{', '.join(counted) or 'no test'}\n"
    failed = against(report)
    for test in failed[:_FAILURES]:
        yield f"<details><summary><code>{_html(test['id'])}</code>: {_html(first_line(test))}</summary>\n"
        yield f"{fenced(test['message'])}\n\n</details>\n"
    if len(failed) > _FAILURES:
        yield f"and {len(failed) - _FAILURES} more.\n"
    facts = [*report["environment"].items()]
    for each in report["workloads"]:
        sign, text = _SIGNS[each["answer"]["verdict"]], _escaped(each["answer"]["text"])
        yield f"### {_escaped(each['name'])}\n\n{sign} {text}\n"
        yield from _captured(each["capture"], level="####")
        facts += [fact for fact in each["environment"].items() if fact not in facts]
        facts += _lines(each)
    if not report["workloads"]:
        yield from _captured(capture, level="###")
        facts += _lines(report)
    yield "### What was under test\n\n| | |\n|---|---|"
    for label, text in [*facts, *(("notice", text) for text in report["notices"])]:
        yield f"| {_escaped(label)} | {_escaped(text)} |"


def _lines(judged: Judged | Report) -> Iterator[tuple[str, str]]:
    capture = judged["capture"]
    for line in (*(capture["lines"] if capture else ()), *judged["requests"]):
        yield line[0], line[1]


def _captured(capture: Capture | None, *, level: str) -> Iterator[str]:
    if capture is not None and capture["bypasses"] is not None:
        yield f"{level} What gets by without Envoy\n"
        yield f"| {' | '.join(HEADS)} |\n|---|---|---|"
        for row in rows_of(capture["bypasses"]):
            meant = _escaped(row.meant)
            meant = meant.replace("no", "**no**", 1) if row.by_design == "no" else meant
            yield f"| {_code(row.packets)} | {_rules(row.rules)} | {meant} |"
        yield ""
    if capture is not None and capture["difference"]:
        yield f"{level} Beside the rules of {_escaped(capture['release'])}\n"
        yield f"{fenced(chr(10).join(capture['difference']))}\n"


def _rules(rules: Sequence[str]) -> str:
    return "<br>".join(map(_code, rules)) or POLICY


def _code(text: str) -> str:
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if "`" in text else ""
    return f"{fence}{space}{text.replace('|', chr(92) + '|')}{space}{fence}"


def fenced(text: str) -> str:
    """Text as a block of code, whatever is in it."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence}text\n{text}\n{fence}"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text).replace("\n", " ")


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
