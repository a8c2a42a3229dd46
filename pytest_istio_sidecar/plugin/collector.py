"""What tests leave behind, gathered by the process that owns the run.

Knows how a test's verdict travels with its report, from a worker too, and how a run's facts become a
report. Does not know how a report looks. Invariant: nothing heavy is imported until a test used this
package; with workers, the controller alone gathers and writes.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_istio_sidecar.errors import IstioSidecarError, ParseError, UsageProblem, VerdictAgainst
from pytest_istio_sidecar.plugin.claims import UNDECIDED
from pytest_istio_sidecar.plugin.workers import Run, run_of
from pytest_istio_sidecar.plugin.workloads import folder_of, workload_of

if TYPE_CHECKING:
    from pytest_istio_sidecar.checks.finding import Finding
    from pytest_istio_sidecar.reports.document import Outcome, Problem, Report, Test

NOTICE = "istio-notice"
"""Name of the user property by which a test leaves a notice for the summary."""

_LEFT = "istio_sidecar"
"""Attribute of a test's report; plain values, which xdist carries."""
_FIXTURES = frozenset(
    {
        "istio_environment",
        "sidecar_pod",
        "pod_rules",
        "policy_routes",
        "listening_sockets",
        "iptables_nat",
        "ip6tables_nat",
        "envoy_listeners",
        "send_request",
        "trace_packet",
        "replica_rules",
    }
)
_WORST: Sequence[Outcome] = ("error", "undecided", "failed", "skipped", "passed")
_DIED = "???"
"""Phase that pytest-xdist gives to the report of a test whose worker died."""
_AS_ASKED = re.compile(r"stopping after \d+ failures?|Test failed, continuing from this test next run")
"""What pytest, pytest-xdist and --stepwise say as they stop at a failure."""
_NO_VERDICTS = ("DID NOT RAISE", "DID NOT WARN", "Timeout (>", "[XPASS(strict)]")
"""How failures begin that are of pytest.raises, pytest.warns, pytest-timeout and a strict xfail: they say
nothing of the pod."""
_MOST_OF_MESSAGE = 4000
_AROUND_BYTES = 200_000
"""Of a file that each failing test's folder repeats, at most."""


class Gathering:
    """A plugin object of the process that owns the run: it sees every test's reports."""

    def __init__(self) -> None:
        self.tests: dict[str, Test] = {}
        self.unread: dict[str, Test] = {}
        self.notices: dict[str, None] = {}
        self.interrupted = ""

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.interrupted = interruption(excinfo.value)

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.interrupted = f"internal error: {excinfo.typename}"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """What could not be collected may have had tests of the pod, which nobody ran."""
        if report.failed:
            self.unread[report.nodeid] = _unread(report, f"{report.nodeid} could not be collected")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        left: dict[str, Any] | None = getattr(report, _LEFT, None)
        if left is None:
            if report.when == _DIED:
                self.unread[report.nodeid] = _unread(report, "the worker that ran it died")
            return
        self.notices |= {str(text): None for name, text in report.user_properties if name == NOTICE}
        outcome = outcome_of(report)
        known = self.tests.get(report.nodeid)
        if known is not None and _WORST.index(known["outcome"]) <= _WORST.index(outcome):
            return
        if known is None and outcome == "passed" and report.when != "call":
            return
        self.tests[report.nodeid] = {
            "id": report.nodeid,
            "workload": left["workload"],
            "outcome": outcome,
            "raised": left["raised"] if report.failed else "",
            "seconds": round(report.duration, 3),
            "message": left["message"] or _message(report),
            "path": left["path"],
            "line": left["line"],
            "problems": left["problems"],
            "evidence": left["evidence"],
        }


