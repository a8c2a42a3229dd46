"""The double's injection against the pods that five real webhooks made. Needs no cluster."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import pytest
from ground import DOUBLE

sys.path.append(str(DOUBLE))

from images import OBSERVED, observed_pod
from injection import Injector, wants_injection

JSON = dict[str, Any]
PRIVILEGED = {"privileged": True, "allowPrivilegeEscalation": True}


def observed(version: str) -> JSON:
    return dict(json.loads(observed_pod(version).read_text()))


def before(pod: JSON, override: JSON | None) -> JSON:
    """The pod as its ReplicaSet made it, with a container `istio-proxy` of the user's where one is given."""
    application = copy.deepcopy(next(c for c in pod["spec"]["containers"] if c["name"] == "httpbin"))
    application.pop("volumeMounts", None)
    containers = [application] + ([{"name": "istio-proxy", "image": "auto", **override}] if override else [])
    labels = {key: value for key, value in pod["metadata"]["labels"].items() if "istio" not in key}
    metadata = {"generateName": pod["metadata"]["generateName"], "labels": labels}
    return {"metadata": metadata, "spec": {"containers": containers}}


def shape(pod: JSON) -> JSON:
    """What injection is responsible for: the rest is the API server's."""
    spec = copy.deepcopy(pod["spec"])
    told = {}
    for place in ("initContainers", "containers"):
        for container in spec.get(place, []):
            for name in ("terminationMessagePath", "terminationMessagePolicy"):
                container.pop(name, None)
            # Always, or whatever the recorded install was given
            container.pop("imagePullPolicy", None)
            mounts = [m for m in container.pop("volumeMounts", []) if "serviceaccount" not in m["mountPath"]]
            environment = {v["name"]: v for v in container.pop("env", [])}
            environment.pop("ISTIO_META_OWNER", None)  # names the namespace of the recording
            if ports := environment.get("ISTIO_META_POD_PORTS"):
                # kube-inject sees a manifest without the protocol, the webhook a pod with it
                ports["value"] = [port["containerPort"] for port in json.loads(ports["value"])]
            told[container["name"]] = {"in": place, "mounts": mounts, "env": environment, **container}
    volumes = {v["name"] for v in spec["volumes"]} - set(names_of_tokens(spec))
    metadata = pod["metadata"]
    annotations = {k: v for k, v in metadata["annotations"].items() if k != "proxy.istio.io/overrides"}
    return {
        "containers": told,
        "volumes": volumes,
        "labels": metadata["labels"],
        "annotations": annotations,
        "securityContext": spec.get("securityContext") or {},
    }


def names_of_tokens(spec: JSON) -> list[str]:
    return [v["name"] for v in spec["volumes"] if "-token-" in v["name"] or "kube-api-access" in v["name"]]


@pytest.mark.parametrize("version", ["1.6.14", "1.16.7", "1.20.8", "1.27.3"])
def test_the_injected_pod_is_the_observed_one(version: str) -> None:
    pod = observed(version)
    merged = "proxy.istio.io/overrides" in pod["metadata"]["annotations"]
    everything = pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
    proxy = next(c for c in everything if c["name"] == "istio-proxy")
    was_edited = proxy["securityContext"]["privileged"] and not merged
    native = proxy not in pod["spec"]["containers"]
    injector = Injector(version=version, observed=pod, native=native)
    injected = injector.inject(before(pod, {"securityContext": PRIVILEGED} if merged else None))
    if was_edited:
        for container in injected["spec"]["containers"]:
            if container["name"] == "istio-proxy":
                container["securityContext"] |= PRIVILEGED
    for place in ("initContainers", "containers"):
        for container in injected["spec"].get(place, []):
            container.setdefault("resources", {})
    assert shape(injected) == shape(pod)


@pytest.mark.parametrize("version", OBSERVED)
def test_a_sidecar_is_privileged_only_when_asked_for(version: str) -> None:
    pod = observed(version)
    for values, expected in (({}, False), ({"global": {"proxy": {"privileged": True}}}, True)):
        injected = Injector(version=version, observed=pod, values=values).inject(before(pod, None))
        proxy = next(c for c in injected["spec"]["containers"] if c["name"] == "istio-proxy")
        context = proxy["securityContext"]
        assert (context["privileged"], context["allowPrivilegeEscalation"]) == (expected, expected)


def test_a_users_istio_proxy_changes_only_what_it_names() -> None:
    pod = observed("1.20.8")
    given = {"securityContext": PRIVILEGED, "imagePullPolicy": "IfNotPresent"}
    injector = Injector(version="1.20.8", observed=pod)
    plain = injector.inject(before(pod, None))["spec"]["containers"][-1]
    merged = injector.inject(before(pod, given))["spec"]["containers"][-1]
    assert merged["image"] == "docker.io/istio/proxyv2:1.20.8"
    assert merged["securityContext"] == {**plain["securityContext"], **PRIVILEGED}
    assert {k: v for k, v in merged.items() if plain.get(k) != v}.keys() == {
        "securityContext",
        "imagePullPolicy",
    }


def test_1_8_does_not_merge_so_that_a_users_istio_proxy_stands_twice() -> None:
    pod = observed("1.8.3")
    injected = Injector(version="1.8.3", observed=pod).inject(before(pod, {"securityContext": PRIVILEGED}))
    assert [c["name"] for c in injected["spec"]["containers"]] == ["httpbin", "istio-proxy", "istio-proxy"]


def test_excluded_ports_stand_before_the_status_port() -> None:
    pod = before(observed("1.8.3"), None)
    pod["metadata"]["annotations"] = {"traffic.sidecar.istio.io/excludeInboundPorts": "9000,15021"}
    init = Injector(version="1.8.3", observed=observed("1.8.3")).inject(pod)["spec"]["initContainers"][-1]
    assert init["args"][init["args"].index("-d") + 1] == "15090,15021,9000,15020"


@pytest.mark.parametrize(
    ("enabled", "own", "wanted"),
    [(True, None, True), (False, None, False), (True, "false", False), (False, "true", True)],
)
def test_a_pods_own_word_goes_before_its_namespaces(enabled: bool, own: str | None, wanted: bool) -> None:
    annotations = {} if own is None else {"sidecar.istio.io/inject": own}
    pod = {"metadata": {"annotations": annotations}, "spec": {}}
    assert wants_injection(pod, namespace_enabled=enabled) is wanted
