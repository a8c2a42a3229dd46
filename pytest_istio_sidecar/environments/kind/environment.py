"""The lab, from nothing: a kind cluster, Istio, and httpbin with a privileged sidecar.

Knows the order of the steps and what each needs. What a step does is its own module's.
Does not know pytest. Invariant: the lease is on file before the cluster is made, and who
made a cluster is the only one to delete it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Self

from pytest_istio_sidecar.environments.base import Environment
from pytest_istio_sidecar.environments.choices import Injection, Keep, KindChoices, ReaderName
from pytest_istio_sidecar.environments.cluster.api import Json, KubernetesApi
from pytest_istio_sidecar.environments.cluster.pod import ClusterPod
from pytest_istio_sidecar.environments.cluster.stuck_pods import wait_until_settled
from pytest_istio_sidecar.environments.cluster.unproxied import unproxied_of
from pytest_istio_sidecar.environments.cluster.workload import SIDECAR, Workload, container_of, is_ready
from pytest_istio_sidecar.environments.kind import messages
from pytest_istio_sidecar.environments.kind.cluster import Cluster, KindFailed
from pytest_istio_sidecar.environments.kind.download import find_or_download
from pytest_istio_sidecar.environments.kind.httpbin import deploy, deployment_of, make_namespace
from pytest_istio_sidecar.environments.kind.istioctl import install, istioctl_of
from pytest_istio_sidecar.environments.kind.values import (
    note_values,
    noted_values,
    privileged,
    require_values,
    values_of,
)
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio.injection import Unproxied
from pytest_istio_sidecar.istio.versions import cluster_pair
from pytest_istio_sidecar.machine.lease import CLUSTER, Lease, leases
from pytest_istio_sidecar.machine.progress import Progress
from pytest_istio_sidecar.machine.state_file import StateUnreadable, read_state, write_state

_CLIENT = "istio-sidecar-client"
_LATE_NODE_SECONDS = 15.0

_FILE = "cluster.json"
"""In a lease's directory: what `clean` needs to delete the cluster."""
_PROGRAMS = {"kind": str, "kubectl": str, "made": bool}
_CLUSTER = {"name": str, **_PROGRAMS}
_STATE = {"kubeconfig": str, "pod": str, "client": str, "facts": dict, "reader": str}
"""How the pod is described for other processes."""


class KindEnvironment(ClusterPod, Environment):
    """The pod under test in a kind cluster of this run."""

    name = "kind"

    def __init__(
        self, api: KubernetesApi, pod: Json, client: Json, facts: Mapping[str, str], reader: ReaderName
    ) -> None:
        super().__init__(api, pod, reader=reader, client=client, facts=facts, node_containers=True)

    @classmethod
    def bring_up(cls, choices: KindChoices, *, state: Path, owner: int, progress: Progress) -> Self:
        """Make the cluster and everything in it; the timeout is that of each step.

        Raises:
            EnvironmentProblem: a step failed; the message is the step's.
        """
        manifest = _application(choices)
        cluster = _cluster(choices, owner, state, progress)
        api = KubernetesApi(kubeconfig=cluster.kubeconfig)
        istioctl = istioctl_of(
            find_or_download(
                "istioctl",
                choices.version,
                given=choices.istioctl,
                option="--istio-istioctl",
                progress=progress,
                timeout=choices.timeout,
            ),
            choices.version,
            cluster.kubeconfig,
        )
        if choices.images:
            with progress.phase(f"loading {len(choices.images)} images into the nodes"):
                cluster.load_images(choices.images)
        with progress.phase(f"installing Istio {choices.version}"):
            installed = install(
                istioctl,
                api,
                values=values_of(choices),
                hub=choices.hub,
                timeout=choices.timeout,
                progress=progress,
            )
        if installed:
            note_values(cluster.directory / _FILE, choices)
        else:
            require_values(cluster.directory / _FILE, choices, cluster=cluster.name)
        workload = Workload(namespace=choices.namespace, kind="deployment", name=deployment_of(manifest))
        with progress.phase(f"deploying {workload} with a sidecar by {choices.injection}"):
            make_namespace(api, choices.namespace, inject=choices.injection is Injection.WEBHOOK)

            def apply(text: str) -> object:
                argv = ["apply", "-n", choices.namespace, "-f", "-"]
                return cluster.kubectl_run(argv, text=text, timeout=choices.timeout)

            deploy(
                api,
                istioctl,
                manifest,
                namespace=choices.namespace,
                injection=choices.injection,
                apply=apply,
                timeout=choices.timeout,
            )
            # After the application: until the webhook answers, it refuses every pod of a labelled namespace.
            apply(_manifest("client.yaml"))
            pod = wait_until_settled(api, workload, timeout=choices.timeout)[0]
        with progress.phase(f"making {SIDECAR} of {workload} privileged"):
            # Where there is no sidecar, there is none to edit, and the tests say so.
            if container_of(pod) is not None:
                pod = privileged(api, workload, pod, choices, installed=installed)
            client = api.wait(
                f"the client pod {choices.namespace}/{_CLIENT} to be Ready",
                lambda: _client(api, choices.namespace),
                timeout=choices.timeout,
            )
        facts = {
            "environment": f"kind cluster {cluster.name}, {choices.injection}",
            "cluster": api.address,
            "istio": choices.version,
            "kubernetes": str(api.get("/version")["gitVersion"]),
        }
        made = {
            "kubeconfig": str(cluster.kubeconfig),
            "pod": _place(pod),
            "client": _place(client),
            "facts": facts,
            "reader": str(choices.reader),
            "seconds": progress.seconds,
        }
        write_state(state, read_state(state, {}) | made)
        return cls(api, pod, client, facts, choices.reader)

    @classmethod
    def attach(cls, state: Path) -> Self:
        if "pod" not in read_state(state, {}):
            raise EnvironmentProblem(messages.NOT_BROUGHT_UP())
        written = read_state(state, _STATE)
        api = KubernetesApi(kubeconfig=Path(written["kubeconfig"]))
        pod, client = (api.get(f"/api/v1/namespaces/{written[key]}") for key in ("pod", "client"))
        return cls(api, pod, client, written["facts"], ReaderName(written["reader"]))

    def unproxied(self) -> Sequence[Unproxied]:
        """The pod under test where it has no sidecar."""
        return unproxied_of(self._api, [self._pod], named="it is the workload under test")

    @classmethod
    def take_down(cls, state: Path, evidence: Path, *, keep_it: bool, progress: Progress) -> str | None:  # noqa: ARG003
        """Delete the cluster, or keep it."""
        return _stop_cluster(state, keep=keep_it, progress=progress)


