"""What is kept of a pod, a workload and Envoy's configuration.

Knows which of their fields bear on rules. Does not know where they are written. Invariant: only what is
named here is kept, for the rest may hold secrets.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_istio_sidecar.istio.listeners import configured_listeners, spellings
from pytest_istio_sidecar.istio.option_table import OPTIONS
from pytest_istio_sidecar.machine.redaction import REMOVED, scrub_values
from pytest_istio_sidecar.machine.state_file import Json

_ANNOTATIONS = ("traffic.sidecar.istio.io/", "sidecar.istio.io/inject", "sidecar.istio.io/interceptionMode")
_ASKED = frozenset(annotation for option in OPTIONS for annotation in option.annotations)
_TOLD = frozenset(variable for option in OPTIONS for variable in option.variables)
"""What tells options of istio-iptables, and nothing secret."""
_OF_ISTIO = ("istio-proxy", "istio-init", "istio-validation")
_LISTENER = (
    "name",
    "address",
    "additional_addresses",
    "traffic_direction",
    "transparent",
    "use_original_dst",
    "bind_to_port",
    "deprecated_v1",
)


def pod_as_evidence(pod: Json) -> str:
    """What of a pod bears on its rules: names, images, identities, Istio's own arguments, conditions."""
    status = pod.get("status", {})
    kept = {
        "kind": "Pod",
        "metadata": _metadata(pod),
        "spec": _spec(pod.get("spec", {})),
        "status": {
            **_pick(status, ("phase", "podIP", "podIPs", "hostIP", "qosClass", "startTime")),
            "conditions": [
                _pick(condition, ("type", "status", "reason")) for condition in status.get("conditions", [])
            ],
            "containerStatuses": [
                _pick(container, ("name", "ready", "restartCount", "imageID", "containerID"))
                for key in ("initContainerStatuses", "containerStatuses")
                for container in status.get(key, [])
            ],
        },
    }
    return _document(kept)


def workload_as_evidence(workload: Json) -> str:
    """What of a workload bears on its pods' rules."""
    spec = workload.get("spec", {})
    template = spec.get("template", {})
    kept = {
        "kind": workload.get("kind", ""),
        "metadata": _metadata(workload),
        "spec": {
            **_pick(spec, ("replicas", "selector")),
            "template": {"metadata": _metadata(template), "spec": _spec(template.get("spec", {}))},
        },
    }
    return _document(kept)


def configuration_as_evidence(dump: str) -> str:
    """Of Envoy's `/config_dump` the listeners: where each listens, and for what, as Envoy spells it."""
    try:
        document = json.loads(dump)
    except (ValueError, RecursionError):
        return ""
    kept: dict[str, list[Json]] = {"static_listeners": [], "dynamic_listeners": []}
    for kind, listener in configured_listeners(document):
        entry = {"listener": _listener(listener)}
        kept[f"{kind}_listeners"].append(entry if kind == "static" else {"active_state": entry})
    return _document({"configs": [kept]})


def _listener(listener: Mapping[str, Any]) -> Json:
    """What `istio.listeners` reads of it; of the configuration of a filter that is its type."""
    kept = _pick_spelled(listener, _LISTENER)
    for key, filters in _pick_spelled(listener, ["listener_filters"]).items():
        members = filters if isinstance(filters, list) else []
        kept[key] = [_filter(member) for member in members if isinstance(member, dict)]
    return kept


def _filter(listener_filter: Json) -> Json:
    configured = _pick_spelled(listener_filter, ["typed_config"])
    types = {key: _pick(value, ["@type"]) for key, value in configured.items() if isinstance(value, dict)}
    return {**_pick(listener_filter, ["name"]), **types}


def _metadata(resource: Json) -> Json:
    metadata = resource.get("metadata", {})
    annotations = metadata.get("annotations") or {}
    return {
        **_pick(metadata, ("name", "namespace", "uid", "labels", "creationTimestamp", "generation")),
        "annotations": {
            name: value if name.startswith(_ANNOTATIONS) or name in _ASKED else REMOVED
            for name, value in annotations.items()
        },
        "ownerReferences": [_pick(owner, ("kind", "name")) for owner in metadata.get("ownerReferences", [])],
    }


def _spec(spec: Json) -> Json:
    return {
        **_pick(spec, ("nodeName", "hostNetwork", "serviceAccountName", "securityContext", "dnsPolicy")),
        **({"dnsConfig": _pick(spec["dnsConfig"], ["nameservers"])} if spec.get("dnsConfig") else {}),
        **{
            key: [_container(container) for container in spec[key]]
            for key in ("initContainers", "containers", "ephemeralContainers")
            if spec.get(key)
        },
        "volumes": [
            {"name": volume.get("name"), "kind": sorted(set(volume) - {"name"})}
            for volume in spec.get("volumes", [])
        ],
    }


def _container(container: Json) -> Json:
    own = ("command", "args") if container.get("name") in _OF_ISTIO else ()
    kept_names = _TOLD if container.get("name") in _OF_ISTIO else frozenset()
    return {
        **_pick(container, ("name", "image", "ports", "securityContext", "restartPolicy", *own)),
        "env": [_variable(variable, kept_names) for variable in container.get("env", [])],
        "volumeMounts": [_pick(mount, ("name", "mountPath")) for mount in container.get("volumeMounts", [])],
    }


def _variable(variable: Json, names: frozenset[str]) -> Json:
    kept = variable.get("name") in names and "value" in variable
    return {"name": variable.get("name"), "value": variable["value"] if kept else REMOVED}


def _pick(fields: Mapping[str, Any], names: Iterable[str]) -> Json:
    return {name: fields[name] for name in names if name in fields}


def _pick_spelled(fields: Mapping[str, Any], names: Iterable[str]) -> Json:
    return _pick(fields, (key for name in names for key in spellings(name)))


def _document(kept: Json) -> str:
    return json.dumps(scrub_values(kept), indent=2) + "\n"
