"""Real requests in a pod with Istio 1.8.3's rules, and in pods whose rules are broken."""

import signal

import pytest
from leftovers import send_signal

from pytest_istio_sidecar.environments.embedded import environment, traffic
from pytest_istio_sidecar.environments.embedded.environment import PodRulesText
from pytest_istio_sidecar.netfilter.model import Backend


def test_a_request_to_port_80_is_captured_inbound_and_answered_by_httpbin(pod):
    seen = pod.send_request("inbound", port=80)
    assert (seen.captured_by, seen.answered_by, seen.answered_port) == ("inbound", "httpbin", 80)


def test_envoy_knows_the_original_destination_of_a_captured_request(pod):
    capture = pod.send_request("inbound", port=8443).capture
    assert str(capture.original_destination) == "192.0.2.10:8443"
    assert str(capture.listener_address) == "192.0.2.10:15006"


def test_the_captured_connection_is_the_one_that_was_sent(pod):
    seen = pod.send_request("inbound", port=80)
    assert seen.capture.downstream == seen.source


def test_a_request_to_a_port_nobody_serves_is_answered_by_envoy_alone(pod):
    seen = pod.send_request("inbound", port=8443)
    assert (seen.captured_by, seen.answered_by, seen.status) == ("inbound", "envoy", 503)
    assert "UF" in seen.capture.flags


@pytest.mark.parametrize(
    ("port", "who"),
    [(22, "stand-in"), (15008, "stand-in"), (15020, "stand-in"), (15021, "envoy"), (15090, "envoy")],
)
def test_an_excluded_port_answers_itself(pod, port, who):
    seen = pod.send_request("inbound", port=port)
    assert seen.decided
    assert (seen.captured_by, seen.answered_by, seen.answered_port) == (None, who, port)


def test_a_stand_in_says_that_it_is_one(pod):
    assert "stand-in for port 22 of the embedded pod" in pod.send_request("inbound", port=22).answer


def test_a_request_of_an_ordinary_user_is_captured_outbound(pod):
    seen = pod.send_request("outbound")
    assert (seen.captured_by, seen.answered_by) == ("outbound", "echo")
    assert str(seen.capture.original_destination) == "192.0.2.20:8080"


@pytest.mark.parametrize(("uid", "gid"), [(1337, 1337), (1337, 1000), (1000, 1337)])
def test_a_request_of_the_proxys_user_or_group_leaves_past_envoy(pod, uid, gid):
    seen = pod.send_request("outbound", uid=uid, gid=gid)
    assert seen.decided
    assert (seen.captured_by, seen.answered_by) == (None, "echo")


def test_a_request_to_localhost_is_not_captured(pod):
    seen = pod.send_request("localhost", port=80)
    assert seen.decided
    assert (seen.captured_by, seen.answered_by) == (None, "httpbin")


def test_the_counter_of_the_deciding_rule_moves_by_one(pod):
    changes = {change.rule: change for change in pod.send_request("inbound", port=22).counters}
    change = changes["-A ISTIO_INBOUND -p tcp -m tcp --dport 22 -j RETURN"]
    assert change.after == change.before + 1


@pytest.fixture
def broken_pod(pod, istio_rules):
    """A function that loads broken rules into the pod; afterwards it has Istio's again."""

    def load(text):
        pod.run_program([environment.RESTORE[Backend.LEGACY, 4]], text=text, timeout=10)
        return pod

    yield load
    load(istio_rules)


def test_without_the_jump_in_prerouting_a_request_reaches_httpbin_past_envoy(broken_pod, istio_rules):
    jump = "-A PREROUTING -p tcp -j ISTIO_INBOUND\n"
    assert jump in istio_rules
    seen = broken_pod(istio_rules.replace(jump, "")).send_request("inbound", port=80)
    assert seen.decided
    assert (seen.captured_by, seen.answered_by) == (None, "httpbin")


def test_a_redirect_to_a_port_without_listener_is_refused_and_not_captured(broken_pod, istio_rules):
    seen = broken_pod(istio_rules.replace("--to-ports 15006", "--to-ports 15066")).send_request("inbound")
    assert seen.decided
    assert (seen.captured_by, seen.answered_by, seen.error) == (None, None, "connection refused")


def test_nothing_is_decided_while_envoy_writes_no_log(pod, monkeypatch):
    monkeypatch.setattr(traffic, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(traffic, "_LOG_SECONDS", 0.3)
    send_signal(pod, "envoy", signal.SIGSTOP)
    try:
        seen = pod.send_request("inbound", port=22)
    finally:
        send_signal(pod, "envoy", signal.SIGCONT)
    assert seen.answered_by == "stand-in"
    assert seen.captured_by is None
    assert not seen.decided


def test_rules_in_nf_tables_capture_as_well(start_pod, istio_rules):
    pod = start_pod(rules=PodRulesText(backend=Backend.NF_TABLES, ipv4=istio_rules))
    assert pod.send_request("inbound", port=80).captured_by == "inbound"
    assert pod.send_request("inbound", port=22).captured_by is None
    # Reading must not make the legacy tables whose presence it is there to find out.
    pod.read_rules()
    tables = pod._runner.run(["cat", "/proc/net/ip_tables_names"], timeout=5)
    assert (tables.exit_status, tables.stdout) == (0, "")
