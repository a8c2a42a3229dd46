"""The lab's edit: two fields of the live Deployment, believed when the pod shows them."""

from __future__ import annotations

import copy

import pytest
from json_patch import apply_json_patch

from pytest_istio_sidecar.environments.cluster.api import ApiProblem
from pytest_istio_sidecar.environments.cluster.privileged import (
    EditRefused,
    is_privileged,
    make_privileged,
    wait_until_privileged,
)
from pytest_istio_sidecar.environments.cluster.workload import Workload
from pytest_istio_sidecar.environments.kind.httpbin import deployment_of
from pytest_istio_sidecar.environments.kind.istioctl import install_command
from pytest_istio_sidecar.errors import EnvironmentProblem

HTTPBIN = Workload(namespace="demo", kind="deployment", name="httpbin")
CONTEXT = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "runAsUser": 1337,
}


def deployment(*containers: dict) -> dict:
    return {
        "metadata": {"name": "httpbin", "resourceVersion": "7"},
        "spec": {"template": {"spec": {"containers": list(containers)}}},
    }


def sidecar(**context: object) -> dict:
    return {"name": "istio-proxy", "image": "proxyv2:1.8.3", "securityContext": {**CONTEXT, **context}}


class Api:
    """A double of the API that keeps one Deployment and applies what this edit consists of."""

    def __init__(self, held: dict, *refusals: ApiProblem, reverted: bool = False) -> None:
        self.held = held
        self.refusals = list(refusals)
        self.reverted = reverted
        self.patches: list[tuple[object, str]] = []

    def get(self, path: str, **_: str) -> dict:
        assert path == HTTPBIN.path
        return copy.deepcopy(self.held)

    def request(self, method: str, path: str, *, body: object, content_type: str) -> dict:
        assert (method, path) == ("PATCH", HTTPBIN.path)
        self.patches.append((body, content_type))
        if self.refusals:
            self.held["metadata"]["resourceVersion"] += "0"  # others have been at it
            raise self.refusals.pop(0)
        if not self.reverted:
            self.held = _patched(self.held, body)
        return copy.deepcopy(self.held)


def _patched(held: dict, body: object) -> dict:
    if isinstance(body, dict):
        result = copy.deepcopy(held)
        result["spec"]["template"]["spec"]["containers"] += body["spec"]["template"]["spec"]["containers"]
        return result
    return apply_json_patch(held, body)


def test_two_fields_change_and_nothing_else() -> None:
    api = Api(deployment({"name": "httpbin"}, sidecar()))
    before = copy.deepcopy(api.held)
    make_privileged(api, HTTPBIN)
    edited = api.held["spec"]["template"]["spec"]["containers"][1]["securityContext"]
    assert edited == {**CONTEXT, "privileged": True, "allowPrivilegeEscalation": True}
    edited.update(CONTEXT)
    assert api.held == before


def test_the_edit_is_of_the_version_that_was_read_and_of_the_container_by_name() -> None:
    api = Api(deployment({"name": "httpbin"}, sidecar()))
    make_privileged(api, HTTPBIN)
    (patch, content_type) = api.patches[0]
    assert content_type == "application/json-patch+json"
    assert patch[:2] == [
        {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "test", "path": "/spec/template/spec/containers/1/name", "value": "istio-proxy"},
    ]


def test_a_conflict_is_read_again_and_tried_again() -> None:
    conflict = ApiProblem("", status=409, reason="Conflict")
    # The words of Kubernetes 1.20 for a test of a patch that failed.
    said = "the server rejected our request due to an error in our request"
    stale = ApiProblem("", status=422, reason="Invalid", said=said)
    api = Api(deployment(sidecar()), conflict, stale)
    make_privileged(api, HTTPBIN)
    assert len(api.patches) == 3


def test_each_try_is_told_before_it_is_made() -> None:
    api, told = Api(deployment(sidecar()), ApiProblem("", status=409)), []
    make_privileged(
        api, HTTPBIN, lambda held: told.append((held["metadata"]["resourceVersion"], *api.patches))
    )
    first = api.patches[0]
    assert told == [("7",), ("70", first)]


def test_a_workload_that_others_edit_without_end_is_told() -> None:
    conflicts = [ApiProblem("", status=409) for _ in range(9)]
    with pytest.raises(EditRefused, match="was changed by others"):
        make_privileged(Api(deployment(sidecar()), *conflicts), HTTPBIN)


def test_a_refused_edit_is_told_in_the_servers_words() -> None:
    refused = ApiProblem("", status=403, said="admission webhook denied the request: no privilege here")
    with pytest.raises(EditRefused, match="cannot be made privileged: admission webhook denied the request"):
        make_privileged(Api(deployment(sidecar()), refused), HTTPBIN)


def test_an_edit_that_is_taken_back_at_once_is_told() -> None:
    with pytest.raises(EditRefused, match="was edited, but the Deployment does not show it"):
        make_privileged(Api(deployment(sidecar()), reverted=True), HTTPBIN)


