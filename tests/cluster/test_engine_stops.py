"""The engine stops in the middle of a run: a sentence, no hang, and what is left is found again.

The engine of the test bed serves others too. So a run gets it through a socket of its own, which the test
takes away: for the run the engine has stopped, as for kind and docker, which ask it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ground import Lab

ENGINE = "/var/run/docker.sock"
ONE_TEST = "def test_it(iptables_nat): pass\n"


class Engine:
    """A socket that leads to the real engine, until it is stopped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(64)
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                asking, _ = self._listening.accept()
                answering = socket.socket(socket.AF_UNIX)
                answering.connect(ENGINE)
                self._open += [asking, answering]
                for source, target in ((asking, answering), (answering, asking)):
                    threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def stop(self) -> None:
        """As an engine that ends: what is open breaks, and nobody listens."""
        self.path.unlink(missing_ok=True)
        for held in [self._listening, *self._open]:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
            held.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path / "docker.sock")
    yield made
    made.stop()


@pytest.mark.parametrize("phase", ["creating the kind cluster", "loading"])
def test_a_run_whose_engine_stops_ends_with_the_cause_and_clean_finds_what_is_left(
    lab: Callable[..., Lab], engine: Engine, phase: str
) -> None:
    place = lab()
    (place.directory / "test_mine.py").write_text(ONE_TEST)
    environment = {**place.testbed.environment, "DOCKER_HOST": f"unix://{engine.path}"}
    run_on_it = replace(place, testbed=replace(place.testbed, environment=environment))
    run = run_on_it.start("test_mine.py", "--istio-timeout=120")
    run_on_it.wait_for(phase, run)
    if phase == "loading":
        assert place.exists()
    engine.stop()
    done = run_on_it.end(run, timeout=300)
    assert done.status == 1, done.output
    assert done.count("error") == 1, done.output
    assert "cause    no container engine answers" in done.output, done.output
    assert "Traceback" not in done.output, done.output
    assert "remove it: istio-sidecar clean" in done.output, done.output
    cleaned = place.command("clean")
    assert cleaned.returncode == 0, cleaned.stderr
    assert place.name in cleaned.stdout
    assert not place.exists()
