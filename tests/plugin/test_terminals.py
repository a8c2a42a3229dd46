"""What reaches a terminal, a pipe, and a stream of ASCII: colour where it is wanted, within 80 columns."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_istio_sidecar import expected_ruleset, render_save
from pytest_istio_sidecar.plugin import terminal

TRACE = ("trace", "pod.rules", "--inbound", "tcp/8443", "--explain")
BYPASSES = ("bypasses", "pod.rules", "--istio-version", "1.8.3")
COMPARE = ("compare", "pod.rules", "--istio-version", "1.8.3")
TEST = """
from pytest_istio_sidecar import assert_inbound_exclusions

def test_wrong(pod_rules):
    assert_inbound_exclusions(pod_rules, {15008, 22, 15090, 15021, 15020})
"""
SUITE = ("pytest", "-p", "no:cacheprovider", "--istio-environment=file", "--istio-table=pod.rules")
NAMED = '-A PREROUTING -p tcp -m comment --comment "für Envoy" -j ISTIO_INBOUND\n'


@pytest.fixture
def folder(tmp_path) -> Path:
    rules = render_save(expected_ruleset("1.8.3", inbound_ports_exclude="15090,15021,8443,15020"))
    (tmp_path / "pod.rules").write_text(rules.replace("-A PREROUTING", f"{NAMED}-A PREROUTING"))
    (tmp_path / "test_pod.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    return tmp_path


def started(folder: Path, words: tuple[str, ...], output: int, variables: dict[str, str]) -> None:
    unset = ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "PYTEST_ADDOPTS")
    environment = {name: text for name, text in os.environ.items() if name not in unset}
    module = ("pytest", *words[1:]) if words[0] == "pytest" else ("pytest_istio_sidecar", *words)
    subprocess.run(
        [sys.executable, "-m", *module],
        cwd=folder,
        env={**environment, "TERM": "xterm", "COLUMNS": "80", **variables},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )


def on_a_terminal(folder: Path, words: tuple[str, ...], **variables: str) -> str:
    """What a terminal is sent; a pty holds it until it is read, and what these commands say is little."""
    controller, terminal = pty.openpty()
    try:
        started(folder, words, terminal, variables)
        os.set_blocking(controller, False)
        said = b""
        while True:
            try:
                said += os.read(controller, 1 << 16)
            except BlockingIOError:
                return said.decode()
    finally:
        os.close(controller)
        os.close(terminal)


def in_a_pipe(folder: Path, words: tuple[str, ...], **variables: str) -> bytes:
    output = folder / "output"
    with output.open("wb") as file:
        started(folder, words, file.fileno(), variables)
    return output.read_bytes()


@pytest.mark.parametrize("words", [TRACE, BYPASSES], ids=lambda words: words[0])
def test_a_terminal_gets_colour(folder, words):
    assert "\x1b[" in on_a_terminal(folder, words)


@pytest.mark.parametrize("words", [TRACE, BYPASSES], ids=lambda words: words[0])
@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_that_wants_none_gets_none(folder, words, variables):
    said = on_a_terminal(folder, words, **variables)
    assert "ISTIO_INBOUND" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("words", [TRACE, BYPASSES, COMPARE, SUITE], ids=lambda words: words[0])
def test_a_pipe_gets_none(folder, words):
    said = in_a_pipe(folder, words)
    assert b"ISTIO_INBOUND" in said
    assert b"\x1b" not in said


@pytest.mark.parametrize("words", [TRACE, BYPASSES, COMPARE, SUITE], ids=lambda words: words[0])
def test_a_stream_of_ascii_gets_ascii_and_the_rule_all_the_same(folder, words):
    said = in_a_pipe(folder, words, PYTHONIOENCODING="ascii").decode("ascii")
    assert "Traceback (most" not in said
    assert "UnicodeEncodeError" not in said
    if words in (TRACE, COMPARE):
        assert r"f\xfcr Envoy" in said


def test_only_a_rule_of_bypasses_is_longer_than_80_columns(folder):
    lines = in_a_pipe(folder, BYPASSES).decode().splitlines()
    long = [line for line in lines if len(line) > 80 and not line.startswith("istio-sidecar: ")]
    assert [line for line in long if not line.startswith("      -A ")] == []


def test_words_of_explain_fit_80_columns(folder):
    said = in_a_pipe(folder, TRACE).decode()
    words = said[said.index("Chain PREROUTING of table nat") :]
    assert max(map(len, words.splitlines())) <= 80


def test_a_run_on_a_terminal_without_colour_says_the_same_as_in_a_pipe(folder):
    said = on_a_terminal(folder, SUITE, NO_COLOR="1")
    assert "\x1b" not in said

    def summary(text: str) -> list[str]:
        told = text.replace("\r\n", "\n").partition("- istio sidecar -")[2]
        return [line.strip("=") for line in re.sub(r" in [\d.]+s", "", told).splitlines()[1:]]

    assert summary(said) == summary(in_a_pipe(folder, SUITE).decode())
    assert summary(said)[0] == "traffic of pod.rules gets past Envoy: inbound tcp 8443"


SHIPPED = (*SUITE, "--pyargs", "pytest_istio_sidecar.suite")


@pytest.mark.parametrize("words", [SUITE, SHIPPED, COMPARE], ids=["own test", "suite", "compare"])
def test_on_a_terminal_no_line_is_longer_than_it_and_no_word_is_broken(folder, words):
    said = on_a_terminal(folder, words, NO_COLOR="1").replace("\r\n", "\n")
    piped = in_a_pipe(folder, words).decode()
    ours = said[said.index("= FAILURES =") :] if words is not COMPARE else said
    ours = ours.partition("= short test summary")[0]  # where CI is set, pytest cuts nothing of it short
    assert max(len(line) for line in ours.splitlines() if not line.startswith(("FAILED", "/"))) <= 80
    shown = piped.index("inbound tcp") if words is COMPARE else piped.index("E  ")
    told = [word for word in piped[shown:].partition("= short test summary")[0].split() if word != "E"]
    assert set(told[:60]) <= set(said.split())


def test_a_failure_of_the_suite_is_shown_without_its_source_and_arguments(folder):
    said = in_a_pipe(folder, SHIPPED).decode()
    assert "E   pytest_istio_sidecar.BypassError: inbound tcp 8443 reaches the application" in said
    assert "E     wanted   only 22" in said
    assert "def test_" not in said
    assert "PodRules(" not in said
    assert "claim(" not in said


def test_a_failure_of_a_users_test_keeps_its_source_and_shows_the_rules_in_one_line(folder):
    said = in_a_pipe(folder, (*SUITE, "test_pod.py")).decode()
    assert ">       assert_inbound_exclusions(" in said
    assert "pod_rules = <PodRules of pod.rules: <Ruleset IPv4 legacy, rules: nat 21>>" in said


def test_skips_are_told_with_their_reasons_and_what_is_not_by_design_is_marked(folder):
    said = in_a_pipe(folder, SHIPPED).decode()
    assert "skipped      11: sends requests; the file environment has listings only" in said
    assert "  inbound    NOT BY DESIGN: tcp 8443\n             by design: not tcp; tcp 22," in said


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1.8.11 (legacy)", "the reader's iptables 1.8.11 (plain `iptables` is legacy)"),
        ("1.8.9 (nf_tables)", "the reader's iptables 1.8.9 (plain `iptables` is nf_tables)"),
        ("1.6.1", "the reader's iptables 1.6.1"),
    ],
)
def test_whose_iptables_has_a_version_is_said_and_which_back_end_its_plain_name_is(version, words):
    assert terminal._version("iptables", version) == words
    assert terminal._version("envoy", "1.36") == "envoy 1.36"
