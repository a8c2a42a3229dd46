"""A double of an API server, for faults in seconds: what the lab's steps ask a cluster, answered at once.

What the fake programs have "done" is files in their home: Istio is there after `install`, httpbin after
`apply`. `fault` names what shall never come about: `deploy`, that the pod gets Ready, or `privileged`, that
the edited one does; with `put-back`, the edit that ends the privilege takes a while. A `begun-…` file says
that the wait for it has begun.

Commands run in containers too: as user `uid`, of whom sudo makes root, who is answered with what the file of
the command's words in `answers` holds. Of a second replica the files are in `answers-2`.

Beside httpbin there can be Deployments, `beside`, of pods that are as they are; what a command in one of
them is answered with is in `answers-NAME`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from json_patch import apply_json_patch

SIDECAR = {"name": "istio-proxy", "image": "hub/proxyv2:1.8.3"}
HTTPBIN = "/apis/apps/v1/namespaces/default/deployments/httpbin"


class Api(ThreadingHTTPServer):
    """The server; `address` is its URL."""

    daemon_threads = True

    def __init__(self, home: Path, fault: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.home = home
        self.fault = fault
        self.uid = 1337
        self.debug_container = ""
        self.version = 1
        told = {"privileged": False, "allowPrivilegeEscalation": False}
        self.sidecar = SIDECAR | {"securityContext": told}
        self.beside: dict[str, list[dict[str, Any]]] = {}
        self.namespace_labels: dict[str, str] | None = {}
        self.ran: list[tuple[str, str]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def begun(self, phase: str) -> None:
        (self.home / f"begun-{phase}").touch()

    def done(self, step: str) -> bool:
        return (self.home / f"done-{step}").exists()

    def answer(self, method: str, path: str, body: str, selector: str = "") -> tuple[int, object]:
        named = {held["metadata"]["name"]: held for pods in self.beside.values() for held in pods}
        app = selector.removeprefix("app=")
        match method, path.removeprefix("/api/v1/namespaces/default").removeprefix("/pods/"):
            case _, "" if self.namespace_labels is None:
                return 403, {"kind": "Status", "reason": "Forbidden", "message": "forbidden: not you"}
            case _, "":
                return 200, {"metadata": {"name": "default", "labels": self.namespace_labels}}
            case _, name if name in named:
                return 200, named[name]
            case _, "/pods" if app in self.beside:
                return 200, {"items": self.beside[app]}
            case _, _ if (name := path.rpartition("/deployments/")[2]) in self.beside:
                spec = {"selector": {"matchLabels": {"app": name}}, "template": {"spec": {"containers": []}}}
                return 200, {"metadata": {"name": name, "resourceVersion": "1"}, "spec": spec}
        match method, path:
            case _, "/version":
                return 200, {"gitVersion": "v0"}
            case "POST", _:
                return 201, {}
            case "PATCH", _ if path.endswith("/ephemeralcontainers"):
                self.debug_container = json.loads(body)["spec"]["ephemeralContainers"][0]["name"]
                return 200, {}
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
                return 200, {"items": self.pods()}
            case _, "/api/v1/namespaces/default/pods/httpbin-1":
                return 200, self.pod()
            case _, "/api/v1/namespaces/default/pods/httpbin-2":
                return 200, self.pods()[1]
            case _, "/api/v1/namespaces/default/pods/istio-sidecar-client":
                return 200, pod("istio-sidecar-client", {"name": "httpbin"}, ready=True)
            case _, _ if path.endswith(("/events", "/pods")):
                return 200, {"items": []}
        return 404, {"kind": "Status", "message": f"no {path} in this double", "reason": "NotFound"}

    def edit(self, operations: list[dict[str, object]]) -> None:
        edited = apply_json_patch(self.deployment(), operations)
        (sidecar,) = edited["spec"]["template"]["spec"]["containers"]
        if self.fault == "put-back" and self.privileged:
            self.begun("put-back")
            time.sleep(1)
        self.sidecar = sidecar
        self.version += 1

    @property
    def privileged(self) -> bool:
        return bool(self.sidecar["securityContext"].get("privileged"))

    def deployment(self) -> dict[str, object]:
        return {
            "metadata": {
                "name": "httpbin",
                "uid": "1",
                "generation": 1,
                "resourceVersion": str(self.version),
            },
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "httpbin"}},
                "template": {"spec": {"containers": [self.sidecar]}},
            },
            "status": {"observedGeneration": 1},
        }

    def pod(self) -> dict[str, object]:
        phase = "privileged" if self.privileged else "deploy"
        if self.fault == phase:
            self.begun(phase)
        first = pod("httpbin-1", self.sidecar, ready=self.fault != phase)
        if self.debug_container:
            running = {"name": self.debug_container, "state": {"running": {}}}
            first["status"]["ephemeralContainerStatuses"] = [running]
        return first

    def pods(self) -> list[dict[str, object]]:
        second = pod("httpbin-2", self.sidecar, ready=True)
        return [self.pod(), *([second] if (self.home / "answers-2").exists() else [])]

    def run(self, name: str, argv: list[str]) -> tuple[int, str, str]:
        """What a command in a pod's container comes to: its exit status, and what it prints."""
        self.ran.append((name, " ".join(argv)))
        if argv == ["id", "-u"]:
            return 0, f"{self.uid}\n", ""
        if argv == ["sudo", "-n", "true"]:
            return 0, "", ""
        sudo = argv[0] == "sudo"
        words = argv[1:] if sudo else argv
        if self.uid and not sudo:
            return 1, "", f"{words[0]}: Permission denied (you must be root)\n"
        folder = {"httpbin-1": "answers", "httpbin-2": "answers-2"}.get(name, f"answers-{name}")
        answer = self.home / folder / "_".join(words)
        if answer.exists():
            return 0, answer.read_text(), ""
        return (1, "", f"sudo: {words[0]}: command not found\n") if sudo else (127, "", "not found\n")


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
        address = urlsplit(self.path)
        if address.path.endswith("/exec"):
            name = address.path.split("/")[-2]
            self._talk(*self.server.run(name, parse_qs(address.query)["command"]))
            return
        asked = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        selector = parse_qs(address.query).get("labelSelector", [""])[0]
        status, told = self.server.answer(self.command, address.path, asked, selector)
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _talk(self, code: int, stdout: str, stderr: str) -> None:
        """The frames of exec, by protocol v4.channel.k8s.io over a websocket (RFC 6455)."""
        key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest()).decode()
        self.wfile.write(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            f"sec-websocket-accept: {accept}\r\nsec-websocket-protocol: v4.channel.k8s.io\r\n\r\n".encode()
        )
        causes = [{"reason": "ExitCode", "message": str(code)}]
        failed = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
        status = json.dumps(failed if code else {"status": "Success"})
        for channel, text in ((1, stdout), (2, stderr), (3, status)):
            frame = bytes([channel]) + text.encode()
            self.wfile.write(b"\x82\x7f" + len(frame).to_bytes(8) + frame)
        self.close_connection = True

    do_GET = do_POST = do_PATCH = _reply  # noqa: N815 - http.server looks for these names

    def log_message(self, *_: object) -> None:
        """Nothing: each is expected."""
