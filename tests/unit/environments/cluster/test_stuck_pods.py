"""Why pods do not become Ready: the API server is a double on loopback (api_double.py)."""

import pytest
from api_double import api_double

from pytest_istio_sidecar.environments.cluster.api import KubernetesApi
from pytest_istio_sidecar.environments.cluster.stuck_pods import explain_pods, last_words, why_not_ready
from pytest_istio_sidecar.environments.cluster.workload import describe_pods
from pytest_istio_sidecar.failure import Failure

SAID = """2020-12-03T10:00:00Z info iptables-restore --noflush /tmp/iptables-rules.txt
iptables-restore v1.6.1: iptables-restore: unable to initialize table 'nat'
Error occurred at line: 1
"""
NO_EVENTS = (200, {}, {"items": []})


def stuck(container, reason, **status):
    waiting = {"name": container, "ready": False, "state": {"waiting": {"reason": reason}}, **status}
    return {
        "metadata": {"name": "httpbin-1", "namespace": "demo"},
        "status": {"phase": "Pending", "initContainerStatuses": [waiting]},
    }


CRASHING = stuck("istio-init", "CrashLoopBackOff", lastState={"terminated": {"exitCode": 1}})


def laid_out(facts, advice):
    return str(Failure("stuck", tuple(facts)).advised(advice))


def asked_for(server):
    return [path for _, path, *_ in server.asked]


def test_what_a_failed_container_logged_last_is_in_the_message(tmp_path):
    with api_double(tmp_path, [NO_EVENTS, (200, {}, SAID)]) as (server, config):
        facts, advice = why_not_ready(
            KubernetesApi(kubeconfig=config), namespace="demo", names=["httpbin"], pods=lambda: [CRASHING]
        )
    assert laid_out(facts, advice).startswith(
        "stuck\n\n"
        "  log      of istio-init in httpbin-1:\n"
        "             2020-12-03T10:00:00Z info iptables-restore --noflush /tmp/iptables-rules.txt\n"
        "             iptables-restore v1.6.1: iptables-restore: unable to initialize table 'nat'\n"
        "             Error occurred at line: 1\n"
        "\n  cause    istio-init cannot write its rules"
    )
    assert "/pods/httpbin-1/log?container=istio-init&tailLines=12" in asked_for(server)[1]


def test_one_that_was_started_again_is_asked_for_what_it_said_before(tmp_path):
    with api_double(tmp_path, [(200, {}, ""), (200, {}, SAID)]) as (server, config):
        told = last_words(KubernetesApi(kubeconfig=config), [CRASHING])
    assert told[-1][1].splitlines()[-1].strip() == "Error occurred at line: 1"
    assert asked_for(server)[1].endswith("&previous=true")


def test_a_log_that_may_not_be_read_keeps_nothing_else_from_being_told(tmp_path):
    refused = {"kind": "Status", "message": 'pods "httpbin-1" is forbidden: not you', "reason": "Forbidden"}
    with api_double(tmp_path, [NO_EVENTS, (403, {}, refused)]) as (_, config):
        facts, advice = why_not_ready(
            KubernetesApi(kubeconfig=config), namespace="demo", names=["httpbin"], pods=lambda: [CRASHING]
        )
    told = laid_out(facts, advice)
    assert "(it could not be read: pods" in told
    assert "  cause    istio-init cannot write its rules" in told


def test_replicas_that_fail_alike_are_told_once(tmp_path):
    with api_double(tmp_path, [(200, {}, SAID)]) as (server, config):
        last_words(KubernetesApi(kubeconfig=config), [CRASHING, CRASHING])
    assert len(server.asked) == 1


def test_what_never_ran_has_no_log(tmp_path):
    with api_double(tmp_path, [(200, {}, SAID)]) as (server, config):
        assert last_words(KubernetesApi(kubeconfig=config), [stuck("istio-init", "ErrImagePull")]) == []
    assert server.asked == []


@pytest.mark.parametrize(
    ("container", "reason", "fix"),
    [
        ("istio-proxy", "ImagePullBackOff", "imagePullPolicy=IfNotPresent"),
        ("istio-init", "ErrImagePull", "imagePullPolicy=IfNotPresent"),
        ("istio-init", "CrashLoopBackOff", "modprobe"),
    ],
)
def test_what_a_pod_is_stuck_in_has_a_cause_and_a_fix(container, reason, fix):
    told = laid_out([], explain_pods(describe_pods([stuck(container, reason)])))
    assert "  cause    " in told
    assert fix in told


def test_what_is_only_slow_is_not_explained():
    slow = {"metadata": {"name": "slow", "namespace": "demo"}, "status": {"phase": "Pending"}}
    assert explain_pods(describe_pods([slow])) is None