def _stop_cluster(state: Path, *, keep: bool, progress: Progress) -> str | None:
    if "cluster" not in read_state(state, {}):
        return None
    written = read_state(state, {"directory": str, "cluster": str, **_PROGRAMS})
    directory, kind, kubectl = Path(written["directory"]), written["kind"], written["kubectl"]
    cluster = Cluster(written["cluster"], directory=directory, kind=kind, kubectl=kubectl)
    if keep or not written["made"]:
        (directory / "kept").touch()
        why = "kept" if keep else "left as it was found"
        return (
            f"cluster {cluster.name} is {why}: export KUBECONFIG={cluster.kubeconfig}\n"
            f"delete it: istio-sidecar clean, or {cluster.kind} delete cluster --name={cluster.name}"
        )
    with progress.phase(f"deleting the kind cluster {cluster.name}"):
        if written.get("interrupted"):
            _wait_for_late_node(cluster)
        cluster.delete()
    _lease_of(directory).release()
    return None


def _wait_for_late_node(cluster: Cluster) -> None:
    """Wait until the engine lists the node that an interrupted kind asked for, or a while.

    The engine goes on making a container whose asker has ended, and lists it only then.
    """
    deadline = time.monotonic() + _LATE_NODE_SECONDS
    while not cluster.exists() and time.monotonic() < deadline:
        time.sleep(0.5)


def clean_clusters() -> tuple[list[str], list[str]]:
    """Delete the clusters of runs that have ended: kept ones, and what crashes left behind.

    Returns:
        In words what was deleted, and what was gone already.
    """
    removed: list[str] = []
    gone: list[str] = []
    for lease in leases():
        if lease.kind != CLUSTER or not lease.stale:
            continue
        try:
            written = read_state(lease.directory / _FILE, _CLUSTER)
        except StateUnreadable:
            lease.release()
            continue
        if written["made"]:
            cluster = Cluster(
                written["name"], directory=lease.directory, kind=written["kind"], kubectl=written["kubectl"]
            )
            (removed if cluster.exists() else gone).append(
                f"kind cluster {written['name']} (of process {lease.owner.pid}, which has ended)"
            )
            cluster.delete()  # where kind knows none, its kubeconfig may be left
        lease.release()
    return removed, gone


