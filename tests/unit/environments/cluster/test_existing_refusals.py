"""Edits that could not reach a sidecar are refused before anything is changed."""

from __future__ import annotations

import pytest

from pytest_istio_sidecar.environments.cluster.existing import _require_editable
from pytest_istio_sidecar.environments.cluster.workload import Workload
from pytest_istio_sidecar.errors import EnvironmentProblem

SIDECAR = {"name": "istio-proxy", "image": "docker.io/istio/proxyv2:VERSION"}
APPLICATION = {"name": "httpbin", "image": "httpbin"}


def deployment(*containers: dict) -> dict:
    return {"spec": {"template": {"spec": {"containers": list(containers)}}}}


def pod(version: str) -> dict:
    sidecar = {**SIDECAR, "image": SIDECAR["image"].replace("VERSION", version)}
    return {"metadata": {"name": "p", "namespace": "demo"}, "spec": {"containers": [APPLICATION, sidecar]}}


def workload(kind: str = "deployment") -> Workload:
    return Workload(namespace="demo", kind=kind, name="httpbin")


def test_up_to_1_8_a_webhook_merges_no_container_so_that_the_edit_is_refused() -> None:
    with pytest.raises(EnvironmentProblem, match=r"Istio 1\.8\.3 merges no container of yours") as raised:
        _require_editable(deployment(APPLICATION), pod("1.8.3"), workload())
    assert "values.global.proxy.privileged=true" in str(raised.value)


@pytest.mark.parametrize(
    ("containers", "version"),
    [
        ((APPLICATION, SIDECAR), "1.8.3"),  # kube-inject: the sidecar is in the Deployment
        ((APPLICATION,), "1.9.0"),
        ((APPLICATION,), "1.27.3"),
    ],
)
def test_where_the_edit_reaches_the_sidecar_it_is_let_through(containers: tuple, version: str) -> None:
    _require_editable(deployment(*containers), pod(version), workload())


def test_what_is_no_deployment_is_not_edited() -> None:
    with pytest.raises(EnvironmentProblem, match="edits Deployments, and statefulset/httpbin is none"):
        _require_editable(deployment(APPLICATION, SIDECAR), pod("1.27.3"), workload("statefulset"))
