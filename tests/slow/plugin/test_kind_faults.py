"""Every fault of bringing a cluster up, with fakes: it ends with a sentence and leaves nothing behind.

kind, istioctl and the API server are doubles (fakes/program.py); one real run for each class of fault is
in tests/cluster.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.api import Api, kubeconfig

FAKE = Path(__file__).parent / "fakes" / "program.py"
PHASES = ("create", "load", "install", "apply")
"""Those in which a program runs; in the others the plugin waits for the cluster."""
ONE_TEST = """
import os, pathlib, time

def test_it(istio_environment):
    if os.environ["FAKE_FAULTS"] == "tests:hang":
        pathlib.Path(os.environ["FAKE_HOME"], "begun-tests").touch()
        time.sleep(120)
"""


class Bench:
    """A home for the fakes, and a user's own directory and kubeconfig."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "fake"
        programs, self.clusters, runtime = self.home / "bin", self.home / "clusters", folder / "runtime"
        self.work = folder / "work"
        for made in (programs, self.clusters, runtime, self.work):
            made.mkdir(parents=True)
        runtime.chmod(0o700)
        for name in ("kind", "kubectl", "istioctl", "docker"):
            path = programs / name
            path.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.api = Api(self.home)
        self.theirs = self.home / "kubeconfig"
        self.theirs.write_text(kubeconfig(self.api.address))
        self.production = folder / "production.kubeconfig"
        self.production.write_text("current-context: production\n")
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:/usr/bin:/bin",
            "FAKE_HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(runtime),
            "KUBECONFIG": str(self.production),
        }
        (self.work / "test_one.py").write_text(ONE_TEST)

    def command(self, *options: str) -> list[str]:
        arguments = [
            "-p",
            "no:cacheprovider",
            "--istio-load-image=a",
            "--cluster-name=one",
            "--istio-timeout=2",
            "--istio-reader=node",
        ]
        # A job in the background has SIGINT ignored, one of nohup SIGHUP, and so have their children.
        heard = ["env", "--default-signal=INT,HUP"]
        return [*heard, sys.executable, "-m", "pytest", *arguments, *options]

    def start(self, *options: str, faults: str = "") -> subprocess.Popen[str]:
        self.api.fault = faults.partition(":")[0]
        return subprocess.Popen(
            self.command(*options),
            cwd=self.work,
            env={**self.environment, "FAKE_FAULTS": faults},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *options: str, faults: str = "") -> tuple[int, str]:
        process = self.start(*options, faults=faults)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def tool(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_istio_sidecar", *arguments],
            env=self.environment, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return done.stdout

    def wait_for(self, command: str) -> None:
        deadline = time.monotonic() + 30
        while not (self.home / f"begun-{command}").exists():
            assert time.monotonic() < deadline, f"{command} never began"
            time.sleep(0.02)

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.home / "calls.log").read_text().splitlines()]

    def left(self) -> list[str]:
        """What is left: clusters, leases, and folders of runs."""
        leases = (self.folder / "runtime").rglob("*")
        return sorted(
            path.name for path in (*self.clusters.iterdir(), *leases) if path.name != "istio-sidecar"
        )


