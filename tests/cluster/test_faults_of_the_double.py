"""Each fault that the double can be asked for does what its table in the README says.

Nothing here imports the plugin.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ground import CHECKOUT, HTTPBIN, Cluster, until_1_21

pytestmark = until_1_21

VERSION = "1.8.3"
FLAGS = ("--set", "profile=minimal", "--set", "values.global.imagePullPolicy=IfNotPresent")
PATCH = [
    {"op": "replace", "path": f"/spec/template/spec/containers/1/securityContext/{name}", "value": True}
    for name in ("privileged", "allowPrivilegeEscalation")
]


@pytest.fixture
def installed(
    cluster: Cluster, istio_images: Callable[[str], tuple[str, ...]], istioctl: Callable[..., Path]
) -> Callable[[str], contextlib.AbstractContextManager[Path]]:
    """Installs the double with a fault, and takes it away again with the namespace of the test."""
    cluster.load(istio_images(VERSION))

    @contextlib.contextmanager
    def install(fault: str) -> Iterator[Path]:
        program = istioctl(VERSION, fault, delay=1)
        kubeconfig = f"--kubeconfig={cluster.kubeconfig}"
        try:
            cluster.install(program, *FLAGS, "--readiness-timeout=60s")
            cluster.kubectl("create", "namespace", fault)
            cluster.kubectl("label", "namespace", fault, "istio-injection=enabled")
            yield program
        finally:
            cluster.testbed.run(program, "x", "uninstall", "--purge", "-y", kubeconfig)
            cluster.kubectl("delete", "mutatingwebhookconfiguration", "policy-double", "--ignore-not-found")
            cluster.kubectl("delete", "namespace", fault, "--ignore-not-found", "--wait=false")

    return install


def start_pod(cluster: Cluster, namespace: str) -> str:
    """The containers of a new pod, or what the API server says instead."""
    argv = ("kubectl", f"--kubeconfig={cluster.kubeconfig}", "run", "pod", "-n", namespace)
    policy = (
        f"--image={HTTPBIN}",
        "--image-pull-policy=IfNotPresent",
        "-o",
        "jsonpath={.spec.containers[*].name}",
    )
    done = cluster.testbed.run(*argv, *policy, check=False)
    return done.stdout or done.stderr


def apply_httpbin(cluster: Cluster, program: Path, namespace: str) -> None:
    """The lab's httpbin, with a sidecar and its edit."""
    argv = (program, "kube-inject", f"--kubeconfig={cluster.kubeconfig}", "-f")
    injected = cluster.testbed.run(*argv, CHECKOUT / "manifests" / "httpbin.yaml").stdout
    cluster.kubectl("apply", "-n", namespace, "-f", "-", text=injected)
    cluster.kubectl("rollout", "status", "-n", namespace, "deployment/httpbin", "--timeout=90s")
    cluster.kubectl("patch", "deployment", "httpbin", "-n", namespace, "--type=json", "-p", json.dumps(PATCH))


def privileged(cluster: Cluster, kind: str, namespace: str) -> set[bool]:
    argv = ("get", kind, "-n", namespace, "-o", "json")
    specs = [one["spec"] for one in json.loads(cluster.kubectl(*argv))["items"]]
    specs = [spec["template"]["spec"] if kind == "deployment" else spec for spec in specs]
    sidecars = [c for spec in specs for c in spec["containers"] if c["name"] == "istio-proxy"]
    return {sidecar["securityContext"]["privileged"] for sidecar in sidecars}


def test_a_webhook_that_is_never_ready_lets_every_pod_pass(cluster: Cluster, installed) -> None:
    fault = "webhook-never-ready"
    with installed(fault):
        time.sleep(3)
        assert start_pod(cluster, fault) == "pod"


def test_a_refused_injection_refuses_the_pod(cluster: Cluster, installed) -> None:
    fault = "injection-refused"
    with installed(fault):
        time.sleep(3)
        assert "injection refused, as asked for" in start_pod(cluster, fault)


def test_the_edit_of_a_deployment_is_reverted(cluster: Cluster, installed) -> None:
    fault = "revert-privileged-deployment"
    with installed(fault) as program:
        apply_httpbin(cluster, program, fault)
        assert privileged(cluster, "deployment", fault) == {False}


def test_the_edit_of_a_deployment_does_not_reach_the_pod(cluster: Cluster, installed) -> None:
    fault = "revert-privileged-pod"
    with installed(fault) as program:
        apply_httpbin(cluster, program, fault)
        cluster.kubectl("rollout", "status", "-n", fault, "deployment/httpbin", "--timeout=90s")
        assert privileged(cluster, "deployment", fault) == {True}
        assert privileged(cluster, "pods", fault) == {False}


def test_a_privileged_pod_is_refused_as_pod_security_refuses_it(cluster: Cluster, installed) -> None:
    fault = "refuse-privileged"
    with installed(fault) as program:
        apply_httpbin(cluster, program, fault)
        deadline = time.monotonic() + 30
        events = ""
        while "violates PodSecurity" not in events:
            assert time.monotonic() < deadline, events
            events = cluster.kubectl("get", "events", "-n", fault, "--field-selector=reason=FailedCreate")
            time.sleep(0.5)
        assert privileged(cluster, "pods", fault) == {False}


def test_an_istiod_that_is_never_ready_fails_the_install(cluster: Cluster, istio_images, istioctl) -> None:
    cluster.load(istio_images(VERSION))
    program, kubeconfig = istioctl(VERSION, "istiod-never-ready"), f"--kubeconfig={cluster.kubeconfig}"
    try:
        argv = (program, "install", "-y", kubeconfig, *FLAGS, "--readiness-timeout=6s")
        done = cluster.testbed.run(*argv, check=False)
        assert done.returncode == 1
        assert "resources not ready after 6s" in done.stdout
    finally:
        cluster.testbed.run(program, "x", "uninstall", "--purge", "-y", kubeconfig)


def test_an_install_that_hangs_says_one_line_first(cluster: Cluster, istioctl) -> None:
    argv = [istioctl(VERSION, "install-hangs"), "install", "-y", f"--kubeconfig={cluster.kubeconfig}", *FLAGS]
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run(argv, env=cluster.testbed.environment, capture_output=True, timeout=5, check=False)
    assert caught.value.stdout == b"- Processing resources for Istio core.\n"
