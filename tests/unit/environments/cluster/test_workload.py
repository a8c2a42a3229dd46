"""Which pods of a workload are read: the Ready ones of the newest revision, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_istio_sidecar.environments.cluster.workload import (
    Workload,
    container_id,
    container_of,
    describe_pods,
    istio_version_of,
    ready_pods,
    selector_of,
    settled,
    unready_pods,
)
from pytest_istio_sidecar.errors import EnvironmentProblem, UsageProblem

OBSERVED = Path(__file__).parents[3] / "data"


def pod(name: str, *, owner: str = "new", ready: bool = True, deleted: bool = False) -> dict:
    metadata = {
        "name": name,
        "namespace": "demo",
        "uid": name,
        "creationTimestamp": f"2026-01-01T00:00:{len(name):02}Z",
        "ownerReferences": [{"name": owner, "uid": owner}],
    }
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    return {
        "metadata": metadata,
        "spec": {"containers": [{"name": "httpbin"}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


class Cluster:
    """A double of the API: one Deployment with an old and a new ReplicaSet, and these pods."""

    def __init__(self, *pods: dict, replicas: int = 1, observed: int = 2, condition: dict | None = None):
        revision = "deployment.kubernetes.io/revision"
        sets = [
            {
                "metadata": {
                    "name": name,
                    "uid": name,
                    "annotations": {revision: number},
                    "ownerReferences": [{"name": "httpbin"}],
                }
            }
            for name, number in (("old", "9"), ("new", "10"))
        ]
        deployment = {
            "metadata": {"name": "httpbin", "generation": 2},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "httpbin"}}},
            "status": {"observedGeneration": observed, "conditions": [condition] if condition else []},
        }
        self.answers = {"pods": {"items": list(pods)}, "replicasets": {"items": sets}, "httpbin": deployment}

    def get(self, path: str, **query: str) -> dict:
        assert query.get("labelSelector", "app=httpbin") == "app=httpbin"
        return self.answers[path.rpartition("/")[2]]


HTTPBIN = Workload.parse("deployment/httpbin", "demo")


def names(pods: list[dict]) -> list[str]:
    return [held["metadata"]["name"] for held in pods]


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("deployment/httpbin", "deployment", "httpbin"),
        ("deploy/httpbin", "deployment", "httpbin"),
        ("deployments/httpbin", "deployment", "httpbin"),
        ("httpbin", "deployment", "httpbin"),
        ("sts/db", "statefulset", "db"),
        ("ds/agent", "daemonset", "agent"),
        ("pod/a-1", "pod", "a-1"),
        ("app=httpbin,version=v1", "selector", "app=httpbin,version=v1"),
    ],
)
def test_a_workload_is_named_as_kubectl_names_it(text: str, kind: str, name: str) -> None:
    found = Workload.parse(text, "demo")
    assert (found.kind, found.name) == (kind, name)


def test_a_pod_that_was_evicted_before_keeps_no_rollout_waiting() -> None:
    evicted = pod("evicted", ready=False)
    evicted["status"] = {"phase": "Failed", "reason": "Evicted"}
    found, _ = settled(Cluster(evicted, pod("new-one")), HTTPBIN)
    assert found is not None
    assert names(found) == ["new-one"]


def test_a_replica_that_is_not_ready_is_told_as_one_that_was_not_read() -> None:
    ended, leaving = pod("ended", ready=False), pod("leaving", ready=False, deleted=True)
    ended["status"]["phase"] = "Succeeded"
    found = unready_pods(Cluster(pod("well"), pod("ill", ready=False), ended, leaving), HTTPBIN)
    assert names(found) == ["ill"]


def test_a_kind_that_has_no_pods_is_refused_with_those_that_have() -> None:
    with pytest.raises(UsageProblem, match="expected KIND/NAME with KIND one of deployment"):
        Workload.parse("service/httpbin", "demo")


def test_the_old_pod_that_still_answers_after_an_edit_is_not_chosen() -> None:
    found, _ = ready_pods(Cluster(pod("old-pod", owner="old"), pod("new-one")), HTTPBIN)
    assert names(found) == ["new-one"]


def test_revisions_are_compared_as_numbers() -> None:
    found, _ = ready_pods(Cluster(pod("of-9", owner="old"), pod("of-10", owner="new")), HTTPBIN)
    assert names(found) == ["of-10"]


def test_a_pod_that_is_being_deleted_is_not_chosen() -> None:
    found, seen = ready_pods(Cluster(pod("going", deleted=True)), HTTPBIN)
    assert found == []
    assert seen == "going is being deleted"


def test_every_replica_is_chosen() -> None:
    found, _ = ready_pods(Cluster(pod("a"), pod("bb"), replicas=2), HTTPBIN)
    assert names(found) == ["a", "bb"]


def test_an_edit_is_settled_when_the_old_pod_is_gone() -> None:
    assert settled(Cluster(pod("new-one")), HTTPBIN)[0] is not None
    assert settled(Cluster(pod("new-one"), pod("old-pod", owner="old", deleted=True)), HTTPBIN)[0] is None


def test_an_edit_that_the_controller_has_not_seen_yet_is_not_settled() -> None:
    assert settled(Cluster(pod("new-one"), observed=1), HTTPBIN)[0] is None


def test_pods_that_admission_refuses_end_the_wait_with_its_words() -> None:
    refused = {
        "type": "ReplicaFailure",
        "status": "True",
        "message": 'pods "x" is forbidden: violates PodSecurity "baseline:latest": privileged',
    }
    with pytest.raises(EnvironmentProblem, match="violates PodSecurity"):
        settled(Cluster(condition=refused), HTTPBIN)


def test_what_keeps_a_pod_is_told_with_its_container() -> None:
    waiting = pod("a", ready=False)
    waiting["status"]["containerStatuses"] = [
        {
            "name": "istio-proxy",
            "ready": False,
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}},
        }
    ]
    assert describe_pods([waiting]) == "a has istio-proxy in ImagePullBackOff: Back-off pulling image"


def test_expressions_of_a_selector_are_written_as_a_query_has_them() -> None:
    selector = {
        "matchLabels": {"app": "a"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["x", "y"]},
            {"key": "old", "operator": "DoesNotExist"},
        ],
    }
    assert selector_of({"spec": {"selector": selector}}) == "app=a,tier in (x,y),!old"


@pytest.mark.parametrize("version", ["1.6.14", "1.8.3", "1.16.7", "1.20.8", "1.27.3"])
def test_the_release_is_read_from_the_sidecar_of_a_real_pod(version: str) -> None:
    held = json.loads((OBSERVED / f"observed-{version}" / "pod.json").read_text())
    assert istio_version_of(held) == version
    assert container_id(held).startswith("containerd://")


def test_a_native_sidecar_is_found_among_the_init_containers() -> None:
    held = json.loads((OBSERVED / "observed-1.27.3" / "pod.json").read_text())
    assert "istio-proxy" not in [container["name"] for container in held["spec"]["containers"]]
    assert container_of(held)["restartPolicy"] == "Always"


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("docker.io/istio/proxyv2:1.20.8-distroless", "1.20.8-distroless"),
        ("registry:5000/proxyv2:1.9", "1.9"),
        ("istio/proxyv2@sha256:0123", None),
        ("istio/proxyv2:latest", None),
    ],
)
def test_a_tag_that_is_no_release_tells_none(image: str, version: str | None) -> None:
    assert istio_version_of({"spec": {"containers": [{"name": "istio-proxy", "image": image}]}}) == version
