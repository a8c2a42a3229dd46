"""A listing that comes through a pipe is read before pytest captures, once, with workers too."""

import os
import subprocess
import sys

import pytest

from pytest_istio_sidecar import expected_ruleset, render_save

TESTS = """
import sys
import pytest
from pytest_istio_sidecar import assert_redirected, inbound

@pytest.mark.parametrize("port", [80, 443, 8080, 9090])
def test_captured(pod_rules, port):
    assert_redirected(pod_rules, inbound(port))

def test_standard_input_is_captured_all_the_same(pod_rules):
    with pytest.raises(OSError):
        sys.stdin.read()
"""


@pytest.fixture
def piped(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "test_pod.py").write_text(TESTS)
    rules = render_save(expected_ruleset("1.8.3"))

    def run(*command: str, listing: str = rules) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command],
            input=listing,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "80"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.mark.parametrize("processes", [(), ("-n2",)], ids=["alone", "xdist"])
@pytest.mark.parametrize("table", ["-", "legacy:-"])
def test_a_listing_can_be_standard_input(piped, processes, table):
    done = piped("pytest", "--istio-environment=file", f"--istio-table={table}", *processes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout
    assert "goes through Envoy, except what Istio 1.8.3 lets by" in done.stdout


def test_the_ini_file_can_name_it(piped, tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nistio_environment = file\nistio_table = -\n")
    assert "5 passed" in piped("pytest").stdout


def test_an_empty_pipe_is_named(piped):
    done = piped("pytest", "--istio-environment=file", "--istio-table=-", listing="")
    assert "<standard input>: the text is empty" in done.stdout


def test_check_reads_it_too(piped):
    done = piped("pytest_istio_sidecar", "check", "--environment=file", "--istio-table=-", "-k", "prerouting")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "listing",
    ["", "Chain PREROUTING (policy ACCEPT)\ntarget     prot opt source", None],
    ids=["empty", "cut", "missing"],
)
def test_check_ends_with_2_where_the_listing_cannot_be_read(piped, listing):
    table = "nowhere.txt" if listing is None else "-"
    done = piped(
        "pytest_istio_sidecar", "check", "--environment=file", f"--istio-table={table}", listing=listing or ""
    )
    assert done.returncode == 2, done.stdout + done.stderr


def test_check_ends_with_3_where_a_test_only_went_wrong_itself(piped, tmp_path):
    (tmp_path / "test_pod.py").write_text("def test_own(pod_rules): 1 / 0")
    done = piped(
        *(
            "pytest_istio_sidecar",
            "check",
            "--environment=file",
            "--istio-table=-",
            "-k",
            "own",
            "test_pod.py",
        )
    )
    assert done.returncode == 3, done.stdout + done.stderr
