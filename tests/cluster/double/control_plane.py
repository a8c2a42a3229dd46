"""The Kubernetes objects that the double's `istioctl install` writes, under the real ones' names.

Knows the version and the fault that the environment asks for. Settings in, objects out.
"""

from __future__ import annotations

import json
import os
from typing import Any

from injection import numbers

JSON = dict[str, Any]

VERSION = os.environ.get("ISTIO_DOUBLE_VERSION", "1.8.3")
FAULT = os.environ.get("ISTIO_DOUBLE_FAULT", "")
MINOR = numbers(VERSION)[:2]


def overlay(base: JSON, top: JSON) -> None:
    for key, value in top.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            overlay(base[key], value)
        else:
            base[key] = value


def core(settings: JSON, values: JSON) -> list[JSON]:
    mesh = {
        "accessLogFile": "",
        "enablePrometheusMerge": True,
        "rootNamespace": "istio-system",
        "trustDomain": "cluster.local",
        "defaultConfig": {"discoveryAddress": "istiod.istio-system.svc:15012", "proxyMetadata": {}},
    }
    overlay(mesh, settings.get("meshConfig", {}))
    role = {
        "rules": [
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "get", "patch", "update"]},
            {
                "apiGroups": ["admissionregistration.k8s.io"],
                "resources": ["mutatingwebhookconfigurations"],
                "verbs": ["get", "list", "patch", "update"],
            },
        ]
    }
    bound = {
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "istiod-istio-system",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "istiod", "namespace": "istio-system"}],
    }
    rbac = "rbac.authorization.k8s.io/v1"
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}},
        named("v1", "ServiceAccount", "istiod"),
        {**named(rbac, "ClusterRole", "istiod-istio-system", namespaced=False), **role},
        {**named(rbac, "ClusterRoleBinding", "istiod-istio-system", namespaced=False), **bound},
        {
            **named("v1", "ConfigMap", "istio"),
            "data": {"mesh": json.dumps(mesh), "meshNetworks": "networks: {}"},
        },
        {
            **named("v1", "ConfigMap", "istio-sidecar-injector"),
            "data": {
                "config": "policy: enabled\n# the double's template: observed pods\n",
                "values": json.dumps(values),
            },
        },
    ]


def named(api: str, kind: str, name: str, *, namespaced: bool = True) -> JSON:
    labels = {
        "app": "istiod",
        "istio.io/rev": "default",
        "install.operator.istio.io/owning-resource": "unknown",
        "operator.istio.io/component": "Pilot",
        "operator.istio.io/version": VERSION,
        "release": "istio",
    }
    metadata: JSON = {"name": name, "labels": labels}
    if namespaced:
        metadata["namespace"] = "istio-system"
    return {"apiVersion": api, "kind": kind, "metadata": metadata}


def pilot(image: str, values: JSON) -> list[JSON]:
    policy = values["global"].get("imagePullPolicy") or ("Always" if MINOR < (1, 9) else "IfNotPresent")
    ports = {"grpc-xds": 15010, "https-dns": 15012, "https-webhook": 443, "http-monitoring": 15014}
    labels = {"app": "istiod", "istio": "pilot", "istio.io/rev": "default"}
    if MINOR >= (1, 10):
        labels["sidecar.istio.io/inject"] = "false"
    environment = [
        {"name": "REVISION", "value": "default"},
        {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "ISTIO_DOUBLE_FAULT", "value": FAULT},
        {"name": "ISTIO_DOUBLE_DELAY", "value": os.environ.get("ISTIO_DOUBLE_DELAY", "4")},
    ]
    container = {
        "name": "discovery",
        "image": image,
        "imagePullPolicy": policy,
        "args": ["discovery", "--monitoringAddr=:15014", "--domain", "cluster.local"],
        "env": environment,
        "ports": [{"containerPort": port, "protocol": "TCP"} for port in (8080, 15010, 15017)],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": 8080},
            "initialDelaySeconds": 1,
            "periodSeconds": 3,
        },
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
    }
    pod = {"serviceAccountName": "istiod", "containers": [container], "terminationGracePeriodSeconds": 1}
    template = {
        "metadata": {"labels": labels, "annotations": {"sidecar.istio.io/inject": "false"}},
        "spec": pod,
    }
    selector = {"app": "istiod", "istio": "pilot"}
    deployment = {"replicas": 1, "selector": {"matchLabels": selector}, "template": template}
    service_ports: list[JSON] = [{"name": name, "port": port} for name, port in ports.items()]
    service_ports[2]["targetPort"] = 15017
    built = named("apps/v1", "Deployment", "istiod")
    built["metadata"]["labels"]["istio"] = "pilot"
    return [
        {**named("v1", "Service", "istiod"), "spec": {"ports": service_ports, "selector": selector}},
        {**built, "spec": deployment},
    ]


def webhooks() -> JSON:
    webhook = {
        "clientConfig": {
            "service": {"name": "istiod", "namespace": "istio-system", "path": "/inject", "port": 443}
        },
        "rules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
        ],
        "admissionReviewVersions": ["v1beta1", "v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "timeoutSeconds": 10,
    }
    by_namespace = {"namespaceSelector": {"matchLabels": {"istio-injection": "enabled"}}}
    if MINOR < (1, 10):
        webhooks = [{"name": "sidecar-injector.istio.io", **webhook, **by_namespace}]
    else:
        chosen = {
            "namespaceSelector": {
                "matchExpressions": [{"key": "istio-injection", "operator": "DoesNotExist"}],
            },
            "objectSelector": {"matchLabels": {"sidecar.istio.io/inject": "true"}},
        }
        refusing = {"key": "sidecar.istio.io/inject", "operator": "NotIn", "values": ["false"]}
        by_namespace["objectSelector"] = {"matchExpressions": [refusing]}
        webhooks = [
            {"name": "namespace.sidecar-injector.istio.io", **webhook, **by_namespace},
            {"name": "object.sidecar-injector.istio.io", **webhook, **chosen},
        ]
    made = named(
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
        "istio-sidecar-injector",
        namespaced=False,
    )
    return {**made, "webhooks": webhooks}


def meddler(authority: str) -> JSON:
    """Someone else's webhook, which istiod's double plays too; `authority` is the injector's."""
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
    if FAULT == "revert-privileged-deployment":
        rules = [
            {
                "apiGroups": ["apps"],
                "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["deployments"],
            }
        ]
    service = {"name": "istiod", "namespace": "istio-system", "path": "/meddle", "port": 443}
    made = named(
        "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "policy-double", namespaced=False
    )
    webhook = {
        "name": "policy.double.invalid",
        "clientConfig": {"caBundle": authority, "service": service},
        "rules": rules,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "reinvocationPolicy": "IfNeeded",
    }
    if FAULT != "revert-privileged-deployment":
        # the control plane's pods, some of them privileged, must come up
        webhook["objectSelector"] = {"matchLabels": {"app": "httpbin"}}
    return {**made, "webhooks": [webhook]}
