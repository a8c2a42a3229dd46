"""A report in the Static Analysis Results Interchange Format, 2.1.0 (OASIS standard).

Knows which of its properties code scanning reads. Does not know how a report was made. Invariant:
a test without a verdict is a result of kind "open", never one that passed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from pytest_istio_sidecar.reports.document import Problem, Report, Test, against, first_line
from pytest_istio_sidecar.reports.formats.markdown import fenced

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_RULES = {
    "bypass": "Traffic that should meet Envoy gets past it",
    "redirect": "Traffic is redirected, or let by, other than it should be",
    "rules": "The rules are not the ones expected",
    "listener": "Envoy does not listen as the rules need it to",
    "traffic": "A real request was not seen by Envoy",
    "undecided": "No verdict could be reached",
    "test": "A test of the sidecar failed",
}
_ORDER = list(_RULES)


def render_sarif(report: Report) -> str:
    """The log: one run, one result for each test that did not pass."""
    run = {
        "tool": {
            "driver": {
                "name": report["tool"]["name"],
                "semanticVersion": report["tool"]["version"],
                "rules": [
                    {"id": name, "shortDescription": {"text": f"{text}."}} for name, text in _RULES.items()
                ],
            }
        },
        "automationDetails": {"id": f"istio-sidecar/{report['environment'].get('environment', 'none')}/"},
        "invocations": [_invocation(report)],
        "originalUriBaseIds": {"ROOT": {"description": {"text": "pytest's rootdir"}}},
        "results": [_result(test) for test in against(report)],
        "properties": {"answer": report["answer"]["text"], "environment": report["environment"]},
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _invocation(report: Report) -> dict[str, Any]:
    """Whether the run is a whole one; what cut it short is a notification (section 3.20.21)."""
    successful = {"executionSuccessful": report["answer"]["verdict"] != "undecided"}
    if not report["interrupted"]:
        return successful
    text = f"The run was cut short: {report['interrupted']}."
    return {**successful, "toolExecutionNotifications": [{"level": "error", "message": {"text": text}}]}


def _result(test: Test) -> dict[str, Any]:
    undecided = test["outcome"] in ("undecided", "error")
    kind = "undecided" if undecided else test["problems"][0]["kind"] if test["problems"] else "test"
    result = {
        "ruleId": kind,
        "ruleIndex": _ORDER.index(kind),
        "kind": "open" if undecided else "fail",
        # Section 3.27.10: only a result of kind "fail" has a level other than "none".
        "level": "none" if undecided else "error",
        "message": {"text": first_line(test), "markdown": fenced(test["message"])},
        "locations": [_location(test["path"], test["line"], test["id"])],
        "partialFingerprints": {"test/v1": sha256(f"{kind} {test['id']}".encode()).hexdigest()},
    }
    related = _related(test["problems"])
    return {**result, "relatedLocations": related} if related else result


def _related(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """The rules that decide, where they were read."""
    locations: list[dict[str, Any]] = []
    for problem in problems:
        rule = problem["rule"]
        path, _, line = (rule["location"] if rule else "").rpartition(":")
        if rule is not None and path and line.isdecimal():
            place = _location(path, int(line), rule["text"])
            locations.append(
                {**place, "id": len(locations) + 1, "message": {"text": f"decides: {rule['text']}"}}
            )
    return locations


def _location(path: str, line: int, name: str) -> dict[str, Any]:
    artifact = {"uri": quote(path)}
    if not path.startswith(("/", "..")):
        artifact["uriBaseId"] = "ROOT"
    return {
        "physicalLocation": {"artifactLocation": artifact, "region": {"startLine": max(line, 1)}},
        "logicalLocations": [{"fullyQualifiedName": name}],
    }
