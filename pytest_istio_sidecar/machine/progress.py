"""What a long bring-up is at, for who waits for it.

Knows phases, and how one process tells another of them through a file. Does not
know pytest. Invariant: whoever reads the file meets whole lines only.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.2
_SILENT_SECONDS = 5.0
"""For which others write without the line that is written over coming back after each."""
_UNKNOWN_COLUMNS = 80
"""Of a terminal that does not tell: a serial line, a pseudo-terminal that nobody has given a size."""
_ROOM_FOR_TWO = 40
"""Columns in which a phase and what its command says both tell something."""
_MORE = "..."


class Progress:
    """Tells of phases in a file; without one, to nobody."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.seconds: dict[str, float] = {}
        """Seconds that each phase took, by its name."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase: "creating the kind cluster". Its time is kept, and told when it ends."""
        begin = time.monotonic()
        self._tell(event="begin", phase=name)
        try:
            yield
        except BaseException:
            self._tell(event="failed", phase=name, seconds=time.monotonic() - begin)
            raise
        self.seconds[name] = time.monotonic() - begin
        self._tell(event="end", phase=name, seconds=self.seconds[name])

    def line(self, text: str) -> None:
        """A line that the running command said."""
        self._tell(event="line", text=text)

    def _tell(self, **fact: object) -> None:
        if self._file is None:
            return
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, (json.dumps(fact) + "\n").encode())
        finally:
            os.close(descriptor)


class ProgressDisplay:
    """Shows phases from that file, as a line that is written over on a terminal, as whole lines elsewhere."""

    def __init__(self, file: Path, descriptor: int) -> None:
        self._file = file
        self._descriptor = descriptor
        self._terminal = os.isatty(descriptor) and os.environ.get("TERM") != "dumb"
        self._position = 0
        self._phase = ""
        self._begin = 0.0
        self._last = ""
        self._shown = ""
        """What the line that is written over says; "" where there is none."""
        self._at_line_start = False
        self._silent_until = 0.0
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="istio-sidecar-progress")
        self._thread.start()

    def settle(self) -> bool:
        """Show what was told, and leave the place to others, who are about to write.

        What is told later begins on a line of its own. The line that is written over comes back when
        nobody else has written for a while, or the next phase begins.

        Returns:
            Whether anything was shown since the last time.
        """
        with self.aside() as shown:
            return shown

    @contextmanager
    def aside(self) -> Iterator[bool]:
        """As `settle`, and nothing is shown until others have written: they end in the middle of a line."""
        with self._lock:
            self._show_news()
            self._erase()
            shown = self._at_line_start
            try:
                yield shown
            finally:
                self._at_line_start = False
                self._silent_until = time.monotonic() + _SILENT_SECONDS

    def stop(self) -> None:
        """Show what is left and end."""
        self._stopping.set()
        self._thread.join(2)

    def _run(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            with self._lock:
                self._show_news()
                if self._phase and self._terminal and time.monotonic() >= self._silent_until:
                    self._show_elapsed()
        self.settle()

    def _show_news(self) -> None:
        for fact in self._news():
            event = fact["event"]
            if event == "begin":
                self._phase, self._begin, self._last = str(fact["phase"]), time.monotonic(), ""
                self._silent_until = 0.0
                if not self._terminal:
                    self._write_line(self._phase)
            elif event == "line":
                self._last = str(fact["text"])
            else:
                ended = "failed after " if event == "failed" else ""
                self._write_line(f"{ended}{float(str(fact['seconds'])):.1f} s  {fact['phase']}")
                self._phase = ""

    def _show_elapsed(self) -> None:
        seconds = time.monotonic() - self._begin
        text = _one_row(seconds, self._phase, self._last, columns=_columns_of(self._descriptor))
        if text != self._shown:
            self._write(f"\r\x1b[K{text}")
            self._shown = text

    def _write_line(self, text: str) -> None:
        self._erase()
        self._write(f"istio-sidecar: {text}\n")

    def _erase(self) -> None:
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = ""

    def _write(self, text: str) -> None:
        if not self._at_line_start:
            text = f"\n{text}"  # pytest may be in the middle of a line
            self._at_line_start = True
        with contextlib.suppress(OSError):  # nobody reads it any more, which ends no run
            os.write(self._descriptor, text.encode(errors="replace"))

    def _news(self) -> Iterator[dict[str, object]]:
        try:
            with self._file.open("rb") as file:
                file.seek(self._position)
                heard = file.read()
        except OSError:
            return
        whole = heard[: heard.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            yield json.loads(line)


def _columns_of(descriptor: int) -> int:
    """How wide a terminal is now, asked of itself: COLUMNS tells how wide one was, or another is."""
    try:
        return os.get_terminal_size(descriptor).columns or _UNKNOWN_COLUMNS
    except OSError:
        return _UNKNOWN_COLUMNS


def _one_row(seconds: float, phase: str, said: str, *, columns: int) -> str:
    """What fits a row of a terminal: the time first, then the phase, then what its command said last.

    The last column stays free, as some terminals go on to the next row when it is written to.
    """
    head = f"istio-sidecar: {int(seconds)} s  "
    room = columns - 1 - len(head)
    said = "".join(char if char.isprintable() else " " for char in said[:columns]).strip()
    said = _cut(said, room * 3 // 5) if room >= _ROOM_FOR_TWO else ""
    phase = _cut(phase, room - _width(f"  {said}") if said else room)
    return _cut(f"{head}{phase}  {said}".rstrip(), columns - 1)


def _cut(text: str, columns: int) -> str:
    if _width(text) <= columns:
        return text
    kept = text[: max(columns, 0)]
    while kept and _width(kept) > columns - len(_MORE):
        kept = kept[:-1]
    return (kept + _MORE)[: max(columns, 0)]


def _width(text: str) -> int:
    """Columns that a text takes at most: no character takes more than two, and those of ASCII take one."""
    return sum(1 if char.isascii() else 2 for char in text)
