"""What may be kept of what was read: nothing that lets anybody in anywhere.

Knows where Kubernetes, Envoy and HTTP carry secrets. Does not know where the rest is written.
Invariant: of a pod, a workload and Envoy's configuration only what is named here is kept; in every
other text what has the form of a secret is replaced.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_istio_sidecar.istio.listeners import configured_listeners, spellings
from pytest_istio_sidecar.machine.state_file import Json

REMOVED = "(removed)"

_FORMS = (
    re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),  # a JSON Web Token (RFC 7519): {" in base64url
    re.compile(r"\bLS0tLS1CRUdJTi[\w+/=]*"),  # PEM in base64, as kubeconfig files have it
    re.compile(r"(?i)\b(?:bearer|basic|digest|negotiate)\s+[\w.~+/=-]{6,}"),
    re.compile(r"(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"),
)
_NAMED = re.compile(
    r"""(?ix) (
          ["']? \b [\w-]* (?: authorization | cookie | passw(?:or)?d | secret | token | api[-_]?key
                             | client-(?:key|certificate)-data | certificate-authority-data ) ["']?
          \s* [:=] \s* ["']?
        ) ( [^\s"',}][^"'\r\n,}]* )"""
)
_SECRET_NAME = re.compile(r"(?i)token|secret|passw|credential|api_?key|private")
_SHORTEST = 6
"""Letters that a value of the environment has at least, to be looked for in texts."""

_ANNOTATIONS = ("traffic.sidecar.istio.io/", "sidecar.istio.io/inject", "sidecar.istio.io/interceptionMode")
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


def scrub(text: str) -> str:
    """The text without what has the form of a secret, or is one in this process's environment."""
    for value in _own_secrets():
        text = text.replace(value, REMOVED)
    for form in _FORMS:
        text = form.sub(REMOVED, text)
    return _NAMED.sub(lambda match: match[1] + REMOVED, text)


def scrub_values(value: Any) -> Any:
    """The same for every text in a JSON value."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {key: scrub_values(item) for key, item in value.items()}
    return [scrub_values(item) for item in value] if isinstance(value, list) else value


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
            name: value if name.startswith(_ANNOTATIONS) else REMOVED for name, value in annotations.items()
        },
        "ownerReferences": [_pick(owner, ("kind", "name")) for owner in metadata.get("ownerReferences", [])],
    }


def _spec(spec: Json) -> Json:
    return {
        **_pick(spec, ("nodeName", "hostNetwork", "serviceAccountName", "securityContext", "dnsPolicy")),
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
    return {
        **_pick(container, ("name", "image", "ports", "securityContext", "restartPolicy", *own)),
        "env": [{"name": variable.get("name"), "value": REMOVED} for variable in container.get("env", [])],
        "volumeMounts": [_pick(mount, ("name", "mountPath")) for mount in container.get("volumeMounts", [])],
    }


def _pick(fields: Mapping[str, Any], names: Iterable[str]) -> Json:
    return {name: fields[name] for name in names if name in fields}


def _pick_spelled(fields: Mapping[str, Any], names: Iterable[str]) -> Json:
    return _pick(fields, (key for name in names for key in spellings(name)))


def _document(kept: Json) -> str:
    return json.dumps(scrub_values(kept), indent=2) + "\n"


def _own_secrets() -> list[str]:
    """Longest first: one may be part of another."""
    secrets = {
        value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST
    }
    return sorted((value for value in secrets if not os.path.exists(value)), key=len, reverse=True)  # noqa: PTH110
