"""kubectl and istioctl while the API server restarts, with a shell as their double."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pytest_istio_sidecar.environments.cluster import api_program
from pytest_istio_sidecar.environments.cluster.api_program import run_api_program

AWAY = (
    'error when creating "STDIN": Post "https://127.0.0.1:34405/apis/apps/v1": unexpected EOF',
    "The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?",
    "Error: could not read configmap: Get https://127.0.0.1:6443/api: dial tcp: connect: connection refused",
    "error: etcdserver: leader changed",
    'error: error validating "STDIN": error validating data: failed to download openapi: unknown; if',
    'from server for: "STDIN": services "httpbin" is forbidden: User "kubernetes-admin" cannot get resource',
)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_program, "_PAUSE_SECONDS", 0.01)


def program(tmp_path: Path, said: str, *, times: int) -> list[str]:
    """Fails with these words so many times, then says what it was given."""
    count = f"echo >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) -gt {times} ]"
    script = f"{count} && exec cat; echo '{said}' >&2; exit 1"
    return ["sh", "-c", script]


def tries(tmp_path: Path) -> int:
    return len((tmp_path / "tries").read_text().splitlines())


@pytest.mark.parametrize("said", AWAY)
def test_a_server_that_is_away_is_asked_again_with_the_same_input(tmp_path: Path, said: str) -> None:
    result = run_api_program(program(tmp_path, said, times=2), timeout=20, text="a manifest")
    assert result.succeeded
    assert result.stdout == "a manifest"
    assert tries(tmp_path) == 3


def test_a_refusal_is_final(tmp_path: Path) -> None:
    said = "Error from server (Forbidden): deployments.apps is forbidden"
    result = run_api_program(program(tmp_path, said, times=2), timeout=20)
    assert result.exit_status == 1
    assert tries(tmp_path) == 1


def test_a_server_that_stays_away_is_told_in_the_programs_words(tmp_path: Path) -> None:
    begin = time.monotonic()
    result = run_api_program(program(tmp_path, AWAY[0], times=10**6), timeout=0.5)
    assert "unexpected EOF" in result.stderr
    assert time.monotonic() - begin < 30