@pytest.fixture
def bench(tmp_path: Path):
    made = Bench(tmp_path)
    before = made.production.read_text()
    thread = threading.Thread(target=made.api.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.api.shutdown()
    made.api.server_close()
    thread.join()
    assert made.production.read_text() == before


def test_without_a_fault_the_run_passes_and_leaves_nothing(bench: Bench) -> None:
    status, output = bench.run()
    assert status == 0, output
    assert " s  deleting the kind cluster one\n" in output
    assert bench.left() == []


@pytest.mark.parametrize("phase", PHASES)
def test_a_step_that_fails_is_told_in_its_own_words_and_leaves_nothing(bench: Bench, phase: str) -> None:
    status, output = bench.run(faults=f"{phase}:fail")
    assert status == 1
    assert f"{phase}: it cannot be done" in output
    assert "1 error" in output
    assert "passed" not in output
    assert bench.left() == []


def test_a_port_that_is_taken_between_kind_and_the_engine_costs_no_run(bench: Bench) -> None:
    status, output = bench.run(faults="create:port-taken-once")
    assert status == 0, output
    assert bench.left() == []


def test_a_port_that_stays_taken_is_told_with_what_helps(bench: Bench) -> None:
    status, output = bench.run(faults="create:port-taken")
    assert status == 1
    assert sum(call[:2] == ["kind", "create"] for call in bench.calls()) == 3
    assert "a port of this machine that the cluster is to have is taken" in output
    assert bench.left() == []


@pytest.mark.parametrize("phase", PHASES)
def test_a_step_that_hangs_ends_at_the_deadline_with_its_last_words(bench: Bench, phase: str) -> None:
    begin = time.monotonic()
    status, output = bench.run(faults=f"{phase}:hang")
    assert status == 1
    assert "ended at its deadline" in output
    assert f"{phase}: the last words" in output
    assert time.monotonic() - begin < 45
    assert bench.left() == []


@pytest.mark.parametrize(
    ("phase", "waited_for"),
    [
        ("deploy", "waited 2 s for deployment/httpbin in namespace default to be Ready"),
        ("privileged", "waited 2 s for deployment/httpbin in namespace default to be Ready"),
    ],
)
def test_a_pod_that_never_gets_ready_ends_the_run_at_the_deadline(
    bench: Bench, phase: str, waited_for: str
) -> None:
    status, output = bench.run(faults=f"{phase}:hang")
    assert status == 1
    assert waited_for in output
    assert "last seen httpbin-1 has istio-proxy not ready yet" in output
    assert bench.left() == []


@pytest.mark.parametrize("phase", [*PHASES, "deploy", "privileged", "tests"])
def test_ctrl_c_in_any_phase_leaves_nothing_and_says_so(
    bench: Bench, phase: str, processes_with: Callable[[str], list[str]]
) -> None:
    process = bench.start("--istio-timeout=60", faults=f"{phase}:hang")
    bench.wait_for(phase)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert " s  deleting the kind cluster one\n" in output
    assert bench.left() == []
    assert processes_with(f"FAKE_HOME={bench.home}") == []


@pytest.mark.parametrize("phase", ["create", "privileged", "tests"])
def test_ctrl_c_where_the_cluster_is_to_be_kept_says_how_to_get_in(
    bench: Bench, phase: str, processes_with: Callable[[str], list[str]]
) -> None:
    process = bench.start("--istio-timeout=60", "--istio-keep=always", faults=f"{phase}:hang")
    bench.wait_for(phase)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "cluster one is kept: export KUBECONFIG=" in output
    assert "one" in bench.left()
    assert processes_with(f"FAKE_HOME={bench.home}") == []
    assert "kind cluster one" in bench.tool("clean")
    assert bench.left() == []


@pytest.mark.parametrize("phase", ["privileged", "tests"])
def test_ctrl_c_on_a_cluster_of_ones_own_puts_the_edit_back_and_says_so(bench: Bench, phase: str) -> None:
    (bench.home / "done-apply").touch()
    options = (f"--istio-kubeconfig={bench.theirs}", "--istio-workload=httpbin", "--istio-make-privileged")
    process = bench.start(
        "--istio-environment=existing", "--istio-timeout=60", *options, faults=f"{phase}:hang"
    )
    bench.wait_for(phase)
    assert bench.api.privileged
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "istio-sidecar: put deployments/httpbin in namespace default back" in output
    assert not bench.api.privileged
    assert bench.left() == []


@pytest.mark.parametrize("phase", PHASES)
def test_what_a_killed_run_left_is_found_by_clean(bench: Bench, phase: str) -> None:
    process = bench.start("--istio-timeout=60", faults=f"{phase}:hang")
    bench.wait_for(phase)
    process.kill()
    process.communicate(timeout=60)
    assert "one" in bench.left()
    assert "kind cluster one" in bench.tool("clean")
    assert bench.left() == []


def test_an_engine_that_stops_in_the_middle_is_named_and_what_is_left_is_told(bench: Bench) -> None:
    status, output = bench.run(faults="load:no-engine,delete:no-engine")
    assert status == 1, output
    the_failure, _, the_cleanup = output.partition("istio-sidecar: deleting the kind cluster one\n")
    assert "cause    no container engine answers" in the_failure, output
    assert "cause    no container engine answers" in the_cleanup, output
    assert "Traceback" not in output
    assert "what this run made is on file; remove it: istio-sidecar clean" in output
    assert "one" in bench.left()
    assert "kind cluster one" in bench.tool("clean")
    assert bench.left() == []


def test_a_cluster_that_cannot_be_deleted_fails_a_run_that_is_green_otherwise(bench: Bench) -> None:
    status, output = bench.run(faults="delete:fail")
    assert "1 passed" in output
    assert status == 1, output
    assert "delete: it cannot be done" in output
    assert "Traceback" not in output
    assert "one" in bench.left()


def test_a_killed_worker_leaves_nothing(bench: Bench) -> None:
    process = bench.start("-n1", "--max-worker-restart=0", "--istio-timeout=60", faults="create:hang")
    bench.wait_for("create")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    assert bench.left() == []


def test_a_cluster_of_somebody_elses_is_never_taken_and_never_deleted(bench: Bench) -> None:
    (bench.clusters / "one").touch()
    status, output = bench.run()
    assert status == 1
    assert "there is a kind cluster one already" in output
    assert bench.left() == ["one"]
    assert not [call for call in bench.calls() if call[1:3] in (["create", "cluster"], ["delete", "cluster"])]


def test_a_cluster_of_somebody_elses_that_is_reused_on_request_is_not_deleted(bench: Bench) -> None:
    (bench.clusters / "one").touch()
    bench.run("--istio-reuse", faults="load:fail")
    assert "one" in bench.left()
    assert not [call for call in bench.calls() if call[1:3] == ["delete", "cluster"]]


def test_a_second_run_with_the_same_name_is_refused_while_the_first_goes_on(bench: Bench) -> None:
    first = bench.start("--istio-timeout=60", faults="create:hang")
    bench.wait_for("create")
    status, output = bench.run()
    assert status == 1
    assert f"the kind cluster one is in use by process {first.pid}" in output
    os.killpg(first.pid, signal.SIGINT)
    first.communicate(timeout=60)
    assert bench.left() == []


def test_of_two_runs_that_begin_at_once_with_the_same_name_one_is_refused(bench: Bench) -> None:
    runs = [bench.start("--istio-timeout=60", faults="create:hang") for _ in range(2)]
    bench.wait_for("create")
    refused = next(run for run in _ended(runs))
    output, _ = refused.communicate(timeout=60)
    (going_on,) = [run for run in runs if run is not refused]
    assert f"the kind cluster one is in use by process {going_on.pid}" in output
    assert "one" in bench.left()
    os.killpg(going_on.pid, signal.SIGINT)
    going_on.communicate(timeout=60)
    assert bench.left() == []


def _ended(runs: list[subprocess.Popen[str]]) -> Iterator[subprocess.Popen[str]]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        yield from (run for run in runs if run.poll() is not None)
        time.sleep(0.05)
    pytest.fail("both runs go on")


def test_a_cluster_that_somebody_makes_meanwhile_is_theirs(bench: Bench) -> None:
    status, output = bench.run(faults="create:exist")
    assert status == 1
    assert "a cluster of this name is there already" in output
    assert bench.left() == ["one"]


def test_a_failed_run_keeps_its_cluster_when_asked_and_says_how_to_get_in(bench: Bench) -> None:
    _, output = bench.run("--istio-keep=failed", faults="install:fail")
    assert "cluster one is kept: export KUBECONFIG=" in output
    assert "one" in bench.left()
    bench.tool("clean")
    assert bench.left() == []


def test_an_istioctl_of_another_release_is_refused_by_name(bench: Bench) -> None:
    status, output = bench.run("--istio-version=1.9.0")
    assert status == 1
    assert "is of Istio 1.8.3, and Istio 1.9.0 is asked for" in output
    assert bench.left() == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, ["hub=docker.io/istio"]),
        ({"values.global.hub": "registry.example"}, ["values.global.hub=registry.example"]),
    ],
    ids=["no fixture", "a fixture with a hub"],
)
def test_istio_is_installed_from_docker_hub_unless_the_users_fixture_names_a_registry(
    bench: Bench, values: dict[str, str], told: list[str]
) -> None:
    fixture = f"import pytest\n@pytest.fixture(scope='session')\ndef istio_install_options(): return {values}"
    (bench.work / "conftest.py").write_text(fixture)
    bench.run(faults="install:fail")
    (call,) = [call for call in bench.calls() if call[:2] == ["istioctl", "install"]]
    assert [word for word in call if "hub" in word] == told


