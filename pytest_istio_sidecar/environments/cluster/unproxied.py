"""Which pods of a workload have no sidecar, with all that tells whether they should have one.

Knows what has to be asked of the API for it. Does not know what follows. Invariant: what may not be read is
told as such, and keeps nothing else from being told.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from pytest_istio_sidecar.environments.cluster.api import ApiProblem, Json, KubernetesApi
from pytest_istio_sidecar.environments.cluster.workload import container_of, owner_of
from pytest_istio_sidecar.istio.injection import Unproxied


def unproxied_of(api: KubernetesApi, pods: Iterable[Json], *, named: str) -> list[Unproxied]:
    """Those of these pods that have no sidecar; nothing is asked where all have one.

    Args:
        named: how they came to be under test: "it is named by --istio-workload".
    """

    @cache
    def labels(namespace: str) -> tuple[Json | None, str]:
        try:
            answer = api.get(f"/api/v1/namespaces/{namespace}")
        except ApiProblem as problem:
            return None, (problem.said or problem.failure.summary).partition("\n")[0]
        return answer["metadata"].get("labels") or {}, ""

    lacking = []
    for pod in pods:
        if container_of(pod) is None:
            of_namespace, unread = labels(pod["metadata"]["namespace"])
            workload = owner_of(api, pod)
            lacking.append(
                Unproxied(pod=pod, named=named, namespace=of_namespace, unread=unread, workload=workload)
            )
    return lacking
