#!/usr/bin/env python3
"""A double of istiod, the one program of the image pilot: the injection webhook and the mesh's configuration.

It makes its certificate authority, writes it into the webhook configuration and, as
`istio-ca-root-cert`, into every namespace, and for some seconds after it is ready lets
pods pass without a sidecar, as the real one was seen to. Faults come from ISTIO_DOUBLE_FAULT.
"""

import base64
import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from injection import Injector, numbers, wants_injection

JSON = dict[str, Any]

HOME = Path("/etc/double")
VERSION = (HOME / "version").read_text().strip()
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NAMESPACE = os.environ.get("POD_NAMESPACE", "istio-system")
FAULT = os.environ.get("ISTIO_DOUBLE_FAULT", "")
DELAY = float(os.environ.get("ISTIO_DOUBLE_DELAY", "4"))
WEBHOOK = "istio-sidecar-injector"
READY_SINCE: list[float] = []
"""When the webhook configuration first had the certificate authority."""


def say(text: str) -> None:
    print(f"info\t{text}", flush=True)


def api(method: str, path: str, body: object = None, kind: str = "application/json") -> JSON:
    """Ask the API server, as this pod's service account."""
    host = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    asked = urllib.request.Request(
        f"https://{host[0]}:{host[1]}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "content-type": kind},
    )
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(asked, timeout=10, context=trust) as answer:
        return json.loads(answer.read())


def make_certificates(directory: Path) -> str:
    """A certificate authority and this server's certificate; returns the authority's, as PEM."""
    names = ",".join(f"DNS:istiod.{NAMESPACE}{end}" for end in (".svc", ".svc.cluster.local"))
    steps = (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /O=cluster.local",
        "req -newkey rsa:2048 -nodes -keyout tls.key -out tls.csr -subj /CN=istiod",
        "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out tls.crt -days 30 -extfile names",
    )
    (directory / "names").write_text(f"subjectAltName={names}\n")
    for step in steps:
        subprocess.run(["openssl", *step.split()], cwd=directory, check=True, capture_output=True, timeout=60)
    return (directory / "ca.crt").read_text()


def keep_told(authority: str) -> None:
    """Write the authority where the API server and the sidecars read it, again and again."""
    encoded = base64.b64encode(authority.encode()).decode()
    while True:
        try:
            _tell(authority, encoded)
        except (OSError, ValueError) as problem:
            say(f"telling the authority failed, trying again: {problem}")
        time.sleep(1)


def _tell(authority: str, encoded: str) -> None:
    path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{WEBHOOK}"
    webhooks = api("GET", path)["webhooks"]
    if all(webhook["clientConfig"].get("caBundle") == encoded for webhook in webhooks):
        READY_SINCE[:] = READY_SINCE or [time.monotonic()]
    else:
        for webhook in webhooks:
            webhook["clientConfig"]["caBundle"] = encoded
        api("PATCH", path, {"webhooks": webhooks}, "application/merge-patch+json")
        say("the webhook configuration has the certificate authority")
    for namespace in api("GET", "/api/v1/namespaces")["items"]:
        if namespace["status"]["phase"] != "Active":
            continue
        maps = f"/api/v1/namespaces/{namespace['metadata']['name']}/configmaps"
        wanted = {"metadata": {"name": "istio-ca-root-cert"}, "data": {"root-cert.pem": authority}}
        try:
            found = api("GET", f"{maps}/istio-ca-root-cert")
            if found.get("data") != wanted["data"]:
                api("PATCH", f"{maps}/istio-ca-root-cert", wanted, "application/merge-patch+json")
        except urllib.error.HTTPError as problem:
            if problem.code != 404:
                raise
            api("POST", maps, {"apiVersion": "v1", "kind": "ConfigMap", **wanted})


def configuration(name: str, key: str) -> str:
    """One of the ConfigMaps that istioctl wrote, as it is now."""
    return api("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps/{name}")["data"][key]


def injector() -> Injector:
    told = json.loads(configuration("istio-sidecar-injector", "values"))
    server = api("GET", "/version")
    minor = int(server["minor"].rstrip("+"))
    return Injector(
        version=VERSION,
        observed=json.loads((HOME / "pod.json").read_text()),
        hub=told.get("global", {}).get("hub", "docker.io/istio"),
        values=told,
        native=numbers(VERSION) >= (1, 27) and minor >= 33,
    )


