"""A live sidecar made privileged: the lab's step, its Deployment edited in place.

Knows the two fields, where a Deployment has them, and how others who edit it are met. Does not know
why it is made so, nor how it is put back. Invariant: an edit is believed when the live pod shows
it, never because the API server took it.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_istio_sidecar.environments.cluster.api import (
    JSON_PATCH,
    STRATEGIC_MERGE_PATCH,
    ApiProblem,
    Json,
    KubernetesApi,
)
from pytest_istio_sidecar.environments.cluster.api_problems import ApiRefused
from pytest_istio_sidecar.environments.cluster.stuck_pods import wait_until_settled
from pytest_istio_sidecar.environments.cluster.workload import SIDECAR, Workload, container_of
from pytest_istio_sidecar.errors import EnvironmentProblem

_TRIES = 5
"""Edits of a Deployment that others edit at the same time, before that is called a problem."""

MERGING_SINCE = (1, 9, 0)
"""The webhook merges a user's container named istio-proxy (istio/istio#29374, cf657ff502e)."""

PRIVILEGED = {"privileged": True, "allowPrivilegeEscalation": True}
"""The lab's two fields. Kubernetes takes the first only with the second."""

ADDED = {"name": SIDECAR, "image": "auto", "imagePullPolicy": "IfNotPresent"}
"""The container that is merged over the injected one, but for the lab's two fields.

Without the policy the API server puts Always before the webhook sees the pod.
"""


class EditRefused(EnvironmentProblem):
    """The Deployment could not be edited, or the edit did not reach the pod."""


def make_privileged(
    api: KubernetesApi, workload: Workload, will_edit: Callable[[Json], object] = lambda _: None
) -> Json:
    """Edit the live Deployment so that its sidecar is privileged: two fields and nothing else.

    Where the webhook injects, the sidecar is not in the Deployment: a user's container of its name
    is merged over the injected one (since Istio 1.9).

    Args:
        will_edit: told the Deployment as it is, before each try to edit just that version of it.

    Returns:
        What the Deployment's container had before, for putting it back; empty for a new container.

    Raises:
        EditRefused: it was refused, or taken back at once.
    """
    for _ in range(_TRIES):
        deployment = api.get(workload.path)
        will_edit(deployment)
        patch, content_type = _patch(deployment)
        try:
            edited = api.request("PATCH", workload.path, body=patch, content_type=content_type)
        except ApiProblem as problem:
            # How a failed test of a patch is told differs between releases, down to "an error in our
            # request"; that the Deployment has changed meanwhile does not.
            if problem.status == 409 or (problem.status == 422 and _has_changed(api, workload, deployment)):
                continue
            why = f"{problem.said}\n\n  cause    an admission controller refuses the edit"
            if isinstance(problem, ApiRefused):
                why = str(problem)
            raise EditRefused(
                f"{workload} in namespace {workload.namespace} cannot be made privileged: {why}"
            ) from None
        container = container_of({"spec": edited["spec"]["template"]["spec"]})
        if not is_privileged(container):
            raise EditRefused(_reverted(workload, "the Deployment"))
        before = container_of({"spec": deployment["spec"]["template"]["spec"]})
        return dict((before or {}).get("securityContext") or {})
    raise EditRefused(f"{workload} was changed by others {_TRIES} times while it was edited")


def _patch(deployment: Json) -> tuple[object, str]:
    template = deployment["spec"]["template"]["spec"]
    at = place_of(template)
    if at is None:
        container = {**ADDED, "securityContext": PRIVILEGED}
        merged = {
            "metadata": {"resourceVersion": deployment["metadata"]["resourceVersion"]},
            "spec": {"template": {"spec": {"containers": [container]}}},
        }
        return merged, STRATEGIC_MERGE_PATCH
    context = (container_of({"spec": template}) or {}).get("securityContext")
    operations: list[Json] = [
        {
            "op": "test",
            "path": "/metadata/resourceVersion",
            "value": deployment["metadata"]["resourceVersion"],
        },
        {"op": "test", "path": f"{at}/name", "value": SIDECAR},
    ]
    if context is None:
        operations.append({"op": "add", "path": f"{at}/securityContext", "value": {}})
    operations += [
        {"op": "add", "path": f"{at}/securityContext/{field}", "value": value}
        for field, value in PRIVILEGED.items()
    ]
    return operations, JSON_PATCH


def place_of(template: Json) -> str | None:
    """Where a pod template has its sidecar, as a JSON patch names it: a native one is an init container."""
    for kind in ("containers", "initContainers"):
        for number, container in enumerate(template.get(kind, [])):
            if container["name"] == SIDECAR:
                return f"/spec/template/spec/{kind}/{number}"
    return None


def _has_changed(api: KubernetesApi, workload: Workload, deployment: Json) -> bool:
    """Whether a Deployment is no longer as it was read."""
    now = api.get(workload.path)
    return bool(now["metadata"]["resourceVersion"] != deployment["metadata"]["resourceVersion"])


def wait_until_privileged(api: KubernetesApi, workload: Workload, *, timeout: float) -> Json:
    """Wait until the edited pod is Ready and the old one gone; it as it is then.

    Raises:
        EditRefused: the live pod is not privileged after all.
        EnvironmentProblem: it was not ready in time.
    """
    pods = wait_until_settled(api, workload, timeout=timeout)
    for pod in pods:
        container = container_of(pod)
        if container is None:
            raise EditRefused(
                f"{pod['metadata']['namespace']}/{pod['metadata']['name']} has no {SIDECAR}: "
                "nothing was injected into it"
            )
        if not is_privileged(container):
            raise EditRefused(_reverted(workload, f"the pod {pod['metadata']['name']}"))
    return pods[0]


def is_privileged(container: Json | None) -> bool:
    """Whether a container has the lab's two fields."""
    context = (container or {}).get("securityContext") or {}
    return all(context.get(field) is value for field, value in PRIVILEGED.items())


def _reverted(workload: Workload, what: str) -> str:
    return (
        f"{workload} was edited, but {what} does not show it: {SIDECAR} is not privileged\n\n"
        "  cause    a mutating webhook or a controller takes the edit back (a policy, GitOps, an operator)\n"
        "  fix      change it at its source, or read from the node: --istio-reader=node"
    )
