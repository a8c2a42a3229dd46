"""The lab reads PREROUTING first: who may reach the pod without Envoy, and where the rest goes."""

import pytest

from pytest_istio_sidecar import (
    assert_inbound_exclusions,
    assert_jump,
    assert_not_redirected,
    assert_redirect_target,
    assert_redirected,
    assert_same_rules,
)

EXCLUDED = {  # in one release or another
    15008: "tunnel",
    22: "ssh",
    15090: "envoy-metrics",
    15021: "readiness",
    15020: "agent",
}


def test_prerouting_sends_all_tcp_to_istio_inbound(iptables_nat, claim):
    claim(assert_jump, iptables_nat, "PREROUTING", "ISTIO_INBOUND", protocol="tcp")


@pytest.mark.parametrize("port", EXCLUDED, ids=[f"{port}-{use}" for port, use in EXCLUDED.items()])
@pytest.mark.usefixtures("only_if_excluded")
def test_istio_inbound_returns_the_excluded_port(pod_rules, to_pod, claim, port):
    claim(assert_not_redirected, pod_rules, to_pod(port))


def test_istio_inbound_excludes_no_other_port(pod_rules, excluded, claim):
    claim(assert_inbound_exclusions, pod_rules, set(filter(excluded, EXCLUDED)))


def test_everything_else_goes_to_15006(pod_rules, to_pod, claim):
    claim(assert_redirected, pod_rules, to_pod(80), to=15006)


def test_istio_in_redirect_redirects_to_15006(iptables_nat, claim):
    claim(assert_redirect_target, iptables_nat, "ISTIO_IN_REDIRECT", 15006)


def test_every_replica_has_the_same_rules(pod_rules, replica_rules):
    assert_same_rules(pod_rules, replica_rules)
