"""The double itself, on a plain kind cluster and by kubectl alone: it must be what the lab finds.

Nothing here imports the plugin.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ground import CHECKOUT, Cluster, Testbed, until_1_21

pytestmark = until_1_21

VERSION = "1.8.3"
LISTING = CHECKOUT / "tests" / "data" / "lab-listing-1.8.3.txt"
INSTALL = (
    *("install", "-y", "--set", "profile=minimal", "--set", "values.global.imagePullPolicy=IfNotPresent"),
    *("--set", "meshConfig.accessLogFile=/dev/stdout", "--set", "meshConfig.accessLogEncoding=JSON"),
    *("--readiness-timeout", "60s"),
)


@pytest.fixture(scope="module")
def mesh(
    cluster: Cluster,
    istio_images: Callable[[str], tuple[str, ...]],
) -> Iterator[Cluster]:
    """The cluster with the double installed, and two injected pods: httpbin in `lab`, client in `mesh`."""
    cluster.load(istio_images(VERSION))
    cluster.empty()
    done = call(cluster, *INSTALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✔ Installation complete" in done.stdout
    injected = call(cluster, "kube-inject", "-f", str(CHECKOUT / "manifests" / "httpbin.yaml"))
    assert injected.returncode == 0, injected.stderr
    cluster.kubectl("create", "namespace", "lab")
    cluster.kubectl("apply", "-n", "lab", "-f", "-", text=injected.stdout)
    cluster.kubectl("rollout", "status", "-n", "lab", "deployment/httpbin", "--timeout=90s")
    cluster.kubectl("create", "namespace", "mesh")
    cluster.kubectl("label", "namespace", "mesh", "istio-injection=enabled")
    yield cluster
    call(cluster, "x", "uninstall", "--purge", "-y")
    cluster.kubectl("delete", "namespace", "lab", "mesh", "--wait=false")


def call(
    cluster: Cluster, *arguments: str, version: str = VERSION, delay: int = 4
) -> subprocess.CompletedProcess[str]:
    environment = {
        "ISTIO_DOUBLE_VERSION": version,
        "ISTIO_DOUBLE_DELAY": str(delay),
        "KUBECONFIG": str(cluster.kubeconfig),
    }
    return subprocess.run(
        [sys.executable, CHECKOUT / "tests" / "cluster" / "double" / "istioctl.py", *arguments],
        env={**cluster.testbed.environment, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def newest_pod(cluster: Cluster, namespace: str) -> str:
    listed = json.loads(cluster.kubectl("get", "pods", "-n", namespace, "-o", "json"))["items"]
    return str(max(listed, key=lambda pod: pod["metadata"]["creationTimestamp"])["metadata"]["name"])


def in_sidecar(cluster: Cluster, *argv: str, check: bool = True) -> str:
    pod = newest_pod(cluster, "lab")
    return cluster.kubectl("exec", "-n", "lab", pod, "-c", "istio-proxy", "--", *argv, check=check)


def edit_sidecar(cluster: Cluster, **fields: bool) -> None:
    """The lab's step: edit the live Deployment's istio-proxy, and wait until its pod is the only one."""
    deployment = json.loads(cluster.kubectl("get", "deployment", "httpbin", "-n", "lab", "-o", "json"))
    containers = deployment["spec"]["template"]["spec"]["containers"]
    place = next(i for i, container in enumerate(containers) if container["name"] == "istio-proxy")
    path = f"/spec/template/spec/containers/{place}/securityContext"
    patch = [{"op": "replace", "path": f"{path}/{name}", "value": value} for name, value in fields.items()]
    cluster.kubectl("patch", "deployment", "httpbin", "-n", "lab", "--type=json", "-p", json.dumps(patch))
    cluster.kubectl("rollout", "status", "-n", "lab", "deployment/httpbin", "--timeout=90s")


def with_names(text: str) -> str:
    """The listing as this image prints it: its list of services knows port 22 by name."""
    return text.replace("dpt:22\n", "dpt:ssh\n").strip()


def test_sudo_is_refused_before_the_edit(mesh: Cluster) -> None:
    pod = newest_pod(mesh, "lab")
    argv = ("kubectl", f"--kubeconfig={mesh.kubeconfig}", "exec", "-n", "lab", pod, "-c", "istio-proxy", "--")
    done = mesh.testbed.run(*argv, "sudo", "iptables", "-L", "-t", "nat", check=False)
    assert done.returncode == 1
    assert 'The "no new privileges" flag is set' in done.stderr


def test_the_labs_two_fields_leave_the_root_read_only_so_that_only_save_answers(mesh: Cluster) -> None:
    edit_sidecar(mesh, privileged=True, allowPrivilegeEscalation=True)
    assert "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001" in in_sidecar(
        mesh, "sudo", "iptables-legacy-save"
    )
    assert in_sidecar(mesh, "sudo", "iptables", "-L", "-t", "nat", check=False) == ""


def test_the_labs_command_prints_the_labs_table(mesh: Cluster) -> None:
    edit_sidecar(mesh, privileged=True, allowPrivilegeEscalation=True, readOnlyRootFilesystem=False)
    listing = in_sidecar(mesh, "sudo", "iptables", "-L", "-t", "nat")
    assert listing.strip() == with_names(LISTING.read_text())


def test_envoy_listens_where_the_rules_lead(mesh: Cluster) -> None:
    listeners = in_sidecar(mesh, "pilot-agent", "request", "GET", "listeners").splitlines()
    assert listeners[:2] == ["virtualOutbound::0.0.0.0:15001", "virtualInbound::0.0.0.0:15006"]
    assert [line.rpartition(":")[2] for line in listeners[2:]] == ["15021", "15090"]
    told = call(mesh, "proxy-config", "listeners", f"{newest_pod(mesh, 'lab')}.lab", "-o", "json")
    ports = {one["address"]["socket_address"]["port_value"] for one in json.loads(told.stdout)}
    assert ports == {15001, 15006, 15021, 15090}


def test_the_webhook_is_not_ready_for_some_seconds_and_then_injects(mesh: Cluster) -> None:
    image = ("--image=docker.io/kennethreitz/httpbin:latest", "--image-pull-policy=IfNotPresent")
    call(mesh, "x", "uninstall", "--purge", "-y")
    assert call(mesh, *INSTALL, delay=20).returncode == 0
    # istiod is available before kube-proxy has its Service; until then the node refuses the connection.
    reached_by = time.monotonic() + 15
    while not containers(mesh, "early"):
        assert time.monotonic() < reached_by, "no connection to the webhook"
        mesh.kubectl("run", "early", "-n", "mesh", *image, "--restart=Never", check=False)
    assert containers(mesh, "early") == ["early"]
    deadline = time.monotonic() + 60
    while containers(mesh, "client") != ["client", "istio-proxy"]:
        assert time.monotonic() < deadline, "the webhook did not become ready"
        mesh.kubectl("delete", "pod", "client", "-n", "mesh", "--ignore-not-found", "--grace-period=1")
        mesh.kubectl("run", "client", "-n", "mesh", *image, "--labels=app=client", "--restart=Never")
    mesh.kubectl("wait", "-n", "mesh", "pod/client", "--for=condition=Ready", "--timeout=60s")


def containers(cluster: Cluster, pod: str) -> list[str]:
    found = cluster.kubectl("get", "pod", pod, "-n", "mesh", "-o", "json", "--ignore-not-found")
    return [container["name"] for container in json.loads(found)["spec"]["containers"]] if found else []


def test_both_sidecars_have_a_request_in_their_logs(mesh: Cluster) -> None:
    if containers(mesh, "client") != ["client", "istio-proxy"]:
        pytest.fail("the test of the webhook leaves no client")
    curl = ("curl", "-s", "-i", "-m", "10", "-A", "proof-of-capture", "http://httpbin.lab:8000/anything")
    answer = mesh.kubectl("exec", "-n", "mesh", "client", "-c", "client", "--", *curl)
    assert "server: envoy\n" in answer.replace("\r\n", "\n")
    assert "x-envoy-upstream-service-time" in answer
    sent = logged(mesh, "client", "mesh")
    assert sent["upstream_cluster"] == "PassthroughCluster"
    received = logged(mesh, newest_pod(mesh, "lab"), "lab")
    assert received["upstream_cluster"] == "inbound|80||"
    assert received["response_code"] == 200


def logged(cluster: Cluster, pod: str, namespace: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        log = cluster.kubectl("logs", "-n", namespace, pod, "-c", "istio-proxy")
        for line in log.splitlines():
            if "proof-of-capture" in line:
                return dict(json.loads(line))
        time.sleep(0.5)
    pytest.fail(f"no such request in the log of {pod}:\n{log[-1000:]}")


@pytest.mark.parametrize("flag", ["--wait", "--skip-phase", "--istio-version"])
def test_flags_that_1_8_3_lacks_are_refused(mesh: Cluster, flag: str) -> None:
    done = call(mesh, "install", "-y", flag)
    assert done.returncode == 64
    assert done.stderr == f"Error: unknown flag: {flag}\n"


def test_install_asks_before_it_changes_a_cluster(mesh: Cluster) -> None:
    done = call(mesh, "install", "--set", "profile=minimal")
    assert done.returncode == 1
    assert "Proceed? (y/N)" in done.stdout


def test_the_version_in_the_cluster_is_told(mesh: Cluster) -> None:
    told = json.loads(call(mesh, "version", "-o", "json").stdout)
    assert told["clientVersion"]["version"] == VERSION
    assert [part["Info"]["version"] for part in told["meshVersion"]] == [VERSION]
    assert "Istio is installed and verified" in call(mesh, "verify-install").stdout


def test_a_fault_of_install_is_told_with_its_output(
    testbed: Testbed, mesh: Cluster, istioctl: Callable[..., Path]
) -> None:
    program = istioctl(VERSION, "install-fails")
    done = testbed.run(
        program, "install", "-y", "--set", "profile=minimal", "--kubeconfig", mesh.kubeconfig, check=False
    )
    assert done.returncode == 1
    assert "✘ Istiod encountered an error" in done.stdout
    assert done.stderr == "Error: failed to install manifests: errors occurred during operation\n"
