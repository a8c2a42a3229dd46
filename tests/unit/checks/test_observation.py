"""What one request's evidence says, and Envoy's log from which it is taken."""

import ipaddress
import json

from pytest_istio_sidecar.environments.embedded.envoy import parse_access_log, with_token
from pytest_istio_sidecar.istio.observation import Observation
from pytest_istio_sidecar.netfilter.packet import Endpoint

CAPTURED = {
    "token": "t1",
    "listener": "virtualInbound",
    "direction": "inbound",
    "downstream": "192.0.2.20:40000",
    "original_destination": "192.0.2.10:8443",
    "listener_address": "192.0.2.10:15006",
    "upstream": None,
    "status": 503,
    "flags": "UF",
}
OWN = {**CAPTURED, "listener": "readiness", "direction": "", "listener_address": "192.0.2.10:15021"}


def _log(*entries):
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def _observation(*entries, marker_seen=True):
    return Observation(
        kind="inbound",
        pod="demo/httpbin",
        token="t1",
        uid=1000,
        gid=1000,
        source=Endpoint(ipaddress.ip_address("192.0.2.20"), 40000),
        destination=Endpoint(ipaddress.ip_address("192.0.2.10"), 8443),
        answered_by=None,
        answered_port=None,
        status=None,
        answer="",
        error="connection refused",
        sightings=tuple(parse_access_log(_log(*entries))),
        marker_seen=marker_seen,
    )


def test_a_log_line_tells_original_destination_and_listener_apart():
    (seen,) = parse_access_log(_log(CAPTURED))
    assert str(seen.original_destination) == "192.0.2.10:8443"
    assert str(seen.listener_address) == "192.0.2.10:15006"


def test_a_log_line_still_being_written_is_left_for_later():
    whole = _log(CAPTURED)
    assert parse_access_log(whole + whole[:40]) == parse_access_log(whole)
    assert parse_access_log(whole[:40]) == []


def test_an_ipv6_address_of_the_log_loses_its_brackets():
    (seen,) = parse_access_log(_log({**CAPTURED, "downstream": "[2001:db8::20]:40000"}))
    assert str(seen.downstream.address) == "2001:db8::20"


def test_a_request_is_found_by_its_token():
    other = {**CAPTURED, "token": "t2"}
    none = {**CAPTURED, "token": None}
    assert [seen.token for seen in with_token(parse_access_log(_log(other, CAPTURED, none)), "t1")] == ["t1"]


def test_a_capturing_listeners_record_is_capture():
    assert _observation(CAPTURED).captured_by == "inbound"


def test_envoys_own_port_answering_is_no_capture():
    seen = _observation(OWN)
    assert seen.captured_by is None
    assert seen.decided


def test_absence_is_undecided_until_a_later_request_is_in_the_log():
    assert not _observation(marker_seen=False).decided
    assert _observation(marker_seen=True).decided


def test_capture_is_decided_without_a_later_request():
    assert _observation(CAPTURED, marker_seen=False).decided


def test_the_facts_name_request_answer_and_envoys_record():
    labels = dict(_observation(CAPTURED).facts())
    assert labels["request"].startswith("tcp 192.0.2.20:40000 > 192.0.2.10:8443")
    assert labels["answered"] == "by nobody known: connection refused"
    assert labels["envoy"] == "virtualInbound took it at 192.0.2.10:15006, answered 503 UF"
