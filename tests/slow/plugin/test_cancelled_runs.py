"""A run that is cancelled, by SIGTERM or SIGHUP, ends as by Ctrl-C: what it edited is put back, first of all.

Runs in subprocesses, on a workload of a double of an API server (fakes/api.py).
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

import pytest
import test_kind_faults
from test_kind_faults import Bench

bench = test_kind_faults.bench

EDITING = ("--istio-environment=existing", "--istio-timeout=60", "--istio-workload=httpbin")
PUT_BACK = "istio-sidecar: put deployments/httpbin in namespace default back"
TWO_TESTS = """
def test_other(istio_environment):
    pass
"""
FINALISER = """
import os, time
from pathlib import Path
import pytest

@pytest.fixture(scope="session", autouse=True)
def theirs(istio_environment):
    yield
    home = Path(os.environ["FAKE_HOME"])
    (home / "begun-finaliser").touch()
    time.sleep(1)
    (home / "done-finaliser").touch()
"""
UNUSED = """
import signal, sys
from pathlib import Path

def handlers():
    return [signal.getsignal(number) is signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGHUP)]

def pytest_sessionfinish():
    print(f"untouched: {handlers()}", file=sys.__stderr__)
"""


def start(bench: Bench, *options: str, phase: str = "tests") -> subprocess.Popen[str]:
    """A run that has made the workload privileged and is at a phase that does not end."""
    (bench.home / "done-apply").touch()
    theirs = (f"--istio-kubeconfig={bench.theirs}", "--istio-make-privileged")
    process = bench.start(*EDITING, *theirs, *options, faults=f"{phase}:hang")
    bench.wait_for(phase)
    assert bench.api.privileged
    return process


def end_of(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    return output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["TERM", "HUP"])
@pytest.mark.parametrize("phase", ["privileged", "tests"])
def test_a_cancelled_run_puts_the_edit_back_and_says_so(
    bench: Bench, phase: str, number: signal.Signals
) -> None:
    process = start(bench, phase=phase)
    process.send_signal(number)
    output = end_of(process)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert f"KeyboardInterrupt: {number.name}" in output
    assert PUT_BACK in output
    assert not bench.api.privileged
    assert bench.left() == []


@pytest.mark.parametrize(
    ("send", "phase", "number"),
    [
        pytest.param(os.killpg, "tests", signal.SIGTERM, id="TERM to all processes"),
        pytest.param(os.killpg, "privileged", signal.SIGHUP, id="HUP to all processes"),
        pytest.param(os.kill, "privileged", signal.SIGTERM, id="TERM to the controller"),
    ],
)
def test_with_workers_a_cancelled_run_puts_the_edit_back_too(
    bench: Bench, send, phase: str, number: signal.Signals, processes_with
) -> None:
    (bench.work / "test_two.py").write_text(TWO_TESTS)
    process = start(bench, "-n2", phase=phase)
    send(process.pid, number)
    output = end_of(process)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert PUT_BACK in output
    assert not bench.api.privileged
    assert bench.left() == []
    assert processes_with(f"FAKE_HOME={bench.home}") == []


@pytest.mark.parametrize(
    ("options", "first"),
    [
        pytest.param((), signal.SIGINT, id="after Ctrl-C"),
        pytest.param((), signal.SIGHUP, id="after HUP"),
        pytest.param(("-n2",), signal.SIGTERM, id="after TERM, with workers"),
    ],
)
def test_what_is_being_put_back_is_put_back_whatever_comes_then(
    bench: Bench, options: tuple[str, ...], first: signal.Signals
) -> None:
    process = start(bench, *options)
    bench.api.fault = "put-back"
    process.send_signal(first)
    bench.wait_for("put-back")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.1)
    output = end_of(process)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert PUT_BACK in output
    assert not bench.api.privileged
    assert bench.left() == []


def test_a_fixture_that_ends_in_good_order_after_ctrl_c_is_not_interrupted(bench: Bench) -> None:
    (bench.work / "conftest.py").write_text(FINALISER)
    process = start(bench)
    process.send_signal(signal.SIGINT)
    bench.wait_for("finaliser")
    process.send_signal(signal.SIGTERM)
    output = end_of(process)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert bench.api.done("finaliser")
    assert PUT_BACK in output
    assert not bench.api.privileged


def test_a_run_that_has_ended_by_itself_is_put_back_whatever_comes_then(bench: Bench) -> None:
    (bench.home / "done-apply").touch()
    options = (f"--istio-kubeconfig={bench.theirs}", "--istio-make-privileged")
    process = bench.start(*EDITING, *options, faults="put-back:slow")
    bench.wait_for("put-back")
    process.send_signal(signal.SIGTERM)
    output = end_of(process)
    assert process.returncode == pytest.ExitCode.OK, output
    assert PUT_BACK in output
    assert not bench.api.privileged
    assert bench.left() == []


def test_ctrl_c_while_it_is_put_back_says_what_puts_the_rest_back(bench: Bench) -> None:
    process = start(bench)
    bench.api.fault = "put-back"
    process.send_signal(signal.SIGINT)
    bench.wait_for("put-back")
    process.send_signal(signal.SIGINT)
    output = end_of(process)
    assert process.returncode != pytest.ExitCode.OK, output
    assert "what this run made is on file; remove it: istio-sidecar clean" in output
    assert bench.left() != []
    assert "deployments/httpbin in namespace default" in bench.tool("clean")
    assert not bench.api.privileged
    assert bench.left() == []


def test_a_terminal_that_is_closed_leaves_nothing(bench: Bench) -> None:
    (bench.home / "done-apply").touch()
    bench.api.fault = "tests"
    theirs = (f"--istio-kubeconfig={bench.theirs}", "--istio-make-privileged")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(bench.work)
        argv = bench.command(*EDITING, *theirs)
        os.execvpe(argv[0], argv, {**bench.environment, "FAKE_FAULTS": "tests:hang"})
    try:
        bench.wait_for("tests")
        assert bench.api.privileged
    finally:
        os.close(terminal)  # the kernel sends SIGHUP, and every write to the terminal fails from here on
    _, status = os.waitpid(pid, 0)
    assert status != 0
    assert not bench.api.privileged
    assert bench.left() == []


def test_a_cancelled_run_deletes_its_cluster_and_ends_what_it_ran(bench: Bench, processes_with) -> None:
    process = bench.start("--istio-timeout=60", faults="install:hang")
    bench.wait_for("install")
    process.send_signal(signal.SIGTERM)
    output = end_of(process)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "deleting the kind cluster one" in output
    assert bench.left() == []
    assert processes_with(f"FAKE_HOME={bench.home}") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=["TERM", "HUP", "INT"])
def test_a_clean_that_is_cancelled_says_so_and_the_next_one_goes_on(
    bench: Bench, number: signal.Signals
) -> None:
    process = start(bench)
    process.kill()
    end_of(process)
    bench.api.fault = "put-back"
    cleaning = subprocess.Popen(
        ["env", "--default-signal=INT,HUP", sys.executable, "-m", "pytest_istio_sidecar", "clean"],
        env=bench.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    bench.wait_for("put-back")
    cleaning.send_signal(number)
    output = end_of(cleaning)
    assert cleaning.returncode == 3, output
    by = "" if number is signal.SIGINT else f" by {number.name}"
    assert output == f"istio-sidecar: interrupted{by}; the rest is still on file: clean again\n"
    assert bench.left() != []
    assert "deployments/httpbin in namespace default" in bench.tool("clean")
    assert not bench.api.privileged
    assert bench.left() == []


def test_a_run_under_nohup_does_not_end_with_its_terminal(bench: Bench) -> None:
    # As nohup does before it starts one.
    (bench.work / "conftest.py").write_text("import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n")
    process = start(bench)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    assert bench.api.privileged
    process.send_signal(signal.SIGTERM)
    assert PUT_BACK in end_of(process)


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "workers"])
def test_the_signals_of_a_run_that_asks_for_no_environment_are_none_of_ours(
    bench: Bench, workers: tuple[str, ...]
) -> None:
    (bench.work / "conftest.py").write_text(UNUSED)
    (bench.work / "test_one.py").write_text(
        "from conftest import handlers\ndef test_it(): assert all(handlers())\n"
    )
    status, output = bench.run(*workers)
    assert status == 0, output
    assert "untouched: [True, True]" in output
    assert "False" not in output


def test_a_program_that_runs_pytest_has_its_handlers_back_afterwards(bench: Bench) -> None:
    (bench.home / "done-apply").touch()
    (bench.work / "conftest.py").write_text(UNUSED)
    program = (
        "import signal, sys, pytest\nfrom conftest import handlers\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # whoever runs these tests may be under nohup
        "status = pytest.main(sys.argv[1:])\nprint('afterwards', int(status), handlers())"
    )
    options = bench.command(*EDITING, f"--istio-kubeconfig={bench.theirs}", "-s")
    options = options[options.index("pytest") + 1 :]
    done = subprocess.run(
        [sys.executable, "-c", program, *options],
        cwd=bench.work, env={**bench.environment, "FAKE_FAULTS": ""},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "untouched: [False, False]" in done.stderr, done.stdout
    assert "afterwards 0 [True, True]" in done.stdout
