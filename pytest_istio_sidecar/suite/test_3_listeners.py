"""The rules point at ports; Envoy has to listen there."""

import pytest

from pytest_istio_sidecar import assert_listener

pytestmark = pytest.mark.needs_listeners


def test_envoy_listens_on_15006_for_inbound_traffic(envoy_listeners):
    assert_listener(envoy_listeners, 15006, direction="inbound")


def test_envoy_listens_on_15001_for_outbound_traffic(envoy_listeners):
    assert_listener(envoy_listeners, 15001, direction="outbound")


@pytest.mark.parametrize("port", [15021, 15090], ids=["15021-readiness", "15090-envoy-metrics"])
def test_envoy_serves_the_excluded_port_itself(envoy_listeners, port):
    assert_listener(envoy_listeners, port)
