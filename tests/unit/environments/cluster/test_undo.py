"""Changes to somebody's cluster: written down first, put back by whoever comes later, and only there."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pytest_istio_sidecar.cli import main
from pytest_istio_sidecar.environments.cluster.api import KubernetesApi
from pytest_istio_sidecar.environments.cluster.undo import Changes
from pytest_istio_sidecar.machine.lease import EDIT, Lease

DEPLOYMENT = "/apis/apps/v1/namespaces/demo/deployments/httpbin"
POD = "/api/v1/namespaces/demo/pods/client"
CONTEXT = {"privileged": False, "allowPrivilegeEscalation": False}
EDITED = {"privileged": True, "allowPrivilegeEscalation": True}


def deployment(context: dict) -> dict:
    containers = [{"name": "httpbin"}, {"name": "istio-proxy", "securityContext": context}]
    return {"metadata": {"resourceVersion": "1"}, "spec": {"template": {"spec": {"containers": containers}}}}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A double of a cluster whose objects can be read, patched in one way, and deleted."""
    objects = {DEPLOYMENT: deployment(CONTEXT), POD: {"metadata": {"name": "client"}}}

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path = self.path.partition("?")[0]
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            held = objects.get(path)
            if self.command == "DELETE":
                objects.pop(path, None)
            if self.command == "PATCH":
                value = json.loads(body)[-1]["value"]
                held["spec"]["template"]["spec"]["containers"][1]["securityContext"] = value
            told = json.dumps(held or {"message": "not found"}).encode()
            self.send_response(200 if held else 404)
            self.send_header("content-length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_PATCH = do_DELETE = answer  # noqa: N815 - http.server looks for these names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    objects_and_api = objects, KubernetesApi(kubeconfig=kubeconfig(tmp_path / "k", server.server_port))
    yield objects_and_api
    server.shutdown()
    server.server_close()
    thread.join()


def kubeconfig(path, port: int):
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )
    return path


def crashed_run(api: KubernetesApi, objects: dict) -> None:
    """What a run leaves that made both changes and was killed."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        changes = Changes(Lease.of(EDIT, process.pid, name="edit-1"), api)
        changes.will_edit(DEPLOYMENT, copy.deepcopy(objects[DEPLOYMENT]))
        objects[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][1]["securityContext"] = dict(EDITED)
        changes.will_create(POD)
        process.kill()


def context(objects: dict) -> dict:
    return objects[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][1]["securityContext"]


def test_clean_puts_back_what_a_killed_run_changed(cluster, capsys) -> None:
    objects, api = cluster
    crashed_run(api, objects)
    assert main(["clean"]) == 0
    assert context(objects) == CONTEXT
    assert POD not in objects
    assert capsys.readouterr().out.splitlines() == [
        "deleted pods/client in namespace demo",
        "put deployments/httpbin in namespace demo back",
    ]
    assert main(["clean"]) == 0
    assert "nothing was left behind" in capsys.readouterr().err


def test_a_run_that_goes_on_is_left_alone(cluster) -> None:
    objects, api = cluster
    changes = Changes(Lease.of(EDIT, os.getpid(), name="edit-1"), api)
    changes.will_create(POD)
    assert main(["clean"]) == 0
    assert POD in objects
    assert changes.take_back() == ["deleted pods/client in namespace demo"]


def test_another_cluster_is_never_touched(cluster, tmp_path, capsys) -> None:
    objects, api = cluster
    crashed_run(api, objects)
    kubeconfig(tmp_path / "k", 9)
    assert main(["clean"]) == 3
    assert context(objects) == EDITED
    said = capsys.readouterr().err
    assert "leads to http://127.0.0.1:9 now" in said
    assert "changes.json" in said
    assert (tmp_path / "runtime" / "istio-sidecar" / "edit-1.json").exists()
