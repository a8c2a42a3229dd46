"""The plugin on a real kind cluster: the user's own sentence, from nothing to a verdict.

Istio is the double's (README.md); cluster, kernel, Envoy and httpbin are real. Each test
runs pytest as a user does, in a process of its own, with a kubeconfig in its environment
whose current context is someone's production.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from ground import Lab, Outcome, new_name, until_1_21

SUITE = ("--pyargs", "pytest_istio_sidecar.suite")

WHAT_THE_LAB_READS = """
from pytest_istio_sidecar import (
    assert_inbound_exclusions,
    assert_jump,
    assert_listener,
    assert_redirect_target,
    expected_ruleset,
)


def test_the_rules(iptables_nat):
    assert_jump(iptables_nat, "PREROUTING", "ISTIO_INBOUND", protocol="tcp")
    assert_inbound_exclusions(iptables_nat, {15008, 22, 15090, 15021, 15020})
    assert_redirect_target(iptables_nat, "ISTIO_IN_REDIRECT", 15006)
    assert_jump(iptables_nat, "OUTPUT", "ISTIO_OUTPUT", protocol="tcp")
    assert_redirect_target(iptables_nat, "ISTIO_REDIRECT", 15001)


def test_the_listeners(envoy_listeners):
    assert_listener(envoy_listeners, 15006, direction="inbound")
    assert_listener(envoy_listeners, 15001, direction="outbound")


def test_the_traffic(send_request):
    assert send_request("inbound").captured_by == "inbound"
    assert send_request("outbound").captured_by == "outbound"
    assert send_request("localhost").captured_by is None


def test_the_options(istio_options, istio_version, iptables_nat):
    expected = expected_ruleset(istio_version, options=istio_options)
    assert list(iptables_nat.rules()) == list(expected.nat.rules())
"""


@dataclass(frozen=True, kw_only=True)
class TwoRuns:
    """A run from beginning to end, and what a second one of the same name said meanwhile."""

    lab: Lab
    process: int
    first: Outcome
    second: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def two_runs(make_lab: Callable[..., Lab]) -> Iterator[TwoRuns]:
    lab = make_lab(new_name("lab"))
    try:
        run = lab.start(*SUITE)
        lab.wait_for("installing Istio", run)
        second = subprocess.run(
            lab.argv(*SUITE),
            cwd=lab.directory,
            env=lab.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        yield TwoRuns(lab=lab, process=run.pid, first=lab.end(run), second=second)
    finally:
        lab.delete()


def test_the_suite_passes_on_a_cluster_of_its_own_which_is_gone_afterwards(two_runs: TwoRuns) -> None:
    lab, done = two_runs.lab, two_runs.first
    assert done.status == 0, done.output
    assert done.count("passed") > 10, done.output
    assert done.count("failed") == done.count("error") == 0, done.output
    assert not lab.exists()
    assert list((lab.directory / "runtime").rglob("*.json")) == []
    assert not (lab.directory / ".pytest-kind").exists()


def test_a_second_run_with_the_same_name_is_refused_and_the_first_goes_on(two_runs: TwoRuns) -> None:
    assert two_runs.second.returncode != 0
    assert f"{two_runs.lab.name} is in use by process {two_runs.process}" in two_runs.second.stdout
    assert two_runs.first.status == 0, two_runs.first.output


def test_the_suite_passes_on_what_the_webhook_injects(standing_lab: Callable[..., Lab]) -> None:
    done = standing_lab().run(*SUITE, "--istio-injection=webhook")
    assert done.status == 0, done.output
    assert done.count("passed") > 10, done.output


WHAT_EVERY_ERA_HAS = """
from pytest_istio_sidecar import assert_redirect_target


def test_the_rules(iptables_nat):
    assert_redirect_target(iptables_nat, "ISTIO_IN_REDIRECT", 15006)
    assert_redirect_target(iptables_nat, "ISTIO_REDIRECT", 15001)
    assert str(iptables_nat.ruleset.backend) == BACKEND


def test_the_traffic(send_request):
    assert send_request("inbound").captured_by == "inbound"
    assert send_request("outbound").captured_by == "outbound"
"""


@pytest.mark.parametrize(("version", "backend"), [("1.20.8", "legacy"), ("1.27.3", "nf_tables")])
def test_a_users_container_is_merged_and_the_right_back_end_read(
    standing_lab: Callable[..., Lab], version: str, backend: str
) -> None:
    place = standing_lab(version=version)
    text = f"BACKEND = {backend!r}\n{WHAT_EVERY_ERA_HAS}"
    (place.directory / "test_mine.py").write_text(text)
    done = place.run("test_mine.py", "--istio-injection=webhook")
    assert done.status == 0, done.output
    assert done.count("passed") == 2, done.output


@pytest.fixture(scope="module")
def four_workers(make_lab: Callable[..., Lab]) -> Iterator[tuple[Lab, Outcome]]:
    """The suite by four workers, and the cluster that they made, which is kept."""
    lab = make_lab(new_name("lab"))
    try:
        yield lab, lab.run(*SUITE, "-n", "4", "--istio-keep=always")
    finally:
        lab.delete()


def test_four_workers_share_one_cluster(four_workers: tuple[Lab, Outcome]) -> None:
    lab, done = four_workers
    assert done.status == 0, done.output
    assert len(re.findall(r" [\d.]+ s  creating the kind cluster .*$", done.output, re.MULTILINE)) == 1
    assert "KUBECONFIG=" in done.output
    assert lab.exists()


@until_1_21
def test_a_users_own_tests_read_as_the_lab_does_on_a_kept_cluster_until_it_is_let_go(
    four_workers: tuple[Lab, Outcome],
) -> None:
    lab, _ = four_workers
    (lab.directory / "test_mine.py").write_text(WHAT_THE_LAB_READS)
    done = lab.run("test_mine.py", "--istio-reuse", "--istio-keep=always")
    assert done.status == 0, done.output
    assert done.count("passed") == 4
    assert lab.exists()
    assert "KUBECONFIG=" in done.output
    again = lab.run("test_mine.py", "--istio-reuse")
    assert again.status == 0, again.output
    assert not lab.exists()
