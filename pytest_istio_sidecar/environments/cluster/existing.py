"""Pods of somebody's cluster.

Knows how they are found, and that nothing is changed unless asked for. Does not know how a
pod is read. Invariant: only the kubeconfig and context that were named are used, and what was
changed on request is put back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import yaml

from pytest_istio_sidecar.environments.choices import ReaderName
from pytest_istio_sidecar.environments.cluster import messages
from pytest_istio_sidecar.environments.cluster.api import ApiProblem, Json, KubernetesApi
from pytest_istio_sidecar.environments.cluster.pod import ClusterPod
from pytest_istio_sidecar.environments.cluster.undo import Changes, take_back
from pytest_istio_sidecar.environments.cluster.workload import (
    NO_POD,
    SIDECAR,
    Workload,
    container_of,
    describe_pods,
    has_containers,
    is_ready,
    istio_version_of,
    ready_pods,
    unready_pods,
)
from pytest_istio_sidecar.environments.kind.httpbin import (
    MERGING_SINCE,
    make_privileged,
    place_of,
    wait_until_privileged,
)
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio.versions import number_of
from pytest_istio_sidecar.machine.command import run_command
from pytest_istio_sidecar.machine.lease import EDIT, Lease, leases
from pytest_istio_sidecar.machine.progress import Progress
from pytest_istio_sidecar.netfilter.model import PodRules


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingPlan:
    """What to read.

    Attributes:
        kubeconfig: None: what KUBECONFIG names, or ~/.kube/config.
        context: None: the current one.
        workloads: as `--istio-workload` has them; every replica of each.
        version: the release that the pods must be of; None: any.
        traffic: whether requests may be sent, from a client pod that is removed afterwards.
        make_privileged: whether the workload is edited, and put back afterwards.
    """

    kubeconfig: Path | None
    context: str | None
    namespace: str
    workloads: tuple[str, ...]
    version: str | None
    reader: ReaderName
    traffic: bool
    make_privileged: bool
    timeout: float

    def start(self, *, state: Path, owner: int, progress: Progress) -> ExistingEnvironment:
        """Find the pods, and change what was asked for."""
        return ExistingEnvironment.start(self, state=state, owner=owner, progress=progress)

    def attach(self, state: Path) -> ExistingEnvironment:
        """The same pods, as another process of the run found them."""
        return ExistingEnvironment.attach(state)


class ExistingEnvironment(ClusterPod):
    """The first pod of the workloads is the one under test; the others are compared with it."""

    def __init__(self, api: KubernetesApi, pods: list[Json], client: Json | None, told: Json) -> None:
        reader = ReaderName(told["reader"])
        facts = {
            "environment": f"existing cluster, context {api.context or '(current)'}",
            "istio": istio_version_of(pods[0]) or "unknown",
            "kubernetes": told["kubernetes"],
        }
        if told["unread"] != NO_POD:
            facts["not read"] = told["unread"]
        local = _is_container_here(pods[0]["spec"]["nodeName"]) if reader is not ReaderName.EXEC else False
        super().__init__(
            api, pods[0], name="existing", reader=reader, client=client, facts=facts, node_containers=local
        )
        self._others = [
            ClusterPod(api, pod, name="existing", reader=reader, node_containers=local) for pod in pods[1:]
        ]

    @classmethod
    def start(cls, plan: ExistingPlan, *, state: Path, owner: int, progress: Progress) -> ExistingEnvironment:
        """Find every Ready replica, and make privileged and traffic possible where asked for.

        Raises:
            EnvironmentProblem: a workload is not there, has no Ready pod, no sidecar, or one of
                another release.
        """
        api = KubernetesApi(kubeconfig=plan.kubeconfig, context=plan.context)
        changes = Changes(Lease.of(EDIT, owner, name=f"{EDIT}-{os.urandom(4).hex()}"), api)
        workloads = [Workload.parse(text, plan.namespace) for text in plan.workloads]
        told: Json = {
            "environment": "existing",
            "kubeconfig": None if plan.kubeconfig is None else str(plan.kubeconfig.absolute()),
            "context": plan.context,
            "reader": str(plan.reader),
            "kubernetes": str(api.get("/version")["gitVersion"]),
            "changes": str(changes.directory),
        }
        _write(state, told)
        if plan.make_privileged:
            for workload in workloads:
                with progress.phase(f"making {SIDECAR} of {workload} privileged"):
                    _require_editable(api.get(workload.path), _pods(api, workload, plan.version)[0], workload)
                    make_privileged(api, workload, partial(changes.will_edit, workload.path))
                    wait_until_privileged(api, workload, timeout=plan.timeout)
        pods = [pod for workload in workloads for pod in _pods(api, workload, plan.version)]
        told["unread"] = describe_pods(pod for held in workloads for pod in unready_pods(api, held))
        client = _client(api, changes, plan) if plan.traffic else None
        told["pods"] = [_path(pod) for pod in pods]
        told["client"] = None if client is None else _path(client)
        _write(state, told)
        return cls(api, pods, client, told)

    @classmethod
    def attach(cls, state: Path) -> ExistingEnvironment:
        """The pods that another process of the run found.

        Raises:
            EnvironmentProblem: it found none, or they are gone.
        """
        told = json.loads(state.read_text())
        if "pods" not in told:
            raise EnvironmentProblem(messages.PODS_NOT_FOUND())
        kubeconfig = told["kubeconfig"]
        api = KubernetesApi(
            kubeconfig=None if kubeconfig is None else Path(kubeconfig), context=told["context"]
        )
        client = None if told["client"] is None else api.get(told["client"])
        return cls(api, [api.get(path) for path in told["pods"]], client, told)

    @property
    def istio_version(self) -> str | None:
        """The release of the pod under test, by its image."""
        return istio_version_of(self._pod)

    def stop(self) -> None:
        """Nothing: what was changed is `put_back`'s, by whoever owns the run."""

    def read_replicas(self, folder: Path | None = None) -> Mapping[str, PodRules]:
        """The rules of the other replicas."""
        found = {}
        for other in self._others:
            own = Path(other.pod_name.replace("/", "_"))
            found[other.pod_name] = other.read_rules(None if folder is None else folder / own)
            self._evidence |= {str(own / name): text for name, text in other.evidence().items()}
        return found


