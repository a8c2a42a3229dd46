"""The double in every era of rules: a privileged sidecar by the webhook, and the tables that were observed.

Nothing here imports the plugin. One cluster serves all versions: of Kubernetes 1.20, where 1.27's sidecar is
a container like any other, or of a current release, where it is an init container.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ground import CHECKOUT, Cluster, until_1_21

PRIVILEGED = {"privileged": True, "allowPrivilegeEscalation": True}


def rules(text: str) -> list[str]:
    return re.findall(r"^(?:\[\d+:\d+\] )?(-A .*)$", text, flags=re.MULTILINE)


def httpbin(*, merged: bool) -> str:
    """httpbin's manifest, with a user's part of the sidecar where the webhook merges one."""
    documents = list(yaml.safe_load_all((CHECKOUT / "manifests" / "httpbin.yaml").read_text()))
    if merged:
        part = {"name": "istio-proxy", "image": "auto", "imagePullPolicy": "IfNotPresent"}
        documents[-1]["spec"]["template"]["spec"]["containers"].append(
            {**part, "securityContext": PRIVILEGED}
        )
    return yaml.safe_dump_all(documents)


def wait_for_sidecar(cluster: Cluster, namespace: str) -> str:
    """The ready pod with a sidecar; pods that the webhook let pass are made anew."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        listed = json.loads(cluster.kubectl("get", "pods", "-n", namespace, "-o", "json"))["items"]
        for pod in listed:
            statuses = pod["status"].get("containerStatuses") or [{"ready": False}]
            # a pod that passed may have the user's part of a sidecar, with the image "auto"
            injected = "sidecar.istio.io/status" in pod["metadata"].get("annotations", {})
            if injected and all(status["ready"] for status in statuses):
                return str(pod["metadata"]["name"])
            if not injected:
                name = pod["metadata"]["name"]
                cluster.kubectl("delete", "pod", "-n", namespace, name, "--grace-period=1", check=False)
        time.sleep(1)
    shown = cluster.kubectl("describe", "pods", "-n", namespace)
    pytest.fail(f"no pod with a ready sidecar in {namespace}\n{shown[-3000:]}")


@pytest.mark.parametrize("version", [pytest.param("1.6.14", marks=until_1_21), "1.16.7", "1.20.8", "1.27.3"])
def test_a_privileged_sidecar_has_the_observed_tables(
    version: str,
    cluster: Cluster,
    istio_images: Callable[[str], tuple[str, ...]],
    istioctl: Callable[..., Path],
) -> None:
    cluster.load(istio_images(version))
    program = istioctl(version, delay=1)
    merged = version != "1.6.14"
    namespace = f"era-{version.replace('.', '-')}"
    kubeconfig = f"--kubeconfig={cluster.kubeconfig}"
    settings = ["profile=minimal", "values.global.imagePullPolicy=IfNotPresent"]
    settings += [] if merged else ["values.global.proxy.privileged=true"]
    flags = [word for setting in settings for word in ("--set", setting)]
    cluster.install(program, *flags, "--readiness-timeout=60s")
    try:
        cluster.kubectl("create", "namespace", namespace)
        cluster.kubectl("label", "namespace", namespace, "istio-injection=enabled")
        # 1.6 adds a container of the same name instead of merging, and the API server refuses the pod
        cluster.kubectl("apply", "-n", namespace, "-f", "-", text=httpbin(merged=merged))
        pod = wait_for_sidecar(cluster, namespace)
        assert observed_by_exec(cluster, namespace, pod) == observed(version)
    finally:
        cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")
        command = ["x", "uninstall"] if version != "1.6.14" else []
        if command:
            cluster.testbed.run(program, *command, "--purge", "-y", kubeconfig)
        else:
            cluster.kubectl("delete", "mutatingwebhookconfiguration", "istio-sidecar-injector")
            cluster.kubectl("delete", "deployment", "istiod", "-n", "istio-system")


def observed_by_exec(cluster: Cluster, namespace: str, pod: str) -> dict[str, list[str]]:
    argv = ("exec", "-n", namespace, pod, "-c", "istio-proxy", "--", "sudo")
    return {b: rules(cluster.kubectl(*argv, f"iptables-{b}-save", "-c")) for b in ("legacy", "nft")}


def observed(version: str) -> dict[str, list[str]]:
    directory = CHECKOUT / "tests" / "data" / f"observed-{version}"
    return {b: rules((directory / f"iptables-{b}-save_-c.txt").read_text()) for b in ("legacy", "nft")}


def test_uninstall_is_no_command_of_1_6(istioctl: Callable[..., Path]) -> None:
    argv = [istioctl("1.6.14"), "x", "uninstall", "--purge", "-y"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 127
    assert "unknown command" in done.stderr
