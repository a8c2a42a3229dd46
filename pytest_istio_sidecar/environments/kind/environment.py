"""The lab, from nothing: a kind cluster, Istio, and httpbin with a privileged sidecar.

Knows the order of the steps and what each needs. What a step does is its own module's.
Does not know pytest. Invariant: the lease is on file before the cluster is made, and who
made a cluster is the only one to delete it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from pytest_istio_sidecar.environments.choices import Injection, ReaderName
from pytest_istio_sidecar.environments.cluster.api import Json, KubernetesApi
from pytest_istio_sidecar.environments.cluster.pod import ClusterPod
from pytest_istio_sidecar.environments.cluster.workload import SIDECAR, Workload, is_ready
from pytest_istio_sidecar.environments.kind import messages
from pytest_istio_sidecar.environments.kind.cluster import Cluster, KindFailed
from pytest_istio_sidecar.environments.kind.httpbin import (
    MERGING_SINCE,
    deploy,
    deployment_of,
    make_namespace,
    make_privileged,
    wait_until_privileged,
    wait_until_settled,
)
from pytest_istio_sidecar.environments.kind.istioctl import install, istioctl_of
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio.versions import cluster_pair, number_of
from pytest_istio_sidecar.machine.download import find_or_download
from pytest_istio_sidecar.machine.lease import CLUSTER, Lease, leases
from pytest_istio_sidecar.machine.progress import Progress

_CLIENT = "istio-sidecar-client"
_LATE_NODE_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KindPlan:
    """What to bring up.

    Attributes:
        cluster: its name.
        version: release of Istio.
        image: of the nodes; None: kind's own.
        config: kind's configuration; None: the one of this package.
        kind, kubectl, istioctl: programs; None: looked for on the PATH.
        images: to load into the nodes before Istio is installed.
        values: for istioctl's `--set`.
        hub: registry of Istio's images; None: the one among `values`, else that of versions.toml.
        namespace: of httpbin.
        manifests: YAML documents of the application; the first Deployment is under test.
        injection: how the sidecar comes into it.
        reader: by which way the pod is read.
        reuse: take a cluster of this name that an earlier run kept.
        timeout: seconds for each step.
    """

    cluster: str
    version: str
    image: str | None = None
    config: Path | None = None
    kind: str | None = None
    kubectl: str | None = None
    istioctl: str | None = None
    images: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    hub: str | None = None
    namespace: str = "default"
    manifests: tuple[str, ...] = ()
    injection: Injection = Injection.KUBE_INJECT
    reader: ReaderName = ReaderName.AUTO
    reuse: bool = False
    timeout: float = 300.0

    def start(self, *, state: Path, owner: int, progress: Progress) -> KindEnvironment:
        """Make it; see `KindEnvironment.start`."""
        return KindEnvironment.start(self, state=state, owner=owner, progress=progress)

    def attach(self, state: Path) -> KindEnvironment:
        """Find what another process made."""
        return KindEnvironment.attach(state)


class KindEnvironment(ClusterPod):
    """The pod under test in a kind cluster of this run."""

    def __init__(
        self, api: KubernetesApi, pod: Json, client: Json, facts: Mapping[str, str], reader: ReaderName
    ) -> None:
        super().__init__(
            api, pod, name="kind", reader=reader, client=client, facts=facts, node_containers=True
        )

    @classmethod
    def start(cls, plan: KindPlan, *, state: Path, owner: int, progress: Progress) -> KindEnvironment:
        """Make the cluster and everything in it.

        Args:
            state: a file to describe it in, for `attach` and `stop_cluster`.
            owner: process whose run this is.

        Raises:
            EnvironmentProblem: a step failed; the message is the step's.
        """
        cluster = _cluster(plan, owner, state, progress)
        api = KubernetesApi(kubeconfig=cluster.kubeconfig)
        istioctl = istioctl_of(
            find_or_download(
                "istioctl",
                plan.version,
                given=plan.istioctl,
                option="--istio-istioctl",
                progress=progress,
                timeout=plan.timeout,
            ),
            plan.version,
            cluster.kubeconfig,
        )
        if plan.images:
            with progress.phase(f"loading {len(plan.images)} images into the nodes"):
                cluster.load_images(plan.images)
        with progress.phase(f"installing Istio {plan.version}"):
            install(
                istioctl,
                api,
                values=_values(plan),
                hub=plan.hub,
                timeout=plan.timeout,
                progress=progress,
            )
        manifest = "\n---\n".join(plan.manifests or (_manifest("httpbin.yaml"),))
        workload = Workload(namespace=plan.namespace, kind="deployment", name=deployment_of(manifest))
        with progress.phase(f"deploying {workload} with a sidecar by {plan.injection}"):
            make_namespace(api, plan.namespace, inject=plan.injection is Injection.WEBHOOK)

            def apply(text: str) -> object:
                argv = ["apply", "-n", plan.namespace, "-f", "-"]
                return cluster.kubectl_run(argv, text=text, timeout=plan.timeout)

            deploy(
                api,
                istioctl,
                manifest,
                namespace=plan.namespace,
                injection=plan.injection,
                apply=apply,
                timeout=plan.timeout,
            )
            # After the application: until the webhook answers, it refuses every pod of a labelled namespace.
            apply(_manifest("client.yaml"))
            wait_until_settled(api, workload, timeout=plan.timeout)
        with progress.phase(f"making {SIDECAR} of {workload} privileged"):
            if plan.injection is Injection.KUBE_INJECT or _merges(plan.version):
                make_privileged(api, workload)
            pod = wait_until_privileged(api, workload, timeout=plan.timeout)
            client = api.wait(
                f"the client pod {plan.namespace}/{_CLIENT} to be Ready",
                lambda: _client(api, plan.namespace),
                timeout=plan.timeout,
            )
        facts = {
            "environment": f"kind cluster {cluster.name}, {plan.injection}",
            "istio": plan.version,
            "kubernetes": str(api.get("/version")["gitVersion"]),
        }
        told = _read(state) | {
            "environment": "kind",
            "kubeconfig": str(cluster.kubeconfig),
            "pod": _place(pod),
            "client": _place(client),
            "facts": facts,
            "reader": str(plan.reader),
            "seconds": progress.seconds,
        }
        _write(state, told)
        return cls(api, pod, client, facts, plan.reader)

    @classmethod
    def attach(cls, state: Path) -> KindEnvironment:
        """What another process of the run has made.

        Raises:
            EnvironmentProblem: it is gone, or was never finished.
        """
        told = _read(state)
        if "pod" not in told:
            raise EnvironmentProblem(messages.NOT_BROUGHT_UP())
        api = KubernetesApi(kubeconfig=Path(told["kubeconfig"]))
        pod, client = (api.get(f"/api/v1/namespaces/{told[key]}") for key in ("pod", "client"))
        return cls(api, pod, client, told["facts"], ReaderName(told["reader"]))

    def stop(self) -> None:
        """Nothing: the cluster is `stop_cluster`'s, by whoever owns the run."""


