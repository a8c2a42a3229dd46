"""The report of a run: one document, of which every form is a rendering.

Knows what a run can tell, and how the answer to the user's question follows from it. Does not know
pytest, nor how a form looks. Invariant: JSON all through, as `report.schema.json` has it; a change
that breaks a reader of it raises `SCHEMA`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from pytest_istio_sidecar.netfilter.kernel.unread import NFT_UNREAD
from pytest_istio_sidecar.reports.summary import Capture
from pytest_istio_sidecar.reports.way import Way

Outcome = Literal["passed", "failed", "undecided", "error", "skipped"]
Verdict = Literal["holds", "against", "undecided"]


SCHEMA = 2
BY_DESIGN = "by design"
_TOLD = 3
"""Openings that the answer tells of; the lists have all."""
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
        workload: that it is about, as `--istio-workload` names it; "" where not several are named.
        raised: the class of an exception that ended its body and is no verdict; "" where none did.
        message: the whole explanation; "" when it passed.
        path, line: where the test is defined, from the rootdir; the line counts from 1.
        evidence: the folder that keeps what it rests on; "" where there is none.
    """

    id: str
    workload: str
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
        opened: those of them that the pod's options open, with how the pod asks for it, and those that are
            reviewed.
        unexpected: those of them that are neither by design, nor reviewed, nor opened by an option that is
            accepted or but names Envoy's user or group.
    """

    verdict: Verdict
    text: str
    inbound: list[str]
    outbound: list[str]
    opened: list[str]
    unexpected: list[str]


class Judged(TypedDict):
    """One of several workloads that were named, as `Report` has a single one."""

    name: str
    answer: Answer
    environment: dict[str, str]
    capture: Capture | None
    requests: list[list[str]]


class Report(TypedDict):
    """Everything that a run can tell.

    Where several workloads were named, `workloads` has each: `environment` is then what they have in common,
    `capture` that of the one which `answer` is about, else of the first.

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
    workloads: list[Judged]
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
    workloads: Sequence[Judged] = (),
    interrupted: str = "",
) -> Report:
    """Put a report together.

    Args:
        version: of this package.
        requests: labelled lines on the real requests.
        workloads: as `judged` makes each, where several were named.
        evidence: the folder of the run; "" where there is none.
        interrupted: what cut the run short; "" where it came to its end.
    """
    counted = Counter(test["outcome"] for test in tests)
    pod = _pod_of(environment)
    answer = _answer(pod, capture, tests)
    if workloads:
        answer, first = _overall(workloads, [test for test in tests if not test["workload"]])
        capture = first["capture"]
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
        workloads=list(workloads),
        notices=list(notices),
        evidence=evidence,
    )


