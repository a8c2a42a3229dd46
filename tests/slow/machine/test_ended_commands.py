"""Commands that take their time to end: nothing of them goes on, and they fill no memory."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pytest_istio_sidecar.machine.command import run_command


def test_a_command_that_goes_on_is_ended_with_all_it_started() -> None:
    result = run_command(["sh", "-c", "sleep 60 & echo $!; wait"], timeout=0.5)
    assert result.exit_status is None
    assert result.seconds < 30
    assert _ended(int(result.stdout))


def test_what_an_ended_command_had_begun_is_finished_before_anybody_looks(tmp_path: Path) -> None:
    made = tmp_path / "made"
    begun = f"(sleep 1; touch {made}) & wait"
    assert run_command(["sh", "-c", begun], timeout=0.3).exit_status is None
    assert made.exists()


def _ended(pid: int) -> bool:
    """Whether a process is gone, or its remains only are there, within a moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_command_that_ignores_the_first_signal_is_killed() -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    begin = time.monotonic()
    assert run_command([sys.executable, "-c", stubborn], timeout=0.5).exit_status is None
    assert time.monotonic() - begin < 30


def test_output_without_end_is_cut_and_fills_no_memory() -> None:
    result = run_command(["sh", "-c", "yes | head -c 40000000"], timeout=60)
    assert result.exit_status == 0
    assert len(result.stdout) <= 2**24
