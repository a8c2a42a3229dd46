"""TPROXY by real requests: Envoy takes them at their own address; answers come back by the policy route."""

import json

import pytest

from pytest_istio_sidecar import RedirectError, assert_policy_routes
from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment
from pytest_istio_sidecar.istio.options import IstioOptions

LEGACY, NF_TABLES = "1.20.8", "1.27.3"
TPROXY = IstioOptions(inbound_interception_mode="TPROXY", enable_ipv6=True)


@pytest.fixture(scope="module", params=[LEGACY, NF_TABLES], ids=["legacy", "nf_tables"])
def tproxy_pod(request, able_machine, own_runtime_directory):
    """A pod in TPROXY mode, of either back end and both families; tests leave it as they found it."""
    started = EmbeddedEnvironment.start(version=request.param, options=TPROXY)
    yield started
    started.stop()


@pytest.mark.parametrize(
    ("family", "pod", "client"), [(4, "192.0.2.10", "192.0.2.20"), (6, "[2001:db8::10]", "2001:db8::20")]
)
def test_a_request_is_captured_at_its_own_address_and_httpbin_sees_the_client(
    tproxy_pod, family, pod, client
):
    seen = tproxy_pod.send_request("inbound", port=80, family=family)
    assert (seen.captured_by, seen.answered_by, seen.status) == ("inbound", "httpbin", 200)
    assert str(seen.capture.original_destination) == f"{pod}:80"
    assert seen.capture.listener_address == seen.capture.original_destination  # nothing was translated
    assert f'"origin": "{client}"' in seen.answer


@pytest.mark.parametrize("family", [4, 6])
def test_the_excluded_ports_of_mangle_answer_themselves_and_15008_is_captured(tproxy_pod, family):
    told = {port: tproxy_pod.send_request("inbound", port=port, family=family) for port in (15020, 15008)}
    assert all(seen.decided and seen.answered_by == "stand-in" for seen in told.values())
    assert {port: seen.captured_by for port, seen in told.items()} == {15020: None, 15008: "inbound"}


@pytest.mark.parametrize("family", [4, 6])
def test_what_leaves_is_redirected_as_ever_and_the_proxys_group_leaves_past_envoy(tproxy_pod, family):
    seen = tproxy_pod.send_request("outbound", family=family)
    assert (seen.captured_by, seen.answered_by) == ("outbound", "echo")
    seen = tproxy_pod.send_request("outbound", uid=0, gid=1337, family=family)
    assert (seen.captured_by, seen.answered_by) == (None, "echo")


@pytest.mark.parametrize("family", [4, 6])
def test_the_application_calls_its_own_address_without_envoy(tproxy_pod, family):
    seen = tproxy_pod.send_request("localhost", port=80, family=family)
    assert seen.decided
    assert (seen.captured_by, seen.answered_by) == (None, "httpbin")


def test_the_policy_routes_of_both_families_hold(tproxy_pod):
    assert_policy_routes(tproxy_pod.read_rules(), tproxy_pod.read_policy_routes())


@pytest.fixture(params=[4, 6])
def without_route(tproxy_pod, request):
    """The pod, and a family of which it has lost the `ip rule`."""
    ip = ["ip", f"-{request.param}", "rule"]
    rule = ["fwmark", "1337", "lookup", "133"]
    assert tproxy_pod._runner.run([*ip, "del", *rule], timeout=5).succeeded
    yield tproxy_pod, request.param
    assert tproxy_pod._runner.run([*ip, "add", *rule], timeout=5).succeeded


def test_without_its_policy_route_a_captured_request_is_lost_and_the_route_is_named(without_route):
    pod, family = without_route
    seen = pod.send_request("inbound", port=80, family=family)
    assert (seen.captured_by, seen.answered_by, seen.status) == ("inbound", "envoy", 503)
    with pytest.raises(RedirectError) as caught:
        assert_policy_routes(pod.read_rules(), pod.read_policy_routes())
    ip = "ip" if family == 4 else "ip -6"
    assert "no policy route keeps them in the pod (embedded/httpbin)\n" in str(caught.value)
    assert f"  fix      {ip} rule add fwmark 1337 lookup 133\n" in str(caught.value)


def test_before_1_9_tproxy_hands_over_to_envoys_outbound_listener(start_pod):
    pod = start_pod(version="1.8.3", options=IstioOptions(inbound_interception_mode="TPROXY"))
    seen = pod.send_request("inbound", port=80)
    assert (seen.captured_by, seen.capture.listener) == ("outbound", "virtualOutbound")
    assert (seen.answered_by, json.loads(seen.capture.line)["upstream"]) == ("httpbin", "127.0.0.1:80")


@pytest.mark.parametrize("version", ["1.8.3", NF_TABLES])
def test_redirected_ipv6_is_captured_where_its_rules_were_asked_for(start_pod, version):
    pod = start_pod(version=version, options=IstioOptions(enable_ipv6=True))
    inwards, outwards = (pod.send_request(kind, family=6) for kind in ("inbound", "outbound"))
    assert (inwards.captured_by, inwards.answered_by) == ("inbound", "httpbin")
    assert (outwards.captured_by, outwards.answered_by) == ("outbound", "echo")


def test_ipv6_goes_past_envoy_where_no_rules_of_it_were_asked_for(pod):
    seen = pod.send_request("inbound", family=6)
    assert seen.decided
    assert (seen.captured_by, seen.answered_by) == (None, "httpbin")


def test_envoy_runs_as_the_user_whose_packets_the_rules_let_go(start_pod):
    pod = start_pod(options=IstioOptions(proxy_uid="1500,1337", proxy_gid=1600))
    seen = pod.send_request("outbound")
    assert (seen.captured_by, seen.answered_by) == ("outbound", "echo")
    assert pod.send_request("outbound", uid=1500, gid=1000).captured_by is None


def test_envoy_listens_where_the_options_send_traffic(start_pod):
    pod = start_pod(options=IstioOptions(proxy_port=15011, inbound_capture_port=15016))
    assert {held.port for held in pod.read_listeners() if held.direction} == {15011, 15016}
    assert pod.send_request("inbound").capture.listener_address.port == 15016
