"""What becomes of each fault of the Kubernetes API. The server is a double on loopback (api_double.py)."""

import json
import socket

import pytest
from api_double import api_double, write_kubeconfig

from pytest_istio_sidecar.environments.cluster import api
from pytest_istio_sidecar.environments.cluster.api import KubernetesApi
from pytest_istio_sidecar.environments.cluster.api_problems import (
    AdmissionRefused,
    ApiProblem,
    ApiRefused,
    ApiUnreachable,
    ApiUntrusted,
    TokenExpired,
    needed_rule,
    unreachable,
)
from pytest_istio_sidecar.errors import EnvironmentProblem

PODS = "/api/v1/namespaces/demo/pods"
OK = (200, {}, {"kind": "PodList", "items": []})
SUCCESS = b"\x03" + json.dumps({"status": "Success"}).encode()


def failed(code):
    causes = [{"reason": "ExitCode", "message": str(code)}]
    told = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
    return b"\x03" + json.dumps(told).encode()


def status(code, reason, message):
    return code, {}, {"kind": "Status", "status": "Failure", "reason": reason, "message": message}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(api, "_PAUSE_SECONDS", 0.01)


def run(api, timeout=5.0):
    return api.exec(namespace="demo", pod="p", container="c", argv=["id", "-u"], timeout=timeout)


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again(tmp_path, code):
    with api_double(tmp_path, [(code, {}, "busy"), OK]) as (server, config):
        assert KubernetesApi(kubeconfig=config).get(PODS)["kind"] == "PodList"
    assert len(server.asked) == 2


def test_a_server_that_asks_to_wait_longer_than_there_is_time_is_not_asked_again(tmp_path):
    with (
        api_double(tmp_path, [(429, {"retry-after": "60"}, "busy"), OK]) as (server, config),
        pytest.raises(ApiProblem) as raised,
    ):
        KubernetesApi(kubeconfig=config).get(PODS, timeout=5)
    assert raised.value.status == 429
    assert raised.value.retry_after == 60
    assert len(server.asked) == 1


def test_an_expired_token_is_read_again_from_the_kubeconfig(tmp_path):
    with api_double(tmp_path, [OK, status(401, "Unauthorized", "Unauthorized"), OK]) as (server, config):
        api = KubernetesApi(kubeconfig=config)
        api.get(PODS)
        write_kubeconfig(config, server.server_address[1], "second")
        api.get(PODS)
    assert [asked[2] for asked in server.asked] == ["Bearer first", "Bearer first", "Bearer second"]


def test_a_token_that_stays_refused_is_told_after_one_more_try(tmp_path):
    with (
        api_double(tmp_path, [status(401, "Unauthorized", "Unauthorized")]) as (server, config),
        pytest.raises(TokenExpired, match="expired, or is of another cluster"),
    ):
        KubernetesApi(kubeconfig=config).get(PODS)
    assert len(server.asked) == 2


def test_a_missing_right_is_named_as_the_rule_to_add(tmp_path):
    said = (
        'pods "p" is forbidden: User "system:serviceaccount:demo:reader" cannot create resource "pods/exec"'
        ' in API group "" in the namespace "demo"'
    )
    with (
        api_double(tmp_path, [status(403, "Forbidden", said)]) as (_, config),
        pytest.raises(ApiRefused) as raised,
    ):
        run(KubernetesApi(kubeconfig=config))
    message = str(raised.value)
    assert 'verb create, apiGroup "", resource pods/exec, namespace demo' in message
    assert '- apiGroups: [""]' in message
    assert 'resources: ["pods/exec"]' in message
    assert 'verbs: ["create"]' in message


@pytest.mark.parametrize(("user", "asked"), [("kubernetes-admin", 2), ("someone", 1)])
def test_who_may_do_everything_is_refused_only_by_a_server_that_has_yet_to_read_its_roles(
    tmp_path, user, asked
):
    said = (
        f'pods is forbidden: User "{user}" cannot list resource "pods" in API group "" in the namespace "d"'
    )
    with api_double(tmp_path, [status(403, "Forbidden", said), OK]) as (server, config):
        api = KubernetesApi(kubeconfig=config)
        if asked == 2:
            api.get(PODS)
        else:
            with pytest.raises(ApiRefused, match="someone may not list pods"):
                api.get(PODS)
    assert len(server.asked) == asked


def test_an_admission_refusal_is_not_taken_for_a_missing_right(tmp_path):
    said = 'pods "p" is forbidden: violates PodSecurity "restricted:latest": privileged'
    with (
        api_double(tmp_path, [status(403, "Forbidden", said)]) as (_, config),
        pytest.raises(AdmissionRefused, match="Pod Security, a policy or a webhook"),
    ):
        KubernetesApi(kubeconfig=config).request("PATCH", f"{PODS}/p", body={})


