"""Why pods do not become Ready: what happened to them, and what their containers said last.

Knows the states of containers that are stuck, events and logs. Does not know what a pod is for. Invariant:
what could not be asked is told as such, and never keeps the first message from being shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from pytest_istio_sidecar.environments.cluster.api import ApiProblem, Json, KubernetesApi
from pytest_istio_sidecar.environments.cluster.workload import (
    Workload,
    container_statuses,
    describe_pods,
    pods_of,
    settled,
)
from pytest_istio_sidecar.errors import EnvironmentProblem

_EVENTS = 5
_LOG_LINES = 12


def wait_until_settled(api: KubernetesApi, workload: Workload, *, timeout: float) -> list[Json]:
    """Wait until the newest pods are Ready and older ones gone.

    Raises:
        EnvironmentProblem: not in time; the message shows the pods and what happened to them.
    """
    try:
        return api.wait(
            f"{workload} in namespace {workload.namespace} to be Ready, and its old pods gone",
            lambda: settled(api, workload),
            timeout=timeout,
        )
    except EnvironmentProblem as problem:
        why = why_not_ready(
            api,
            namespace=workload.namespace,
            names=[workload.name],
            pods=lambda: pods_of(api, workload),
        )
        raise EnvironmentProblem(f"{problem}\n{why}".rstrip()) from None


def why_not_ready(
    api: KubernetesApi, *, namespace: str, names: Sequence[str], pods: Callable[[], Iterable[Json]]
) -> str:
    """Lines of a message: events, last words of failed containers, cause and fix; "" where none is known.

    Args:
        names: of objects whose events count, or what these begin with.
        pods: asks for those that should be Ready.
    """
    try:
        unready = list(pods())
    except ApiProblem as problem:
        return f"  pods     (they could not be asked for: {problem.said or problem})"
    events = [f"  event    {line}" for line in api.events(namespace, names)[-_EVENTS:]]
    return "\n".join([*events, *last_words(api, unready)]) + explain_pods(describe_pods(unready))


def last_words(api: KubernetesApi, pods: Iterable[Json]) -> list[str]:
    """The last lines that failed containers have logged, as lines of a message; of replicas, the first's."""
    lines: list[str] = []
    shown = set()
    for pod, container in _failed(pods):
        if container in shown:
            continue
        shown.add(container)
        lines.append(f"  log      of {container} in {pod['metadata']['name']}:")
        lines += [f"             {line}" for line in _log(api, pod, container)]
    return lines


def _failed(pods: Iterable[Json]) -> Iterator[tuple[Json, str]]:
    """Containers that have ended with a failure, and do not run well since."""
    for pod in pods:
        for status in container_statuses(pod):
            states = [status.get("state", {}), status.get("lastState", {})]
            failed = any(state.get("terminated", {}).get("exitCode") for state in states)
            if failed and not status.get("ready"):
                yield pod, status["name"]


def _log(api: KubernetesApi, pod: Json, container: str) -> list[str]:
    metadata = pod["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
    query = {"container": container, "tailLines": str(_LOG_LINES)}
    try:
        # One that was started again has nothing to say yet.
        said = api.text(path, query) or api.text(path, {**query, "previous": "true"})
    except ApiProblem as problem:
        return [f"(it could not be read: {problem.said or problem})"]
    return said.splitlines()[-_LOG_LINES:] or ["(nothing)"]


def explain_pods(described: str) -> str:
    """Cause and fix, as lines of a message, of what pods are said to be stuck in; "" where none is known."""
    if re.search(r"ImagePullBackOff|ErrImagePull|ErrImageNeverPull|InvalidImageName", described):
        return (
            "\n\n  cause    the node cannot pull that image; one that it has is used where the pod's policy\n"
            "           lets it, and Istio 1.8 and older inject imagePullPolicy: Always by default\n"
            "  fix      --istio-load-image=IMAGE --istio-set=values.global.imagePullPolicy=IfNotPresent,\n"
            "           or a registry that can be reached: --istio-hub"
        )
    if re.search(r"istio-(init|validation) in (CrashLoopBackOff|Error)", described):
        return (
            "\n\n  cause    istio-init cannot write its rules: a module is missing, or they are there\n"
            "  fix      its log says which; on the node: sudo modprobe --all\n"
            "           ip_tables iptable_nat iptable_mangle xt_REDIRECT xt_owner xt_multiport"
        )
    return ""
