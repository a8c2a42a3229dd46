"""Phases told by one process and shown by another."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_istio_sidecar.machine import progress as module
from pytest_istio_sidecar.machine.progress import Progress, ProgressDisplay

CREATING = "creating the kind cluster istio-sidecar-1-8-3-5f3a from kindest/node:v1.19.16"
"""As long as the plugin's own name for a cluster makes it."""
KIND = (
    'Creating cluster "istio-sidecar-1-8-3-5f3a" ...',
    "• Ensuring node image (kindest/node:v1.19.16) 🖼  ...",
    "✓ Preparing nodes 📦 📦 📦 📦",
    "✓ Starting control-plane 🕹️",
    "✗ 节点镜像 (kindest/node:v1.19.16) 无法在规定的时间内从镜像仓库中拉取，请检查网络连接后重试",
)
"""What kind says in this phase, pkg/cluster/internal/create/actions; the last one is as wide as words get."""
LIVE = re.compile(r"\r\x1b\[K(istio-sidecar: \d+ s[^\r\n]*)")
"""A line that will be written over: its seconds are whole ones."""


class Output:
    """A pipe, or a terminal of so many columns, and everything that is written to it."""

    def __init__(self, columns: int | None) -> None:
        self.reading, self.writing = os.pipe() if columns is None else pty.openpty()
        if columns:
            self.resize(columns)
        self._parts: list[bytes] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def _read(self) -> None:
        try:
            while part := os.read(self.reading, 65536):
                self._parts.append(part)
        except OSError:  # how the end of a terminal shows
            pass

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 10
        while words not in b"".join(self._parts).decode(errors="replace"):
            assert time.monotonic() < deadline, f"{words!r} was never written"
            time.sleep(0.01)

    def text(self) -> str:
        os.close(self.writing)
        self._thread.join()
        os.close(self.reading)
        return b"".join(self._parts).decode().replace("\r\n", "\n")


def shown(
    tmp_path: Path,
    tell: Callable[[Progress, ProgressDisplay, Output], None],
    *,
    columns: int | None = None,
) -> str:
    """What a display has written when everything was told: to a pipe, or to a terminal."""
    output = Output(columns)
    display = ProgressDisplay(tmp_path / "progress.jsonl", output.writing)
    try:
        tell(Progress(tmp_path / "progress.jsonl"), display, output)
    finally:
        display.stop()
        text = output.text()
    return text


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """The display looks more often, for tests that take less time."""
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.02)


def seen() -> None:
    """Wait until the display has looked once more."""
    time.sleep(0.08)


def two_phases(progress: Progress, *_: object) -> None:
    with progress.phase("creating the kind cluster"):
        progress.line("Preparing nodes")
    with progress.phase("installing Istio"):
        pass


def as_kind_does(progress: Progress, *_: object) -> None:
    with progress.phase(CREATING):
        for line in KIND:
            progress.line(line)
            seen()


def test_each_phase_is_a_line_as_it_begins_and_as_it_ends(tmp_path: Path) -> None:
    text = re.sub(r"\d+\.\d", "0.0", shown(tmp_path, two_phases))
    assert text == (
        "\nistio-sidecar: creating the kind cluster\nistio-sidecar: 0.0 s  creating the kind cluster\n"
        "istio-sidecar: installing Istio\nistio-sidecar: 0.0 s  installing Istio\n"
    )


def test_a_pipe_is_told_nothing_between_the_beginning_and_the_end_of_a_phase(tmp_path: Path) -> None:
    assert shown(tmp_path, as_kind_does).count("\n") == 3


def test_a_terminal_shows_the_time_the_phase_and_the_last_line_and_is_left_clean(
    tmp_path: Path, rows_of
) -> None:
    def slowly(progress: Progress, _: object, output: Output) -> None:
        with progress.phase("creating the kind cluster"):
            progress.line("Preparing nodes")
            output.wait_for("istio-sidecar: 0 s  creating the kind cluster  Preparing nodes")

    text = shown(tmp_path, slowly, columns=80)
    above, row, below = rows_of(text, columns=80)
    assert (above, below) == ("", "")
    assert re.fullmatch(r"istio-sidecar: 0\.\d s  creating the kind cluster", row)


@pytest.mark.parametrize("columns", [30, 79, 80, 81, 100, 101, 132])
def test_a_phase_takes_one_row_of_the_terminal_however_long_its_lines_are(
    tmp_path: Path, rows_of, columns: int
) -> None:
    text = shown(tmp_path, as_kind_does, columns=columns)
    painted = LIVE.findall(text)
    assert painted
    for row in painted:
        assert rows_of(row, columns=columns) == [row.replace("\ufe0f", "")]


def test_80_columns_have_the_time_what_is_done_and_what_kind_says(tmp_path: Path) -> None:
    def slowly(progress: Progress, _: object, output: Output) -> None:
        with progress.phase(CREATING):
            output.wait_for("s  creating the kind cluster istio-sidecar-1-8-3-5f3a from ...")
            progress.line(KIND[1])
            output.wait_for("s  creating the kind c...  • Ensuring node image (kindest/...")
            progress.line(KIND[3])
            output.wait_for("s  creating the kind cluste...  ✓ Starting control-plane 🕹️")

    assert "istio-sidecar: 0 s  creating" in shown(tmp_path, slowly, columns=80)


def test_the_time_is_seen_however_narrow_a_terminal_is(tmp_path: Path) -> None:
    def slowly(progress: Progress, _: object, output: Output) -> None:
        with progress.phase(CREATING):
            output.wait_for("istio-sidecar: 1 s")

    assert LIVE.findall(shown(tmp_path, slowly, columns=19))[0] == "istio-sidecar: 0 s"


