"""A kind cluster, made and deleted through pytest-kind.

Knows kind's commands, and where the kubeconfig is kept: in a file of this run's
own. Does not know what is put into a cluster. Invariant: the user's kubeconfig is
never read or written, and a cluster that was not made here is never deleted.

pytest-kind's class is kept as the driver; each of its commands runs here with a
deadline and both streams kept, and nothing is put into the working directory.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_istio_sidecar.environments.cluster.api_program import run_api_program
from pytest_istio_sidecar.environments.kind import messages
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.failure import Advice, Failure, advise
from pytest_istio_sidecar.machine.command import CommandResult, run_command
from pytest_istio_sidecar.machine.progress import Progress

if TYPE_CHECKING:
    from pytest_kind import KindCluster

ALREADY_THERE = "node(s) already exist"
"""kind, pkg/cluster/internal/create/create.go, alreadyExists; nothing has been made then."""

PORT_TAKEN = "address already in use"
"""Docker's word where a port of the host is taken. kind looks for a free one for the API server and lets go
of it (pkg/cluster/internal/providers/common/getport.go), so that anybody may take it before Docker does."""
_ATTEMPTS = 3

QUESTION_SECONDS = 60.0
_DELETE_SECONDS = 180.0


class KindFailed(EnvironmentProblem):
    """A command of kind's did not do what it was asked for."""

    @property
    def already_there(self) -> bool:
        """Whether it was for a cluster of the same name, made by somebody else."""
        return ALREADY_THERE in str(self)

    @property
    def port_taken(self) -> bool:
        """Whether a port that was free when kind looked was somebody else's when the engine asked for it."""
        return PORT_TAKEN in str(self)


@cache
def _driver() -> type[KindCluster]:
    """The subclass of pytest-kind's class, made when first needed: importing that costs 0.2 s."""
    from pytest_kind import KindCluster

    class Driver(KindCluster):  # type: ignore[misc]
        """pytest-kind's cluster with deadlines, and without files in the working directory."""

        def __init__(self, cluster: Cluster, seconds: float) -> None:
            # Not the inherited one, which makes ./.pytest-kind.
            self.cluster = cluster
            self.seconds = seconds
            self.name = cluster.name
            self.image = cluster.image
            self.kubeconfig_path = cluster.kubeconfig

        def create(self, config_file: Path | str | None = None) -> None:
            self.kubeconfig_path.touch(0o600, exist_ok=True)
            argv = ["create", "cluster", f"--name={self.name}", f"--kubeconfig={self.kubeconfig_path}"]
            argv += [f"--image={self.image}"] if self.image else []
            argv += [f"--config={config_file}"] if config_file else []
            argv.append(f"--wait={self.seconds:.0f}s")
            self.cluster.ask(argv, timeout=self.seconds, doing="create")

        def delete(self) -> None:
            argv = ["delete", "cluster", f"--name={self.name}", f"--kubeconfig={self.kubeconfig_path}"]
            self.cluster.ask(argv, timeout=self.seconds, doing="delete")

    return Driver


