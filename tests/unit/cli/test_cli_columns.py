"""At 80 columns no line is longer, but for what people copy: a rule, a class of packets, a path."""

import re
import sys
from contextlib import suppress

import pytest

from pytest_istio_sidecar import expected_ruleset, render_save
from pytest_istio_sidecar.cli import main
from pytest_istio_sidecar.cli.command import row
from pytest_istio_sidecar.failure import laid_out_for, lay_out

COPIED = re.compile(r"-A \S+ |--?\w[\w-]* .* -j |^  (in|out)bound ")
RULES = render_save(expected_ruleset("1.8.3"))
OWN = "-A PREROUTING -d 10.42.0.7/32 -p tcp -j RETURN\n"
TPROXY = {"inbound_interception_mode": "TPROXY", "enable_ipv6": True}
COMMANDS = [
    ("trace", "istio", "--inbound", "80"),
    ("trace", "istio", "--inbound", "8443", "--explain"),
    ("trace", "istio", "--outbound", "198.51.100.7:443", "--uid", "1337", "--explain"),
    ("trace", "own", "--inbound", "80"),
    ("trace", "one", "--inbound", "80"),
    ("trace", "lab", "--inbound", "80", "--istio-version", "1.8.3"),
    ("trace", "tproxy", "ip6:tproxy6", "--inbound", "80", "--explain"),
    ("trace", "istio", "--inbound", "99999"),
    ("trace", "istio"),
    ("trace", "missing", "--inbound", "80"),
    ("trace", "istio", "--inbound", "80", "--frob"),
    ("bypasses", "istio"),
    ("bypasses", "own", "--istio-version", "1.8.3"),
    ("bypasses", "one", "--allow", "inbound"),
    ("bypasses", "tproxy", "ip6:tproxy6", "--istio-version", "1.8.3"),
    ("bypasses", "istio", "--allow", "frob"),
    ("compare", "istio", "--istio-version", "1.20.8"),
    ("compare", "lab", "--istio-version", "1.8.3"),
    ("compare", "one", "--istio-version", "1.8.3"),
    ("compare", "istio", "--guess"),
    ("compare", "own", "--guess"),
    ("compare", "istio", "--istio-version", "1.8.3", "--option", "outbound_ip_ranges_exclude=10.0.0.0/33"),
    ("expected", "frob"),
    ("expected", "1.8.3", "--option", "frob=1"),
    ("matrix",),
    ("frob",),
    *((command, "--help") for command in ("trace", "bypasses", "compare", "check", "selftest", "read")),
    *((command, "--help") for command in ("expected", "doctor", "matrix", "clean", "completion")),
]


@pytest.fixture
def terminal(capsys, monkeypatch):
    """A function: both streams are a terminal of so many columns, without colours."""

    def of(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", "1")
        for stream in (sys.stdout, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: True)

    return of


@pytest.fixture
def texts(tmp_path, monkeypatch, lab_listing):
    """The texts that commands are given, in the current folder."""
    monkeypatch.chdir(tmp_path)
    jump = "-A PREROUTING -p tcp -j ISTIO_INBOUND\n"
    for name, text in {
        "istio": RULES,
        "own": RULES.replace(jump, OWN + jump),
        "one": "Chain OUTPUT (policy ACCEPT)\ntarget     prot opt source               destination\n",
        "lab": lab_listing,
        "tproxy": render_save(expected_ruleset("1.20.8", **TPROXY)),
        "tproxy6": render_save(expected_ruleset("1.20.8", family=6, **TPROXY)),
    }.items():
        (tmp_path / name).write_text(text)


@pytest.fixture
def lab_listing(request):
    return (request.config.rootpath / "tests" / "data" / "lab-listing-1.8.3.txt").read_text()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_line_is_longer_than_the_terminal(texts, terminal, capsys, command):
    terminal(80)
    with suppress(SystemExit):
        main([*command])
    said = capsys.readouterr()
    lines = [*said.out.splitlines(), *said.err.splitlines()]
    assert lines
    assert [line for line in lines if len(line) > 80 and not COPIED.search(line)] == []


def test_without_a_terminal_lines_are_as_long_as_they_are(texts, capsys):
    main(["trace", "istio", "--inbound", "80"])
    assert "path     nat PREROUTING            1  -p tcp -j ISTIO_INBOUND                     match" in (
        capsys.readouterr().out
    )


def test_a_rule_stays_whole_and_its_outcome_stands_below_it(texts, terminal, capsys):
    terminal(80)
    main(["trace", "own", "--inbound", "80"])
    lines = capsys.readouterr().out.splitlines()
    place = next(place for place, line in enumerate(lines) if line.endswith("REDIRECT --to-ports 15006"))
    assert lines[place].index("-p tcp") == lines[place + 1].index("match, redirect")


def test_each_assumption_begins_on_a_line_of_its_own_however_narrow_the_terminal_is(texts, terminal, capsys):
    terminal(80)
    main(["compare", "lab", "--guess"])
    lines = capsys.readouterr().out.splitlines()
    begins = [line.strip() for line in lines if re.match(r"  (assumed|       )  (ISTIO_|PRER|tables )", line)]
    assert [begin.split(":")[0] for begin in begins] == [
        "assumed  PREROUTING 1, OUTPUT 1, ISTIO_INBOUND 1-6, ISTIO_IN_REDIRECT 1,",
        "ISTIO_OUTPUT 4,7-9, ISTIO_REDIRECT 1",
        "ISTIO_OUTPUT 1-3,5,6",
        "ISTIO_OUTPUT 2,5,8",
        "ISTIO_OUTPUT 2-4",
        "ISTIO_OUTPUT 5-7",
        "tables raw, mangle, filter and security",
    ]


def test_messages_are_laid_out_for_another_terminal_only_within(terminal):
    value = "word " * 30
    with laid_out_for(60):
        assert max(map(len, lay_out("note", value))) <= 60
    assert max(map(len, lay_out("note", value))) > 60


def test_a_row_is_broken_under_its_last_column(terminal):
    assert "\n" not in row((10,), "name", "words that do not fit into forty columns")
    terminal(40)
    assert row((10,), "name", "words that do not fit into forty columns") == (
        "name      words that do not fit into\n          forty columns"
    )
