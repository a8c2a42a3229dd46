"""A double of a cluster on loopback that keeps a Deployment and a pod, and does what it is asked to them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from json_patch import PatchRefusedError, apply_json_patch

DEPLOYMENT = "/apis/apps/v1/namespaces/demo/deployments/httpbin"
POD = "/api/v1/namespaces/demo/pods/client"
CONTEXT = {"privileged": False, "allowPrivilegeEscalation": False, "runAsUser": 1337}
"""The sidecar's security context, to begin with."""

Template = dict[str, list[dict]]


def sidecar(context: dict | None) -> dict:
    held = {"name": "istio-proxy", "image": "hub/proxyv2:1.8.3"}
    return held if context is None else {**held, "securityContext": dict(context)}


class Cluster(ThreadingHTTPServer):
    """A double of a cluster: one Deployment and one pod that can be read, patched and deleted.

    Attributes:
        refused: methods and paths that are answered with 403.
        before_patch: what somebody else does between our reading and our patch, once each.
        drops_answer: whether the next patch is done, and its answer lost.
        reverts: whether what a patch does is undone at once, as by a policy.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pods = {POD: {"metadata": {"name": "client"}}}
        self.refused: list[tuple[str, str]] = []
        self.before_patch: list[Callable[[], None]] = []
        self.drops_answer = self.reverts = False
        self.patches: list[tuple[str, object]] = []
        self.version, self.uid, self.generation = 1, "first", 1
        self.template: Template = {"containers": [{"name": "httpbin"}, sidecar(CONTEXT)]}

    def deployment(self) -> dict:
        metadata = {"uid": self.uid, "resourceVersion": str(self.version), "generation": self.generation}
        return {"metadata": metadata, "spec": {"template": {"spec": copy.deepcopy(self.template)}}}

    def becomes(self, template: Template) -> None:
        """As an edit does: another version, another generation."""
        self.template = template
        self.version += 1
        self.generation += 1

    @property
    def context(self) -> dict | None:
        """The sidecar's security context."""
        everywhere = [*self.template["containers"], *self.template.get("initContainers", [])]
        return next(held for held in everywhere if held["name"] == "istio-proxy").get("securityContext")

    def somebody_sets(self, **fields: object) -> None:
        """Somebody else sets fields of the sidecar's security context, or takes out those that are None."""
        context = {**(self.context or {}), **fields}
        self.context_becomes({name: value for name, value in context.items() if value is not None})

    def context_becomes(self, context: dict | None) -> None:
        template = copy.deepcopy(self.template)
        everywhere = [*template["containers"], *template.get("initContainers", [])]
        held = next(held for held in everywhere if held["name"] == "istio-proxy")
        held.pop("securityContext", None)
        held |= {} if context is None else {"securityContext": context}
        self.becomes(template)

    def patch(self, content_type: str, body: list | dict) -> tuple[int, object]:
        self.patches.append((content_type, body))
        if self.before_patch:
            self.before_patch.pop(0)()
        if content_type == "application/json-patch+json":
            try:
                edited = apply_json_patch(self.deployment(), body)
            except PatchRefusedError:
                said = "the server rejected our request due to an error in our request"
                return 422, {"kind": "Status", "reason": "Invalid", "message": said}
            template = edited["spec"]["template"]["spec"]
        else:
            (added,) = body["spec"]["template"]["spec"]["containers"]
            # pkg/apis/core/v1/defaults.go; a Deployment of Kubernetes 1.20 shows them so.
            defaults = {"resources": {}, "terminationMessagePath": "/dev/termination-log"}
            defaults |= {"terminationMessagePolicy": "File"}
            template = copy.deepcopy(self.template)
            template["containers"].append({**added, **defaults})
        if not self.reverts and template != self.template:
            self.becomes(template)
        return 200, self.deployment()

    def answer(self, method: str, path: str, content_type: str, body: str) -> tuple[int, object] | None:
        if (method, path) in self.refused:
            return 403, {"kind": "Status", "reason": "Forbidden", "message": "forbidden: not you"}
        if path == DEPLOYMENT and self.template:
            if method != "PATCH":
                return 200, self.deployment()
            told = self.patch(content_type, json.loads(body))
            lost, self.drops_answer = self.drops_answer, False
            return None if lost else told
        if path in self.pods:
            return 200, self.pods.pop(path) if method == "DELETE" else self.pods[path]
        return 404, {"kind": "Status", "reason": "NotFound", "message": "not found"}


class _Handler(BaseHTTPRequestHandler):
    server: Cluster

    def _reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        path = self.path.partition("?")[0]
        told = self.server.answer(self.command, path, self.headers.get("content-type", ""), body)
        if told is None:
            self.close_connection = True
            return
        data = json.dumps(told[1]).encode()
        self.send_response(told[0])
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PATCH = do_DELETE = _reply  # noqa: N815 - http.server looks for these names

    def log_message(self, *_: object) -> None:
        """Nothing: each is expected."""