class Cluster:
    """One kind cluster and the programs that reach it.

    Attributes:
        name: as kind has it.
        directory: where its kubeconfig is kept.
        kubeconfig: of this cluster alone.
        kind, kubectl: the programs.
    """

    def __init__(
        self,
        name: str,
        *,
        directory: Path,
        image: str | None = None,
        kind: str,
        kubectl: str,
        timeout: float = 300.0,
        progress: Progress | None = None,
    ) -> None:
        self.name = name
        self.directory = directory
        self.image = image
        self.kubeconfig = directory / "kubeconfig"
        self.timeout = timeout
        self.kind = kind
        self.kubectl = kubectl
        self._progress = progress or Progress()

    def exists(self) -> bool:
        """Whether kind knows a cluster of this name."""
        answer = self.ask(["get", "clusters"], timeout=QUESTION_SECONDS, doing="look for")
        return self.name in answer.stdout.split()

    def create(self, config: Path | None) -> Self:
        """Make it; again, with other ports, where somebody took one that kind had chosen.

        Args:
            config: kind's configuration file; None: kind's defaults.

        Raises:
            KindFailed: kind refused, or did not get done in time.
        """
        deadline = time.monotonic() + self.timeout
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _driver()(self, deadline - time.monotonic()).create(config)
            except KindFailed as problem:
                if not problem.port_taken or attempt == _ATTEMPTS or time.monotonic() + 1 > deadline:
                    raise
                self._progress.line("a port that kind had chosen was taken meanwhile: once more")
            else:
                break
        return self

    def adopt(self) -> Self:
        """Take a cluster that is there: its kubeconfig goes into our own file."""
        self.kubeconfig.touch(0o600, exist_ok=True)
        argv = ["export", "kubeconfig", f"--name={self.name}", f"--kubeconfig={self.kubeconfig}"]
        self.ask(argv, timeout=QUESTION_SECONDS, doing="reach")
        return self

    def load_images(self, images: Sequence[str]) -> None:
        """Put images of this machine's engine into the nodes, all at once: they share layers."""
        argv = ["load", "docker-image", f"--name={self.name}", *images]
        self.ask(argv, timeout=self.timeout, doing=f"load {', '.join(images)} into")

    def delete(self) -> None:
        """Delete it; that it is gone already is fine."""
        _driver()(self, _DELETE_SECONDS).delete()

    def kubectl_run(self, argv: Sequence[str], *, text: str = "", timeout: float = 60.0) -> CommandResult:
        """Run kubectl on this cluster.

        Raises:
            KindFailed: it failed.
        """
        result = run_api_program(
            [self.kubectl, f"--kubeconfig={self.kubeconfig}", *argv], timeout=timeout, text=text
        )
        if not result.succeeded:
            raise KindFailed(_explain(result, messages.KUBECTL_FAILED(cluster=self.name)))
        return result

    def ask(self, argv: Sequence[str], *, timeout: float, doing: str) -> CommandResult:
        """Run kind.

        Raises:
            KindFailed: it failed.
        """
        result = run_command([self.kind, *argv], timeout=timeout, on_line=self._progress.line)
        if not result.succeeded:
            raise KindFailed(_explain(result, messages.KIND_FAILED(doing=doing, cluster=self.name)))
        return result


_KNOWN = (
    Advice(
        "Cannot connect to the Docker daemon",
        "no container engine answers",
        "start Docker (sudo systemctl start docker), or use --istio-environment=embedded",
    ),
    Advice(
        "executable file not found",
        "there is no container engine on the PATH",
        "install Docker, or use --istio-environment=embedded",
    ),
    Advice(
        "permission denied while trying to connect",
        "this user may not use Docker",
        "sudo usermod -aG docker $USER",
    ),
    Advice(
        re.escape(ALREADY_THERE),
        "a cluster of this name is there already",
        "--istio-reuse, or another --cluster-name",
    ),
    Advice(
        PORT_TAKEN,
        "a port of this machine that the cluster is to have is taken",
        "in the file of --istio-kind-config leave out hostPort and apiServerPort, or name free ones",
    ),
    Advice(
        "too many open files",
        "the inotify limits are too low",
        "sudo sysctl fs.inotify.max_user_instances=512",
    ),
)


def _explain(result: CommandResult, failure: Failure) -> Failure:
    ended = "ended at its deadline" if result.exit_status is None else f"exit {result.exit_status}"
    facts = [
        ("ran", " ".join(result.argv)),
        ("got", f"{ended} after {result.seconds:.1f} s"),
        ("stderr", "\n".join(result.stderr.strip().splitlines()[-8:])),
    ]
    return failure.and_facts(facts).advised(advise(result.stderr + result.stdout, _KNOWN))
