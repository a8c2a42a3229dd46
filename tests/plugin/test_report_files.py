"""The reports of a run on rules with one excluded port too many, as files and on GitHub's pages."""

import json
import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from pytest_istio_sidecar import expected_ruleset, render_save
from pytest_istio_sidecar.cli import main

FORMS = ("json", "sarif", "md", "html", "svg")
TESTS = """
    import pytest
    from pytest_istio_sidecar import assert_inbound_exclusions, assert_redirected, inbound, outbound

    def test_wrong(pod_rules):
        assert_inbound_exclusions(pod_rules, {15008, 22, 15090, 15021, 15020})

    def test_right(pod_rules):
        assert_redirected(pod_rules, outbound("198.51.100.7", 443), to=15001)

    def test_undecided(pod_rules):
        assert_redirected(pod_rules, inbound(80, family=6))

    def test_skipped(pod_rules):
        pytest.skip("not today")

    def test_of_somebody_else():
        pass
"""


class Run:
    """One pytest session in a folder, and what it wrote."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        self.folder = folder
        environment = {name: text for name, text in os.environ.items() if not name.startswith("GITHUB_")}
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
                *("--istio-environment=file", "--istio-table=pod.rules", *arguments),
            ],
            cwd=folder,
            env={**environment, "COLUMNS": "80", **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.out, self.status = done.stdout, done.returncode
        assert done.stderr == ""

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


def project(folder: Path, rules: str) -> Path:
    (folder / "pytest.ini").write_text("[pytest]")
    (folder / "test_pod.py").write_text("\n".join(line[4:] for line in TESTS.splitlines()))
    (folder / "pod.rules").write_text(rules)
    return folder


@pytest.fixture(scope="module")
def rules() -> str:
    return render_save(expected_ruleset("1.8.3", inbound_ports_exclude="15090,15021,8443,15020"))


@pytest.fixture(scope="module")
def run(rules, tmp_path_factory) -> Run:
    folder = project(tmp_path_factory.mktemp("reports"), rules)
    return Run(
        folder,
        *(f"--istio-report=made/r.{form}" for form in FORMS),
        "--junitxml=junit.xml",
        "--istio-evidence=kept",
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(folder / "step.md"),
    )


@pytest.fixture(scope="module")
def report(run):
    return json.loads(run.text("made/r.json"))


def test_the_first_line_of_the_summary_answers_the_question(run):
    lines = run.out.splitlines()
    place = next(number for number, line in enumerate(lines) if "- istio sidecar -" in line)
    assert lines[place + 1] == "traffic of pod.rules gets past Envoy: inbound tcp 8443"
    assert "verdicts     1 as wanted, 1 against, 1 undecided, reported as ERROR, 1 skipped" in lines


def test_no_line_of_the_summary_is_longer_than_a_terminal_of_80(run):
    summary = run.out.partition("- istio sidecar -")[2].partition("::error")[0]
    assert max(map(len, summary.splitlines()[1:])) <= 80


def test_json_is_as_its_schema_says(report):
    schema = json.loads((files("pytest_istio_sidecar.reports") / "report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(report, schema)
    assert schema["properties"]["schema"]["const"] == report["schema"]


def test_json_tells_the_tests_of_this_package_and_no_others(report):
    outcomes = {test["id"].partition("::")[2]: test["outcome"] for test in report["tests"]}
    assert outcomes == {
        "test_wrong": "failed",
        "test_right": "passed",
        "test_undecided": "undecided",
        "test_skipped": "skipped",
    }


def test_json_has_the_packets_way_and_the_deciding_rule(report):
    (test,) = (test for test in report["tests"] if test["outcome"] == "failed")
    (problem,) = test["problems"]
    assert (test["path"], test["line"]) == ("test_pod.py", 6)
    assert problem["kind"] == "bypass"
    assert problem["rule"]["text"] == "-A ISTIO_INBOUND -p tcp -m tcp --dport 8443 -j RETURN"
    assert [row["text"] for row in problem["way"]["path"] if row["decides"]] == [
        "-p tcp --dport 8443 -j RETURN"
    ]
    assert problem["way"]["replay"] == "istio-sidecar trace pod.rules --inbound tcp/8443"


def test_json_has_every_bypass_and_the_difference_from_the_release(report):
    capture = report["capture"]
    (unexpected,) = (held for held in capture["bypasses"]["inbound"] if not held["by_design"])
    assert unexpected["text"] == "inbound tcp 8443"
    assert [effect["text"] for effect in capture["comparison"]["effects"]] == ["inbound tcp 8443"]


def test_sarif_has_one_result_for_each_test_without_a_verdict_in_favour(run):
    log = json.loads(run.text("made/r.sarif"))
    (sarif,) = log["runs"]
    assert log["version"] == "2.1.0"
    against, undecided = sarif["results"]
    assert (against["kind"], against["level"], against["ruleId"]) == ("fail", "error", "bypass")
    assert (undecided["kind"], undecided["level"], undecided["ruleId"]) == ("open", "none", "undecided")
    place = against["locations"][0]["physicalLocation"]
    assert place == {
        "artifactLocation": {"uri": "test_pod.py", "uriBaseId": "ROOT"},
        "region": {"startLine": 6},
    }
    assert against["relatedLocations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "pod.rules"


def test_every_result_of_sarif_points_at_the_rule_it_names(run):
    (sarif,) = json.loads(run.text("made/r.sarif"))["runs"]
    rules = sarif["tool"]["driver"]["rules"]
    assert all(rules[result["ruleIndex"]]["id"] == result["ruleId"] for result in sarif["results"])
    assert len({result["partialFingerprints"]["test/v1"] for result in sarif["results"]}) == 2


def test_junit_has_the_answer_for_the_suite_and_the_replay_for_the_test(run):
    (suite,) = ET.fromstring(run.text("junit.xml"))
    told = {held.get("name"): held.get("value") for held in suite.findall("properties/property")}
    assert told["istio-answer"] == "traffic of pod.rules gets past Envoy: inbound tcp 8443"
    (wrong,) = suite.findall("testcase[@name='test_wrong']")
    told = {held.get("name"): held.get("value") for held in wrong.findall("properties/property")}
    assert told["istio-replay"] == "istio-sidecar trace pod.rules --inbound tcp/8443"
    assert (run.folder / told["istio-evidence"] / "message.txt").is_file()


def test_markdown_answers_first_and_tables_every_bypass(run):
    text = run.text("made/r.md")
    assert text.splitlines()[2].endswith("**traffic of pod.rules gets past Envoy: inbound tcp 8443**")
    assert "| `inbound tcp 8443` | `-A ISTIO_INBOUND -p tcp -m tcp --dport 8443 -j RETURN` | **no** |" in text


def test_the_page_of_the_job_gets_the_same_markdown(run):
    assert run.text("step.md") == f"{run.text('made/r.md')}\n"


def test_github_gets_one_command_for_each_line_that_failed(run):
    first, second = (line for line in run.out.splitlines() if line.startswith("::error"))
    assert first.startswith("::error file=test_pod.py,line=6,title=istio sidecar::inbound tcp 8443 reaches ")
    assert "%0A  cause    " in first
    assert second.startswith(
        "::error file=test_pod.py,line=12,title=istio sidecar%3A no verdict::inbound IPv6 tcp 80"
    )


class Page(HTMLParser):
    """What a page refers to, and in which order its headings come."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.elsewhere: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.add(value)
            elif name == "href":
                self.links.append(value)
            elif name in ("src", "srcset", "action"):
                self.elsewhere.append(value)