def inject(review: JSON) -> JSON:
    """The answer for one pod."""
    asked = review["request"]
    pod, namespace = asked["object"], asked["namespace"]
    name = pod["metadata"].get("name") or pod["metadata"].get("generateName")
    if FAULT == "webhook-never-ready" or not READY_SINCE or time.monotonic() - READY_SINCE[0] < DELAY:
        say(f"webhook is not ready: {namespace}/{name} passes without a sidecar")
        return {"allowed": True}
    if FAULT == "injection-refused":
        return {"allowed": False, "status": {"message": "double: injection refused, as asked for"}}
    enabled = api("GET", f"/api/v1/namespaces/{namespace}")["metadata"].get("labels", {})
    if not wants_injection(pod, namespace_enabled=enabled.get("istio-injection") == "enabled"):
        return {"allowed": True}
    say(f"Sidecar injection request for {namespace}/{name}")
    changed = injector().inject(pod, namespace=namespace)
    return {"allowed": True, **_patch(pod, changed)}


def meddle(review: JSON) -> JSON:
    """What someone else's webhook does to privileged containers, by the fault asked for."""
    found = review["request"]["object"]
    if FAULT == "revert-privileged-deployment" and found.get("kind", "Pod") == "Deployment":
        spec = found["spec"]["template"]["spec"]
    elif found.get("kind", "Pod") == "Pod":
        spec = found["spec"]
    else:
        return {"allowed": True}
    changed = json.loads(json.dumps(found))
    inner = changed["spec"]["template"]["spec"] if spec is not found["spec"] else changed["spec"]
    privileged = [
        container
        for container in [*inner.get("initContainers", []), *inner.get("containers", [])]
        if (container.get("securityContext") or {}).get("privileged")
    ]
    if not privileged:
        return {"allowed": True}
    if FAULT == "refuse-privileged":
        names = ", ".join(f'"{container["name"]}"' for container in privileged)
        message = (
            f'violates PodSecurity "baseline:latest": privileged (container {names} must not set '
            "securityContext.privileged=true)"
        )
        return {"allowed": False, "status": {"message": message, "reason": "Forbidden", "code": 403}}
    for container in privileged:
        container["securityContext"]["privileged"] = False
    return {"allowed": True, **_patch(found, changed)}


def _patch(old: JSON, new: JSON) -> JSON:
    operations = [
        {"op": "add", "path": path, "value": value}
        for path, value in (
            ("/metadata/labels", new["metadata"].get("labels")),
            ("/metadata/annotations", new["metadata"].get("annotations")),
            ("/spec", new["spec"]),
        )
        if value is not None
    ]
    encoded = base64.b64encode(json.dumps(operations).encode()).decode()
    return {"patchType": "JSONPatch", "patch": encoded} if old != new else {}


class Webhook(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["content-length"])))
        try:
            answer = (meddle if self.path.startswith("/meddle") else inject)(review)
        except Exception as problem:  # noqa: BLE001 - the API server shows it to who created the pod
            answer = {"allowed": False, "status": {"message": f"double: {type(problem).__name__}: {problem}"}}
        answer["uid"] = review["request"]["uid"]
        shape = {"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": answer}
        _answer(self, json.dumps(shape).encode())

    def log_message(self, *arguments: object) -> None:
        """`inject` says what there is to say."""


class Plain(http.server.BaseHTTPRequestHandler):
    """8080: readiness. 15010: where a sidecar of the double gets the mesh's configuration."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/ready":
            _answer(self, b"", 200 if READY_SINCE and FAULT != "istiod-never-ready" else 503)
        elif self.path == "/double/mesh":
            _answer(self, configuration("istio", "mesh").encode())
        else:
            _answer(self, b"", 404)

    def log_message(self, *arguments: object) -> None:
        """Probes are nothing to write down."""


def _answer(handler: http.server.BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def serve(
    port: int, handler: type[http.server.BaseHTTPRequestHandler], context: ssl.SSLContext | None = None
) -> None:
    server = http.server.ThreadingHTTPServer(("0.0.0.0", port), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    say(f"This is a double of istiod {VERSION}: {' '.join(sys.argv[1:])}")
    directory = Path("/tmp/certificates")
    directory.mkdir(exist_ok=True)
    authority = make_certificates(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    serve(15017, Webhook, context)
    serve(15010, Plain)
    serve(8080, Plain)
    keep_told(authority)


main()