def test_no_call_reads_the_users_kubeconfig(bench: Bench) -> None:
    bench.run(faults="install:fail")
    for program, *words, used in bench.calls():
        if program == "kind" and words[0] in ("create", "delete", "export"):
            (given,) = [word for word in words if word.startswith("--kubeconfig=")]
            assert str(bench.production) not in given
        if program == "istioctl" and words[0] == "install":
            assert used != str(bench.production)


def test_phases_are_told_as_plain_lines_where_there_is_no_terminal(bench: Bench) -> None:
    _, output = bench.run(faults="install:fail")
    assert "\nistio-sidecar: creating the kind cluster one from kindest/node:v1.19.16\n" in output
    assert "\nistio-sidecar: loading 1 images into the nodes\n" in output
    assert re.search(r"\nistio-sidecar: failed after \d+\.\d s  installing Istio 1\.8\.3\n", output)


def test_nothing_is_put_into_the_users_directory(bench: Bench) -> None:
    bench.run(faults="install:fail")
    assert not (bench.work / ".pytest-kind").exists()


def test_values_that_would_change_nothing_are_refused_where_istio_is_there(bench: Bench) -> None:
    (bench.clusters / "one").touch()
    (bench.home / "done-install").touch()
    status, output = bench.run("--istio-reuse", "--istio-set=meshConfig.enableTracing=true")
    assert status == 1
    assert "Istio 1.8.3 is in the cluster one already" in output
    assert "--istio-set=meshConfig.enableTracing=true would change nothing" in output
    assert "begin anew: istio-sidecar clean" in output


