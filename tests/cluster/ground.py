"""What the tests on the test bed have in hand: the engine with its programs, and clusters of their own."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
DOUBLE = HERE / "double"
KUBERNETES = "1.20.15"
HTTPBIN = "docker.io/kennethreitz/httpbin:latest"


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

    def load(self, images: Sequence[str]) -> None:
        """Bring images of this machine into the node."""
        missing = [image for image in images if image not in self.loaded]
        if missing:
            self.testbed.run("kind", "load", "docker-image", "--name", self.name, *missing)
            self.loaded.update(missing)


@contextlib.contextmanager
def kind_cluster(testbed: Testbed, directory: Path) -> Iterator[Cluster]:
    """A cluster that is deleted whatever happens."""
    name = f"double-{uuid.uuid4().hex[:6]}"
    kubeconfig = directory / f"{name}.kubeconfig"
    argv = ("kind", "create", "cluster", "--name", name, "--kubeconfig", kubeconfig)
    try:
        config = ("--config", testbed.kind_config, "--image", testbed.node_image, "--wait", "120s")
        testbed.run(*argv, *config)
        yield Cluster(name=name, kubeconfig=kubeconfig, testbed=testbed)
    finally:
        testbed.run("kind", "delete", "cluster", "--name", name, "--kubeconfig", kubeconfig, check=False)
