"""How `istio-sidecar` ends: its version, and an output that takes no more."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from pytest_istio_sidecar.cli import main

PROGRAM = (sys.executable, "-m", "pytest_istio_sidecar")
SMALL = (*PROGRAM, "expected", "1.8.3")
LARGE = (*PROGRAM, "completion", "bash")
HELP = (*PROGRAM, "--help")
OUTPUTS = pytest.mark.parametrize(
    ("command", "unbuffered"),
    [(SMALL, ""), (SMALL, "1"), (LARGE, ""), (LARGE, "1"), (HELP, "")],
    ids=["small", "small unbuffered", "large", "large unbuffered", "help"],
)


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"istio-sidecar {metadata.version('pytest-istio-sidecar')}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@OUTPUTS
def test_a_full_disk_is_said_without_a_traceback(command, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 3
    assert done.stderr == "istio-sidecar: standard output cannot be written: No space left on device\n"


@OUTPUTS
def test_a_reader_that_went_away_is_no_fault(command, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
        process.wait(60)
    assert (process.returncode, said) == (3, "")


def test_an_error_of_the_program_itself_is_not_taken_for_one_of_its_output(monkeypatch):
    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pytest_istio_sidecar.cli.expected.run", fail)
    with pytest.raises(OSError, match=re.escape("[Errno 5]")):
        main(["expected", "1.8.3"])