def judged(
    name: str,
    *,
    environment: Mapping[str, str],
    capture: Capture | None,
    requests: Iterable[tuple[str, str]],
    tests: Iterable[Test],
) -> Judged:
    """One of several workloads.

    Args:
        tests: of the run; those of this workload count.
    """
    own = [test for test in tests if test["workload"] == name]
    return Judged(
        name=name,
        answer=_answer(_pod_of(environment), capture, own),
        environment=dict(environment),
        capture=capture,
        requests=[list(line) for line in requests],
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
    """What gets by without Envoy, by direction, each said once, with the options of the pod that open it."""
    report = capture["bypasses"] or {}
    return {
        direction: list(
            dict.fromkeys(
                _with_options(each).replace(f"{direction} ", "", 1) for each in report.get(direction, [])
            )
        )
        for direction in ("inbound", "outbound")
    }


def by_standing(capture: Capture) -> dict[str, dict[str, list[str]]]:
    """The same apart by whether it may: by direction, by standing, what is open first."""
    by_direction: dict[str, dict[str, list[str]]] = {}
    for direction in ("inbound", "outbound"):
        groups: dict[str, dict[str, None]] = {standing: {} for standing in ("open", *_OPENINGS, BY_DESIGN)}
        for each in (capture["bypasses"] or {}).get(direction, []):
            text = _with_options(each).replace(f"{direction} ", "", 1)
            groups[_standing_of(each)].setdefault(text)
        by_direction[direction] = {standing: list(texts) for standing, texts in groups.items() if texts}
    return by_direction


def _standing_of(each: Mapping[str, Any]) -> str:
    return BY_DESIGN if each["by_design"] else str(each.get("standing", "open"))


def _with_options(each: Mapping[str, Any]) -> str:
    asked = ", ".join(each.get("asked", ()))
    return f"{each['text']} ({asked})" if asked else str(each["text"])


def _bypasses(capture: Capture) -> list[dict[str, Any]]:
    report = capture["bypasses"] or {}
    return [*report.get("inbound", []), *report.get("outbound", [])]


def _pod_of(environment: Mapping[str, str]) -> str:
    return environment.get("pod") or environment.get("listing") or "the pod"


def _overall(workloads: Sequence[Judged], others: Sequence[Test]) -> tuple[Answer, Judged]:
    """The answer for all workloads, and the one that it is about.

    Args:
        others: tests that are of none of them.
    """
    counted = Counter(each["answer"]["verdict"] for each in workloads)
    verdict: Verdict = "against" if counted["against"] else "undecided" if counted["undecided"] else "holds"
    first = next(each for each in workloads if each["answer"]["verdict"] == verdict)
    lists: dict[str, list[str]] = {
        key: list(dict.fromkeys(text for each in workloads for text in each["answer"][key]))
        for key in ("inbound", "outbound", "opened", "unexpected")
    }
    failed = [test for test in others if test["outcome"] == "failed"]
    if verdict == "holds" and failed:
        return _say("", "against", f"a test of no workload failed: {first_line(failed[0])}", **lists), first
    if verdict == "holds":
        parts = ["their releases let by"] if lists["inbound"] or lists["outbound"] else []
        parts += ["their options open"] if lists["opened"] else []
        ending = f", except what {' or '.join(parts)}" if parts else ""
        ending += f"; {NFT_UNREAD}" if any(NFT_UNREAD in each["answer"]["text"] for each in workloads) else ""
        text = f"traffic of all {len(workloads)} workloads goes through Envoy{ending}"
        return _say("", verdict, text, **lists), first
    one = counted[verdict] == 1
    against = "is not as it should be" if one else "are not as they should be"
    what = against if verdict == "against" else "could not be judged"
    which = f"{counted[verdict]} of {len(workloads)} workloads {what}"
    return _say("", verdict, f"{which}: {first['name']}: {first['answer']['text']}", **lists), first


def _answer(pod: str, capture: Capture | None, tests: Sequence[Test]) -> Answer:
    """An answer is against the pod only where a test was: what no test judged is left undecided."""
    if capture is None:
        against = [test for test in tests if test["outcome"] == "failed"]
        if against:
            return _say(pod, "against", first_line(against[0]))
        unseen = [first_line(test) for test in tests if test["outcome"] in ("undecided", "error")]
        why = f": {unseen[0]}" if unseen else ""
        return _say(pod, "undecided", f"whether traffic of {{pod}} goes through Envoy was not seen{why}")
    standings: dict[str, list[str]] = {}
    for each in _bypasses(capture):
        standings.setdefault(_standing_of(each), []).append(_with_options(each))
    unexpected = list(dict.fromkeys(standings.get("open", [])))
    opened = list(dict.fromkeys(text for standing in _OPENINGS for text in standings.get(standing, [])))
    opened += [text for text in unexpected if text.endswith(")")]
    lists = {**exceptions_of(capture), "opened": opened, "unexpected": unexpected}
    conditional = [
        each
        for each in (capture["bypasses"] or {}).get("conditional", [])
        if each.get("standing", "open") == "open"
    ]
    failed = [test for test in tests if test["outcome"] == "failed"]
    undecided = [test for test in tests if test["outcome"] in ("undecided", "error")]
    in_part = f"traffic of {{pod}} is judged in part only: {_why(undecided)}" if undecided else ""
    captured = not capture["ways"] or any(way["end"] in ("proxy", "unknown") for way in capture["ways"])
    past = "gets past Envoy: " + "; ".join(unexpected)
    if not captured:
        asked = [text for text in unexpected if text in opened]
        past = "does not go through Envoy" + (f": {_first(asked)}" if asked else "")
    if unexpected and failed:
        return _say(pod, "against", f"traffic of {{pod}} {past}", **lists)
    if not failed and any(not test["raised"] for test in undecided):
        return _say(pod, "undecided", in_part, **lists)
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
    if unexpected:
        return _say(pod, "undecided", f"traffic of {{pod}} {past}; no test that ran judges this", **lists)
    parts = [f"what {capture['release']} lets by"] if BY_DESIGN in standings else []
    openings = [
        f"what {words}: {_first(standings[standing])}"
        for standing, words in _OPENINGS.items()
        if standing in standings
    ]
    if not captured:
        why = ", and ".join(openings)
        return _say(
            pod, "holds", f"traffic of {{pod}} does not go through Envoy, as it need not: {why}", **lists
        )
    ending = f", except {', and '.join([*parts, *openings])}" if parts or openings else ""
    ending += f"; {NFT_UNREAD}" if ["note", NFT_UNREAD] in capture["lines"] else ""
    return _say(pod, "holds", f"traffic of {{pod}} goes through Envoy{ending}", **lists)


_OPENINGS = {
    "accepted": "the pod's options open (accepted)",
    "moved": "the pod's options have taken for Envoy's",
    "reviewed": "is open and reviewed",
}
"""What is open and not by design, by its standing."""


def _first(texts: Sequence[str]) -> str:
    """The first few, each said once."""
    each = list(dict.fromkeys(texts))
    more = f" and {len(each) - _TOLD} more" if len(each) > _TOLD else ""
    return "; ".join(each[:_TOLD]) + more


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
    opened: Sequence[str] = (),
    unexpected: Sequence[str] = (),
) -> Answer:
    return Answer(
        verdict=verdict,
        text=text.replace("{pod}", pod),
        inbound=list(inbound),
        outbound=list(outbound),
        opened=list(opened),
        unexpected=list(unexpected),
    )
