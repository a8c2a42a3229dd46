"""A double of an API server, for faults in seconds: what the lab's steps ask a cluster, answered at once.

What the fake programs have "done" is files in their home: Istio is there after `install`, httpbin after
`apply`. `fault` names what shall never come about: `deploy`, that the pod gets Ready, or `privileged`, that
the edited one does. A `begun-…` file says that the wait for it has begun.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SIDECAR = {"name": "istio-proxy", "image": "hub/proxyv2:1.8.3"}
HTTPBIN = "/apis/apps/v1/namespaces/default/deployments/httpbin"


class Api(ThreadingHTTPServer):
    """The server; `address` is its URL."""

    daemon_threads = True

    def __init__(self, home: Path, fault: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.home = home
        self.fault = fault
        self.privileged = False
        self.address = f"http://127.0.0.1:{self.server_port}"

    def begun(self, phase: str) -> None:
        (self.home / f"begun-{phase}").touch()

    def done(self, step: str) -> bool:
        return (self.home / f"done-{step}").exists()

    def answer(self, method: str, path: str, body: str) -> tuple[int, object]:
        match method, path:
            case _, "/version":
                return 200, {"gitVersion": "v0"}
            case "POST", _:
                return 201, {}
            case _, "/apis/apps/v1/namespaces/istio-system/deployments":
                return 200, {"items": [ISTIOD] if self.done("install") else []}
            case "PATCH", _ if path == HTTPBIN:
                self.edit(json.loads(body))
                return 200, self.deployment()
            case _, _ if path == HTTPBIN and self.done("apply"):
                return 200, self.deployment()
            case _, "/apis/apps/v1/namespaces/default/replicasets":
                return 200, {"items": [REPLICASET]}
            case _, "/api/v1/namespaces/default/pods":
                return 200, {"items": [self.pod()]}
            case _, "/api/v1/namespaces/default/pods/httpbin-1":
                return 200, self.pod()
            case _, "/api/v1/namespaces/default/pods/istio-sidecar-client":
                return 200, pod("istio-sidecar-client", {"name": "httpbin"}, ready=True)
            case _, _ if path.endswith(("/events", "/pods")):
                return 200, {"items": []}
        return 404, {"kind": "Status", "message": f"no {path} in this double", "reason": "NotFound"}

    def edit(self, operations: list[dict[str, object]]) -> None:
        """The lab's edit, or the whole context put back."""
        for operation in operations:
            if str(operation["path"]).endswith("/securityContext/privileged"):
                self.privileged = operation["value"]
            if str(operation["path"]).endswith("/securityContext"):
                self.privileged = operation["value"]["privileged"]

    def sidecar(self) -> dict[str, object]:
        told = {"privileged": self.privileged, "allowPrivilegeEscalation": self.privileged}
        return SIDECAR | {"securityContext": told}

    def deployment(self) -> dict[str, object]:
        return {
            "metadata": {"name": "httpbin", "generation": 1, "resourceVersion": "1"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "httpbin"}},
                "template": {"spec": {"containers": [self.sidecar()]}},
            },
            "status": {"observedGeneration": 1},
        }

    def pod(self) -> dict[str, object]:
        phase = "privileged" if self.privileged else "deploy"
        if self.fault == phase:
            self.begun(phase)
        return pod("httpbin-1", self.sidecar(), ready=self.fault != phase)


def kubeconfig(server: str) -> str:
    """A kubeconfig file for a server, as JSON."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "kind",
            "clusters": [{"name": "kind", "cluster": {"server": server}}],
            "users": [{"name": "kind", "user": {"token": "x"}}],
            "contexts": [{"name": "kind", "context": {"cluster": "kind", "user": "kind"}}],
        }
    )


def pod(name: str, container: dict[str, object], *, ready: bool) -> dict[str, object]:
    running = {
        "name": container["name"],
        "containerID": "containerd://1",
        "state": {"running": {"startedAt": "x"}},
    }
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "creationTimestamp": "2020-12-01T00:00:00Z",
            "ownerReferences": [{"uid": "r", "kind": "ReplicaSet", "name": "r"}],
        },
        "spec": {"containers": [container], "nodeName": "one-control-plane"},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{**running, "ready": ready}],
        },
    }


ISTIOD = {
    "metadata": {"name": "istiod"},
    "spec": {"template": {"spec": {"containers": [{"name": "discovery", "image": "hub/pilot:1.8.3"}]}}},
    "status": {"availableReplicas": 1},
}
REPLICASET = {"metadata": {"name": "r", "uid": "r", "ownerReferences": [{"name": "httpbin"}]}}


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def _reply(self) -> None:
        asked = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        status, told = self.server.answer(self.command, self.path.partition("?")[0], asked)
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = _reply  # noqa: N815 - http.server looks for these names

    def log_message(self, *_: object) -> None:
        """Nothing: each is expected."""
