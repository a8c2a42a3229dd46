"""The types that a user's own project sees, as mypy and pyright see them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = Path(__file__).parent / "sample"

Place = tuple[str, int]


def mypy(folder: Path) -> set[Place]:
    argv = [sys.executable, "-m", "mypy", "--strict", "--output=json", f"--cache-dir={folder}", "."]
    errors = map(json.loads, run(argv).splitlines())
    return {(error["file"], error["line"]) for error in errors if error["severity"] == "error"}


def pyright(_: Path) -> set[Place]:
    argv = [sys.executable, "-m", "pyright", f"--pythonpath={sys.executable}", "--outputjson", "."]
    told = json.loads(run(argv))
    assert told["summary"]["filesAnalyzed"] == 2
    return {
        (Path(error["file"]).name, error["range"]["start"]["line"] + 1)
        for error in told["generalDiagnostics"]
        if error["severity"] == "error"
    }


def run(argv: list[str]) -> str:
    checked = subprocess.run(argv, cwd=SAMPLE, capture_output=True, text=True, timeout=300, check=False)
    assert checked.returncode in (0, 1), checked.stdout + checked.stderr
    return checked.stdout


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_checker_refuses_each_wrong_use_and_nothing_else(checker, tmp_path):
    lines = (SAMPLE / "wrong.py").read_text().splitlines()
    wrong = {("wrong.py", number) for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert len(wrong) == 9
    assert checker(tmp_path) == wrong