@pytest.mark.parametrize(
    ("method", "path", "verb", "resource", "group", "namespace"),
    [
        ("GET", PODS, "list", "pods", "", "demo"),
        ("GET", f"{PODS}/p", "get", "pods", "", "demo"),
        ("GET", f"{PODS}/p/exec", "get", "pods/exec", "", "demo"),
        ("PATCH", "/apis/apps/v1/namespaces/demo/deployments/d", "patch", "deployments", "apps", "demo"),
        ("GET", "/api/v1/namespaces/demo", "get", "namespaces", "", ""),
        ("POST", "/api/v1/namespaces", "create", "namespaces", "", ""),
    ],
)
def test_the_right_that_a_request_needs_follows_from_its_path(method, path, verb, resource, group, namespace):
    rule = needed_rule(method, path)
    assert (rule.verb, rule.resource, rule.group, rule.namespace) == (verb, resource, group, namespace)


def test_a_server_that_is_not_there_is_asked_until_the_deadline_and_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "kubeconfig"
    write_kubeconfig(config, port, "t")
    api = KubernetesApi(kubeconfig=config)
    with pytest.raises(ApiUnreachable, match="nothing listens there"):
        api.get(PODS, timeout=0.2)
    with pytest.raises(ApiUnreachable, match="nothing listens there"):
        run(api, timeout=0.2)


def test_a_certificate_of_another_cluster_is_named_and_not_asked_again():
    problem = unreachable(
        "https://192.0.2.1:6443", "certificate verify failed: unable to get local issuer", kubeconfig="f"
    )
    assert isinstance(problem, ApiUntrusted)
    assert not problem.passing


def test_the_exit_status_comes_from_the_status_channel(tmp_path):
    frames = [b"\x01out", b"\x02err", failed(4)]
    with api_double(tmp_path, [frames]) as (server, config):
        result = run(KubernetesApi(kubeconfig=config))
    assert (result.exit_status, result.stdout, result.stderr) == (4, "out", "err")
    assert "container=c&stdout=1&stderr=1&command=id&command=-u" in server.asked[0][1]


def test_a_program_that_is_not_there_ends_with_127(tmp_path):
    message = 'exec: "id": executable file not found in $PATH: unknown'
    told = {"status": "Failure", "reason": "InternalError", "message": message}
    with api_double(tmp_path, [[b"\x03" + json.dumps(told).encode()]]) as (_, config):
        result = run(KubernetesApi(kubeconfig=config))
    assert result.missing
    assert message in result.stderr


def test_a_command_whose_connection_breaks_is_run_again(tmp_path):
    with api_double(tmp_path, [[b"\x01half"], [b"\x01whole", SUCCESS]]) as (server, config):
        result = run(KubernetesApi(kubeconfig=config))
    assert (result.exit_status, result.stdout) == (0, "whole")
    assert len(server.asked) == 2


def test_a_command_that_the_runtime_could_not_start_just_now_is_run_again(tmp_path):
    message = (
        "error executing command in container: OCI runtime exec failed: read init-p: connection reset by peer"
    )
    told = {"status": "Failure", "reason": "InternalError", "message": message}
    frames = [b"\x03" + json.dumps(told).encode()]
    with api_double(tmp_path, [frames, [b"\x01whole", SUCCESS]]) as (_, config):
        assert run(KubernetesApi(kubeconfig=config)).stdout == "whole"


def test_a_command_whose_end_is_never_told_has_not_succeeded(tmp_path):
    with (
        api_double(tmp_path, [[b"\x01half"]]) as (_, config),
        pytest.raises(ApiUnreachable, match="broke while a command ran"),
    ):
        run(KubernetesApi(kubeconfig=config), timeout=0.2)


def test_a_command_that_goes_on_past_its_time_has_no_exit_status(tmp_path):
    with api_double(tmp_path, [[b"\x01so far", "hang"]]) as (_, config):
        result = run(KubernetesApi(kubeconfig=config), timeout=0.3)
    assert result.exit_status is None
    assert result.stdout == "so far"


@pytest.mark.parametrize("code", [429, 500, 401])
def test_exec_is_asked_for_again_when_its_handshake_is_refused_for_now(tmp_path, code):
    with api_double(tmp_path, [(code, {}, "busy"), [SUCCESS]]) as (_, config):
        assert run(KubernetesApi(kubeconfig=config)).succeeded


def test_a_container_that_does_not_run_is_told_at_once(tmp_path):
    said = 'unable to upgrade connection: container not found ("istio-proxy")'
    with (
        api_double(tmp_path, [(500, {}, said)]) as (server, config),
        pytest.raises(ApiProblem, match="container not found"),
    ):
        run(KubernetesApi(kubeconfig=config))
    assert len(server.asked) == 1


def test_a_wait_that_ends_in_vain_shows_what_was_seen_last(tmp_path):
    with (
        api_double(tmp_path, [OK]) as (_, config),
        pytest.raises(EnvironmentProblem, match="last seen ImagePullBackOff"),
    ):
        KubernetesApi(kubeconfig=config).wait("the pod", lambda: (None, "ImagePullBackOff"), timeout=0.05)


def test_a_context_that_is_not_there_is_named_with_its_file(tmp_path):
    with (
        api_double(tmp_path, [OK]) as (_, config),
        pytest.raises(EnvironmentProblem, match=r"context other of .*kubeconfig cannot be used"),
    ):
        KubernetesApi(kubeconfig=config, context="other").get(PODS)
