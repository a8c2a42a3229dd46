"""What the tests on the test bed have in hand: the engine with its programs, and clusters of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
DOUBLE = HERE / "double"
HTTPBIN = "docker.io/kennethreitz/httpbin:latest"

KUBERNETES = os.environ.get("ISTIO_SIDECAR_KUBERNETES", "1.20.15")
"""The release that every cluster here is of: one for Istio 1.8 and older, or a current one (1.34.2)."""
MINOR = int(KUBERNETES.split(".")[1])
LAB_VERSION = "1.8.3" if MINOR < 22 else "1.27.3"
"""The lab's Istio; up to 1.9 its webhook and CRDs are v1beta1, which Kubernetes has not had since 1.22."""
RUN = os.environ.setdefault("ISTIO_SIDECAR_CLUSTER_TEST", uuid.uuid4().hex[:6])
"""In the name of every cluster of this run, those that its workers make too."""

until_1_21 = pytest.mark.skipif(
    MINOR >= 22, reason=f"needs Kubernetes up to 1.21 (Istio 1.8 and older), and this is {KUBERNETES}"
)
from_1_33 = pytest.mark.skipif(
    MINOR < 33,
    reason=f"needs native sidecars, Kubernetes 1.33 or newer (ISTIO_SIDECAR_KUBERNETES=1.34.2), "
    f"and this is {KUBERNETES}",
)


