"""httpbin with a sidecar, and the lab's step: its Deployment edited in place.

Knows the two ways to a sidecar and the two fields that make it privileged. Does not know
how a cluster or Istio comes about. Invariant: an edit is believed when the live pod shows
it, never because the API server took it.
"""

from __future__ import annotations

from collections.abc import Callable

import yaml

from pytest_istio_sidecar.environments.choices import Injection
from pytest_istio_sidecar.environments.cluster.api import (
    JSON_PATCH,
    STRATEGIC_MERGE_PATCH,
    ApiProblem,
    Json,
    KubernetesApi,
)
from pytest_istio_sidecar.environments.cluster.api_problems import ApiRefused
from pytest_istio_sidecar.environments.cluster.stuck_pods import why_not_ready
from pytest_istio_sidecar.environments.cluster.workload import (
    SIDECAR,
    Workload,
    container_of,
    pods_of,
    settled,
)
from pytest_istio_sidecar.environments.kind import messages
from pytest_istio_sidecar.environments.kind.istioctl import Istioctl, wait_for_injection
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


def make_namespace(api: KubernetesApi, name: str, *, inject: bool) -> None:
    """Make a namespace, whose pods get a sidecar from the webhook where `inject`."""
    labels = {"istio-injection": "enabled"} if inject else {}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    try:
        api.request("POST", "/api/v1/namespaces", body=body)
    except ApiProblem as problem:
        if problem.status != 409:
            raise
        if labels:
            patch = {"metadata": {"labels": labels}}
            api.request("PATCH", f"/api/v1/namespaces/{name}", body=patch, content_type=STRATEGIC_MERGE_PATCH)


def deploy(
    api: KubernetesApi,
    istioctl: Istioctl,
    manifest: str,
    *,
    namespace: str,
    injection: Injection,
    apply: Callable[[str], object],
    timeout: float,
) -> None:
    """Put the application into a namespace, with a sidecar.

    Args:
        manifest: YAML documents.
        apply: applies YAML to the namespace, as `kubectl apply` does.
    """
    if injection is Injection.KUBE_INJECT:
        apply(istioctl.inject(manifest))
        return
    wait_for_injection(api, namespace, timeout=timeout)
    apply(manifest)


def deployment_of(manifest: str) -> str:
    """Name of the first Deployment in a manifest.

    Raises:
        EnvironmentProblem: there is none.
    """
    for document in yaml.safe_load_all(manifest):
        if isinstance(document, dict) and document.get("kind") == "Deployment":
            return str(document["metadata"]["name"])
    raise EnvironmentProblem(messages.MANIFEST_WITHOUT_DEPLOYMENT())


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
        held = api.get(workload.path)
        will_edit(held)
        patch, content_type = _patch(held)
        try:
            edited = api.request("PATCH", workload.path, body=patch, content_type=content_type)
        except ApiProblem as problem:
            # How a failed test of a patch is told differs between releases, down to "an error in our
            # request"; that the Deployment has changed meanwhile does not.
            if problem.status == 409 or (problem.status == 422 and _has_changed(api, workload, held)):
                continue
            if isinstance(problem, ApiRefused):
                failure = messages.NOT_MADE_PRIVILEGED(
                    workload=workload, namespace=workload.namespace, reason=problem.failure.summary
                )
                raise EditRefused(failure.with_evidence_of(problem.failure)) from None
            raise EditRefused(
                messages.NOT_MADE_PRIVILEGED(
                    workload=workload, namespace=workload.namespace, reason=problem.said
                )
            ) from None
        container = container_of({"spec": edited["spec"]["template"]["spec"]})
        if not is_privileged(container):
            raise EditRefused(messages.TAKEN_BACK(workload=workload, what="the Deployment"))
        before = container_of({"spec": held["spec"]["template"]["spec"]})
        return dict((before or {}).get("securityContext") or {})
    raise EditRefused(messages.CHANGED_BY_OTHERS(workload=workload, times=_TRIES))


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
        for number, held in enumerate(template.get(kind, [])):
            if held["name"] == SIDECAR:
                return f"/spec/template/spec/{kind}/{number}"
    return None


def _has_changed(api: KubernetesApi, workload: Workload, held: Json) -> bool:
    """Whether a Deployment is no longer as it was read."""
    now = api.get(workload.path)
    return bool(now["metadata"]["resourceVersion"] != held["metadata"]["resourceVersion"])


def wait_until_privileged(api: KubernetesApi, workload: Workload, *, timeout: float) -> Json:
    """Wait until the edited pod is Ready and the old one gone; it as it is then.

    Raises:
        EditRefused: the live pod is not privileged after all.
        EnvironmentProblem: it was not ready in time.
    """
    pods = wait_until_settled(api, workload, timeout=timeout)
    for pod in pods:
        held = container_of(pod)
        if held is None:
            raise EditRefused(
                messages.NOTHING_INJECTED(pod=f"{pod['metadata']['namespace']}/{pod['metadata']['name']}")
            )
        if not is_privileged(held):
            raise EditRefused(
                messages.TAKEN_BACK(workload=workload, what=f"the pod {pod['metadata']['name']}")
            )
    return pods[0]


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
        facts, advice = why_not_ready(
            api,
            namespace=workload.namespace,
            names=[workload.name],
            pods=lambda: pods_of(api, workload),
        )
        raise EnvironmentProblem(problem.failure.and_facts(facts).advised(advice)) from None


def is_privileged(container: Json | None) -> bool:
    """Whether a container has the lab's two fields."""
    context = (container or {}).get("securityContext") or {}
    return all(context.get(field) is value for field, value in PRIVILEGED.items())
