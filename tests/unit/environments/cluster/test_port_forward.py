"""HTTP through the API server's port-forward, and listeners that are asked for by it.

The API server is a double on loopback (api_double.py), whose frames are those a kubelet sends.
"""

import pytest
from api_double import api_double

from pytest_istio_sidecar.environments.cluster import api
from pytest_istio_sidecar.environments.cluster.api import KubernetesApi
from pytest_istio_sidecar.environments.cluster.api_problems import ApiRefused, ApiUnreachable
from pytest_istio_sidecar.environments.cluster.port_forward import get_from_pod
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.readers.listeners import read_listeners

PORT = (15000).to_bytes(2, "little")
OPENED = [b"\x00" + PORT, b"\x01" + PORT]
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
NOBODY = (
    b"error forwarding port 15000 to pod x, uid : failed to connect to localhost:15000 inside namespace "
    b'"x", IPv4: dial tcp4 127.0.0.1:15000: connect: connection refused'
)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(api, "_PAUSE_SECONDS", 0.01)


def get(config, timeout=5.0):
    api = KubernetesApi(kubeconfig=config)
    return get_from_pod(api, namespace="demo", pod="p", port=15000, path="/listeners", timeout=timeout)


def test_an_answer_in_pieces_is_put_together(tmp_path):
    pieces = [CHUNKED[:20], CHUNKED[20:] + b'3\r\n{"a\r\n', b'3\r\n":1\r\n1\r\n', b"}\r\n0\r\n\r\n"]
    frames = [*OPENED, *(b"\x00" + piece for piece in pieces)]
    with api_double(tmp_path, [frames]) as (server, config):
        result = get(config)
    assert (result.exit_status, result.stdout) == (0, '{"a":1}')
    assert server.asked[0][:2] == ("GET", "/api/v1/namespaces/demo/pods/p/portforward?ports=15000")


def test_a_port_that_nobody_listens_on_is_told_in_the_nodes_words(tmp_path):
    with api_double(tmp_path, [[*OPENED, b"\x01" + NOBODY]]) as (server, config):
        result = get(config)
    assert result.exit_status == 1
    assert result.stderr.endswith("connection refused")
    assert len(server.asked) == 1


def test_an_answer_that_is_no_success_says_its_status(tmp_path):
    answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"
    with api_double(tmp_path, [[*OPENED, b"\x00" + answer]]) as (_, config):
        result = get(config)
    assert (result.exit_status, result.stderr) == (1, "HTTP 503")


def test_an_answer_that_does_not_come_in_time_has_no_exit_status(tmp_path):
    with api_double(tmp_path, [[*OPENED, b"\x00" + CHUNKED, "hang"]]) as (_, config):
        result = get(config, timeout=0.3)
    assert result.exit_status is None
    assert "no answer within" in result.stderr


def test_an_answer_that_breaks_off_is_asked_for_again(tmp_path):
    whole = [*OPENED, b"\x00" + CHUNKED + b"2\r\n{}\r\n0\r\n\r\n"]
    with api_double(tmp_path, [[*OPENED, b"\x00" + CHUNKED + b"9\r\n{"], whole]) as (server, config):
        assert get(config).stdout == "{}"
    assert len(server.asked) == 2


def test_an_answer_that_breaks_off_again_and_again_is_no_answer(tmp_path):
    with (
        api_double(tmp_path, [[*OPENED, b"\x00" + CHUNKED + b"9\r\n{"]]) as (_, config),
        pytest.raises(ApiUnreachable, match="the connection to port 15000 of demo/p broke"),
    ):
        get(config, timeout=0.2)


def test_a_right_that_is_missing_is_named(tmp_path):
    said = (
        'pods "p" is forbidden: User "u" cannot get resource "pods/portforward" in API group "" '
        'in the namespace "demo"'
    )
    told = {"kind": "Status", "status": "Failure", "reason": "Forbidden", "message": said}
    with (
        api_double(tmp_path, [(403, {}, told)]) as (_, config),
        pytest.raises(ApiRefused, match='verb get, apiGroup "", resource pods/portforward, namespace demo'),
    ):
        get(config)


def answers(status=0, stderr=""):
    """A double of a way to ask."""

    def ask(path):
        held = '{"listener_statuses": []}' if path.startswith("/listeners") else '{"configs": []}'
        return CommandResult(
            argv=("curl",), exit_status=status, stdout="" if status else held, stderr=stderr, seconds=0.1
        )

    return ask


def refuses(path):
    raise EnvironmentProblem(f"no command could be run in demo/p: there is none\n\n  asked    {path}")


@pytest.mark.parametrize("first", [answers(7, "curl: (7) Failed to connect"), refuses])
def test_where_one_way_is_not_answered_the_next_is_tried_and_named(first):
    reading = read_listeners({"exec": first, "port-forward": answers()})
    assert reading.how == "port-forward"
    assert len(reading.commands) == 2


def test_the_first_way_is_enough_when_it_is_answered():
    assert read_listeners({"exec": answers(), "port-forward": refuses}).how == "exec"


def test_where_no_way_is_answered_each_is_told_with_what_it_met():
    with pytest.raises(EnvironmentProblem) as raised:
        read_listeners(
            {"exec": refuses, "port-forward": answers(1, "dial: connection refused")}, pod="demo/p"
        )
    assert str(raised.value) == (
        "cannot read Envoy's listeners of demo/p\n\n"
        "  asked        http://127.0.0.1:15000/listeners?format=json\n"
        "  exec         no command could be run in demo/p: there is none\n"
        "  port-forward curl: dial: connection refused\n\n"
        "  cause        Envoy is not running, or its admin port is not 15000\n"
        "  note         no listener of this pod was checked"
    )
