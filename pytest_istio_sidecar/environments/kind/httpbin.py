"""httpbin with a sidecar, by either of the two ways to one.

Knows how an application comes into a namespace. Does not know how a cluster or Istio comes about.
"""

from __future__ import annotations

from collections.abc import Callable

import yaml

from pytest_istio_sidecar.environments.choices import Injection
from pytest_istio_sidecar.environments.cluster.api import STRATEGIC_MERGE_PATCH, ApiProblem, KubernetesApi
from pytest_istio_sidecar.environments.kind.istioctl import Istioctl, wait_for_injection
from pytest_istio_sidecar.errors import EnvironmentProblem


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
    raise EnvironmentProblem("the manifest has no Deployment to read the sidecar of")