@pytest.mark.parametrize("columns", [1, 2, 5, 16])
def test_a_terminal_too_narrow_for_anything_breaks_nothing(tmp_path: Path, rows_of, columns: int) -> None:
    text = shown(tmp_path, as_kind_does, columns=columns)
    assert all(len(rows_of(row, columns=columns)) == 1 for row in re.findall(r"\x1b\[K([^\r\n]*)\r", text))
    assert text.endswith(CREATING + "\n")


def test_a_terminal_that_does_not_tell_its_width_is_taken_for_one_of_80(tmp_path: Path, rows_of) -> None:
    painted = LIVE.findall(shown(tmp_path, as_kind_does, columns=0))
    assert painted
    assert all(len(rows_of(row, columns=80)) == 1 for row in painted)
    assert max(map(len, painted)) > 70


def test_the_terminals_own_width_counts_and_not_the_variable_columns(
    tmp_path: Path, rows_of, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    painted = LIVE.findall(shown(tmp_path, as_kind_does, columns=40))
    assert painted
    assert all(len(rows_of(row, columns=40)) == 1 for row in painted)


def test_a_terminal_that_gets_narrower_meanwhile_is_kept_to_from_then_on(tmp_path: Path, rows_of) -> None:
    def narrower(progress: Progress, _: object, output: Output) -> None:
        with progress.phase(CREATING):
            progress.line(KIND[1])
            output.wait_for(KIND[1])
            output.resize(40)
            output.wait_for("s  creating the kin...")

    painted = LIVE.findall(shown(tmp_path, narrower, columns=120))
    assert len(rows_of(painted[-1], columns=40)) == 1


def test_what_a_command_says_moves_no_cursor(tmp_path: Path) -> None:
    def says(progress: Progress, _: object, output: Output) -> None:
        with progress.phase("installing Istio"):
            progress.line("\x1b[2J\x1b[Hgone\r\tand\x07 \x9b5A back")
            output.wait_for("back")

    text = shown(tmp_path, says, columns=80)
    assert set(re.sub(r"\r\x1b\[K", "", text)) & set("\x1b\x07\x9b\t\r") == set()


def test_what_stays_the_same_is_not_written_again(tmp_path: Path) -> None:
    def slowly(progress: Progress, *_: object) -> None:
        with progress.phase("installing Istio"):
            time.sleep(0.7)

    painted = LIVE.findall(shown(tmp_path, slowly, columns=80))
    assert painted == sorted(set(painted))


def test_a_terminal_that_cannot_write_over_a_line_is_told_whole_lines(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    text = shown(tmp_path, as_kind_does, columns=80)
    assert "\x1b" not in text
    assert text.startswith(f"\nistio-sidecar: {CREATING}\n")


@pytest.mark.parametrize("columns", [None, 80])
def test_whoever_writes_next_begins_a_line_and_so_does_what_is_told_after(
    tmp_path: Path, rows_of, columns: int | None
) -> None:
    def between(progress: Progress, display: ProgressDisplay, output: Output) -> None:
        with progress.phase("creating the kind cluster"):
            output.wait_for("istio-sidecar: ")
            assert display.settle()
            os.write(output.writing, b"E")
            assert not display.settle()
            os.write(output.writing, b"E")
        with progress.phase("deleting the kind cluster"):
            pass

    text = shown(tmp_path, between, columns=columns)
    rows = [row for row in rows_of(text, columns=80) if row]
    told = [row for row in rows if row != "EE"]
    assert "EE" in rows
    assert all(
        re.fullmatch(r"istio-sidecar: (0\.\d s  )?(creat|delet)ing the kind cluster", row) for row in told
    )
    assert len(told) == (2 if columns else 4)


def test_while_others_write_the_line_that_is_written_over_stays_away(tmp_path: Path, rows_of) -> None:
    def others(progress: Progress, display: ProgressDisplay, output: Output) -> None:
        with progress.phase("creating the kind cluster"):
            output.wait_for("istio-sidecar: 0 s")
            for _ in range(20):
                display.settle()
                os.write(output.writing, b".")
                time.sleep(0.03)

    rows = rows_of(shown(tmp_path, others, columns=80), columns=80)
    assert rows[1] == "." * 20
    assert len(rows) == 4


def test_an_output_that_nobody_reads_any_more_ends_no_run(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    display = ProgressDisplay(tmp_path / "progress.jsonl", writing)
    two_phases(Progress(tmp_path / "progress.jsonl"))
    display.settle()
    display.stop()
    os.close(writing)


def test_a_phase_that_fails_is_told_as_failed(tmp_path: Path) -> None:
    def fails(progress: Progress, *_: object) -> None:
        with pytest.raises(ValueError, match="no"), progress.phase("installing Istio"):
            raise ValueError("no")

    assert "\nistio-sidecar: failed after 0.0 s  installing Istio\n" in shown(tmp_path, fails)


def test_the_time_of_each_phase_is_kept() -> None:
    progress = Progress()
    two_phases(progress)
    assert list(progress.seconds) == ["creating the kind cluster", "installing Istio"]


def test_what_is_told_while_others_write_waits_and_begins_a_line_of_its_own(tmp_path: Path) -> None:
    def while_others_write(progress: Progress, display: ProgressDisplay, output: Output) -> None:
        with display.aside():
            with progress.phase("creating the kind cluster"):
                seen()
            os.write(output.writing, b"E")
        seen()

    text = shown(tmp_path, while_others_write)
    assert text.startswith("E\nistio-sidecar: creating the kind cluster\n")