def put_back(state: Path) -> list[str]:
    """Put back what the run that `state` tells of has changed; in words what was."""
    directory = Path(json.loads(state.read_text())["changes"])
    lease = next((held for held in leases() if held.directory == directory), None)
    return [] if lease is None else take_back(lease)


def _pods(api: KubernetesApi, workload: Workload, version: str | None) -> list[Json]:
    try:
        pods, seen = ready_pods(api, workload)
    except ApiProblem as problem:
        if problem.status == 404:
            raise EnvironmentProblem(
                messages.NO_WORKLOAD(
                    workload=workload,
                    namespace=workload.namespace,
                    context=f" (context {api.context})" if api.context else "",
                )
            ) from None
        raise
    if not pods:
        raise EnvironmentProblem(
            messages.NO_READY_POD(workload=workload, namespace=workload.namespace, seen=seen)
        )
    for pod in pods:
        name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        if container_of(pod) is None:
            raise EnvironmentProblem(messages.NO_SIDECAR(pod=name, facts=has_containers(pod)))
        found = istio_version_of(pod)
        if version is not None and found != version:
            raise EnvironmentProblem(
                messages.OTHER_RELEASE(pod=name, found=found or "an unknown release", version=version)
            )
    return pods


def _require_editable(deployment: Json, pod: Json, workload: Workload) -> None:
    """Refuse an edit that could not reach the sidecar, before anything is changed."""
    if workload.kind != "deployment":
        raise EnvironmentProblem(messages.NO_DEPLOYMENT(workload=workload))
    version = istio_version_of(pod)
    injected = place_of(deployment["spec"]["template"]["spec"]) is None
    if injected and version is not None and number_of(version) < MERGING_SINCE:
        raise EnvironmentProblem(messages.NOTHING_MERGED(workload=workload, version=version))


def _client(api: KubernetesApi, changes: Changes, plan: ExistingPlan) -> Json:
    text = (files("pytest_istio_sidecar") / "manifests" / "client.yaml").read_text(encoding="utf-8")
    body = yaml.safe_load(text)
    body["metadata"]["name"] += f"-{os.urandom(3).hex()}"
    pods = f"/api/v1/namespaces/{plan.namespace}/pods"
    path = f"{pods}/{body['metadata']['name']}"
    changes.will_create(path)
    api.request("POST", pods, body=body)
    return api.wait(
        f"the client pod {body['metadata']['name']} to be Ready",
        lambda: _ready(api, path),
        timeout=plan.timeout,
    )


def _ready(api: KubernetesApi, path: str) -> tuple[Json | None, str]:
    pod = api.get(path)
    return (pod if is_ready(pod) else None), str(pod.get("status", {}).get("phase"))


def _write(state: Path, told: Json) -> None:
    unfinished = state.with_suffix(".new")
    unfinished.write_text(json.dumps(told))
    unfinished.rename(state)


def _path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _is_container_here(node: str) -> bool:
    """Whether a node is a container of this machine's engine, as kind's are."""
    return run_command(["docker", "inspect", "--format", "{{.Id}}", node], timeout=10).succeeded