def test_values_that_an_earlier_run_installed_with_are_let_through(bench: Bench) -> None:
    options = ("--istio-set=meshConfig.enableTracing=true", "--istio-keep=always")
    status, output = bench.run(*options)
    assert status == 0, output
    status, output = bench.run("--istio-reuse", *options)
    assert status == 0, output
    status, output = bench.run("--istio-reuse", *options, "--istio-hub=registry.example")
    assert status == 1
    assert "--istio-hub=registry.example would change nothing" in output


def test_clean_does_not_call_a_cluster_removed_that_was_gone(bench: Bench) -> None:
    bench.run("--istio-keep=always")
    (bench.clusters / "one").unlink()
    cleaned = bench.tool("clean")
    assert "kind cluster one (of process" in cleaned
    assert "is gone already" in cleaned
    assert "removed kind cluster" not in cleaned
    assert bench.left() == []


def test_a_pod_of_ones_own_cluster_without_a_sidecar_is_a_failure_and_is_not_edited(bench: Bench) -> None:
    bench.api.sidecar = {"name": "httpbin", "image": "httpbin", "securityContext": {}}
    status, output = bench.run()
    assert status == 1
    assert "1 failed" in output
    assert "default/httpbin-1 has no sidecar, though it should: it is the workload under test" in output
    assert bench.left() == []
