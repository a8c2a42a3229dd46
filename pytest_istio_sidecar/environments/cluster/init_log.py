"""The rules that istio-init logged, for a pod in which nothing can be run.

Knows which container logs them, and why there may be no such log. Does not know how a log is read. Invariant:
what is read so is told to be as loaded at start: nobody looked at what the pod has now.

Source of the refusals: the kubelet answers 200 with "unable to retrieve container logs for CONTAINER" for one
that was removed (kubernetes/pkg/kubelet/kuberuntime), and 400 for one that has not started.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pytest_istio_sidecar.environments.cluster import messages
from pytest_istio_sidecar.environments.cluster.api import ApiProblem, Json, KubernetesApi
from pytest_istio_sidecar.environments.cluster.workload import container_statuses
from pytest_istio_sidecar.errors import EnvironmentProblem, ParseError
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.netfilter.messages import NOTHING_BEGINS
from pytest_istio_sidecar.netfilter.model import PodRules
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.netfilter.text.forms import read_text
from pytest_istio_sidecar.netfilter.text.state import LOADED

FILE = "kubectl_logs_c_istio-init.txt"
"""What keeps the log, in the manner of `CommandResult.file`."""
AT_START = "as loaded at start, not as now"

_PROGRAM = "istio-iptables"
_ONLY_LOOKS = ("--skip-rule-apply", "--run-validation")
_NO_LOG = "unable to retrieve container logs"


class LoggedRules(NamedTuple):
    """What istio-init logged, and the rules in it."""

    rules: PodRules
    text: str


def read_init_log(api: KubernetesApi, pod: Json, *, folder: Path | None) -> LoggedRules:
    """Read what `kubectl logs POD -c istio-init` shows.

    Args:
        folder: where the log is kept, in `FILE`: the rules are placed there. None: nowhere.

    Raises:
        EnvironmentProblem: the pod has no such container, its log is gone, or no rules stand in it.
    """
    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    container = _container(pod)
    if container is None:
        raise EnvironmentProblem(messages.NO_INIT_CONTAINER(pod=name))
    text = _text(api, pod, name, container)
    command = f"kubectl logs {pod['metadata']['name']} -c {container}"
    try:
        rules = read_text(text, source=f"<{command}>" if folder is None else str(folder / FILE))
    except ParseError as problem:
        raise EnvironmentProblem(_unreadable(problem, name, command)) from None
    notes = [note for note in rules.notes if note != LOADED]
    counts = {each["name"]: int(each.get("restartCount", 0)) for each in container_statuses(pod)}
    runs = counts.get(container, 0)
    again = [f"{container} ran {runs + 1} times, and the log is of its last run"] if runs else []
    rulesets = tuple(replace(ruleset, pod=name) for ruleset in rules.rulesets)
    return LoggedRules(replace(rules, rulesets=rulesets, pod=name, notes=(LOADED, *again, *notes)), text)


def host_told(pod: Json) -> Host:
    """The addresses that the API server knows; it does not tell their networks, so nobody is a neighbour."""
    status = pod.get("status", {})
    addresses = [each["ip"] for each in status.get("podIPs", ())] or [status["podIP"]]
    own = [f"{address}/{128 if ':' in address else 32}" for address in addresses]
    return Host(interfaces={"lo": ["127.0.0.1/8", "::1/128"], "eth0": own})


def _container(pod: Json) -> str | None:
    """The init container that loads rules; None where istio-cni does, or nothing."""
    for container in pod["spec"].get("initContainers", ()):
        words = [*(container.get("command") or ()), *map(str, container.get("args") or ())]
        if _PROGRAM in words and not any(word in words for word in _ONLY_LOOKS):
            return str(container["name"])
    return None


def _text(api: KubernetesApi, pod: Json, name: str, container: str) -> str:
    metadata = pod["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
    try:
        text = api.text(path, {"container": container})
    except ApiProblem as problem:
        if problem.status not in (400, 404, 500):
            raise
        failure = messages.NO_INIT_LOG(
            pod=name, container=container, facts=[("said", problem.said or str(problem))]
        )
        raise EnvironmentProblem(failure) from None
    if not text.strip() or text.lstrip().startswith(_NO_LOG):
        said = [("said", text.strip())] if text.strip() else []
        raise EnvironmentProblem(messages.NO_INIT_LOG(pod=name, container=container, facts=said))
    return text


def _unreadable(problem: ParseError, name: str, command: str) -> Failure:
    if problem.failure.code == NOTHING_BEGINS.code:
        return messages.NO_RULES_LOGGED(pod=name, command=command)
    where = f", line {problem.line}" if problem.line else ""
    return messages.LOG_NOT_READ(command=command, where=where, reason=problem.reason).with_evidence_of(
        problem.failure
    )
