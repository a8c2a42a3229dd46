"""The plugin on a cluster that is there: with exactly the rights it asks for, and leaving it as it was.

One cluster with two workloads: `default/httpbin`, whose sidecar is privileged, and `plain/httpbin`, two
replicas of it as kube-inject makes them. Each mode runs as a service account that has exactly the roles of
manifests/rbac-*.yaml that the mode names.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ground import (
    CHECKOUT,
    LAB_VERSION,
    MINOR,
    Lab,
    Outcome,
    Testbed,
    from_1_33,
    new_name,
    until_1_21,
)

SUITE = ("--pyargs", "pytest_istio_sidecar.suite")
MANIFESTS = CHECKOUT / "manifests"
IN_PLAIN = ("--istio-namespace=plain",)
BARE = """FROM {image}
USER 0
RUN rm -f /usr/bin/*sh /usr/bin/cat /usr/bin/sudo /usr/bin/id /usr/sbin/*tables*
USER 1337:1337
"""
"""An image of a sidecar as distroless ones are: what the sidecar itself runs, and nothing to run by hand."""
ONE_TEST = "def test_it(iptables_nat):\n    assert iptables_nat.chain('ISTIO_REDIRECT').rules\n"


class Mesh:
    """The cluster, and runs of the plugin on it as service accounts."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.kubeconfig = lab.directory / "runtime" / "istio-sidecar" / f"kind-{lab.name}" / "kubeconfig"

    def kubectl(self, *argv: str, text: str = "", check: bool = True) -> str:
        command = ("kubectl", f"--kubeconfig={self.kubeconfig}", *argv)
        return self.lab.testbed.run(*command, text=text, check=check).stdout

    def account(self, namespace: str, *roles: str, without: str = "") -> Path:
        """A kubeconfig of a service account that has these roles, less one resource."""
        name = f"a-{uuid.uuid4().hex[:6]}"
        self.kubectl("create", "serviceaccount", name, "-n", namespace)
        for role in roles:
            text = (MANIFESTS / f"rbac-{role}.yaml").read_text().replace(f"[{without}]", "[nothing]")
            told = f"name: istio-sidecar-{role}"
            text = text.replace(told, f"{told}-{name}")
            self.kubectl("apply", "-n", namespace, "-f", "-", text=text)
            binding = (f"--role=istio-sidecar-{role}-{name}", f"--serviceaccount={namespace}:{name}")
            self.kubectl("create", "rolebinding", f"{role}-{name}", "-n", namespace, *binding)
        admin = json.loads(self.kubectl("config", "view", "--raw", "-o", "json"))
        user = {"name": "me", "user": {"token": self._token(namespace, name)}}
        cluster = admin["clusters"][0]
        context = {"name": "theirs", "context": {"cluster": cluster["name"], "user": "me"}}
        path = self.lab.directory / f"{name}.kubeconfig"
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "theirs"}
        path.write_text(json.dumps({**config, "clusters": [cluster], "users": [user], "contexts": [context]}))
        return path

    def _token(self, namespace: str, name: str) -> str:
        """Up to Kubernetes 1.23 a secret with a token is made for each account, a moment later."""
        if MINOR >= 24:
            return self.kubectl("create", "token", name, "-n", namespace).strip()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            secrets = self.kubectl(
                "get", "serviceaccount", name, "-n", namespace, "-o", "jsonpath={.secrets[0].name}"
            )
            if secrets:
                token = self.kubectl(
                    "get", "secret", secrets, "-n", namespace, "-o", "jsonpath={.data.token}"
                )
                return base64.b64decode(token).decode()
            time.sleep(0.2)
        pytest.fail(f"no token for {name}")

    def argv(self, kubeconfig: Path, *options: str) -> list[str]:
        own = ("-p", "no:cacheprovider", "--istio-environment=existing", f"--istio-kubeconfig={kubeconfig}")
        return [sys.executable, "-m", "pytest", *own, *options]

    def run(self, kubeconfig: Path, *options: str, **environment: str) -> Outcome:
        began = time.monotonic()
        done = subprocess.run(
            self.argv(kubeconfig, *options),
            cwd=self.lab.directory,
            env={**self.lab.environment, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Outcome(
            status=done.returncode, output=done.stdout + done.stderr, seconds=time.monotonic() - began
        )

    def deployment(self, namespace: str) -> dict:
        return json.loads(self.kubectl("get", "deployment", "httpbin", "-n", namespace, "-o", "json"))["spec"]

    def settle(self, namespace: str) -> None:
        """Wait until the rollout is over, and nothing is left of the pods it replaced.

        The test bed's crictl lists every container and then asks for each: one that goes in between ends it.
        """
        self.kubectl("rollout", "status", "deployment/httpbin", "-n", namespace, "--timeout=120s")
        deadline = time.monotonic() + 120
        while any(self._leftovers(held) for held in ("default", namespace)):
            assert time.monotonic() < deadline, f"containers of deleted pods are still there ({namespace})"
            time.sleep(0.5)

    def _leftovers(self, namespace: str) -> int:
        """Containers on the node whose pod is gone, or on its way."""
        told = self.kubectl("get", "pods", "-n", namespace, "-o", "json")
        pods = [pod["metadata"] for pod in json.loads(told)["items"]]
        staying = [pod["uid"] for pod in pods if not pod.get("deletionTimestamp")]
        live = sum(self._containers("uid", uid) for uid in staying)
        return self._containers("namespace", namespace) - live

    def _containers(self, label: str, value: str) -> int:
        node = f"{self.lab.name}-control-plane"
        chosen = f'labels."io.kubernetes.pod.{label}"=={value}'
        argv = ("docker", "exec", node, "ctr", "--namespace", "k8s.io", "containers", "ls", "--quiet", chosen)
        return len(self.lab.testbed.run(*argv).stdout.split())


@pytest.fixture(scope="module")
def mesh(testbed: Testbed, make_lab: Callable[..., Lab]) -> Iterator[Mesh]:
    # Its pods are replaced again and again: they drain for one second instead of five.
    options = ("--istio-set=meshConfig.defaultConfig.terminationDrainDuration=1s",)
    lab = make_lab(new_name("mesh"), options=options)
    (lab.directory / "test_one.py").write_text(ONE_TEST)
    try:
        done = lab.run("test_one.py", "--istio-keep=always")
        assert done.status == 0, done.output
        made = Mesh(lab)
        made.kubectl("create", "namespace", "plain")
        manifest = (MANIFESTS / "httpbin.yaml").read_text().replace("replicas: 1", "replicas: 2")
        environment = {**testbed.environment, "KUBECONFIG": str(made.kubeconfig)}
        injected = subprocess.run(
            [lab.istioctl, "kube-inject", "-f", "-"],
            input=manifest, env=environment, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        made.kubectl("apply", "-n", "plain", "-f", "-", text=injected.stdout)
        made.settle("plain")
        yield made
    finally:
        lab.delete()


def test_reading_takes_the_role_for_reading_and_nothing_else(mesh: Mesh) -> None:
    done = mesh.run(mesh.account("default", "read"), *SUITE)
    assert done.status == 0, done.output
    assert done.count("passed") > 25
    assert f"test_4_traffic.py {'s' * 11} " in done.output, done.output
    assert "real requests" not in done.output


@pytest.mark.parametrize(
    ("resource", "missing"),
    [
        ("pods", 'verb list, apiGroup "", resource pods, namespace default'),
        ("pods/exec", 'apiGroup "", resource pods/exec, namespace default'),
        (
            "deployments, replicasets, statefulsets, daemonsets",
            'verb get, apiGroup "apps", resource deployments, namespace default',
        ),
    ],
)
def test_a_right_that_is_missing_is_named(mesh: Mesh, resource: str, missing: str) -> None:
    done = mesh.run(mesh.account("default", "read", without=resource), *SUITE)
    assert done.status != 0
    assert missing in done.output, done.output
    assert "passed" not in done.output


def test_listeners_are_asked_for_by_port_forward_where_nothing_may_be_run_in_the_pod(mesh: Mesh) -> None:
    mesh.settle("plain")
    account = mesh.account("default", "read", "port-forward", without="pods/exec")
    done = mesh.run(account, *SUITE, "--istio-reader=node")
    assert done.status == 0, done.output
    assert "test_3_listeners.py ....." in done.output, done.output
    assert "envoy admin  port-forward" in done.output, done.output


def test_a_node_that_this_machine_has_no_access_to_is_named_with_the_readers_that_are_left(
    mesh: Mesh,
) -> None:
    elsewhere = f"unix://{mesh.lab.directory}/no-engine.sock"
    account = mesh.account("default", "read")
    done = mesh.run(account, "test_one.py", "--istio-reader=node", DOCKER_HOST=elsewhere)
    assert done.status == 1, done.output
    node = f"{mesh.lab.name}-control-plane"
    assert f"the node {node} of default/httpbin" in done.output, done.output
    assert "is no container of this machine's engine, so nothing can be run on it" in done.output
    assert "fix      --istio-reader=exec (privileged sidecar) or --istio-reader=debug" in done.output
    assert "passed" not in done.output


def test_where_neither_way_to_the_listeners_is_allowed_both_rights_are_named(mesh: Mesh) -> None:
    (mesh.lab.directory / "test_listeners.py").write_text("def test_it(envoy_listeners): pass\n")
    mesh.settle("plain")
    account = mesh.account("default", "read", without="pods/exec")
    done = mesh.run(account, "test_listeners.py", "--istio-reader=node")
    assert done.status == 1, done.output
    for resource in ("pods/exec", "pods/portforward"):
        assert f'apiGroup "", resource {resource}, namespace default' in done.output, done.output
    assert "no listener of this pod was checked" in done.output


def test_requests_take_the_role_for_traffic_and_their_pod_is_gone_afterwards(mesh: Mesh) -> None:
    done = mesh.run(mesh.account("default", "read", "traffic"), *SUITE, "--istio-traffic")
    assert done.status == 0, done.output
    assert "real requests" in done.output
    left = mesh.kubectl("get", "pods", "-o", "name")
    assert "istio-sidecar-client-" not in left


def test_every_replica_is_made_privileged_read_and_put_back(mesh: Mesh) -> None:
    before = mesh.deployment("plain")
    account = mesh.account("plain", "read", "make-privileged")
    done = mesh.run(account, *SUITE, "--istio-namespace=plain", "--istio-make-privileged")
    assert done.status == 0, done.output
    assert "put deployments/httpbin in namespace plain back" in done.output
    assert mesh.deployment("plain") == before
    mesh.settle("plain")


def test_an_unprivileged_pod_is_read_from_its_node(mesh: Mesh) -> None:
    mesh.settle("plain")
    done = mesh.run(mesh.account("plain", "read"), *SUITE, "--istio-namespace=plain", "--istio-reader=auto")
    assert done.status == 0, done.output
    assert "node (nsenter on " in done.output


def test_a_sidecar_whose_image_has_no_shell_and_no_iptables_is_read_from_its_node(mesh: Mesh) -> None:
    image, bare = f"docker.io/istio/proxyv2:{LAB_VERSION}", f"docker.io/istio/proxyv2:{LAB_VERSION}-bare"
    testbed = mesh.lab.testbed
    build = ("env", "DOCKER_BUILDKIT=0", "docker", "build", "--quiet", "--tag", bare, "-")
    testbed.run(*build, text=BARE.format(image=image))
    testbed.run("kind", "load", "docker-image", "--name", mesh.lab.name, bare)
    mesh.kubectl("create", "namespace", "bare")
    told = json.loads(mesh.kubectl("get", "deployment", "httpbin", "-n", "plain", "-o", "json"))
    spec = told["spec"]["template"]["spec"]
    (sidecar,) = (
        held
        for held in (*spec["containers"], *spec.get("initContainers", ()))
        if held["name"] == "istio-proxy"
    )
    sidecar |= {"image": bare, "imagePullPolicy": "IfNotPresent"}
    told["metadata"] = {"name": "httpbin", "labels": told["metadata"].get("labels", {})}
    del told["status"]
    told["spec"]["replicas"] = 1
    mesh.kubectl("apply", "-n", "bare", "-f", "-", text=json.dumps(told))
    service = mesh.kubectl("get", "serviceaccount", "httpbin", "-n", "plain", "-o", "name", check=False)
    if service:
        mesh.kubectl("create", "serviceaccount", "httpbin", "-n", "bare")
    mesh.kubectl("rollout", "status", "deployment/httpbin", "-n", "bare", "--timeout=120s")
    account = mesh.account("bare", "read")

    by_exec = mesh.run(account, "test_one.py", "--istio-namespace=bare", "--istio-reader=exec")
    assert by_exec.status == 1, by_exec.output
    assert "a distroless image has no shell, no sudo and no iptables" in by_exec.output, by_exec.output

    done = mesh.run(account, *SUITE, "--istio-namespace=bare", "--istio-reader=auto")
    assert done.status == 0, done.output
    assert done.count("passed") > 25
    assert "node (nsenter on " in done.output


@until_1_21
def test_a_debug_container_is_refused_by_name_where_kubernetes_has_none(mesh: Mesh) -> None:
    done = mesh.run(mesh.account("plain", "read", "debug"), "test_one.py", *IN_PLAIN, "--istio-reader=debug")
    assert done.status == 1, done.output
    assert "the cluster is older than Kubernetes 1.23, which was the first to have them" in done.output


@from_1_33
def test_a_debug_container_takes_its_role_and_reads_every_unprivileged_replica(mesh: Mesh) -> None:
    account = mesh.account("plain", "read", "debug")
    done = mesh.run(account, *SUITE, *IN_PLAIN, "--istio-reader=debug")
    assert done.status == 0, done.output
    assert "debug (ephemeral container istio-sidecar-" in done.output
    pods = json.loads(mesh.kubectl("get", "pods", "-n", "plain", "-o", "json"))["items"]
    assert [len(pod["spec"].get("ephemeralContainers", [])) for pod in pods] == [1, 1]


@from_1_33
def test_the_right_to_a_debug_container_is_named_where_it_is_missing(mesh: Mesh) -> None:
    done = mesh.run(mesh.account("plain", "read"), "test_one.py", *IN_PLAIN, "--istio-reader=debug")
    assert done.status == 1, done.output
    missing = 'verb patch, apiGroup "", resource pods/ephemeralcontainers, namespace plain'
    assert missing in done.output, done.output


@pytest.fixture
def baseline(mesh: Mesh) -> Iterator[None]:
    """The namespace `plain` under Pod Security's level baseline, which its pods were made before."""
    name = "pod-security.kubernetes.io/enforce"
    mesh.kubectl("label", "namespace", "plain", f"{name}=baseline")
    yield
    mesh.kubectl("label", "namespace", "plain", f"{name}-")


@from_1_33
@pytest.mark.usefixtures("baseline")
@pytest.mark.parametrize(
    ("role", "option"),
    [("make-privileged", "--istio-make-privileged"), ("debug", "--istio-reader=debug")],
)
def test_what_pod_security_refuses_is_an_error_that_says_so(mesh: Mesh, role: str, option: str) -> None:
    before = mesh.deployment("plain")
    done = mesh.run(mesh.account("plain", "read", role), "test_one.py", *IN_PLAIN, option)
    assert done.status == 1, done.output
    assert 'violates PodSecurity "baseline' in done.output
    assert mesh.deployment("plain") == before


def test_what_a_killed_run_changed_is_put_back_by_clean(mesh: Mesh) -> None:
    mesh.settle("plain")
    before = mesh.deployment("plain")
    (mesh.lab.directory / "test_kill.py").write_text(
        "import os, signal\n\ndef test_it(iptables_nat):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    account = mesh.account("plain", "read", "make-privileged")
    done = mesh.run(account, "test_kill.py", "--istio-namespace=plain", "--istio-make-privileged")
    assert done.status == -signal.SIGKILL
    assert mesh.deployment("plain") != before
    # Not the whole of clean: it would delete the cluster, which a run that has ended keeps.
    (mesh.kubeconfig.parent.with_suffix(".json")).rename(mesh.lab.directory / "set-aside")
    try:
        cleaned = mesh.lab.command("clean")
    finally:
        (mesh.lab.directory / "set-aside").rename(mesh.kubeconfig.parent.with_suffix(".json"))
    assert cleaned.returncode == 0, cleaned.stderr
    assert "put deployments/httpbin in namespace plain back" in cleaned.stdout
    assert mesh.deployment("plain") == before


def test_the_current_context_of_ones_own_file_is_taken_when_none_is_named(mesh: Mesh) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--istio-environment=existing", *SUITE],
        cwd=mesh.lab.directory,
        env={**os.environ, "KUBECONFIG": str(mesh.account("default", "read"))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_pod_without_a_sidecar_is_one_failing_test_beside_a_workload_that_is_judged(mesh: Mesh) -> None:
    told = json.loads(mesh.kubectl("get", "deployment", "httpbin", "-n", "default", "-o", "json"))
    spec = told["spec"]["template"]["spec"]
    for kind in ("containers", "initContainers"):
        spec[kind] = [held for held in spec.get(kind, []) if not held["name"].startswith("istio-")]
    labels = {"app": "bare"}
    told["metadata"] = {"name": "bare", "labels": labels}
    told["spec"] |= {"selector": {"matchLabels": labels}, "replicas": 1}
    told["spec"]["template"]["metadata"] = {"labels": labels}
    del told["status"]
    mesh.kubectl("apply", "-n", "default", "-f", "-", text=json.dumps(told))
    try:
        mesh.kubectl("rollout", "status", "deployment/bare", "-n", "default", "--timeout=120s")
        workloads = ("--istio-workload=deployment/httpbin", "--istio-workload=deployment/bare")
        done = mesh.run(mesh.account("default", "read"), *SUITE, *workloads)
    finally:
        mesh.kubectl("delete", "deployment", "bare", "-n", "default", "--wait")
    assert done.status == 1, done.output
    assert done.count("failed") == 1, done.output
    assert done.count("passed") > 25, done.output
    assert "has no sidecar, though it should: it is named by --istio-workload" in done.output
    assert "the labels of the namespace: " in done.output  # which this role may not read
