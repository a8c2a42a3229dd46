"""Leases: written before what they speak for, removed with it, never while the owner lives."""

import os
import subprocess
import sys

import pytest

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.machine.lease import Lease, clean_stale, leases, leases_directory


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    return runtime / "istio-sidecar"


@pytest.fixture
def ended_lease():
    """A lease whose owner has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        lease = Lease.of("embedded", owner.pid)
        lease.write()
        lease.directory.mkdir()
        (lease.directory / "envoy.out").write_text("{}")
        owner.communicate(timeout=10)
    return lease


def test_a_lease_is_read_back_as_it_was_written():
    lease = Lease.of("embedded", os.getpid())
    lease.write()
    assert list(leases()) == [lease]


def test_a_lease_is_there_before_its_directory():
    lease = Lease.of("embedded", os.getpid())
    lease.write()
    assert lease.path.exists()
    assert not lease.directory.exists()


def test_a_lease_of_a_living_owner_is_not_stale():
    lease = Lease.of("embedded", os.getpid())
    lease.write()
    lease.directory.mkdir()
    assert clean_stale() == []
    assert lease.directory.exists()


def test_what_an_ended_owner_leased_is_removed_and_named(ended_lease, place):
    (removed,) = clean_stale()
    assert str(ended_lease.directory) in removed
    assert list(place.iterdir()) == []


def test_releasing_twice_does_nothing_more(ended_lease):
    ended_lease.release()
    ended_lease.release()
    assert list(leases()) == []


def test_no_lease_is_given_to_an_owner_that_has_ended(ended_lease):
    with pytest.raises(EnvironmentProblem, match="has ended"):
        Lease.of("embedded", ended_lease.owner.pid)


def test_a_lease_cannot_name_a_directory_outside_its_place(ended_lease, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    text = ended_lease.path.read_text()
    ended_lease.path.write_text(text.replace(str(ended_lease.directory), str(outside)))
    clean_stale()
    assert outside.exists()
    assert not ended_lease.directory.exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"kind": 1, "owner": 2, "created": 3}'])
def test_a_file_that_is_no_lease_is_passed_over(place, text):
    (leases_directory() / "other.json").write_text(text)
    assert list(leases()) == []
    assert (place / "other.json").exists()


def test_a_place_that_others_can_write_to_is_refused(place):
    leases_directory().chmod(0o777)
    with pytest.raises(EnvironmentProblem, match="open to others"):
        leases_directory()
    place.chmod(0o700)


def test_a_lease_whose_writer_was_killed_is_removed_when_it_is_old(place):
    young, old = (leases_directory() / f"embedded-{age}.new" for age in ("young", "old"))
    young.touch()
    old.touch()
    os.utime(old, (0, 0))
    (removed,) = clean_stale()
    assert str(old) in removed
    assert young.exists()