def leave(item: pytest.Item, report: pytest.TestReport, raised: BaseException | None) -> None:
    """Put what a test found on its report, and into a folder where the run keeps evidence."""
    own = isinstance(raised, IstioSidecarError)
    if not own and _FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
        return
    run = run_of(item.config)
    path, line, _ = item.location
    workload = workload_of(item)
    left: dict[str, Any] = {
        "workload": workload,
        "path": path,
        "line": _line_of(item, raised) or (line or 0) + 1,
        "raised": _raised_without_verdict(report, raised),
        "unusable": isinstance(raised, UsageProblem | ParseError) and _is_of_environment(raised),
        "message": str(raised) if own and not report.skipped else "",
        "problems": [],
        "evidence": "",
    }
    if report.failed:
        findings: tuple[Any, ...] = raised.findings if isinstance(raised, VerdictAgainst) else ()
        left["problems"] = [_problem(finding) for finding in findings]
        if report.when in ("call", UNDECIDED) and run.evidence.exists():
            read = run.evidence / folder_of(item.config, workload)
            message = left["message"] or report.longreprtext
            left["evidence"] = _keep(run, read, item.nodeid, message, findings)
        properties = {
            "istio-workload": workload,
            "istio-verdict": "against" if isinstance(raised, VerdictAgainst) else "none",
            "istio-summary": left["problems"][0]["summary"] if left["problems"] else "",
            "istio-replay": next((each["way"]["replay"] for each in left["problems"] if each["way"]), ""),
            "istio-evidence": left["evidence"],
        }
        # The list of the item and not of this report: JUnit XML takes them from the last one.
        item.user_properties += [(name, value) for name, value in properties.items() if value]
    setattr(report, _LEFT, left)


def report_of(run: Run, gathering: Gathering) -> Report:
    """The report of the run so far."""
    from importlib import metadata

    from pytest_istio_sidecar.machine.redaction import scrub_values
    from pytest_istio_sidecar.reports.document import assemble, judged

    records: dict[str, list[dict[str, Any]]] = {}
    for record in run.records():
        records.setdefault(str(record.pop("kind")), []).append(record)
    tests = list(gathering.tests.values())
    names = list(dict.fromkeys(test["workload"] for test in tests if test["workload"]))
    each = [judged(name, tests=tests, **_recorded(records, name)) for name in names]
    whole = _recorded(records, None)
    if each:
        whole["environment"] = {
            name: text
            for name, text in each[0]["environment"].items()
            if all(one["environment"].get(name) == text for one in each)
        }
    report: Report = scrub_values(
        assemble(
            version=metadata.version("pytest-istio-sidecar"),
            tests=[*tests, *gathering.unread.values()],
            workloads=each,
            notices=list(gathering.notices),
            evidence=str(run.place(run.evidence)) if run.evidence.exists() else "",
            interrupted=gathering.interrupted,
            **whole,
        )
    )
    return report


def _recorded(records: Mapping[str, Sequence[dict[str, Any]]], workload: str | None) -> dict[str, Any]:
    """What the processes of the run have told of a workload; None: of all."""
    from pytest_istio_sidecar.reports.requests import describe_requests

    def of(kind: str) -> list[dict[str, Any]]:
        own = [record for record in records.get(kind, []) if workload in (None, record["workload"])]
        return [{name: value for name, value in record.items() if name != "workload"} for record in own]

    captures = of("capture")
    # What is known only later is told later: by which way Envoy was asked.
    facts = {name: text for record in of("environment") for name, text in record["facts"].items()}
    return {
        "environment": facts,
        "capture": captures[0] if captures else None,
        "requests": describe_requests(of("observation")),
    }


def write_reports(report: Report, paths: Sequence[Path]) -> list[str]:
    """Write every form that was asked for; in words what could not be written."""
    from pytest_istio_sidecar.reports.form import ReportForm
    from pytest_istio_sidecar.reports.formats.render import render

    problems = []
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render(report, ReportForm(path.suffix)), encoding="utf-8")
        except OSError as problem:
            problems.append(f"{path} could not be written: {problem.strerror or problem}")
    return problems


def add_to_step_summary(report: Report) -> list[str]:
    """Add Markdown to the page of a GitHub Actions job, where this is one."""
    target = os.environ.get("GITHUB_STEP_SUMMARY")
    if not target:
        return []
    from pytest_istio_sidecar.reports.formats.markdown import render_markdown

    try:
        with Path(target).open("a", encoding="utf-8") as page:
            page.write(f"{render_markdown(report)}\n")
    except OSError as problem:
        return [f"GITHUB_STEP_SUMMARY could not be written: {problem.strerror or problem}"]
    return []


def add_to_junit(config: pytest.Config, report: Report) -> None:
    """Give JUnit XML's suite the environment and the answer as properties, where it is written."""
    for plugin in config.pluginmanager.get_plugins():
        add = getattr(plugin, "add_global_property", None)
        if callable(add):
            for name, value in report["environment"].items():
                add(f"istio-{name}", value)
            add("istio-answer", report["answer"]["text"])
            if report["interrupted"]:
                add("istio-interrupted", report["interrupted"])


