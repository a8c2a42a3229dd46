"""Phases told by one process and shown by another."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from pytest_istio_sidecar.machine.progress import Progress, ProgressDisplay


def shown(tmp_path: Path, tell, *, terminal: bool = False) -> str:
    """What a display has written when everything was told."""
    file = tmp_path / "progress.jsonl"
    reading, writing = pty.openpty() if terminal else os.pipe()
    display = ProgressDisplay(file, writing)
    try:
        tell(Progress(file))
    finally:
        display.stop()
        os.close(writing)
    parts = []
    try:
        while part := os.read(reading, 65536):
            parts.append(part)
    except OSError:  # how the end of a terminal shows
        pass
    os.close(reading)
    return b"".join(parts).decode()


def two_phases(progress: Progress) -> None:
    with progress.phase("creating the kind cluster"):
        progress.line("Preparing nodes")
    with progress.phase("installing Istio"):
        pass


def test_each_phase_is_a_line_as_it_begins_and_as_it_ends(tmp_path: Path) -> None:
    lines = shown(tmp_path, two_phases).split("\n")
    assert lines[:2] == ["", "istio-sidecar: creating the kind cluster"]
    assert lines[2].startswith("istio-sidecar: creating the kind cluster: 0.")
    assert lines[3] == "istio-sidecar: installing Istio"


def test_a_terminal_shows_the_time_and_the_last_line_and_is_left_clean(tmp_path: Path) -> None:
    def slowly(progress: Progress) -> None:
        import time

        with progress.phase("creating the kind cluster"):
            progress.line("Preparing nodes")
            time.sleep(0.6)

    text = shown(tmp_path, slowly, terminal=True)
    assert "istio-sidecar: creating the kind cluster    0 s  Preparing nodes" in text
    assert (
        text.rstrip("\r\n").rpartition("\x1b[K")[2].startswith("istio-sidecar: creating the kind cluster: 0.")
    )


def test_a_phase_that_fails_is_told_as_failed(tmp_path: Path) -> None:
    def fails(progress: Progress) -> None:
        with pytest.raises(ValueError, match="no"), progress.phase("installing Istio"):
            raise ValueError("no")

    assert "istio-sidecar: installing Istio: failed after 0.0 s" in shown(tmp_path, fails)


def test_the_time_of_each_phase_is_kept() -> None:
    progress = Progress()
    two_phases(progress)
    assert list(progress.seconds) == ["creating the kind cluster", "installing Istio"]
