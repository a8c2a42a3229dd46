"""The same by real traffic: each request is proved by who answered and by Envoy's own log."""

import pytest

from pytest_istio_sidecar import assert_intercepted, assert_not_intercepted

pytestmark = pytest.mark.needs_traffic

UNSERVED = 8443


def test_a_request_to_port_80_goes_through_15006(send_request, meant, to_pod, inbound_listener):
    meant(to_pod(80), captured=True)
    observation = send_request("inbound", port=80)
    assert_intercepted(observation, direction=inbound_listener)
    assert observation.answered_by == "httpbin"


def test_a_request_to_a_port_nobody_serves_is_captured_too(send_request, meant, to_pod, inbound_listener):
    meant(to_pod(UNSERVED), captured=True)
    assert_intercepted(send_request("inbound", port=UNSERVED), direction=inbound_listener)


@pytest.mark.parametrize("port", [15008, 22, 15090, 15021, 15020])
@pytest.mark.usefixtures("only_if_excluded")
def test_a_request_to_an_excluded_port_is_answered_by_that_port(send_request, port):
    observation = send_request("inbound", port=port)
    assert_not_intercepted(observation)
    assert observation.answered_port == port


def test_a_request_of_the_application_goes_through_15001(send_request, meant, from_pod):
    observation = send_request("outbound", uid=1000, gid=1000)
    to = observation.destination
    meant(from_pod(str(to.address), to.port, uid=1000, gid=1000), captured=True)
    assert_intercepted(observation, direction="outbound")


@pytest.mark.parametrize(("uid", "gid"), [(1337, 1337), (1000, 1337)], ids=["user", "group"])
def test_a_request_of_the_proxy_is_not_captured_again(send_request, meant, from_pod, uid, gid):
    observation = send_request("outbound", uid=uid, gid=gid)
    to = observation.destination
    meant(from_pod(str(to.address), to.port, uid=uid, gid=gid), captured=False)
    assert_not_intercepted(observation)


def test_a_request_to_localhost_is_not_captured(send_request):
    observation = send_request("localhost", port=80, uid=1000, gid=1000)
    assert_not_intercepted(observation)
    assert observation.answered_by == "httpbin"
