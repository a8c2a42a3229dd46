"""A run that was cut short, or whose tests went wrong themselves, is no verdict, in whatever form."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_istio_sidecar import expected_ruleset, render_save

FORMS = ("json", "sarif", "md", "html")
RIGHT = """
from pytest_istio_sidecar import assert_redirected, inbound

def test_right(pod_rules):
    assert_redirected(pod_rules, inbound(80))
"""
WRONG = """
def test_wrong(pod_rules):
    assert_redirected(pod_rules, inbound(22))
"""
CUT = """
import os, signal
def test_cut(pod_rules):
    os.kill(os.getpid(), signal.{name})
    import time; time.sleep(30)
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "pod.rules").write_text(render_save(expected_ruleset("1.8.3")))

    def run(*sources: str, arguments: tuple[str, ...] = ()) -> dict:
        (tmp_path / "test_pod.py").write_text("\n".join(sources))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
                *("--istio-environment=file", "--istio-table=pod.rules", "--junitxml=junit.xml"),
                *(f"--istio-report=r.{form}" for form in FORMS),
                *arguments,
            ],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "80"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        report = json.loads((tmp_path / "r.json").read_text())
        return {**report, "out": done.stdout, "status": done.returncode}

    return run


def headline(out: str) -> str:
    lines = out.partition("- istio sidecar -")[2].splitlines()[1:]
    end = next(number for number, line in enumerate(lines) if line.startswith(("  inbound", "verdicts")))
    return " ".join(lines[:end])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_holds_in_no_form(run, tmp_path, name):
    report = run(RIGHT, CUT.format(name=name))
    said = "KeyboardInterrupt" if name == "SIGINT" else name
    text = f"the run was cut short ({said}): traffic of pod.rules is judged in part only"
    assert report["answer"]["verdict"] == "undecided"
    assert (report["interrupted"], report["answer"]["text"]) == (said, text)
    assert headline(report["out"]) == text
    assert (tmp_path / "r.md").read_text().splitlines()[2] == f"\N{WARNING SIGN} **{text}**"
    assert 'class="answer undecided"' in (tmp_path / "r.html").read_text()
    assert text.removeprefix("t") in (tmp_path / "r.html").read_text()
    (sarif,) = json.loads((tmp_path / "r.sarif").read_text())["runs"]
    assert sarif["invocations"] == [
        {
            "executionSuccessful": False,
            "toolExecutionNotifications": [
                {"level": "error", "message": {"text": f"The run was cut short: {said}."}}
            ],
        }
    ]
    (suite,) = ET.fromstring((tmp_path / "junit.xml").read_text())
    told = {each.get("name"): each.get("value") for each in suite.findall("properties/property")}
    assert (told["istio-answer"], told["istio-interrupted"]) == (text, said)


def test_what_an_interrupted_run_found_is_told_and_is_not_the_answer(run):
    report = run(RIGHT, WRONG, CUT.format(name="SIGTERM"))
    assert report["answer"]["verdict"] == "undecided"
    assert report["answer"]["text"].endswith(
        "is judged in part only; so far: the sidecar of pod.rules is not "
        "as it should be: inbound tcp 22 reaches the application without Envoy (pod.rules)"
    )


def test_pytest_exit_cuts_a_run_short_whatever_status_it_gives(run):
    report = run(RIGHT, "import pytest\ndef test_end(pod_rules): pytest.exit('enough', returncode=0)")
    assert (report["status"], report["answer"]["verdict"], report["interrupted"]) == (
        0,
        "undecided",
        "enough",
    )


@pytest.mark.parametrize("arguments", [("-x",), ("-n1", "-x")], ids=["alone", "xdist"])
def test_a_run_that_stops_at_a_failure_as_asked_is_against(run, arguments):
    report = run(RIGHT, WRONG, "def test_more(pod_rules): pass", arguments=arguments)
    assert (report["answer"]["verdict"], report["interrupted"]) == ("against", "")


def test_a_run_that_came_to_its_end_says_nothing_of_the_kind(run):
    report = run(RIGHT)
    assert (report["answer"]["verdict"], report["interrupted"]) == ("holds", "")
    assert "cut short" not in report["out"]


@pytest.mark.parametrize(
    ("code", "raised", "told"),
    [
        ("1 / 0", "ZeroDivisionError", "ZeroDivisionError: division by zero"),
        ("{}['port']", "KeyError", "KeyError: 'port'"),
        (
            "pod_rules.nothing",
            "AttributeError",
            "AttributeError: 'PodRules' object has no attribute 'nothing'",
        ),
        ("import pytest\n    with pytest.raises(ValueError): pass", "Failed", "Failed: DID NOT RAISE"),
    ],
    ids=lambda value: value.partition(":")[0],
)
def test_an_error_in_a_test_is_no_verdict_and_is_called_what_it_is(run, code, raised, told):
    report = run(RIGHT, f"def test_own(pod_rules):\n    {code}")
    text = report["answer"]["text"]
    assert report["answer"]["verdict"] == "undecided"
    assert text.startswith(f"traffic of pod.rules is judged in part only: 1 error in a test: {told}")
    (test,) = (test for test in report["tests"] if test["outcome"] != "passed")
    assert (test["outcome"], test["raised"]) == ("error", raised)
    assert test["message"].startswith(told)
    assert "verdicts     1 as wanted, 1 no verdict, an error in a test" in report["out"]


@pytest.mark.parametrize(
    "code", ["assert pod_rules.pod == 'mine'", "import pytest; pytest.fail('not as we want it')"]
)
def test_what_a_test_asserts_itself_is_a_verdict_against(run, code):
    report = run(RIGHT, f"def test_own(pod_rules):\n    {code}")
    assert (report["answer"]["verdict"], report["counts"]["failed"]) == ("against", 1)
    first = report["tests"][-1]["message"].splitlines()[0]
    assert first.startswith(("assert 'pod.rules' == 'mine'", "AssertionError: assert ", "Failed: not as we"))
    assert first in report["answer"]["text"]


def test_a_failure_beside_an_error_in_a_test_is_against(run):
    assert run(RIGHT, WRONG, "def test_own(pod_rules): 1 / 0")["answer"]["verdict"] == "against"


def test_a_file_that_cannot_be_collected_is_not_passed_over(run, tmp_path):
    (tmp_path / "test_other.py").write_text("import nothing_of_this_name")
    report = run(RIGHT, arguments=("--continue-on-collection-errors",))
    assert report["answer"]["verdict"] == "undecided"
    assert report["answer"]["text"].endswith("in part only: test_other.py could not be collected")


def test_a_worker_that_dies_is_not_passed_over(run):
    code = f"import os, signal\ndef test_dies(pod_rules): os.kill(os.getpid(), {int(signal.SIGKILL)})"
    report = run(RIGHT, code, arguments=("-n1", "--max-worker-restart=0"))
    assert report["answer"]["verdict"] == "undecided"


def test_the_evidence_of_a_run_stands_in_the_rootdir_that_was_named(run, tmp_path):
    (tmp_path / "pytest.ini").unlink()
    deep = tmp_path / "sub" / "deep"
    deep.mkdir(parents=True)
    (tmp_path / "test_kept.py").write_text("def test_kept(istio_evidence): istio_evidence()")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "../.."],
        cwd=deep,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob(".istio-sidecar")] == [
        Path(".istio-sidecar")
    ]