def outcome_of(report: pytest.TestReport) -> Outcome:
    """What came of a test: failed only by a verdict, of this package or of the test itself."""
    if not report.failed:
        return "skipped" if report.skipped else "passed"
    if report.when == UNDECIDED:
        return "undecided"
    left: dict[str, Any] = getattr(report, _LEFT, {})
    return "failed" if report.when == "call" and not left.get("raised") else "error"


def is_unusable(report: pytest.TestReport) -> bool:
    """Whether what the user named for the environment cannot be read or meant."""
    left: dict[str, Any] = getattr(report, _LEFT, {})
    return report.failed and bool(left.get("unusable"))


def interruption(raised: BaseException) -> str:
    """What cut a run short; "" where it stopped at a failure, as it was asked to."""
    text = str(raised)
    return "" if _AS_ASKED.match(text) else text.partition("\n")[0] or type(raised).__name__


def _raised_without_verdict(report: pytest.TestReport, raised: BaseException | None) -> str:
    """The class of what ended a test's body, where it is no verdict; "" elsewhere.

    An assertion that fails is one, and so is pytest.fail(): the test says so itself.
    """
    if report.when != "call" or not report.failed or isinstance(raised, IstioSidecarError | AssertionError):
        return ""
    if raised is None or isinstance(raised, pytest.fail.Exception):
        text = str(raised) if raised is not None else str(report.longrepr)
        return "Failed" if text.startswith(_NO_VERDICTS) else ""
    return type(raised).__name__


def _is_of_environment(raised: BaseException) -> bool:
    """Whether it was raised as the environment was brought up."""
    return any(frame.f_code.co_name == "_brought_up" for frame, _ in traceback.walk_tb(raised.__traceback__))


def _unread(report: pytest.TestReport | pytest.CollectReport, summary: str) -> Test:
    """What stands for the tests that a file, or a worker, did not come to."""
    return {
        "id": report.nodeid,
        "workload": "",
        "outcome": "error",
        "raised": "",
        "seconds": 0.0,
        "message": f"{summary}\n\n{_end_of(report.longreprtext)}".rstrip(),
        "path": report.nodeid.partition("::")[0],
        "line": 1,
        "problems": [],
        "evidence": "",
    }


def _message(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    if report.passed:
        return ""
    text = _end_of(report.longreprtext)
    crash = getattr(report.longrepr, "reprcrash", None)
    # The sentence first: what pytest writes begins with the test's arguments and its code.
    return f"{crash.message.strip()}\n\n{text}" if crash is not None else text


def _end_of(text: str) -> str:
    """The last lines of a long text."""
    return text if len(text) <= _MOST_OF_MESSAGE else f"...\n{text[-_MOST_OF_MESSAGE:].partition(chr(10))[2]}"


def _line_of(item: pytest.Item, raised: BaseException | None) -> int:
    """The line of the test file that the failure came from; 0 where none did."""
    lines = [
        line
        for frame, line in traceback.walk_tb(raised.__traceback__ if raised is not None else None)
        if frame.f_code.co_filename == str(item.path)
    ]
    return lines[-1] if lines else 0


def _problem(finding: Finding) -> Problem:
    from pytest_istio_sidecar.reports.way import way_of

    trace = finding.trace
    rule = finding.rule or (trace.deciding_rule if trace is not None else None)
    return {
        "kind": str(finding.kind),
        "summary": finding.summary,
        "wanted": finding.wanted,
        "got": finding.got,
        "cause": finding.cause,
        "way": way_of(trace) if trace is not None else None,
        "rule": {"text": rule.text, "location": rule.location} if rule is not None else None,
    }


def _keep(run: Run, read: Path, test: str, message: str, findings: Sequence[Finding]) -> str:
    from pytest_istio_sidecar.machine.evidence import write_evidence
    from pytest_istio_sidecar.reports.evidence import files_of, folder_name

    around = {
        path.name: path.read_bytes().decode(errors="replace")
        for path in sorted(read.glob("*"))
        if path.is_file() and path.stat().st_size <= _AROUND_BYTES
    }
    folder = folder_name(test)
    write_evidence(run.evidence, files_of(message, findings, around, start=run.start), into=folder)
    return str(run.place(run.evidence / folder))
