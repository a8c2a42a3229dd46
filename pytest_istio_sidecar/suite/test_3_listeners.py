"""The rules point at ports; Envoy has to listen there."""

import pytest

from pytest_istio_sidecar import (
    Severity,
    assert_capture_sockets,
    assert_listener,
    assert_policy_routes,
    assert_rules_reach_listeners,
    check_capture_sockets,
    check_rules_reach_listeners,
)

pytestmark = pytest.mark.needs_listeners


def test_envoy_listens_on_15006_for_inbound_traffic(envoy_listeners, istio_options):
    assert_listener(envoy_listeners, int(istio_options.inbound_capture_port), direction="inbound")


def test_envoy_listens_on_15001_for_outbound_traffic(envoy_listeners, istio_options):
    assert_listener(envoy_listeners, int(istio_options.proxy_port), direction="outbound")


@pytest.mark.parametrize("port", [15021, 15090], ids=["15021-readiness", "15090-envoy-metrics"])
@pytest.mark.usefixtures("only_if_excluded")
def test_envoy_serves_the_excluded_port_itself(envoy_listeners, port):
    assert_listener(envoy_listeners, port)


def test_every_captured_packet_comes_to_a_listener_that_takes_it(
    pod_rules, envoy_listeners, listening_sockets, sidecar_pod, inbound_listener, istio_version, notice
):
    if inbound_listener == "outbound":
        pytest.skip(f"Istio {istio_version} hands inbound traffic to its outbound listener in TPROXY mode")
    pod = {"host": sidecar_pod.host, "sockets": listening_sockets}
    for finding in check_rules_reach_listeners(pod_rules, envoy_listeners, **pod):
        if finding.severity is Severity.NOTICE:
            notice(finding.summary)
    assert_rules_reach_listeners(pod_rules, envoy_listeners, **pod)


def test_the_sockets_on_envoys_ports_are_envoys(
    listening_sockets, envoy_listeners, istio_options, sidecar_pod, notice
):
    pod = {"options": istio_options, "pod": sidecar_pod.name}
    for finding in check_capture_sockets(listening_sockets, envoy_listeners, **pod):
        if finding.severity is Severity.NOTICE:
            notice(finding.summary)
    assert_capture_sockets(listening_sockets, envoy_listeners, **pod)


def test_what_tproxy_marks_stays_in_the_pod_by_a_policy_route(pod_rules, policy_routes):
    assert_policy_routes(pod_rules, policy_routes)