def test_the_page_needs_nothing_but_itself(run):
    page = Page(run.text("made/r.html"))
    assert page.elsewhere == []
    assert all(link.removeprefix("#") in page.ids for link in page.links)
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert "url(" not in run.text("made/r.html")


def test_the_page_can_be_skipped_through_and_every_wide_part_reached_by_keyboard(run):
    text = run.text("made/r.html")
    assert text.index('class="skip"') < text.index("<header>")
    wide = re.findall(r'<div class="wide"[^>]*>', text)
    assert wide
    assert all('tabindex="0"' in part and 'role="region"' in part and "aria-label=" in part for part in wide)


def test_the_svg_is_the_way_of_the_packet_that_shows_the_failure(run):
    texts = [
        held.text for held in ET.fromstring(run.text("made/r.svg")).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert "5 -p tcp --dport 8443 -j RETURN <- decides" in texts
    assert "! tcp 8443" in texts


def test_the_evidence_of_a_failing_test_replays_its_verdict(run, monkeypatch, capsys):
    (folder,) = (run.folder / "kept").glob("*/*test_wrong*")
    monkeypatch.chdir(folder)
    command = Path("replay.txt").read_text().split()
    assert command[:2] == ["istio-sidecar", "trace"]
    assert main([*command[1:], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fate"] == "unchanged"
    assert told["deciding_rule"] == "-A ISTIO_INBOUND -p tcp -m tcp --dport 8443 -j RETURN"


@pytest.fixture(scope="module")
def accepted(rules, tmp_path_factory) -> Run:
    """The same rules, as an option of the pod has them that the project accepts."""
    return Run(
        project(tmp_path_factory.mktemp("accepted"), rules),
        *("-k", "right", "--istio-option=inbound_ports_exclude=15090,15021,8443,15020"),
        *("--istio-accept-options=excludeInboundPorts", *(f"--istio-report=r.{form}" for form in FORMS)),
    )


def test_every_form_tells_what_the_pod_opens_and_by_which_option(accepted):
    opened = "inbound tcp 8443 (excludeInboundPorts: 8443)"
    text = (
        "traffic of pod.rules goes through Envoy, except what Istio 1.8.3 lets by, and what the pod's "
        f"options open (accepted): {opened}"
    )
    report = json.loads(accepted.text("r.json"))
    assert (report["answer"]["verdict"], report["answer"]["text"]) == ("holds", text)
    assert (report["answer"]["opened"], report["answer"]["unexpected"]) == ([opened], [])
    assert text in " ".join(accepted.out.split())
    assert text[1:] in unescape(accepted.text("r.html"))
    assert f"**{text}**" in accepted.text("r.md")
    assert text in accepted.text("r.sarif")
    assert "| accepted (excludeInboundPorts: 8443) |" in accepted.text("r.md")
    assert ">accepted (excludeInboundPorts: 8443)</span>" in accepted.text("r.html")


def test_json_tells_what_is_by_design_from_what_the_pod_opens(accepted):
    report = json.loads(accepted.text("r.json"))
    schema = json.loads((files("pytest_istio_sidecar.reports") / "report.schema.json").read_text())
    jsonschema.validate(report, schema)
    (opened,) = (held for held in report["capture"]["bypasses"]["inbound"] if not held["by_design"])
    assert (opened["text"], opened["standing"]) == ("inbound tcp 8443", "accepted")
    assert (opened["opened_by"], opened["asked"]) == (
        ["inbound_ports_exclude"],
        ["excludeInboundPorts: 8443"],
    )


def test_workers_leave_it_to_the_controller_to_report(rules, tmp_path):
    run = Run(project(tmp_path, rules), "-n2", "--istio-report=r.json", "--junitxml=junit.xml")
    report = json.loads(run.text("r.json"))
    assert report["counts"] == {"passed": 1, "failed": 1, "undecided": 1, "error": 0, "skipped": 1}
    assert report["capture"]["bypasses"]["inbound"]
    assert "istio-answer" in run.text("junit.xml")
    assert run.out.count("gets past Envoy: inbound tcp 8443") == 1


def test_a_form_that_is_not_known_is_refused_before_any_test_runs(rules, tmp_path):
    folder = project(tmp_path, rules)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--istio-report=report.pdf"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert (
        "--istio-report=report.pdf: expected a file ending in .json, .sarif, .md, .html, .svg" in done.stderr
    )


def test_a_report_that_cannot_be_written_is_said_and_the_others_are_written(rules, tmp_path):
    (tmp_path / "taken").write_text("")
    run = Run(project(tmp_path, rules), "--istio-report=taken/r.md", "--istio-report=r.md")
    assert "taken/r.md could not be written: " in run.out
    assert run.text("r.md").startswith("## Istio sidecar")


def test_without_being_asked_a_run_on_files_writes_nothing(rules, tmp_path):
    folder = project(tmp_path, rules)
    Run(folder, PYTHONDONTWRITEBYTECODE="1")
    assert sorted(path.name for path in folder.iterdir()) == ["pod.rules", "pytest.ini", "test_pod.py"]
