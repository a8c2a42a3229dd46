"""Injection as the double does it: a pod in, the pod with a sidecar out.

Knows what five observed pods (`tests/data/observed-*/pod.json`) got from their
version's webhook, and the few values and annotations that change it. Pure: the
webhook and `kube-inject` call it. Invariant: what no observed pod shows is not injected.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]

STATUS = "sidecar.istio.io/status"
OVERRIDES = "proxy.istio.io/overrides"
_TRAFFIC = "traffic.sidecar.istio.io/"
_MERGE_KEYS = {"env": "name", "volumeMounts": "mountPath", "ports": "containerPort"}
_UNPRIVILEGED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "runAsGroup": 1337,
    "runAsNonRoot": True,
    "runAsUser": 1337,
}
"""istio-proxy's before anybody edits it: as `istioctl kube-inject` of 1.8.3 printed it."""
_ARGUMENTS = {
    "includeInboundPorts": "-b",
    "includeOutboundIPRanges": "-i",
    "excludeOutboundIPRanges": "-x",
    "includeOutboundPorts": "-q",
    "excludeOutboundPorts": "-o",
    "kubevirtInterfaces": "-k",
}
"""Annotations that istio-init's arguments follow."""


class NotInjectable(Exception):
    """The real one would refuse this pod; the message is what it says."""


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("-", maxsplit=1)[0].split("."))


@dataclass(kw_only=True)
class Injector:
    """One version's injection.

    Attributes:
        version: Istio's.
        observed: a pod that a version of the same era injected.
        values: the Helm values that `istioctl install --set values.…` gave.
        native: whether the sidecar becomes an init container (from 1.27 on, on Kubernetes from 1.33).
    """

    version: str
    observed: JSON
    hub: str = "docker.io/istio"
    values: JSON = field(default_factory=dict)
    native: bool = False

    def inject(self, pod: JSON, *, owner: str | None = None, namespace: str = "default") -> JSON:
        """The pod (or pod template) with a sidecar.

        Raises:
            NotInjectable: it has one that another injection made.
        """
        pod = copy.deepcopy(pod)
        metadata, spec = pod.setdefault("metadata", {}), pod.setdefault("spec", {})
        annotations = metadata.setdefault("annotations", {}) or {}
        labels = metadata.setdefault("labels", {}) or {}
        if STATUS in annotations:
            return pod
        application = [
            c for c in spec.get("containers", []) if c["name"] != "istio-proxy" or not self._merges
        ]
        given = next(
            (c for c in spec.get("containers", []) if c["name"] == "istio-proxy" and self._merges), None
        )
        owner = (
            owner
            or metadata.get("generateName", "").rstrip("-").rpartition("-")[0]
            or metadata.get("name", "")
        )
        init, proxy = self._containers(pod, application, owner, namespace)
        if given is not None:
            proxy = _merge(proxy, given)
        spec["initContainers"] = [*spec.get("initContainers", []), init]
        spec["containers"] = application
        if self.native:
            proxy["restartPolicy"] = "Always"
            # istio-init, then the sidecar, then what the user wants initialised behind it
            spec["initContainers"] = [init, proxy, *spec["initContainers"][:-1]]
        else:
            proxy.pop("restartPolicy", None)
            proxy.pop("lifecycle", None)
            spec["containers"] = [*application, proxy]
        names = {volume["name"] for volume in spec.get("volumes", [])}
        volumes = [volume for volume in self._volumes() if volume["name"] not in names]
        spec["volumes"] = [*spec.get("volumes", []), *volumes]
        security = self.observed["spec"].get("securityContext") or {}
        if security:
            spec["securityContext"] = {**security, **(spec.get("securityContext") or {})}
        for name, value in self._labels(labels).items():
            labels.setdefault(name, value)
        for name, value in self._annotations(annotations, application, given).items():
            annotations.setdefault(name, value)
        metadata["labels"], metadata["annotations"] = labels, annotations
        return pod

    @property
    def _merges(self) -> bool:
        return numbers(self.version) >= (1, 9)

    def _containers(
        self, pod: JSON, application: list[JSON], owner: str, namespace: str
    ) -> tuple[JSON, JSON]:
        everything = self.observed["spec"]["initContainers"] + self.observed["spec"]["containers"]
        init, proxy = (
            copy.deepcopy(next(c for c in everything if c["name"] == name))
            for name in ("istio-init", "istio-proxy")
        )
        settings = self.values.get("global", {})
        privileged = _true(settings.get("proxy", {}).get("privileged", False))
        for container in (init, proxy):
            container["image"] = f"{self.hub}/proxyv2:{self.version}"
            # what the API server fills in is left to it
            for name in ("terminationMessagePath", "terminationMessagePolicy"):
                container.pop(name, None)
            container["volumeMounts"] = [
                mount
                for mount in container.get("volumeMounts", [])
                if "serviceaccount" not in mount["mountPath"]
            ]
            if settings.get("imagePullPolicy"):
                container["imagePullPolicy"] = settings["imagePullPolicy"]
            elif numbers(self.version) < (1, 9):
                container["imagePullPolicy"] = "Always"  # the charts' default of then
            else:
                container.pop("imagePullPolicy", None)
        if not init["volumeMounts"]:
            del init["volumeMounts"]
        proxy["securityContext"] = copy.deepcopy(_UNPRIVILEGED)
        if privileged:
            for container in (init, proxy):
                container["securityContext"] |= {"privileged": True, "allowPrivilegeEscalation": True}
        self._fill_in(proxy, pod, application, owner, namespace)
        init["args"] = _init_arguments(init["args"], pod["metadata"].get("annotations") or {})
        return init, proxy

    def _fill_in(self, proxy: JSON, pod: JSON, application: list[JSON], owner: str, namespace: str) -> None:
        ports = [
            {key: port[key] for key in ("name", "containerPort", "protocol") if key in port}
            for container in application
            for port in container.get("ports", [])
        ]
        inner = ",\n".join(f"    {json.dumps(port, separators=(',', ':'))}" for port in ports)
        told = {
            "ISTIO_META_POD_PORTS": f"[\n{inner}\n]",
            "ISTIO_META_APP_CONTAINERS": ",".join(container["name"] for container in application),
            "ISTIO_META_WORKLOAD_NAME": owner,
            "ISTIO_META_OWNER": f"kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{owner}",
        }
        for variable in proxy["env"]:
            if variable["name"] in told:
                variable["value"] = told[variable["name"]]
        name = (pod["metadata"].get("labels") or {}).get("app", owner)
        proxy["args"] = [f"{name}.$(POD_NAMESPACE)" if a.startswith("httpbin.") else a for a in proxy["args"]]

    def _volumes(self) -> list[JSON]:
        own = [
            v
            for v in self.observed["spec"]["volumes"]
            if "kube-api-access" not in v["name"] and "secret" not in v
        ]
        volumes = copy.deepcopy(own)
        for volume in volumes:
            for kind in ("downwardAPI", "projected", "configMap"):
                volume.get(kind, {}).pop("defaultMode", None)
        return volumes

    def _labels(self, labels: JSON) -> JSON:
        shown = self.observed["metadata"]["labels"]
        kept = {k: v for k, v in shown.items() if "istio.io" in k}
        if "service.istio.io/canonical-name" in kept:
            kept["service.istio.io/canonical-name"] = labels.get("app", "unknown")
            kept["service.istio.io/canonical-revision"] = labels.get("version", "latest")
        return kept

    def _annotations(self, annotations: JSON, application: list[JSON], given: JSON | None) -> JSON:
        added = {k: v for k, v in self.observed["metadata"]["annotations"].items() if k != OVERRIDES}
        for name in added:
            if name.startswith("kubectl.kubernetes.io/default"):
                added[name] = application[0]["name"]
        if _TRAFFIC + "includeInboundPorts" in added:
            ports = [str(p["containerPort"]) for c in application for p in c.get("ports", [])]
            added[_TRAFFIC + "includeInboundPorts"] = ",".join(ports)
        status = json.loads(added[STATUS])
        status["initContainers"] = ["istio-init", "istio-proxy"] if self.native else ["istio-init"]
        status["containers"] = None if self.native else ["istio-proxy"]
        added[STATUS] = json.dumps(status, separators=(",", ":"))
        if given is not None:
            place = "initContainers" if self.native else "containers"
            added[OVERRIDES] = json.dumps({place: [{k: v for k, v in given.items() if k != "image"}]})
        return added


