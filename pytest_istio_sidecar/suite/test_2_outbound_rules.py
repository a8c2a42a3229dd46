"""Then OUTPUT: what the application sends goes to Envoy, what Envoy sends does not come back to it.

ISTIO_OUTPUT has nine rules. Six are shown by a packet whose fate they decide. Three match no packet
of this host: rules above take every one that they are for. Which rules, the notices of a run tell.
"""

import pytest

from pytest_istio_sidecar import (
    assert_jump,
    assert_not_redirected,
    assert_redirect_target,
    assert_redirected,
    expected_ruleset,
)
from pytest_istio_sidecar.suite.conftest import ELSEWHERE, text_of

PROXY = 1337
APPLICATION = 1000

DEAD = (5, 6, 8)


def test_output_sends_all_tcp_to_istio_output(iptables_nat, claim):
    claim(assert_jump, iptables_nat, "OUTPUT", "ISTIO_OUTPUT", protocol="tcp")


def test_rule_1_lets_envoy_reach_the_application_from_127_0_0_6(pod_rules, from_pod, own_address, claim):
    packet = from_pod(own_address, uid=PROXY, gid=PROXY, source="127.0.0.6")
    claim(assert_not_redirected, pod_rules, packet)


def test_rule_2_sends_the_proxy_calling_its_own_pod_to_15006(pod_rules, from_pod, own_address, claim):
    packet = from_pod(own_address, uid=PROXY, gid=PROXY)
    claim(assert_redirected, pod_rules, packet, to=15006)


@pytest.mark.parametrize("gid", [APPLICATION, PROXY], ids=["own-group", "group-of-the-proxy"])
def test_rule_3_lets_the_application_call_its_own_pod(pod_rules, from_pod, own_address, claim, gid):
    packet = from_pod(own_address, uid=APPLICATION, gid=gid)
    claim(assert_not_redirected, pod_rules, packet)


def test_rule_4_lets_the_user_of_the_proxy_out(pod_rules, from_pod, claim):
    packet = from_pod(ELSEWHERE, uid=PROXY, gid=APPLICATION)
    claim(assert_not_redirected, pod_rules, packet)


@pytest.mark.parametrize("number", DEAD, ids=[f"rule-{number}" for number in DEAD])
def test_rules_5_6_and_8_decide_nothing(
    iptables_nat, claim, dead_rules, meant_dead, istio_version, istio_output, notice, number
):
    if "ISTIO_OUTPUT" not in iptables_nat:
        claim(assert_jump, iptables_nat, "OUTPUT", "ISTIO_OUTPUT", protocol="tcp")
    rule = text_of(expected_ruleset(istio_version).nat.chain("ISTIO_OUTPUT").rules[number - 1])
    if rule not in meant_dead:
        pytest.skip(f"with this pod's options {rule} is not there, or packets match it")
    why = f"where the rules are Istio {istio_version}'s, {meant_dead[rule][0].cause}"
    if rule not in istio_output:
        notice(
            f"ISTIO_OUTPUT has no `{rule}`, rule {number} of Istio {istio_version}; nothing changes: {why}"
        )
        return
    dead = rule in dead_rules
    assert dead, f"{rule} matches packets of this pod, but should match none: {why}"
    for finding in dead_rules[rule]:
        notice(finding.summary)


def test_rule_7_lets_the_group_of_the_proxy_out(pod_rules, from_pod, claim):
    packet = from_pod(ELSEWHERE, uid=APPLICATION, gid=PROXY)
    claim(assert_not_redirected, pod_rules, packet)


@pytest.mark.parametrize("port", [80, 443, 15001, 15006])
def test_rule_9_sends_what_the_application_sends_to_15001(pod_rules, from_pod, claim, port):
    packet = from_pod(ELSEWHERE, port, uid=APPLICATION, gid=APPLICATION)
    claim(assert_redirected, pod_rules, packet, to=15001)


def test_localhost_is_left_to_the_application(pod_rules, from_pod, claim):
    packet = from_pod("127.0.0.1", uid=APPLICATION, gid=APPLICATION, source="127.0.0.1")
    claim(assert_not_redirected, pod_rules, packet)


def test_istio_redirect_redirects_to_15001(iptables_nat, claim):
    claim(assert_redirect_target, iptables_nat, "ISTIO_REDIRECT", 15001)