def test_where_the_webhook_injects_a_container_of_the_users_is_merged() -> None:
    api = Api(deployment({"name": "httpbin"}))
    assert make_privileged(api, HTTPBIN) == {}
    (patch, content_type) = api.patches[0]
    assert content_type == "application/strategic-merge-patch+json"
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "auto"
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert is_privileged(container)


def test_a_native_sidecar_is_edited_where_it_stands() -> None:
    held = deployment({"name": "httpbin"})
    held["spec"]["template"]["spec"]["initContainers"] = [{"name": "istio-init"}, sidecar()]
    api = Api(held)
    make_privileged(api, HTTPBIN)
    assert is_privileged(api.held["spec"]["template"]["spec"]["initContainers"][1])
    assert api.held["spec"]["template"]["spec"]["containers"] == [{"name": "httpbin"}]


class Settled:
    """A double of the API whose pod is Ready, the newest, and as given."""

    def __init__(self, *containers: dict) -> None:
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        pod = {
            "metadata": {
                "name": "httpbin-1",
                "namespace": "demo",
                "creationTimestamp": "",
                "ownerReferences": [{"uid": "new"}],
            },
            "spec": {"containers": list(containers)},
            "status": ready,
        }
        owned = {"metadata": {"uid": "new", "ownerReferences": [{"name": "httpbin"}]}}
        held = {
            "metadata": {"generation": 1},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}},
            "status": {"observedGeneration": 1},
        }
        self.answers = {"pods": {"items": [pod]}, "replicasets": {"items": [owned]}, "httpbin": held}

    def get(self, path: str, **_: str) -> dict:
        return self.answers[path.rpartition("/")[2]]

    def wait(self, what: str, probe, *, timeout: float):
        answer, seen = probe()
        assert answer is not None, (what, seen)
        return answer


def test_the_live_pod_is_what_is_believed() -> None:
    with pytest.raises(EditRefused, match="the pod httpbin-1 does not show it"):
        wait_until_privileged(Settled(sidecar()), HTTPBIN, timeout=1)
    privileged = sidecar(privileged=True, allowPrivilegeEscalation=True)
    assert wait_until_privileged(Settled(privileged), HTTPBIN, timeout=1)["metadata"]["name"] == "httpbin-1"


def test_a_pod_without_sidecar_is_told() -> None:
    with pytest.raises(EditRefused, match="has no istio-proxy: nothing was injected into it"):
        wait_until_privileged(Settled({"name": "httpbin"}), HTTPBIN, timeout=1)


# Manifests and istioctl's arguments


def test_the_first_deployment_of_a_manifest_is_under_test() -> None:
    text = "kind: Service\nmetadata: {name: a}\n---\nkind: Deployment\nmetadata: {name: b}\n---\n"
    assert deployment_of(text) == "b"


def test_a_manifest_without_deployment_is_refused() -> None:
    with pytest.raises(EnvironmentProblem, match="has no Deployment"):
        deployment_of("kind: Service\nmetadata: {name: a}\n")


@pytest.mark.parametrize(
    ("version", "begin", "profile"),
    [
        ("1.5.10", ["manifest", "apply"], "default"),
        ("1.6.14", ["install", "-y"], "minimal"),
        ("1.8.3", ["install", "-y"], "minimal"),
        ("1.27.3", ["install", "-y"], "minimal"),
    ],
)
def test_each_release_is_installed_by_its_own_command(version: str, begin: list[str], profile: str) -> None:
    argv = install_command(version, [], None)
    assert argv == [*begin, "--set", f"profile={profile}", "--set", "hub=docker.io/istio"]


@pytest.mark.parametrize("version", ["1.5.10", "1.8.3", "1.30.3", "1.31.0-rc.0"])
def test_images_come_from_docker_hub_whatever_the_releases_own_default(version: str) -> None:
    assert "hub=docker.io/istio" in install_command(version, ["components.pilot.hub=mine", "tag=1"], None)


@pytest.mark.parametrize("key", ["hub", "values.global.hub", "unvalidatedValues.global.hub", " hub "])
def test_a_registry_among_the_users_values_is_the_only_one_that_istioctl_is_told(key: str) -> None:
    argv = install_command("1.30.3", ["a.b=c", f"{key}=registry.example/istio"], None)
    assert [word for word in argv if "hub" in word] == [f"{key}=registry.example/istio"]


def test_the_users_values_come_last_and_their_profile_replaces_ours() -> None:
    argv = install_command("1.8.3", ["profile=demo", "a.b=c"], "registry.example/istio")
    assert argv == [
        "install", "-y", "--set", "hub=registry.example/istio", "--set", "tag=1.8.3",
        "--set", "profile=demo", "--set", "a.b=c",
    ]  # fmt: skip
