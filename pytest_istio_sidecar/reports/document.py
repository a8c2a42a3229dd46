"""The report of a run: one document, of which every form is a rendering.

Knows what a run can tell, and how the answer to the user's question follows from it. Does not know
pytest, nor how a form looks. Invariant: JSON all through, as `report.schema.json` has it; a change
that breaks a reader of it raises `SCHEMA`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from pytest_istio_sidecar.reports.summary import Capture
from pytest_istio_sidecar.reports.way import Way

Outcome = Literal["passed", "failed", "undecided", "error", "skipped"]
Verdict = Literal["holds", "against", "undecided"]


SCHEMA = 1
OUTCOMES: tuple[Outcome, ...] = ("passed", "failed", "undecided", "error", "skipped")


class FoundRule(TypedDict):
    """A rule, and where it was read: `file:line`, or ""."""

    text: str
    location: str


class Problem(TypedDict):
    """One finding of a test that failed.

    Attributes:
        kind: what it is about, as `Finding.kind`.
        cause: why, in one sentence; "" where the evidence does not tell.
        way: of the packet that shows it; None where none does.
        rule: the one that decides; None: none does.
    """

    kind: str
    summary: str
    wanted: str
    got: str
    cause: str
    way: Way | None
    rule: FoundRule | None


class Test(TypedDict):
    """One test and what came of it.

    Attributes:
        id: as pytest has it.
        raised: the class of an exception that ended its body and is no verdict; "" where none did.
        message: the whole explanation; "" when it passed.
        path, line: where the test is defined, from the rootdir; the line counts from 1.
        evidence: the folder that keeps what it rests on; "" where there is none.
    """

    id: str
    outcome: Outcome
    raised: str
    seconds: float
    message: str
    path: str
    line: int
    problems: list[Problem]
    evidence: str


class Answer(TypedDict):
    """Does the pod's traffic go through Envoy?

    Attributes:
        text: the answer, a sentence that stands on its own.
        inbound, outbound: what gets by without Envoy, by design and not.
        unexpected: those of them that are not by design.
    """

    verdict: Verdict
    text: str
    inbound: list[str]
    outbound: list[str]
    unexpected: list[str]


class Report(TypedDict):
    """Everything that a run can tell.

    Attributes:
        interrupted: what cut the run short; "" where it came to its end.
        capture: None where no rules were read.
    """

    schema: int
    tool: dict[str, str]
    answer: Answer
    interrupted: str
    counts: dict[str, int]
    environment: dict[str, str]
    capture: Capture | None
    requests: list[list[str]]
    tests: list[Test]
    notices: list[str]
    evidence: str


def assemble(
    *,
    version: str,
    environment: Mapping[str, str],
    capture: Capture | None,
    requests: Iterable[tuple[str, str]],
    tests: Sequence[Test],
    notices: Iterable[str],
    evidence: str,
    interrupted: str = "",
) -> Report:
    """Put a report together.

    Args:
        version: of this package.
        requests: labelled lines on the real requests.
        evidence: the folder of the run; "" where there is none.
        interrupted: what cut the run short; "" where it came to its end.
    """
    counted = Counter(test["outcome"] for test in tests)
    pod = environment.get("pod") or environment.get("listing") or "the pod"
    answer = _answer(pod, capture, tests)
    return Report(
        schema=SCHEMA,
        tool={"name": "pytest-istio-sidecar", "version": version},
        answer=_cut_short(pod, answer, interrupted) if interrupted else answer,
        interrupted=interrupted,
        counts={outcome: counted.get(outcome, 0) for outcome in OUTCOMES},
        environment=dict(environment),
        capture=capture,
        requests=[list(line) for line in requests],
        tests=list(tests),
        notices=list(notices),
        evidence=evidence,
    )


def first_line(test: Test) -> str:
    """What a test that did not pass says, in one sentence."""
    if test["problems"]:
        return test["problems"][0]["summary"]
    return next((line for line in test["message"].splitlines() if line.strip()), test["outcome"])


def counted_by_outcome(report: Report) -> dict[str, int]:
    """How many tests had each outcome, those of none left out; errors in tests of their own apart."""
    counts = {str(outcome): count for outcome, count in report["counts"].items()}
    inside = sum(bool(test["raised"]) for test in report["tests"])
    counts["error"] -= inside
    return {outcome: count for outcome, count in {**counts, "error in a test": inside}.items() if count}


def against(report: Report) -> list[Test]:
    """The tests that did not pass, without those that were skipped."""
    return [test for test in report["tests"] if test["outcome"] not in ("passed", "skipped")]


def exceptions_of(capture: Capture) -> dict[str, list[str]]:
    """What gets by without Envoy, by direction, each said once."""
    report = capture["bypasses"] or {}
    return {
        direction: list(
            dict.fromkeys(
                str(each["text"]).replace(f"{direction} ", "", 1) for each in report.get(direction, [])
            )
        )
        for direction in ("inbound", "outbound")
    }


def _bypasses(capture: Capture) -> list[dict[str, Any]]:
    report = capture["bypasses"] or {}
    return [*report.get("inbound", []), *report.get("outbound", [])]


def _answer(pod: str, capture: Capture | None, tests: Sequence[Test]) -> Answer:
    if capture is None:
        return _say(pod, "undecided", "whether traffic of {pod} goes through Envoy was not seen")
    let_by = exceptions_of(capture)
    unexpected = list(
        dict.fromkeys(str(each["text"]) for each in _bypasses(capture) if not each["by_design"])
    )
    lists = {"inbound": let_by["inbound"], "outbound": let_by["outbound"], "unexpected": unexpected}
    conditional = (capture["bypasses"] or {}).get("conditional", [])
    failed = [test for test in tests if test["outcome"] == "failed"]
    undecided = [test for test in tests if test["outcome"] in ("undecided", "error")]
    in_part = f"traffic of {{pod}} is judged in part only: {_why(undecided)}" if undecided else ""
    if not failed and any(not test["raised"] for test in undecided):
        return _say(pod, "undecided", in_part, **lists)
    if capture["ways"] and not any(way["end"] in ("proxy", "unknown") for way in capture["ways"]):
        return _say(pod, "against", "traffic of {pod} does not go through Envoy", **lists)
    if unexpected:
        return _say(pod, "against", f"traffic of {{pod}} gets past Envoy: {'; '.join(unexpected)}", **lists)
    if failed:
        first = first_line(failed[0])
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return _say(pod, "against", f"the sidecar of {{pod}} is not as it should be: {first}{more}", **lists)
    if capture["bypasses"] is None or conditional:
        why = str(conditional[0]["text"]) if conditional else "; ".join(capture["problems"])
        return _say(
            pod, "undecided", f"whether traffic of {{pod}} goes through Envoy cannot be told: {why}", **lists
        )
    if in_part:
        return _say(pod, "undecided", in_part, **lists)
    ending = f", except what {capture['release']} lets by" if any(let_by.values()) else ""
    return _say(pod, "holds", f"traffic of {{pod}} goes through Envoy{ending}", **lists)


def _why(undecided: Sequence[Test]) -> str:
    """Why tests reached no verdict: what the evidence lacks, before what a test did wrong."""
    first = next((test for test in undecided if not test["raised"]), undecided[0])
    if not first["raised"]:
        return first_line(first)
    many = len(undecided) > 1
    return f"{len(undecided)} {'errors in tests' if many else 'error in a test'}: {first_line(first)}"


def _cut_short(pod: str, answer: Answer, interrupted: str) -> Answer:
    """The answer of a run that did not come to its end: whatever it has found, the rest is unknown."""
    text = answer["text"]
    if answer["verdict"] != "undecided":
        text = f"traffic of {pod} is judged in part only"
    so_far = f"; so far: {answer['text']}" if answer["verdict"] == "against" else ""
    return Answer(
        **{**answer, "verdict": "undecided", "text": f"the run was cut short ({interrupted}): {text}{so_far}"}
    )


def _say(
    pod: str,
    verdict: Verdict,
    text: str,
    *,
    inbound: Sequence[str] = (),
    outbound: Sequence[str] = (),
    unexpected: Sequence[str] = (),
) -> Answer:
    return Answer(
        verdict=verdict,
        text=text.replace("{pod}", pod),
        inbound=list(inbound),
        outbound=list(outbound),
        unexpected=list(unexpected),
    )
