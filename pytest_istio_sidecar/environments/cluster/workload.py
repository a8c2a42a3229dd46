"""Which pods a workload has, and which of them is read.

Knows Deployments and their like, ReplicaSets and the conditions of pods. Does not know
what a sidecar is for. Invariant: a pod that is being deleted is never chosen, nor one of an
older ReplicaSet: right after an edit both still answer, with the old rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from pytest_istio_sidecar.environments.cluster.api import ApiProblem, Json, KubernetesApi
from pytest_istio_sidecar.errors import EnvironmentProblem, UsageProblem

SIDECAR = "istio-proxy"
NO_POD = "no pod"
_KINDS = {
    "deployment": ("/apis/apps/v1", "deployments"),
    "statefulset": ("/apis/apps/v1", "statefulsets"),
    "daemonset": ("/apis/apps/v1", "daemonsets"),
    "replicaset": ("/apis/apps/v1", "replicasets"),
    "pod": ("/api/v1", "pods"),
}
_SHORT = {"deploy": "deployment", "sts": "statefulset", "ds": "daemonset", "rs": "replicaset", "po": "pod"}
_REVISION = "deployment.kubernetes.io/revision"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A workload as it is named on the command line: `deployment/httpbin`, or a label selector."""

    namespace: str
    kind: str
    name: str

    @classmethod
    def parse(cls, text: str, namespace: str) -> Workload:
        """Read `KIND/NAME`, `NAME` (a Deployment) or `LABEL=VALUE,…`.

        Raises:
            UsageProblem: another kind.
        """
        if "=" in text or " in " in text:
            return cls(namespace=namespace, kind="selector", name=text)
        kind, slash, name = text.partition("/")
        kind = _SHORT.get(kind, kind if kind in _KINDS else kind.removesuffix("s")) if slash else "deployment"
        if kind not in _KINDS or not (name or kind):
            known = ", ".join(_KINDS)
            raise UsageProblem(
                f"{text!r} names no workload: expected KIND/NAME with KIND one of {known}, or LABEL=VALUE"
            )
        return cls(namespace=namespace, kind=kind, name=name if slash else text)

    def __str__(self) -> str:
        return f"pods with {self.name}" if self.kind == "selector" else f"{self.kind}/{self.name}"

    @property
    def path(self) -> str:
        """Where the API server has it."""
        prefix, plural = _KINDS[self.kind]
        return f"{prefix}/namespaces/{self.namespace}/{plural}/{quote(self.name)}"


def ready_pods(api: KubernetesApi, workload: Workload) -> tuple[list[Json], str]:
    """Its Ready pods of the newest revision, oldest first; and in words what there was.

    Raises:
        ApiProblem: the workload is not there, or may not be read.
    """
    everything = pods_of(api, workload)
    newest = _of_newest(api, workload, everything)
    ready = [pod for pod in newest if is_ready(pod)]
    return ready, describe_pods(everything)


def settled(api: KubernetesApi, workload: Workload) -> tuple[list[Json] | None, str]:
    """Its pods once the newest revision is all there is, Ready; None before. For `KubernetesApi.wait`."""
    live = api.get(workload.path)
    status, wanted = live.get("status", {}), live.get("spec", {}).get("replicas", 1)
    failure = next(
        (
            condition["message"]
            for condition in status.get("conditions", [])
            if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
        ),
        None,
    )
    # A webhook that cannot be called yet is called again by the controller; a verdict stays.
    if failure and "failed calling webhook" in failure:
        return None, failure
    if failure:
        raise EnvironmentProblem(
            f"the pods of {workload} are refused: {failure}\n\n"
            "  cause    an admission controller (Pod Security, a policy, a webhook) refuses this pod"
        )
    # An evicted pod stays in the list, ended, until somebody deletes it.
    everything = [pod for pod in pods_of(api, workload) if not _has_ended(pod)]
    newest = _of_newest(api, workload, everything)
    observed = status.get("observedGeneration", 0) >= live["metadata"].get("generation", 0)
    done = observed and len(newest) == wanted == len(everything) and all(map(is_ready, newest))
    return (newest if done else None), describe_pods(everything)


