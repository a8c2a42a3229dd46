"""What a long bring-up is at, for who waits for it.

Knows phases, and how one process tells another of them through a file. Does not
know pytest. Invariant: whoever reads the file meets whole lines only.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.2
_WIDTH = 100


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

    def _tell(self, **told: object) -> None:
        if self._file is None:
            return
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, (json.dumps(told) + "\n").encode())
        finally:
            os.close(descriptor)


class ProgressDisplay:
    """Shows phases from that file on a terminal, or as plain lines elsewhere, until it is stopped."""

    def __init__(self, file: Path, descriptor: int) -> None:
        self._file = file
        self._descriptor = descriptor
        self._terminal = os.isatty(descriptor)
        self._position = 0
        self._phase = ""
        self._begin = 0.0
        self._last = ""
        self._open_line = False
        self._left = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="istio-sidecar-progress")
        self._thread.start()

    def stop(self) -> None:
        """Show what is left and end."""
        self._stopping.set()
        self._thread.join(2)

    def _run(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            self._show()
        self._show()
        self._clear()

    def _show(self) -> None:
        for told in self._news():
            event = told["event"]
            if event == "begin":
                self._phase, self._begin, self._last = str(told["phase"]), time.monotonic(), ""
                self._leave_line()
                if not self._terminal:
                    self._write(f"istio-sidecar: {self._phase}\n")
            elif event == "line":
                self._last = str(told["text"])
            else:
                ended = "failed after " if event == "failed" else ""
                self._clear()
                self._write(f"istio-sidecar: {told['phase']}: {ended}{float(str(told['seconds'])):.1f} s\n")
                self._phase = ""
        if self._phase and self._terminal:
            elapsed = time.monotonic() - self._begin
            shown = f"istio-sidecar: {self._phase} {elapsed:4.0f} s  {self._last}"[:_WIDTH]
            self._write(f"\r\x1b[K{shown}")
            self._open_line = True

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

    def _leave_line(self) -> None:
        """Go to a line of our own once: pytest may be in the middle of one."""
        if not self._left:
            self._write("\n")
            self._left = True

    def _clear(self) -> None:
        if self._open_line:
            self._write("\r\x1b[K")
            self._open_line = False

    def _write(self, text: str) -> None:
        os.write(self._descriptor, text.encode(errors="replace"))
