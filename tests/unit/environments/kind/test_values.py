"""A webhook of Istio before 1.9 edits nothing: where the sidecar is not privileged, the reason is told."""

from __future__ import annotations

import pytest

from pytest_istio_sidecar.environments.choices import Injection, KindChoices
from pytest_istio_sidecar.environments.cluster.api import KubernetesApi
from pytest_istio_sidecar.environments.cluster.workload import Workload
from pytest_istio_sidecar.environments.kind.values import privileged, values_of
from pytest_istio_sidecar.errors import EnvironmentProblem

WEBHOOK = KindChoices(injection=Injection.WEBHOOK, version="1.8.3")
WORKLOAD = Workload(namespace="demo", kind="deployment", name="httpbin")


def pod(*, is_privileged: bool) -> dict:
    context = {"privileged": is_privileged, "allowPrivilegeEscalation": is_privileged}
    containers = [{"name": "istio-proxy", "securityContext": context}]
    return {"metadata": {"name": "httpbin-1", "namespace": "demo"}, "spec": {"containers": containers}}


@pytest.fixture
def api(tmp_path):
    """Nothing is asked of it: these sidecars are not edited."""
    return KubernetesApi(kubeconfig=tmp_path / "none")


def test_istio_before_1_9_makes_the_webhooks_sidecars_privileged_by_a_value():
    assert values_of(WEBHOOK) == ("values.global.proxy.privileged=true",)
    assert values_of(WEBHOOK.replace(version="1.9.0")) == ()


def test_a_sidecar_that_is_privileged_is_taken_as_it_is(api):
    there = pod(is_privileged=True)
    assert privileged(api, WORKLOAD, there, WEBHOOK, installed=False) is there


@pytest.mark.parametrize(
    ("installed", "cause"),
    [
        (False, "Istio was there before this run, and installed without values.global.proxy.privileged=true"),
        (True, "a policy or a webhook takes it away"),
    ],
)
def test_where_nothing_was_edited_no_edit_is_said_to_be_taken_back(api, installed, cause):
    with pytest.raises(EnvironmentProblem) as raised:
        privileged(api, WORKLOAD, pod(is_privileged=False), WEBHOOK, installed=installed)
    message = " ".join(str(raised.value).split())
    assert "istio-proxy of demo/httpbin-1 is not privileged, and Istio 1.8.3 merges no container" in message
    assert cause in message
    assert "edit" not in message
    assert "--istio-injection=kube-inject" in message