def wants_injection(pod: JSON, *, namespace_enabled: bool) -> bool:
    """Whether a pod is to be injected: its own word first, its namespace's otherwise."""
    metadata, spec = pod.get("metadata", {}), pod.get("spec", {})
    if spec.get("hostNetwork"):
        return False
    name = "sidecar.istio.io/inject"
    own = (metadata.get("labels") or {}).get(name) or (metadata.get("annotations") or {}).get(name)
    return namespace_enabled if own is None else _true(own)


def _init_arguments(arguments: list[str], annotations: JSON) -> list[str]:
    changed = list(arguments)
    for name, flag in _ARGUMENTS.items():
        if (value := annotations.get(_TRAFFIC + name)) is None:
            continue
        if flag in changed:
            changed[changed.index(flag) + 1] = value
        else:
            changed += [flag, value]
    if ports := annotations.get(_TRAFFIC + "excludeInboundPorts"):
        # the status port comes last, and no port twice
        place = changed.index("-d") + 1
        own = changed[place].split(",")
        listed = own[:-1] + [port for port in ports.split(",") if port not in own] + own[-1:]
        changed[place] = ",".join(listed)
    if mode := annotations.get("sidecar.istio.io/interceptionMode"):
        changed[changed.index("-m") + 1] = mode
    return changed


def _merge(base: JSON, given: JSON) -> JSON:
    """A strategic merge: only what is given changes."""
    merged = dict(base)
    for key, value in given.items():
        if key == "image" and value == "auto":
            continue
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        elif key in _MERGE_KEYS and isinstance(merged.get(key), list):
            by = _MERGE_KEYS[key]
            named = {item[by] for item in value}
            merged[key] = [item for item in merged[key] if item[by] not in named] + value
        else:
            merged[key] = value
    return merged


def _true(value: object) -> bool:
    return str(value).lower() in ("true", "1", "y", "yes", "on", "enabled")
