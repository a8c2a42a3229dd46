"""The log of istio-init is read where nothing can be run in a pod, and told to be of the start."""

from __future__ import annotations

import json
from typing import Any

import pytest
from netfilter_data import DATA

from pytest_istio_sidecar.environments.base import NotServed
from pytest_istio_sidecar.environments.choices import ReaderName
from pytest_istio_sidecar.environments.cluster.api_problems import ApiProblem
from pytest_istio_sidecar.environments.cluster.messages import REFUSED
from pytest_istio_sidecar.environments.cluster.pod import ClusterPod
from pytest_istio_sidecar.environments.file import read_given
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.machine.evidence import write_evidence

LOG = (DATA / "reports" / "13-oke-init-log-dns.txt").read_text()
POD = json.loads((DATA / "observed-1.16.7" / "pod.json").read_text())
NAME = f"{POD['metadata']['namespace']}/{POD['metadata']['name']}"


class Api:
    """An API server that has one pod, and a log of one of its containers."""

    def __init__(self, log: str | ApiProblem, pod: dict[str, Any] = POD) -> None:
        self.log = log
        self.pod = pod
        self.asked: list[tuple[str, dict[str, str]]] = []

    def get(self, path: str) -> dict[str, Any]:
        if "/pods/" not in path:
            raise ApiProblem(REFUSED(method="GET", path=path, said="not found"), status=404)
        return self.pod

    def text(self, path: str, query: dict[str, str]) -> str:
        self.asked.append((path, query))
        if isinstance(self.log, ApiProblem):
            raise self.log
        return self.log


def of(log: str | ApiProblem, pod: dict[str, Any] = POD) -> ClusterPod:
    return ClusterPod(Api(log, pod), pod, reader=ReaderName.LOG)  # type: ignore[arg-type]


def changed(**init: Any) -> dict[str, Any]:
    pod: dict[str, Any] = json.loads(json.dumps(POD))
    for container in pod["spec"]["initContainers"]:
        container.update(init)
    return pod


def test_the_rules_are_those_that_istio_init_logged() -> None:
    pod = of(LOG)
    rules = pod.read_rules()
    assert {table.name: sum(1 for _ in table.rules()) for table in rules.rulesets[0].tables} == {
        "nat": 22,
        "raw": 6,
    }
    path, query = pod._api.asked[0]  # type: ignore[attr-defined]
    assert path.endswith(f"/pods/{POD['metadata']['name']}/log")
    assert query == {"container": "istio-init"}


def test_notes_facts_and_the_pods_name_say_that_they_are_of_the_start() -> None:
    pod = of(LOG)
    said = "as loaded at start, not as now"
    assert pod.read_rules().notes[0].startswith(said)
    assert pod.describe()["reader"] == f"log of istio-init, {said}"
    assert pod.describe()["pod"] == f"{NAME} ({said})"
    assert pod.pod().name == f"{NAME}, {said}"


def test_the_log_is_kept_and_what_is_kept_is_read_again(tmp_path) -> None:
    pod = of(LOG)
    rules = pod.read_rules(tmp_path)
    write_evidence(tmp_path, pod.evidence())
    again = read_given([str(tmp_path)])
    assert again.rules.rulesets == rules.rulesets
    assert again.version == "1.16.7"
    assert next(rules.rulesets[0].rules()).location.startswith(
        str(tmp_path / "kubectl_logs_c_istio-init.txt")
    )


def test_its_addresses_are_those_that_the_api_server_knows() -> None:
    assert of(LOG).pod().host.interfaces["eth0"] == (f"{POD['status']['podIP']}/32",)


def test_a_second_run_of_istio_init_is_told() -> None:
    pod = changed()
    for status in pod["status"]["initContainerStatuses"]:
        status["restartCount"] = 2
    assert "istio-init ran 3 times, and the log is of its last run" in of(LOG, pod).read_rules().notes


@pytest.mark.parametrize(
    "log",
    [
        "",
        "unable to retrieve container logs for containerd://0123",
        ApiProblem(REFUSED(method="GET", path="log", said="container not found"), status=400),
    ],
)
def test_a_log_that_is_gone_is_told_to_be(log: str | ApiProblem) -> None:
    with pytest.raises(EnvironmentProblem, match=f"the log of istio-init in {NAME} is gone") as raised:
        of(log).read_rules()
    assert "--istio-reader=exec, node or debug" in raised.value.failure.fix


def test_a_pod_of_istio_cni_has_no_such_log() -> None:
    pod = changed(name="istio-validation", args=["istio-iptables", "--run-validation", "--skip-rule-apply"])
    with pytest.raises(EnvironmentProblem, match="has no container that loads rules") as raised:
        of(LOG, pod).read_rules()
    assert "istio-cni made its rules" in raised.value.failure.cause


def test_a_log_without_rules_is_told_to_be_one() -> None:
    with pytest.raises(EnvironmentProblem, match="no rules stand in the log") as raised:
        of("2026-01-01T00:00:00.000000Z\tinfo\tIstio nftables environment:\n").read_rules()
    assert "none of nftables" in raised.value.failure.cause


def test_a_log_that_is_cut_is_refused_with_its_line() -> None:
    with pytest.raises(
        EnvironmentProblem, match=r"-c istio-init cannot be read as rules, line \d+: table nat has no"
    ):
        of(LOG.partition("-A ISTIO_OUTPUT -d")[0]).read_rules()


def test_what_a_log_does_not_tell_is_not_served() -> None:
    with pytest.raises(NotServed, match="has no sockets"):
        of(LOG).read_sockets()


def test_a_right_that_is_missing_is_told_as_everywhere() -> None:
    problem = ApiProblem(REFUSED(method="GET", path="log", said="forbidden"), status=403)
    with pytest.raises(ApiProblem, match="forbidden"):
        of(problem).read_rules()
