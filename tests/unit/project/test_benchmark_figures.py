"""README tells the last run of the benchmarks as it was."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def table(monkeypatch):
    """What turns a run into lines, as `make bench` prints it."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import table

    return table


def test_the_readme_shows_the_last_run_and_the_machine_it_was_on(table):
    run = json.loads((ROOT / "benchmarks" / "last-run.json").read_text(encoding="utf-8"))
    assert table.in_words(run) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_target_that_was_missed_is_said_to_be(table):
    row = {"work": "a", "measured": "1 ms", "against": "", "ratio": None, "target": "≤ 0 ms", "holds": False}
    assert "MISSED" in table.in_words({"machine": {"cores": "2"}, "rows": [row]})
