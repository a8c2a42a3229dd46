"""Claims on pods of a cluster; workloads judged whole, each by every test; the cluster is a double (fakes).

Its pods answer what real ones answered (data/observed-*), and Envoy what one of 1.8.3 answered.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fakes.api import kubeconfig
from test_kind_faults import Bench, bench
from test_replay import DATA, answers

from pytest_istio_sidecar.environments.cluster.api import KubernetesApi

__all__ = ["bench"]  # a fixture

SCHEMA = json.loads((files("pytest_istio_sidecar.reports") / "report.schema.json").read_text())
SUITE = ("--pyargs", "pytest_istio_sidecar.suite")
SIDECAR_TEST = "test_prerouting_sends_all_tcp_to_istio_inbound"
OWN = """
from pytest_istio_sidecar import *

def test_own(pod_rules, istio_version, sidecar_pod):
    assert_redirected(pod_rules, inbound(80), host=Host())

def test_other():
    pass
"""


def real_pod(name: str, app: str, release: str = "1.8.3", **metadata: Any) -> dict[str, Any]:
    """A pod that a real cluster had, by another name."""
    pod = json.loads((DATA / f"observed-{release}" / "pod.json").read_text())
    labels = {**pod["metadata"]["labels"], "app": app, **metadata.pop("labels", {})}
    pod["metadata"] |= {"name": name, "namespace": "default", "uid": name, "labels": labels, **metadata}
    pod["metadata"]["ownerReferences"] = [{"kind": "Deployment", "name": app, "uid": app}]
    return pod


def without_sidecar(name: str, app: str, **metadata: Any) -> dict[str, Any]:
    pod = copy.deepcopy(real_pod(name, app, **metadata))
    pod["spec"] = {**pod["spec"], "containers": [{"name": app}], "initContainers": []}
    return pod


def beside(bench: Bench, *pods: dict[str, Any], release: str = "1.8.3") -> None:
    """Put pods into the cluster, each in the Deployment of its label, with what commands in it print."""
    for pod in pods:
        name = pod["metadata"]["name"]
        bench.api.beside.setdefault(pod["metadata"]["labels"]["app"], []).append(pod)
        folder = bench.home / f"answers-{name}"
        answers(folder, release)
        for path in folder.glob("*-save_-c"):
            path.write_text(re.sub(r"^.*--dport 8443 .*\n", "", path.read_text(), flags=re.MULTILINE))
        for asked, recorded in (
            ("listeners?format=json", "listeners-1.8"),
            ("config_dump", "config-dump-1.8"),
        ):
            text = (DATA / "envoy" / f"{recorded}.json").read_text()
            (folder / f"pilot-agent_request_GET_{asked}").write_text(text)
        for kind in ("tcp", "tcp6", "udp", "udp6"):
            path = folder / f"cat_/proc/net/{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("  sl  local_address rem_address   st\n")


def run(bench: Bench, *options: str, workloads: tuple[str, ...], tests: tuple[str, ...] = SUITE) -> Any:
    """A run on the cluster: its exit status, what it printed, and its report."""
    bench.api.uid = 0
    named = ("--istio-environment=existing", f"--istio-kubeconfig={bench.theirs}", "--istio-reader=exec")
    asked = [f"--istio-workload={workload}" for workload in workloads]
    status, output = bench.run(*tests, *named, *asked, "--istio-report=report.json", "-rs", *options)
    path = bench.work / "report.json"
    assert path.exists(), output
    return status, output, json.loads(path.read_text())


def by_workload(report: dict[str, Any]) -> dict[str, list[str]]:
    """Outcomes that are not as wanted, by workload."""
    return {
        each["name"]: [
            test["outcome"]
            for test in report["tests"]
            if test["workload"] == each["name"] and test["outcome"] not in ("passed", "skipped")
        ]
        for each in report["workloads"]
    }


# A pod that should have a sidecar


@pytest.mark.parametrize(
    "workers", [(), ("-n2",), ("-n2", "--dist=loadscope")], ids=["alone", "-n2", "loadscope"]
)
def test_a_pod_without_a_sidecar_is_one_failing_test_and_the_answer(bench: Bench, workers: tuple) -> None:
    beside(bench, without_sidecar("cart-1", "cart"))
    bench.api.namespace_labels = {"istio-injection": "enabled"}
    status, output, report = run(bench, *workers, workloads=("deployment/cart",))
    why = "its namespace default is labelled istio-injection=enabled"
    said = f"default/cart-1 has no sidecar, though it should: {why}"
    assert status == 1, output
    assert report["counts"]["failed"] == 1, output
    assert report["counts"]["passed"] == report["counts"]["error"] == report["counts"]["undecided"] == 0
    assert (report["answer"]["verdict"], report["answer"]["text"]) == ("against", said)
    (failed,) = [test for test in report["tests"] if test["outcome"] == "failed"]
    assert "kubectl -n default rollout restart deployment/cart" in failed["message"]
    assert f"one verdict is on all of this, and told by {failed['id']}" in output


def test_the_command_ends_with_1_where_a_pod_lacks_its_sidecar(bench: Bench) -> None:
    beside(bench, without_sidecar("cart-1", "cart"))
    assert tool(bench, "check", "--environment=existing", "--istio-workload=deployment/cart").returncode == 1
    read = tool(bench, "read", "deployment/cart")
    assert read.returncode == 1, read.stderr
    assert "default/cart-1 has no sidecar, though it should: it is named" in read.stderr


def tool(bench: Bench, *arguments: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "pytest_istio_sidecar", *arguments, f"--istio-kubeconfig={bench.theirs}"],
        cwd=bench.work,
        env=bench.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_pod_that_opts_out_is_an_error_that_says_there_is_nothing_to_prove(bench: Bench) -> None:
    beside(bench, without_sidecar("cart-1", "cart", labels={"sidecar.istio.io/inject": "false"}))
    status, output, report = run(bench, workloads=("deployment/cart",))
    assert status == 1
    assert report["counts"]["failed"] == report["counts"]["passed"] == 0
    assert report["counts"]["undecided"] == 1, output
    assert report["answer"]["verdict"] == "undecided"
    assert (
        'is not to have a sidecar: its label sidecar.istio.io/inject is "false"' in report["answer"]["text"]
    )
    assert tool(bench, "check", "--environment=existing", "--istio-workload=deployment/cart").returncode == 3


def test_a_namespace_that_may_not_be_read_is_said_and_changes_no_verdict(bench: Bench) -> None:
    beside(bench, without_sidecar("cart-1", "cart"))
    bench.api.namespace_labels = None
    status, output, report = run(bench, workloads=("deployment/cart",))
    assert (status, report["counts"]["failed"]) == (1, 1)
    assert "not read the labels of the namespace: forbidden: not you" in output


def test_a_replica_without_a_sidecar_is_told_though_the_first_has_one(bench: Bench) -> None:
    beside(bench, real_pod("cart-1", "cart"), without_sidecar("cart-2", "cart"))
    status, _, report = run(bench, workloads=("deployment/cart",))
    assert status == 1
    assert report["answer"]["text"].startswith("default/cart-2 has no sidecar, though it should")


def test_a_test_that_is_run_again_ends_in_the_verdict_again(bench: Bench) -> None:
    beside(bench, without_sidecar("cart-1", "cart"))
    (bench.work / "test_one.py").write_text(OWN)
    (bench.work / "conftest.py").write_text(
        "from _pytest.runner import runtestprotocol\n"
        "def pytest_runtest_protocol(item, nextitem):\n"
        "    runtestprotocol(item, log=False, nextitem=item)\n"
        "    for report in runtestprotocol(item, nextitem=nextitem, log=False):\n"
        "        item.ihook.pytest_runtest_logreport(report=report)\n"
        "    return True\n"
    )
    status, output, report = run(bench, workloads=("deployment/cart",), tests=("test_one.py",))
    assert (status, report["counts"]["failed"]) == (1, 1), output


# A sidecar without rules


def test_a_sidecar_without_a_rule_is_one_failing_test_and_the_answer(bench: Bench) -> None:
    beside(bench, real_pod("cart-1", "cart"))
    for path in (bench.home / "answers-cart-1").glob("*-save_-c"):
        path.write_text("")
    status, output, report = run(bench, workloads=("deployment/cart",))
    assert status == 1
    assert report["counts"]["failed"] == 1, output
    (failed,) = [test for test in report["tests"] if test["outcome"] == "failed"]
    assert failed["message"].startswith("default/cart-1 has a sidecar, and no rule of Istio's")
    assert report["answer"]["verdict"] == "against"


def test_a_sidecar_without_a_rule_is_undecided_where_native_tables_were_not_read(bench: Bench) -> None:
    beside(bench, real_pod("cart-1", "cart", "1.27.3"))
    for path in (bench.home / "answers-cart-1").glob("*-save_-c"):
        path.write_text("")
    _, output, report = run(bench, workloads=("deployment/cart",))
    assert (report["counts"]["failed"], report["counts"]["undecided"]) == (0, 1), output
    assert report["answer"]["verdict"] == "undecided"
    assert "nf_tables' own tables were not read" in report["answer"]["text"]
    (bench.home / "answers-cart-1" / "nft_list_ruleset").write_text("")
    _, output, report = run(bench, workloads=("deployment/cart",))
    assert (report["counts"]["failed"], report["counts"]["undecided"]) == (1, 0), output


# Several workloads


def test_with_one_workload_ids_are_as_they_were(bench: Bench) -> None:
    beside(bench, real_pod("cart-1", "cart"))
    status, output, report = run(bench, workloads=("deployment/cart",))
    assert status == 0, output
    assert report["workloads"] == []
    assert any(test["id"].endswith(f"::{SIDECAR_TEST}") for test in report["tests"])
    assert {test["workload"] for test in report["tests"]} == {""}


@pytest.mark.parametrize(
    "workers", [(), ("-n2",), ("-n2", "--dist=loadscope")], ids=["alone", "-n2", "loadscope"]
)
def test_every_workload_is_judged_by_every_test_and_read_once_a_worker(bench: Bench, workers: tuple) -> None:
    beside(bench, real_pod("cart-1", "cart"), real_pod("shop-1", "shop"))
    status, output, report = run(bench, *workers, workloads=("deployment/cart", "app=shop"))
    assert status == 0, output
    names = {each["name"] for each in report["workloads"]}
    assert names == {"deployment/cart", "app=shop"}
    cart, shop = (
        {
            re.sub(r"\[?-?(deployment-cart|app=shop)-?\]?", "", test["id"])
            for test in report["tests"]
            if test["workload"] == name
        }
        for name in ("deployment/cart", "app=shop")
    )
    assert cart == shop
    assert len(cart) > 40
    assert f"{SIDECAR_TEST}[deployment-cart]" in " ".join(test["id"] for test in report["tests"])
    assert report["answer"]["text"].startswith("traffic of all 2 workloads goes through Envoy")
    readings = bench.api.ran.count(("cart-1", "iptables-legacy-save -c"))
    assert 1 <= readings <= (2 if workers else 1)


def test_a_fault_of_the_second_is_told_of_it_and_of_no_other(bench: Bench) -> None:
    beside(bench, real_pod("cart-1", "cart"), real_pod("shop-1", "shop"))
    save = bench.home / "answers-shop-1" / "iptables-legacy-save_-c"
    save.write_text(save.read_text().replace("--to-ports 15006", "--to-ports 15007"))
    options = ("--istio-report=report.html", "--istio-report=report.md")
    status, output, report = run(bench, *options, workloads=("deployment/cart", "deployment/shop"))
    assert status == 1
    failed = by_workload(report)
    assert failed["deployment/cart"] == []
    assert len(failed["deployment/shop"]) > 3
    assert report["answer"]["text"].startswith(
        "1 of 2 workloads is not as it should be: deployment/shop: traffic of default/shop-1 gets past Envoy"
    )
    assert "workload     deployment/cart: traffic of default/cart-1 goes through Envoy" in output
    (test, *_) = [test for test in report["tests"] if test["outcome"] == "failed"]
    kept = bench.work / test["evidence"]
    assert "15007" in (kept / "iptables-legacy-save_c.txt").read_text()
    assert "/deployment-shop/iptables-legacy-save_c.txt" in test["message"]
    page = (bench.work / "report.html").read_text()
    assert "Workload: deployment/shop" in page
    assert page.count("What gets by without Envoy") == 2
    assert "### deployment/cart" in (bench.work / "report.md").read_text()


def told(pod: dict[str, Any], flag: str, value: str) -> dict[str, Any]:
    """A pod whose istio-init was told something else."""
    (init,) = pod["spec"]["initContainers"]
    words = init["args"]
    words[words.index(flag) + 1 : words.index(flag) + 2] = [value]
    return pod


def in_its_rules(bench: Bench, name: str, old: str, new: str) -> None:
    save = bench.home / f"answers-{name}" / "iptables-legacy-save_-c"
    assert old in save.read_text()
    save.write_text(save.read_text().replace(old, new))


def test_what_the_second_opens_fails_it_alone_and_may_be_accepted(bench: Bench) -> None:
    opened = told(real_pod("shop-1", "shop"), "-d", "15090,15021,8443,15020")
    beside(bench, real_pod("cart-1", "cart"), opened)
    left_out = "-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN"
    in_its_rules(bench, "shop-1", left_out, f"{left_out.replace('15020', '8443')}\n[0:0] {left_out}")
    names = ("deployment/cart", "deployment/shop")
    status, output, report = run(bench, workloads=names)
    jsonschema.validate(report, SCHEMA)
    assert status == 1
    assert by_workload(report) == {"deployment/cart": [], "deployment/shop": ["failed"]}, output
    said = "traffic of default/shop-1 gets past Envoy: inbound tcp 8443 (excludeInboundPorts: 8443)"
    assert report["answer"]["text"].endswith(said)
    status, output, report = run(bench, "--istio-accept-options=excludeInboundPorts", workloads=names)
    jsonschema.validate(report, SCHEMA)
    assert (status, report["answer"]["verdict"]) == (0, "holds"), output
    assert "accepted: tcp 8443 (excludeInboundPorts: 8443)" in output


@pytest.mark.parametrize(("user", "verdict"), [(2000, "against"), (3000, "holds")])
def test_of_an_id_named_for_envoys_it_is_asked_who_else_runs_so(
    bench: Bench, user: int, verdict: str
) -> None:
    pod = told(real_pod("cart-1", "cart"), "-u", "2000")
    (pod["spec"]["initContainers"][0]["args"]).extend(["-g", "1337"])
    pod["spec"]["containers"][0]["securityContext"] = {"runAsUser": user}
    beside(bench, pod)
    in_its_rules(bench, "cart-1", "--uid-owner 1337", "--uid-owner 2000")
    _, output, report = run(bench, workloads=("deployment/cart",))
    assert report["answer"]["verdict"] == verdict, output
    assert ("(proxy_uid: 2000)" in report["answer"]["text"]) is True
    assert ("what user 2000 sends is taken for Envoy's" in " ".join(report["notices"])) is (
        verdict == "holds"
    )


def test_of_two_workloads_the_one_without_a_sidecar_fails_and_the_other_is_judged(bench: Bench) -> None:
    beside(bench, real_pod("cart-1", "cart"), without_sidecar("shop-1", "shop"))
    status, output, report = run(bench, workloads=("deployment/cart", "deployment/shop"))
    assert status == 1
    assert by_workload(report) == {"deployment/cart": [], "deployment/shop": ["failed"]}, output
    assert report["counts"]["passed"] > 25
    assert "default/shop-1 has no sidecar" in report["answer"]["text"]


def test_ones_own_tests_run_for_each_workload_and_those_of_no_pod_once(bench: Bench) -> None:
    beside(bench, real_pod("cart-1", "cart"), real_pod("shop-1", "shop"))
    (bench.work / "test_one.py").write_text(OWN)
    _, output, report = run(
        bench, "-v", workloads=("deployment/cart", "deployment/shop"), tests=("test_one.py",)
    )
    assert "3 passed" in output
    ids = [test["id"].partition("::")[2] for test in report["tests"]]
    assert ids == ["test_own[deployment-cart]", "test_own[deployment-shop]"]


def test_a_test_that_does_not_tell_its_workload_is_an_error_and_judges_none(bench: Bench) -> None:
    beside(bench, real_pod("cart-1", "cart"), real_pod("shop-1", "shop"))
    (bench.work / "test_one.py").write_text("def test_it(request): request.getfixturevalue('pod_rules')\n")
    status, output, _ = run(bench, workloads=("deployment/cart", "deployment/shop"), tests=("test_one.py",))
    assert status == 1
    assert "this test does not tell which of them it is about" in output
    assert "passed" not in output


@pytest.mark.parametrize("missing", ["deployment/nowhere", "app=nothing"])
def test_a_workload_that_is_not_there_is_an_error_and_the_other_no_pass(bench: Bench, missing: str) -> None:
    beside(bench, real_pod("cart-1", "cart"))
    bench.api.beside["nothing"] = []
    status, output, report = run(bench, workloads=("deployment/cart", missing))
    assert status == 1
    assert missing in output
    assert report["counts"]["passed"] == 0
    assert report["answer"]["verdict"] == "undecided"


# Which cluster


def test_the_cluster_that_was_examined_is_told_by_context_address_and_version(bench: Bench) -> None:
    beside(bench, real_pod("cart-1", "cart"))
    _, output, report = run(bench, workloads=("deployment/cart",))
    facts = report["environment"]
    assert facts["environment"] == "existing cluster, context kind"
    assert facts["cluster"] == bench.api.address
    assert facts["kubernetes"] == "v0"
    assert f"cluster      {bench.api.address}" in output


def test_credentials_in_the_address_of_a_cluster_are_not_told(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(kubeconfig("https://me:secret@10.0.0.1:6443/k8s?token=x"))
    api = KubernetesApi(kubeconfig=tmp_path / "config")
    assert api.address == "https://10.0.0.1:6443/k8s"
    assert api.current_context() == "kind"