def pods_of(api: KubernetesApi, workload: Workload) -> list[Json]:
    """Every pod of a workload, the deleted ones that still run included, oldest first."""
    if workload.kind == "pod":
        return [api.get(workload.path)]
    selector = workload.name
    if workload.kind != "selector":
        selector = selector_of(api.get(workload.path))
    items = api.get(f"/api/v1/namespaces/{workload.namespace}/pods", labelSelector=selector)["items"]
    return sorted(items, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def selector_of(workload: Json) -> str:
    """A workload's selector, as a query has it."""
    selector = workload["spec"]["selector"]
    parts = [f"{key}={value}" for key, value in selector.get("matchLabels", {}).items()]
    for expression in selector.get("matchExpressions", []):
        key, operator, values = expression["key"], expression["operator"], expression.get("values", [])
        listed = f"({','.join(values)})"
        parts.append(
            {"In": f"{key} in {listed}", "NotIn": f"{key} notin {listed}", "Exists": key}.get(
                operator, f"!{key}"
            )
        )
    return ",".join(parts)


def _of_newest(api: KubernetesApi, workload: Workload, pods: Iterable[Json]) -> list[Json]:
    """Those of the newest ReplicaSet that are not on their way out."""
    staying = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    if workload.kind != "deployment":
        return staying
    sets = api.get(f"/apis/apps/v1/namespaces/{workload.namespace}/replicasets")["items"]
    owned = [
        one
        for one in sets
        if any(owner.get("name") == workload.name for owner in one["metadata"].get("ownerReferences", []))
    ]
    if not owned:
        return staying
    newest = max(owned, key=lambda one: int(one["metadata"].get("annotations", {}).get(_REVISION, 0)))
    return [
        pod
        for pod in staying
        if any(
            owner.get("uid") == newest["metadata"]["uid"]
            for owner in pod["metadata"].get("ownerReferences", [])
        )
    ]


def is_ready(pod: Json) -> bool:
    """Whether the pod says it is Ready, and is to stay."""
    conditions = pod.get("status", {}).get("conditions", [])
    return not pod["metadata"].get("deletionTimestamp") and any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )


def _has_ended(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


def describe_pods(pods: Iterable[Json]) -> str:
    """Pods with what keeps each from being Ready, in a few words."""
    return "; ".join(f"{pod['metadata']['name']} {_state(pod)}" for pod in pods) or NO_POD


def unready_pods(api: KubernetesApi, workload: Workload) -> list[Json]:
    """Its pods that should run and are not Ready: those of an older revision too, ended ones not."""
    return [
        pod
        for pod in pods_of(api, workload)
        if not is_ready(pod) and not _has_ended(pod) and not pod["metadata"].get("deletionTimestamp")
    ]


def _state(pod: Json) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "is being deleted"
    if is_ready(pod):
        return "is Ready"
    status = pod.get("status", {})
    for container in container_statuses(pod):
        waiting = container.get("state", {}).get("waiting") or container.get("state", {}).get("terminated")
        if waiting and waiting.get("reason") not in ("PodInitializing", "Completed"):
            message = f": {waiting['message']}" if waiting.get("message") else ""
            return f"has {container['name']} in {waiting.get('reason')}{message}"
        if not container.get("ready") and container.get("state", {}).get("running"):
            return f"has {container['name']} not ready yet"
    return f"is {status.get('phase', 'unknown')}"


def container_statuses(pod: Json) -> list[Json]:
    """What a pod tells of its containers: of those that initialise it first."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def container_of(pod: Json, name: str = SIDECAR) -> Json | None:
    """A container by name, also where it is a native sidecar: an init container that goes on running."""
    spec = pod["spec"]
    for container in [*spec.get("containers", []), *spec.get("initContainers", [])]:
        if container["name"] == name:
            return dict(container)
    return None


def owner_of(api: KubernetesApi, pod: Json) -> Json | None:
    """The workload that a pod belongs to, its Deployment rather than its ReplicaSet.

    None where it belongs to none, or the workload may not be read or is gone: the pod is what counts.
    """
    member, workload = pod, None
    for _ in range(2):
        owners = member["metadata"].get("ownerReferences", [])
        owner = next((one for one in owners if str(one.get("kind", "")).lower() in _KINDS), None)
        if owner is None:
            break
        prefix, plural = _KINDS[owner["kind"].lower()]
        try:
            member = api.get(f"{prefix}/namespaces/{pod['metadata']['namespace']}/{plural}/{owner['name']}")
        except ApiProblem:
            break
        workload = {"kind": owner["kind"], **member}
    return workload


def container_id(pod: Json, name: str = SIDECAR) -> str:
    """Its running container's id; "" when it does not run."""
    for status in container_statuses(pod):
        if status["name"] == name and "running" in status.get("state", {}):
            return str(status.get("containerID", ""))
    return ""


def istio_version_of(pod: Json) -> str | None:
    """The release its sidecar is of, by the tag of the image; None where the tag tells none."""
    sidecar = container_of(pod)
    if sidecar is None:
        return None
    tag = str(sidecar["image"]).partition("@")[0].rpartition(":")[2]
    release = re.match(r"\d+\.\d+(\.\d+)?(-[\w.-]+)?$", tag)
    return tag if release else None


def reread(api: KubernetesApi, pod: Json) -> Json:
    """The pod as it is now.

    Raises:
        EnvironmentProblem: it is gone, or being deleted: it was evicted or replaced meanwhile.
    """
    metadata = pod["metadata"]
    try:
        now = api.get(f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}")
    except ApiProblem as problem:
        if problem.status != 404:
            raise
        now = None
    if now is None or now["metadata"]["uid"] != metadata["uid"] or now["metadata"].get("deletionTimestamp"):
        raise EnvironmentProblem(
            f"{metadata['namespace']}/{metadata['name']} has gone while it was read: "
            "evicted, deleted or replaced"
        )
    return now