@dataclass(frozen=True, kw_only=True)
class Testbed:
    """A running engine with kind, kubectl and the node image.

    Attributes:
        directory: where the test bed's own program is.
        environment: the environment of whatever uses it: kind, kubectl and docker are on the PATH.
    """

    __test__ = False

    directory: Path
    environment: dict[str, str]
    node_image: str = f"kindest/node:v{KUBERNETES}"

    @property
    def kind_config(self) -> Path:
        return self.directory / "kind-config.yaml"

    def run(
        self, *argv: str | Path, text: str = "", timeout: float = 300, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program, and fail the test with both streams if it fails."""
        done = subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done


@dataclass(kw_only=True)
class Cluster:
    """A kind cluster of the tests' own."""

    name: str
    kubeconfig: Path
    testbed: Testbed
    loaded: set[str] = field(default_factory=set)

    def kubectl(self, *argv: str, text: str = "", timeout: float = 120, check: bool = True) -> str:
        """What kubectl prints."""
        command = ("kubectl", f"--kubeconfig={self.kubeconfig}", *argv)
        return self.testbed.run(*command, text=text, timeout=timeout, check=check).stdout

    def empty(self) -> None:
        """Take out Istio and everything that a test made, at once.

        Namespaces go on their own, but for Istio's, which is emptied: one on its way takes nothing new.
        """
        self.kubectl("delete", "mutatingwebhookconfigurations,validatingwebhookconfigurations", "--all")
        told = self.kubectl("get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}").split()
        made = [name for name in told if not name.startswith(("kube-", "local-")) and name != "default"]
        # Owners first, so that nothing is made anew.
        kinds = "deployments,replicasets,pods,services,configmaps,events"
        for name in made:
            self.kubectl("delete", kinds, "--all", "-n", name, "--grace-period=0", "--force")
        if passing := [name for name in made if name != "istio-system"]:
            self.kubectl("delete", "namespaces", *passing, "--wait=false")

    def install(self, istioctl: Path, *flags: str) -> None:
        """Install Istio where none is; where that fails, so does the test, with what the cluster says of it.

        What an earlier test left goes first: two istiods of the double would each write an authority of
        their own over the other's, and the new one might never see its own for long enough to be ready.
        """
        self.empty()
        argv = (istioctl, "install", "-y", f"--kubeconfig={self.kubeconfig}", *flags)
        done = self.testbed.run(*argv, check=False)
        if done.returncode:
            pods = self.kubectl("get", "pods", "-A", "-o", "wide", check=False)
            events = ("get", "events", "-A", "--sort-by=.lastTimestamp", "--no-headers")
            last = self.kubectl(*events, check=False).splitlines()[-40:]
            pytest.fail("\n".join((f"istioctl install: {done.stdout}{done.stderr}", pods, *last)))

    def load(self, images: Sequence[str]) -> None:
        """Bring images of this machine into the node."""
        missing = [image for image in images if image not in self.loaded]
        if missing:
            self.testbed.run("kind", "load", "docker-image", "--name", self.name, *missing)
            self.loaded.update(missing)


def write_istioctl(folder: Path, version: str, fault: str = "", delay: float = 4) -> Path:
    """Write an `istioctl` of a version, with a fault or without: the double under the real one's name."""
    directory = folder / f"istioctl-{version}-{fault or 'sound'}"
    directory.mkdir(exist_ok=True)
    program = directory / "istioctl"
    program.write_text(
        "#!/bin/sh\n"
        f"export ISTIO_DOUBLE_VERSION={version} ISTIO_DOUBLE_FAULT={fault} ISTIO_DOUBLE_DELAY={delay}\n"
        f"exec '{sys.executable}' '{DOUBLE / 'istioctl.py'}' \"$@\"\n"
    )
    program.chmod(0o755)
    return program


def new_name(kind: str) -> str:
    """A name for a cluster of this run that no other has."""
    return f"{kind}-{RUN}-{uuid.uuid4().hex[:4]}"


@contextlib.contextmanager
def kind_cluster(testbed: Testbed, directory: Path) -> Iterator[Cluster]:
    """A cluster that is deleted whatever happens."""
    name = new_name("double")
    kubeconfig = directory / f"{name}.kubeconfig"
    argv = ("kind", "create", "cluster", "--name", name, "--kubeconfig", kubeconfig)
    try:
        config = ("--config", testbed.kind_config, "--image", testbed.node_image, "--wait", "120s")
        testbed.run(*argv, *config)
        yield Cluster(name=name, kubeconfig=kubeconfig, testbed=testbed)
    finally:
        testbed.run("kind", "delete", "cluster", "--name", name, "--kubeconfig", kubeconfig, check=False)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run of pytest with the plugin, as a user sees it."""

    status: int
    output: str
    seconds: float

    def count(self, word: str) -> int:
        """How many tests pytest's closing line says passed, failed …"""
        closing = [line for line in self.output.splitlines() if re.match(r"=+ .* in [\d.]+s", line)]
        found = re.findall(rf"(\d+) {word}", closing[-1]) if closing else []
        return int(found[-1]) if found else 0


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Runs pytest with the plugin on a kind cluster of a name of its own.

    Attributes:
        directory: the working directory; the runs' leases and the user's kubeconfig are below it.
        istioctl: the program that installs.
        images: loaded into the nodes.
        options: for pytest, beside those that every lab has.
        runs: that were started.
    """

    testbed: Testbed
    directory: Path
    istioctl: Path
    version: str
    images: tuple[str, ...]
    name: str
    options: tuple[str, ...] = ()
    runs: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Leases of the lab's own, and a kubeconfig whose current context is someone's production."""
        own = {"XDG_RUNTIME_DIR": str(self.directory / "runtime"), "KUBECONFIG": str(self.production)}
        return {**self.testbed.environment, **own}

    @property
    def production(self) -> Path:
        return self.directory / "production.kubeconfig"

    def argv(self, *arguments: str | Path) -> list[str]:
        options: list[str | Path] = [
            "--istio-environment=kind",
            f"--istio-version={self.version}",
            f"--istio-istioctl={self.istioctl}",
            f"--istio-node-image={self.testbed.node_image}",
            f"--istio-kind-config={self.testbed.kind_config}",
            "--istio-set=values.global.imagePullPolicy=IfNotPresent",
            f"--cluster-name={self.name}",
            *(f"--istio-load-image={image}" for image in self.images),
            *self.options,
        ]
        return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, [*options, *arguments])]

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start a run whose output goes to `output.txt`."""
        with (self.directory / "output.txt").open("w") as output:
            # A job in the background is started with SIGINT ignored, and so are its children.
            heard = ["env", "--default-signal=INT"]
            run = subprocess.Popen(
                [*heard, *self.argv(*arguments)],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.runs.append(run)
        return run

    def end(self, run: subprocess.Popen[str], *, timeout: float = 300) -> Outcome:
        """Wait for a run."""
        began = time.monotonic()
        try:
            status = run.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            pytest.fail(f"the run did not end within {timeout:g} s\n{self.output}")
        return Outcome(status=status, output=self.output, seconds=time.monotonic() - began)

    def run(self, *arguments: str | Path, timeout: float = 400) -> Outcome:
        """A run from beginning to end."""
        return self.end(self.start(*arguments), timeout=timeout)

    @property
    def output(self) -> str:
        """What the latest run has written so far."""
        return (self.directory / "output.txt").read_text()

    def wait_for(self, text: str, run: subprocess.Popen[str], *, timeout: float = 180) -> None:
        """Wait until a run has written a text."""
        deadline = time.monotonic() + timeout
        while text not in self.output:
            if run.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{text!r} was not written\n{self.output}")
            time.sleep(0.1)

    def exists(self) -> bool:
        """Whether kind knows the lab's cluster."""
        return self.name in self.testbed.run("kind", "get", "clusters").stdout.split()

    def kill_runs(self) -> None:
        """End what a test that failed, or was interrupted, did not wait for."""
        for run in self.runs:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait(30)

    def delete(self) -> None:
        """Delete the lab's cluster, whatever its runs have left."""
        self.kill_runs()
        self.testbed.run("kind", "delete", "cluster", "--name", self.name, check=False)

    def command(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """`istio-sidecar …` as the same user."""
        return subprocess.run(
            [sys.executable, "-m", "pytest_istio_sidecar", *argv],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
