"""Progress and pytest's own words on one output: none is glued to the other, or written over by it.

kind, istioctl and the API server are the doubles of test_kind_faults; a terminal is a pseudo-terminal of 80
columns, and what stands on it is told by the double in conftest.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from test_kind_faults import Bench, bench

__all__ = ["bench"]

TESTS = """
import pytest

@pytest.fixture
def mine(istio_environment):
    print("said by a fixture", end="", flush=True)

def test_it(mine):
    pass

def test_two():
    pass
"""
QUICK = """
import time, pytest

@pytest.mark.parametrize("number", range(6))
def test_quick(number):
    time.sleep(0.1)
"""
PHASES = [
    "creating the kind cluster one from kindest/node:v1.19.16",
    "loading 1 images into the nodes",
    "installing Istio 1.8.3",
    "deploying deployment/httpbin with a sidecar by kube-inject",
    "making istio-proxy of deployment/httpbin privileged",
    "deleting the kind cluster one",
]


def ways(*ways: tuple[str, ...]) -> pytest.MarkDecorator:
    """A test for each of these ways to run pytest."""
    return pytest.mark.parametrize("way", ways, ids=[" ".join(way) or "plain" for way in ways])


def started(bench: Bench, output: int, way: tuple[str, ...], faults: str) -> subprocess.Popen[bytes]:
    (bench.work / "test_one.py").write_text(TESTS)
    (bench.work / "test_quick.py").write_text(QUICK)
    unset = ("PYTHONUNBUFFERED", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "PYTEST_ADDOPTS")
    kept = {name: text for name, text in bench.environment.items() if name not in unset}
    return subprocess.Popen(
        bench.command("--istio-timeout=60", *way),
        cwd=bench.work,
        env={**kept, "FAKE_FAULTS": faults, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def in_a_pipe(bench: Bench, *way: str, faults: str = "") -> list[str]:
    process = started(bench, subprocess.PIPE, way, faults)
    said, _ = process.communicate(timeout=90)
    return said.decode().splitlines()


def on_a_terminal(bench: Bench, *way: str) -> str:
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = started(bench, terminal, way, "create:slow")
    os.close(terminal)
    said = b""
    try:
        while part := os.read(controller, 1 << 16):
            said += part
    except OSError:  # how the end of a terminal shows
        pass
    os.close(controller)
    process.wait(90)
    return said.decode()


def untimed(lines: list[str]) -> list[str]:
    """The lines without the times of phases."""
    return [re.sub(r"\d+\.\d s  ", "TIME ", line) for line in lines]


def of_progress(lines: list[str]) -> list[str]:
    """Those that tell of progress, without their times."""
    return [line for line in untimed(lines) if "istio-sidecar: " in line]


def results(lines: list[str]) -> str:
    """The results as pytest writes them, in a line or several."""
    return "".join(re.findall(r"^(?:test_\w+\.py )?([.EFs]+)(?= *\[| *$)", "\n".join(lines), re.MULTILINE))


@ways((), ("-q",), ("-s",), ("-n2",), ("-p", "no:xdist"))
def test_in_a_pipe_each_phase_has_two_whole_lines(bench: Bench, way: tuple[str, ...]) -> None:
    lines = in_a_pipe(bench, *way, faults="create:slow" if "-n2" in way else "")
    assert of_progress(lines) == [
        f"istio-sidecar: {told}{phase}" for phase in PHASES for told in ("", "TIME ")
    ], "\n".join(lines)


@ways((), ("-v",), ("-v", "-n2"))
def test_on_a_terminal_one_line_of_each_phase_stays_and_every_result(
    bench: Bench, way: tuple[str, ...], rows_of: Callable[..., list[str]]
) -> None:
    said = on_a_terminal(bench, *way)
    rows = [row.rstrip() for row in rows_of(said, columns=80)]
    screen = "\n".join(rows)
    assert of_progress(rows) == [f"istio-sidecar: TIME {phase}" for phase in PHASES], screen
    if "-v" in way:
        assert screen.count(" PASSED ") == 8, screen
    else:
        assert results(rows) == "." * 8, screen


def test_the_last_phase_is_told_after_pytests_last_words(bench: Bench) -> None:
    *_, before, _, begun, _ = in_a_pipe(bench, "-q", "test_one.py")
    assert re.match(r"2 passed in ", before)
    assert begun == "istio-sidecar: deleting the kind cluster one"


@pytest.fixture
def hardly_looking(bench: Bench) -> None:
    """The display looks by itself when all is over; how it looks in a bad moment."""
    setting = "from pytest_istio_sidecar.machine import progress\nprogress._POLL_SECONDS = 60\n"
    (bench.work / "conftest.py").write_text(setting)


@ways((), ("-n1",))
@pytest.mark.usefixtures("hardly_looking")
def test_a_result_comes_after_the_phase_that_led_to_it_and_begins_a_line(
    bench: Bench, way: tuple[str, ...]
) -> None:
    lines = untimed(in_a_pipe(bench, *way, "test_one.py", faults="install:fail"))
    failed = lines.index("istio-sidecar: failed after TIME installing Istio 1.8.3")
    assert lines[failed - 1 : failed + 2] == ["istio-sidecar: installing Istio 1.8.3", lines[failed], "E"]


@ways((), ("-n1",))
@pytest.mark.usefixtures("hardly_looking")
def test_the_phase_that_ctrl_c_ended_is_told_before_pytest_tells_of_it(
    bench: Bench, way: tuple[str, ...]
) -> None:
    process = started(bench, subprocess.PIPE, (*way, "test_one.py"), "create:hang")
    bench.wait_for("create")
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=90)
    lines = untimed(said.decode().splitlines())
    (told_of,) = [line for line in lines if re.fullmatch(r"!+ .*KeyboardInterrupt !+", line)]
    assert lines.index(f"istio-sidecar: failed after TIME {PHASES[0]}") < lines.index(told_of)


@pytest.mark.usefixtures("hardly_looking")
def test_a_worker_that_dies_is_told_after_the_phase_that_it_was_at(bench: Bench) -> None:
    process = started(bench, subprocess.PIPE, ("-n1", "--max-worker-restart=0", "test_one.py"), "create:hang")
    bench.wait_for("create")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    said, _ = process.communicate(timeout=90)
    lines = said.decode().splitlines()
    (dead,) = [line for line in lines if line.startswith("[gw0] node down: ")]
    assert lines.index(f"istio-sidecar: {PHASES[0]}") < lines.index(dead)


@pytest.mark.usefixtures("hardly_looking")
def test_what_a_fixture_says_itself_is_not_glued_to_progress(bench: Bench) -> None:
    assert "said by a fixture." in in_a_pipe(bench, "-s", "test_one.py")


def test_with_v_the_name_of_the_test_stands_beside_its_result(bench: Bench) -> None:
    lines = in_a_pipe(bench, "-v", "test_one.py")
    assert any(re.match(r"test_one\.py::test_it PASSED", line) for line in lines)


def test_on_80_columns_the_running_phase_takes_one_row_with_its_time_first(
    bench: Bench, rows_of: Callable[..., list[str]]
) -> None:
    said = on_a_terminal(bench, "test_one.py")
    painted = re.findall(r"\r\x1b\[K(istio-sidecar: \d+ s  [^\r\n]*)", said)
    assert "istio-sidecar: 0 s  creating the kind c...  • Ensuring node image (kindest/..." in painted
    assert all(len(rows_of(row, columns=80)) == 1 for row in painted)
    assert "sha256" not in said
