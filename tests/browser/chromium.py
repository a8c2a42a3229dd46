"""Pages in this machine's own Chromium, spoken to in its DevTools protocol through a pipe.

Knows how a page is opened, looked at, and used by keyboard. Does not know what a page should be.
Drivers bring a browser or a second program that has to be of the browser's version; a page that
is one file asks for five commands. Source: chromedevtools.github.io/devtools-protocol.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # as root there is none; the page is ours
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_KEYS = {"Tab": 9, "Enter": 13, "ArrowRight": 39}
_DEADLINE = 60.0
"""Seconds that an answer may take."""


def find_browser() -> str | None:
    """The browser's path; None where there is none."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Browser:
    """A browser without windows, and the pipe to it."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._rest = b""
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Have one command done; its result. Events that come meanwhile are kept."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        os.write(self._to, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def wait_for(self, event: str) -> None:
        """Return when an event has come."""
        while not any(held["method"] == event for held in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + _DEADLINE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"the browser said nothing for {_DEADLINE} s"
            came = os.read(self._from, 1 << 20)
            assert came, "the browser ended"
            self._rest += came
        message, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        return told


class Tab:
    """One page, as wide as it is told, in the light or in the dark."""

    def __init__(self, browser: Browser, page: Path, *, width: int, dark: bool) -> None:
        self._browser = browser
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._ask("Page.enable")
        self._ask("Network.enable")
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        browser.events.clear()
        self._ask("Page.navigate", url=page.as_uri())
        browser.wait_for("Page.loadEventFired")

    def requested(self) -> list[str]:
        """The addresses of all that the page asked for so far."""
        return [
            held["params"]["request"]["url"]
            for held in self._browser.events
            if held["method"] == "Network.requestWillBeSent"
        ]

    def look(self, script: str) -> Any:
        """The value of an expression in the page."""
        told = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release one key."""
        held = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self._ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **held, **text)
        self._ask("Input.dispatchKeyEvent", type="keyUp", **held)

    def picture(self, file: Path) -> None:
        """Write the whole page as PNG."""
        shot = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(b64decode(shot["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.ask(method, self._session, **parameters)


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Browser]:
    """A browser for as long as the block lasts.

    Args:
        profile: a folder of its own.
    """
    (read_commands, write_commands), (read_answers, write_answers) = os.pipe(), os.pipe()
    # The browser reads at 3 and writes at 4; bash puts the pipes there.
    moved = f'exec "$@" 3<&{read_commands} 4>&{write_answers}'
    process = subprocess.Popen(
        ["bash", "-c", moved, "bash", program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(read_commands, write_answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        opened = Browser(write_commands, read_answers)
        yield opened
        opened.ask("Browser.close")
        process.wait(timeout=20)
    finally:
        process.kill()
        process.wait(timeout=20)
        os.close(write_commands)
        os.close(read_answers)
