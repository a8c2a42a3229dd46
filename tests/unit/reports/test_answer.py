"""The answer of a run: what no test judged is neither for the pod nor against it."""

from xml.etree import ElementTree as ET

import pytest
from _pytest.main import Session

from pytest_istio_sidecar.netfilter.kernel.unread import NFT_UNREAD
from pytest_istio_sidecar.plugin.collector import interruption
from pytest_istio_sidecar.reports.document import assemble
from pytest_istio_sidecar.reports.form import ReportForm
from pytest_istio_sidecar.reports.formats.render import render

NOTHING = {"inbound": [], "outbound": [], "conditional": []}


def made(*tests, end="proxy", bypasses=None, interrupted="", notes=()):
    capture = {
        "release": "Istio 1.8.3",
        "lines": [["note", note] for note in notes],
        "bypasses": NOTHING if bypasses is None else bypasses,
        "unseen": [],
        "comparison": None,
        "difference": [],
        "ways": [{"end": end}],
        "beside": [],
        "problems": [],
    }
    return assemble(
        version="1",
        environment={"pod": "shop/cart"},
        capture=capture,
        requests=[],
        tests=tests,
        notices=[],
        evidence="",
        interrupted=interrupted,
    )


def ended(outcome, message="", raised=""):
    return {
        "id": "t",
        "outcome": outcome,
        "raised": raised,
        "seconds": 0.0,
        "message": message,
        "path": "t.py",
        "line": 1,
        "problems": [],
        "evidence": "",
    }


UNDECIDED = ended("undecided", "the listing hides the interface")


@pytest.mark.parametrize("end", ["unknown", "application", "proxy"])
def test_a_run_whose_tests_were_only_undecided_is_not_against(end):
    answer = made(ended("passed"), UNDECIDED, end=end)["answer"]
    assert (answer["verdict"], answer["text"]) == (
        "undecided",
        "traffic of shop/cart is judged in part only: the listing hides the interface",
    )


def test_an_answer_that_holds_says_in_its_line_that_nobody_looked_for_what_nft_wrote():
    answer = made(ended("passed"), notes=[NFT_UNREAD, "another"])["answer"]
    assert answer["verdict"] == "holds"
    assert answer["text"] == f"traffic of shop/cart goes through Envoy; {NFT_UNREAD}"


def test_a_way_that_cannot_be_told_is_not_one_past_envoy():
    conditional = {**NOTHING, "conditional": [{"text": "inbound tcp 80"}]}
    answer = made(ended("passed"), end="unknown", bypasses=conditional)["answer"]
    assert answer["verdict"] == "undecided"
    assert "cannot be told: inbound tcp 80" in answer["text"]


def test_an_error_in_a_test_takes_nothing_from_what_is_against():
    found = {**NOTHING, "inbound": [{"text": "inbound tcp 8443", "by_design": False}]}
    error = ended("error", "KeyError: 'port'", "KeyError")
    assert made(ended("failed", "no"), error, bypasses=found)["answer"]["verdict"] == "against"


def test_errors_in_tests_are_counted_and_the_first_is_told():
    errors = [ended("error", f"KeyError: {key}", "KeyError") for key in "ab"]
    text = made(*errors)["answer"]["text"]
    assert text == "traffic of shop/cart is judged in part only: 2 errors in tests: KeyError: a"


@pytest.mark.parametrize("outcome", ["passed", "failed", "undecided"])
def test_a_run_that_was_cut_short_is_undecided_whatever_it_found(outcome):
    answer = made(ended(outcome, "no"), interrupted="SIGTERM")["answer"]
    assert answer["verdict"] == "undecided"
    assert answer["text"].startswith(
        "the run was cut short (SIGTERM): traffic of shop/cart is judged in part"
    )


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (KeyboardInterrupt("SIGHUP"), "SIGHUP"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (pytest.exit.Exception("enough"), "enough"),
        (Session.Interrupted("2 errors during collection"), "2 errors during collection"),
        (Session.Interrupted("stopping after 1 failures"), ""),
        (Session.Interrupted("Test failed, continuing from this test next run."), ""),
    ],
)
def test_what_cut_a_run_short_is_named_and_a_stop_at_a_failure_is_none(raised, told):
    assert interruption(raised) == told


def test_a_picture_of_a_run_without_rules_says_so_in_words():
    nothing = assemble(
        version="1", environment={}, capture=None, requests=[], tests=[], notices=[], evidence=""
    )
    picture = ET.fromstring(render(nothing, ReportForm.SVG))
    words = " ".join(each.text for each in picture.iter("{http://www.w3.org/2000/svg}text"))
    assert words == "whether traffic of the pod goes through Envoy was not seen"
    assert picture.get("aria-label") == words
    assert float(picture.get("viewBox").split()[2]) > 100