def _cluster(choices: KindChoices, owner: int, state: Path, progress: Progress) -> Cluster:
    """The cluster: a kept one where reuse is asked for, a new one elsewhere."""
    name = choices.cluster or _name(choices)
    kind, kubectl = _programs(choices, progress)
    lease = Lease.of(CLUSTER, owner, name=f"{CLUSTER}-{name}")
    earlier = lease.claim()
    if earlier is not None and not earlier.stale:
        raise EnvironmentProblem(messages.IN_USE(cluster=name, pid=earlier.owner.pid))
    image = choices.node_image or cluster_pair(choices.version).node_image
    cluster = Cluster(
        name,
        directory=lease.directory,
        image=image,
        kind=kind,
        kubectl=kubectl,
        timeout=choices.timeout,
        progress=progress,
    )
    try:
        there = _is_there(cluster, choices, earlier)
    except EnvironmentProblem:
        lease.give_back(earlier)
        raise
    ours = not there or _was_made_here(lease.directory)
    lease.directory.mkdir(mode=0o700, exist_ok=True)
    (lease.directory / "kept").unlink(missing_ok=True)
    facts = {"kind": kind, "kubectl": kubectl, "made": ours}
    installed = noted_values(lease.directory / _FILE) if there else {}
    write_state(lease.directory / _FILE, {"name": name, **facts, **installed})
    where = {"directory": str(lease.directory), "cluster": name}
    write_state(state, {"environment": "kind", **where, **facts})
    if there:
        with progress.phase(f"reusing the kind cluster {name}"):
            return cluster.adopt()
    source = f" from {image.partition('@')[0]}" if image else ""
    with progress.phase(f"creating the kind cluster {name}{source}"):
        try:
            if choices.kind_config is not None:
                return cluster.create(choices.kind_config)
            with as_file(files("pytest_istio_sidecar") / "kind-config.yaml") as config:
                return cluster.create(config)
        except KindFailed as problem:
            if problem.already_there:
                # Somebody made it since we looked: it is theirs to delete.
                write_state(state, {"environment": "kind"})
                lease.release()
            raise
        except KeyboardInterrupt:
            write_state(state, read_state(state, {}) | {"interrupted": True})
            raise


def _is_there(cluster: Cluster, choices: KindChoices, earlier: Lease | None) -> bool:
    """Whether there is a cluster to reuse; one that was not to be there is refused."""
    there = cluster.exists()
    if there and not choices.reuse:
        raise EnvironmentProblem(
            messages.ALREADY_THERE(
                cluster=cluster.name,
                delete="; or delete it: istio-sidecar clean" if earlier is not None else "",
            )
        )
    return there


def _programs(choices: KindChoices, progress: Progress) -> tuple[str, str]:
    """The paths of kind and kubectl."""
    pair = cluster_pair(choices.version)
    wanted = (
        ("kind", pair.kind, choices.kind, "--kind-bin"),
        ("kubectl", pair.kubernetes, choices.kubectl, "--kind-kubectl-bin"),
    )
    kind, kubectl = (
        find_or_download(
            name, version, given=given, option=option, progress=progress, timeout=choices.timeout
        )
        for name, version, given, option in wanted
    )
    return kind, kubectl


def _was_made_here(directory: Path) -> bool:
    """Whether an earlier run made the cluster that is there, by what it left on file."""
    try:
        return bool(read_state(directory / _FILE, _CLUSTER)["made"])
    except StateUnreadable:
        return False


def _lease_of(directory: Path) -> Lease:
    return next(lease for lease in leases() if lease.directory == directory)


def _name(choices: KindChoices) -> str:
    """A cluster's, one for each run; one for each release where a kept one is to be found again."""
    release = choices.version.replace(".", "-").replace("+", "-")
    again = choices.reuse or choices.keep is not Keep.NEVER
    return f"istio-sidecar-{release}" if again else f"istio-sidecar-{release}-{os.urandom(2).hex()}"


def _application(choices: KindChoices) -> str:
    """The YAML documents of what gets the sidecar."""
    texts = [path.read_text(encoding="utf-8") for path in choices.manifests]
    return "\n---\n".join(texts or (_manifest("httpbin.yaml"),))


def _manifest(name: str) -> str:
    return (files("pytest_istio_sidecar") / "manifests" / name).read_text(encoding="utf-8")


def _client(api: KubernetesApi, namespace: str) -> tuple[Json | None, str]:
    pod = api.find(f"/api/v1/namespaces/{namespace}/pods/{_CLIENT}")
    if pod is None:
        return None, "no such pod"
    return (pod if is_ready(pod) else None), str(pod.get("status", {}).get("phase"))


def _place(pod: Json) -> str:
    return f"{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
