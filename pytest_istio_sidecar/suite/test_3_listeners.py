"""The rules point at ports; Envoy has to listen there."""

import pytest

from pytest_istio_sidecar import assert_listener, assert_rules_reach_listeners

pytestmark = pytest.mark.needs_listeners


def test_envoy_listens_on_15006_for_inbound_traffic(envoy_listeners):
    assert_listener(envoy_listeners, 15006, direction="inbound")


def test_envoy_listens_on_15001_for_outbound_traffic(envoy_listeners):
    assert_listener(envoy_listeners, 15001, direction="outbound")


@pytest.mark.parametrize("port", [15021, 15090], ids=["15021-readiness", "15090-envoy-metrics"])
@pytest.mark.usefixtures("only_if_excluded")
def test_envoy_serves_the_excluded_port_itself(envoy_listeners, port):
    assert_listener(envoy_listeners, port)


def test_every_captured_packet_comes_to_a_listener_that_takes_it(pod_rules, envoy_listeners, sidecar_pod):
    assert_rules_reach_listeners(pod_rules, envoy_listeners, host=sidecar_pod.host)
