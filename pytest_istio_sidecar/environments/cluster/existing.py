"""Pods of somebody's cluster.

Knows how they are found, and that nothing is changed unless asked for. Does not know how a
pod is read. Invariant: only the kubeconfig and context that were named are used, and what was
changed on request is put back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Self

import yaml

from pytest_istio_sidecar.environments.base import Environment
from pytest_istio_sidecar.environments.choices import ExistingChoices, ReaderName
from pytest_istio_sidecar.environments.cluster import messages
from pytest_istio_sidecar.environments.cluster.api import ApiProblem, Json, KubernetesApi
from pytest_istio_sidecar.environments.cluster.pod import ClusterPod
from pytest_istio_sidecar.environments.cluster.privileged import (
    MERGING_SINCE,
    make_privileged,
    place_of,
    wait_until_privileged,
)
from pytest_istio_sidecar.environments.cluster.undo import Changes, take_back
from pytest_istio_sidecar.environments.cluster.unproxied import unproxied_of
from pytest_istio_sidecar.environments.cluster.workload import (
    NO_POD,
    SIDECAR,
    Workload,
    container_of,
    describe_pods,
    is_ready,
    istio_version_of,
    ready_pods,
    unready_pods,
)
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio.injection import Unproxied
from pytest_istio_sidecar.istio.versions import number_of
from pytest_istio_sidecar.machine.command import run_command
from pytest_istio_sidecar.machine.lease import EDIT, Lease, leases
from pytest_istio_sidecar.machine.progress import Progress
from pytest_istio_sidecar.machine.state_file import read_state, write_state
from pytest_istio_sidecar.netfilter.model import PodRules

_STATE = {
    "kubeconfig": str | None,
    "context": str | None,
    "server": str,
    "reader": str,
    "kubernetes": str,
    "workloads": dict,
    "unread": dict,
    "client": str | None,
}
"""How the pods are described for other processes: by workload, as it was named."""
_NAMED = "it is named by --istio-workload"


class ExistingEnvironment(ClusterPod, Environment):
    """One of the workloads that were named: its first pod is the one under test, the others are compared."""

    name = "existing"

    def __init__(
        self,
        api: KubernetesApi,
        workloads: Mapping[str, Sequence[Json]],
        client: Json | None,
        written: Json,
        workload: str,
        views: dict[str, ExistingEnvironment] | None = None,
    ) -> None:
        """Take one of the workloads.

        Args:
            workloads: the pods of each, by its name.
            written: as `_STATE` has it.
            workload: the name of the one that is under test.
            views: of the others, as far as they were asked for.
        """
        pods = workloads[workload]
        reader = ReaderName(written["reader"])
        facts = {
            "environment": f"existing cluster, context {written['context']}",
            "cluster": written["server"],
        }
        if len(workloads) > 1:
            facts["workload"] = workload
        if container_of(pods[0]) is not None:
            facts["istio"] = istio_version_of(pods[0]) or "unknown"
        facts["kubernetes"] = written["kubernetes"]
        if written["unread"][workload] != NO_POD:
            facts["not read"] = written["unread"][workload]
        local = _is_container_here(pods[0]["spec"]["nodeName"]) if reader is not ReaderName.EXEC else False
        super().__init__(api, pods[0], reader=reader, client=client, facts=facts, node_containers=local)
        self._others = [ClusterPod(api, pod, reader=reader, node_containers=local) for pod in pods[1:]]
        self._pods = pods
        self._workloads = workloads
        self._written = written
        self._views = {} if views is None else views
        self._views[workload] = self

    @classmethod
    def bring_up(cls, choices: ExistingChoices, *, state: Path, owner: int, progress: Progress) -> Self:
        """Find every Ready replica, and make privileged and traffic possible where asked for.

        Raises:
            EnvironmentProblem: a workload is not there, has no Ready pod, or a sidecar of another release.
        """
        api = KubernetesApi(kubeconfig=choices.kubeconfig, context=choices.context)
        # The current one may be another before the run is over.
        api = KubernetesApi(kubeconfig=choices.kubeconfig, context=api.current_context())
        changes = Changes(Lease.of(EDIT, owner, name=f"{EDIT}-{os.urandom(4).hex()}"), api)
        workloads = {text: Workload.parse(text, choices.namespace) for text in choices.workloads}
        version = choices.version if choices.version_given else None
        written: Json = {
            "environment": "existing",
            "kubeconfig": None if choices.kubeconfig is None else str(choices.kubeconfig.absolute()),
            "context": api.context,
            "server": api.address,
            "reader": str(choices.reader),
            "kubernetes": str(api.get("/version")["gitVersion"]),
            "changes": str(changes.directory),
        }
        write_state(state, written)
        # All of them are looked for before any is changed.
        pods = {text: _pods(api, workload, version) for text, workload in workloads.items()}
        if choices.make_privileged:
            for text, workload in workloads.items():
                if any(container_of(pod) is None for pod in pods[text]):
                    continue  # there is no sidecar to edit, and the tests say so
                with progress.phase(f"making {SIDECAR} of {workload} privileged"):
                    _require_editable(api.get(workload.path), pods[text][0], workload)
                    make_privileged(api, workload, partial(changes.will_edit, workload.path))
                    wait_until_privileged(api, workload, timeout=choices.timeout)
                pods[text] = _pods(api, workload, version)
        written["unread"] = {
            text: describe_pods(unready_pods(api, workload)) for text, workload in workloads.items()
        }
        client = _client(api, changes, choices) if choices.traffic else None
        written["workloads"] = {text: [_path(pod) for pod in members] for text, members in pods.items()}
        written["client"] = None if client is None else _path(client)
        write_state(state, written)
        return cls(api, pods, client, written, next(iter(pods)))

    @classmethod
    def attach(cls, state: Path) -> Self:
        if "workloads" not in read_state(state, {}):
            raise EnvironmentProblem(messages.PODS_NOT_FOUND())
        written = read_state(state, _STATE)
        kubeconfig = written["kubeconfig"]
        api = KubernetesApi(
            kubeconfig=None if kubeconfig is None else Path(kubeconfig), context=written["context"]
        )
        client = None if written["client"] is None else api.get(written["client"])
        pods = {text: [api.get(path) for path in paths] for text, paths in written["workloads"].items()}
        return cls(api, pods, client, written, next(iter(pods)))

    def of_workload(self, name: str) -> ExistingEnvironment:
        """The same with another of the workloads under test; each is read once."""
        view = self._views.get(name)
        if view is None:
            view = type(self)(self._api, self._workloads, self._client, self._written, name, self._views)
        return view

    def unproxied(self) -> Sequence[Unproxied]:
        """The pods of the workload that have no sidecar."""
        return unproxied_of(self._api, self._pods, named=_NAMED)

    @property
    def istio_version(self) -> str | None:
        """The release of the pod under test, by its image."""
        return istio_version_of(self._pod)

    @classmethod
    def take_down(cls, state: Path, evidence: Path, *, keep_it: bool, progress: Progress) -> str | None:  # noqa: ARG003
        """Put back what was changed; in words what was."""
        return "\n".join(_put_back(state)) or None

    def read_replicas(self, folder: Path | None = None) -> Mapping[str, PodRules]:
        """The rules of the other replicas."""
        rules = {}
        for other in self._others:
            own = Path(other.pod_name.replace("/", "_"))
            rules[other.pod_name] = other.read_rules(None if folder is None else folder / own)
            self._evidence |= {str(own / name): text for name, text in other.evidence().items()}
        return rules


def _put_back(state: Path) -> list[str]:
    directory = Path(read_state(state, {"changes": str})["changes"])
    lease = next((lease for lease in leases() if lease.directory == directory), None)
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
        release = istio_version_of(pod)
        if version is not None and container_of(pod) is not None and release != version:
            raise EnvironmentProblem(
                messages.OTHER_RELEASE(pod=name, found=release or "an unknown release", version=version)
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


def _client(api: KubernetesApi, changes: Changes, choices: ExistingChoices) -> Json:
    text = (files("pytest_istio_sidecar") / "manifests" / "client.yaml").read_text(encoding="utf-8")
    body = yaml.safe_load(text)
    body["metadata"]["name"] += f"-{os.urandom(3).hex()}"
    pods = f"/api/v1/namespaces/{choices.namespace}/pods"
    path = f"{pods}/{body['metadata']['name']}"
    changes.will_create(path)
    api.request("POST", pods, body=body)
    return api.wait(
        f"the client pod {body['metadata']['name']} to be Ready",
        lambda: _ready(api, path),
        timeout=choices.timeout,
    )


def _ready(api: KubernetesApi, path: str) -> tuple[Json | None, str]:
    pod = api.get(path)
    return (pod if is_ready(pod) else None), str(pod.get("status", {}).get("phase"))


def _path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _is_container_here(node: str) -> bool:
    """Whether a node is a container of this machine's engine, as kind's are."""
    return run_command(["docker", "inspect", "--format", "{{.Id}}", node], timeout=10).succeeded
