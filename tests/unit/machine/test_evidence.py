"""A run's evidence: it stays small, holds whole files, and says what it left out."""

from pathlib import Path

import pytest

from pytest_istio_sidecar.machine import evidence
from pytest_istio_sidecar.machine.evidence import LIMIT, add_file, write_evidence

LISTING = "-A ISTIO_INBOUND -p tcp -m tcp --dport 8443 -j RETURN\n" * 10_000
TESTS = 11
"""Failing tests, of which each would keep the listing: together more than the limit."""


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("full")
    for number in range(TESTS):
        write_evidence(folder, {"nat.rules": LISTING, "message.txt": "no\n"}, into=f"test_{number}")
    return folder


def test_however_many_tests_fail_the_folder_stays_under_5_mb(full):
    assert LIMIT * 0.8 < size_of(full) < 5_000_000 < TESTS * len(LISTING)


def test_a_file_is_there_whole_or_is_named_as_left_out(full):
    kept = list(full.rglob("nat.rules"))
    told = (full / "left-out.txt").read_text().splitlines()
    assert {path.read_text() for path in kept} == {LISTING}
    assert len(kept) + len(told) == TESTS
    assert told[-1] == f"test_10/nat.rules: {len(LISTING)} bytes, and the folder is kept under {LIMIT}"


def test_what_is_written_again_does_not_count_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "LIMIT", 70_000)
    for _ in range(3):
        write_evidence(tmp_path, {"nat.rules": LISTING[:5000]})
    assert not (tmp_path / "left-out.txt").exists()


def test_a_secret_in_a_text_does_not_reach_the_disk(tmp_path):
    write_evidence(tmp_path, {"headers.txt": "authorization: Bearer abcdef.123456\n"})
    assert "abcdef" not in (tmp_path / "headers.txt").read_text()


def test_files_of_one_name_are_told_apart_and_the_same_text_is_kept_once():
    files = {"nat.rules": "one"}
    names = [add_file(files, path, text) for path, text in (("a/nat.rules", "one"), ("b/nat.rules", "two"))]
    assert names == ["nat.rules", "2-nat.rules"]
    assert files == {"nat.rules": "one", "2-nat.rules": "two"}


def test_what_is_of_another_pod_is_in_a_folder_of_its_own(tmp_path):
    write_evidence(tmp_path / "run", {"nat.rules": "one", "demo_b/nat.rules": "two"})
    assert (tmp_path / "run" / "demo_b" / "nat.rules").read_text() == "two"


def test_a_folder_that_cannot_be_made_costs_the_evidence_and_not_the_verdict(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.warns(UserWarning, match="is not complete"):
        write_evidence(tmp_path / "taken", {"nat.rules": ""})
