"""A debug container in a pod, to read its network namespace by.

Knows ephemeral containers (Kubernetes 1.23 and newer). Does not know what is read.
Invariant: made only when asked for, and told of: Kubernetes cannot take one out of a pod again,
so that it ends, but stays in the pod's list until the pod is gone.
"""

from __future__ import annotations

import os

from pytest_istio_sidecar.environments.cluster.api import (
    STRATEGIC_MERGE_PATCH,
    ApiProblem,
    Json,
    KubernetesApi,
)
from pytest_istio_sidecar.environments.cluster.api_problems import ApiRefused
from pytest_istio_sidecar.environments.cluster.workload import container_of
from pytest_istio_sidecar.errors import EnvironmentProblem

_LIFETIME_SECONDS = 1800


def add_debug_container(api: KubernetesApi, pod: Json, *, timeout: float) -> str:
    """Put a container with Istio's own tools into a pod, as root with NET_ADMIN; its name.

    Raises:
        EnvironmentProblem: the cluster does not serve them, or does not let this one.
    """
    metadata = pod["metadata"]
    where = f"{metadata['namespace']}/{metadata['name']}"
    sidecar = container_of(pod)
    if sidecar is None:
        raise EnvironmentProblem(f"{where} has no sidecar whose image a debug container could use")
    name = f"istio-sidecar-{os.urandom(2).hex()}"
    container = {
        "name": name,
        # The distroless image has no iptables; the other one of the same release has.
        "image": str(sidecar["image"]).removesuffix("-distroless"),
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", str(_LIFETIME_SECONDS)],
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW", "SETUID", "SETGID"]},
        },
    }
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
    try:
        api.request(
            "PATCH",
            f"{path}/ephemeralcontainers",
            body={"spec": {"ephemeralContainers": [container]}},
            content_type=STRATEGIC_MERGE_PATCH,
        )
    except ApiRefused as problem:
        raise EnvironmentProblem(f"no debug container could be put into {where}: {problem}") from None
    except ApiProblem as problem:
        advice = ""
        if problem.status in (404, 405):
            advice = (
                "\n\n  cause    the cluster is older than Kubernetes 1.23, which was the first to have them\n"
                "  fix      --istio-reader=exec with a privileged sidecar (--istio-make-privileged), or node"
            )
        raise EnvironmentProblem(
            f"no debug container could be put into {where}: {problem.said or problem}{advice}"
        ) from None
    api.wait(
        f"the debug container {name} of {where} to run", lambda: _state(api, path, name), timeout=timeout
    )
    return name


def _state(api: KubernetesApi, path: str, name: str) -> tuple[bool | None, str]:
    for status in api.get(path).get("status", {}).get("ephemeralContainerStatuses", []):
        if status["name"] == name:
            state = status.get("state", {})
            return (True if "running" in state else None), str(state)
    return None, "not started"