def stop_cluster(state: Path, *, keep: bool, progress: Progress) -> str | None:
    """Delete the cluster that `state` tells of, or keep it; how to get in, where it is kept.

    Raises:
        EnvironmentProblem: kind could not delete it.
    """
    told = _read(state)
    if "cluster" not in told:
        return None
    directory = Path(told["directory"])
    cluster = Cluster(told["cluster"], directory=directory, kind=told["kind"], kubectl=told["kubectl"])
    if keep or not told["made"]:
        (directory / "kept").touch()
        why = "kept" if keep else "left as it was found"
        return (
            f"cluster {cluster.name} is {why}: export KUBECONFIG={cluster.kubeconfig}\n"
            f"delete it: istio-sidecar clean, or {cluster.kind} delete cluster --name={cluster.name}"
        )
    with progress.phase(f"deleting the kind cluster {cluster.name}"):
        if told.get("interrupted"):
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


def clean_clusters() -> list[str]:
    """Delete the clusters of runs that have ended: kept ones, and what crashes left behind."""
    removed = []
    for lease in leases():
        if lease.kind != CLUSTER or not lease.stale:
            continue
        try:
            told = json.loads((lease.directory / "cluster.json").read_text())
        except (OSError, ValueError):
            lease.release()
            continue
        if told["made"]:
            Cluster(
                told["name"], directory=lease.directory, kind=told["kind"], kubectl=told["kubectl"]
            ).delete()
            removed.append(f"kind cluster {told['name']} (of process {lease.owner.pid}, which has ended)")
        lease.release()
    return removed


