"""Runs cut short while they have a cluster of their own: nothing of it is left, or `clean` finds it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from ground import Lab

ONE_TEST = """
def test_the_rules_are_read(iptables_nat):
    assert iptables_nat.chain("ISTIO_REDIRECT").rules
"""

KILLED = """
import os
import signal


def test_it(iptables_nat):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def with_a_test(place: Lab, text: str = ONE_TEST) -> Lab:
    (place.directory / "test_mine.py").write_text(text)
    return place


@pytest.mark.parametrize(
    "phase",
    ["creating the kind cluster", "installing Istio", "deploying deployment/httpbin", "making istio-proxy"],
)
def test_an_interrupted_run_deletes_its_cluster(
    lab: Callable[..., Lab], phase: str, processes_with: Callable[[str], list[str]]
) -> None:
    place = with_a_test(lab())
    run = place.start("test_mine.py")
    place.wait_for(phase, run)
    time.sleep(2)
    os.killpg(run.pid, signal.SIGINT)
    done = place.end(run, timeout=120)
    assert done.status == 2, done.output
    assert f" s  deleting the kind cluster {place.name}\n" in done.output
    assert not place.exists(), done.output
    assert list((place.directory / "runtime").rglob("*.json")) == []
    assert processes_with(f"XDG_RUNTIME_DIR={place.environment['XDG_RUNTIME_DIR']}") == []


def test_a_killed_run_leaves_a_cluster_that_clean_removes(lab: Callable[..., Lab]) -> None:
    place = with_a_test(lab())
    run = place.start("test_mine.py")
    place.wait_for("installing Istio", run)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait(30)
    assert place.exists()
    cleaned = place.command("clean")
    assert cleaned.returncode == 0, cleaned.stderr
    assert place.name in cleaned.stdout + cleaned.stderr
    assert not place.exists()


def test_a_killed_worker_leaves_no_cluster(lab: Callable[..., Lab]) -> None:
    place = with_a_test(lab(), KILLED)
    done = place.run("test_mine.py", "-n", "2", "--max-worker-restart=0")
    assert done.status != 0
    assert not place.exists(), done.output


def test_a_node_that_is_killed_ends_the_run_with_an_error(lab: Callable[..., Lab]) -> None:
    """As when the engine stops; the test bed's engine itself serves others."""
    place = with_a_test(lab())
    run = place.start("test_mine.py", "--istio-timeout=60")
    place.wait_for("installing Istio", run)
    place.testbed.run("docker", "kill", f"{place.name}-control-plane")
    done = place.end(run, timeout=300)
    assert done.status == 1, done.output
    assert done.count("error") == 1, done.output
    assert not place.exists()