def _cluster(plan: KindPlan, owner: int, state: Path, progress: Progress) -> Cluster:
    """The plan's cluster: a kept one where reuse is asked for, a new one elsewhere."""
    kind, kubectl = _programs(plan, progress)
    lease = Lease.of(CLUSTER, owner, name=f"{CLUSTER}-{plan.cluster}")
    earlier = lease.claim()
    if earlier is not None and not earlier.stale:
        raise EnvironmentProblem(messages.IN_USE(cluster=plan.cluster, pid=earlier.owner.pid))
    cluster = Cluster(
        plan.cluster,
        directory=lease.directory,
        image=plan.image,
        kind=kind,
        kubectl=kubectl,
        timeout=plan.timeout,
        progress=progress,
    )
    try:
        there = _is_there(cluster, plan, earlier)
    except EnvironmentProblem:
        lease.give_back(earlier)
        raise
    ours = not there or _was_made_here(lease.directory)
    lease.directory.mkdir(mode=0o700, exist_ok=True)
    (lease.directory / "kept").unlink(missing_ok=True)
    facts = {"name": plan.cluster, "kind": kind, "kubectl": kubectl, "made": ours}
    (lease.directory / "cluster.json").write_text(json.dumps(facts))
    told = {"environment": "kind", "directory": str(lease.directory), "cluster": plan.cluster}
    _write(state, {**told, "kind": kind, "kubectl": kubectl, "made": ours})
    if there:
        with progress.phase(f"reusing the kind cluster {plan.cluster}"):
            return cluster.adopt()
    image = f" from {plan.image.partition('@')[0]}" if plan.image else ""
    with progress.phase(f"creating the kind cluster {plan.cluster}{image}"):
        try:
            if plan.config is not None:
                return cluster.create(plan.config)
            with as_file(files("pytest_istio_sidecar") / "kind-config.yaml") as config:
                return cluster.create(config)
        except KindFailed as problem:
            if problem.already_there:
                # Somebody made it since we looked: it is theirs to delete.
                _write(state, {"environment": "kind"})
                lease.release()
            raise
        except KeyboardInterrupt:
            _write(state, _read(state) | {"interrupted": True})
            raise


def _is_there(cluster: Cluster, plan: KindPlan, earlier: Lease | None) -> bool:
    """Whether there is a cluster to reuse; one that was not to be there is refused."""
    there = cluster.exists()
    if there and not plan.reuse:
        raise EnvironmentProblem(
            messages.ALREADY_THERE(
                cluster=plan.cluster,
                delete="; or delete it: istio-sidecar clean" if earlier is not None else "",
            )
        )
    return there


def _programs(plan: KindPlan, progress: Progress) -> tuple[str, str]:
    """The paths of kind and kubectl."""
    pair = cluster_pair(plan.version)
    wanted = (
        ("kind", pair.kind, plan.kind, "--kind-bin"),
        ("kubectl", pair.kubernetes, plan.kubectl, "--kind-kubectl-bin"),
    )
    kind, kubectl = (
        find_or_download(name, version, given=given, option=option, progress=progress, timeout=plan.timeout)
        for name, version, given, option in wanted
    )
    return kind, kubectl


def _was_made_here(directory: Path) -> bool:
    """Whether an earlier run made the cluster that is there, by what it left on file."""
    try:
        return bool(json.loads((directory / "cluster.json").read_text())["made"])
    except (OSError, ValueError, KeyError):
        return False


def _lease_of(directory: Path) -> Lease:
    return next(held for held in leases() if held.directory == directory)


def _values(plan: KindPlan) -> Sequence[str]:
    """The user's, and what makes sidecars privileged where nothing else does."""
    if plan.injection is Injection.WEBHOOK and not _merges(plan.version):
        return (*plan.values, "values.global.proxy.privileged=true")
    return plan.values


def _merges(version: str) -> bool:
    return number_of(version) >= MERGING_SINCE


def _manifest(name: str) -> str:
    return (files("pytest_istio_sidecar") / "manifests" / name).read_text(encoding="utf-8")


def _client(api: KubernetesApi, namespace: str) -> tuple[Json | None, str]:
    pod = api.find(f"/api/v1/namespaces/{namespace}/pods/{_CLIENT}")
    if pod is None:
        return None, "no such pod"
    return (pod if is_ready(pod) else None), str(pod.get("status", {}).get("phase"))


def _place(pod: Json) -> str:
    return f"{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _read(state: Path) -> Json:
    try:
        return dict(json.loads(state.read_text()))
    except (OSError, ValueError):
        return {}


def _write(state: Path, told: Mapping[str, object]) -> None:
    unfinished = state.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}")
    unfinished.write_text(json.dumps(told))
    unfinished.rename(state)
