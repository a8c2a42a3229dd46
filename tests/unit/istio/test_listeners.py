"""Envoy's listeners, from the JSON of its admin interface."""

import ipaddress
import json

import pytest

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.istio.listeners import parse_listeners


def _address(address, port):
    return {"socket_address": {"address": address, "port_value": port}}


def _status(name, address, port, **more):
    return {"name": name, "local_address": _address(address, port), **more}


def _listeners(*statuses):
    return json.dumps({"listener_statuses": list(statuses)})


def _dump(static=(), dynamic=()):
    return json.dumps(
        {
            "configs": [
                {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump"},
                {
                    "static_listeners": [{"listener": listener} for listener in static],
                    "dynamic_listeners": [{"active_state": {"listener": listener}} for listener in dynamic],
                },
            ]
        }
    )


def test_a_listener_has_its_address_port_and_name():
    (listener,) = parse_listeners(_listeners(_status("virtualInbound", "0.0.0.0", 15006)))
    assert (listener.address, listener.port) == (ipaddress.ip_address("0.0.0.0"), 15006)
    assert listener.name == "virtualInbound"


def test_an_ipv6_listener_keeps_its_family():
    (listener,) = parse_listeners(_listeners(_status("virtualInbound", "::", 15006)))
    assert listener.address.version == 6


def test_without_configuration_direction_and_flags_are_unknown():
    (listener,) = parse_listeners(_listeners(_status("virtualInbound", "0.0.0.0", 15006)))
    assert (listener.direction, listener.transparent, listener.original_destination) == (None, None, None)


@pytest.mark.parametrize("unbound", [{"bind_to_port": False}, {"deprecated_v1": {"bind_to_port": False}}])
def test_a_listener_without_a_socket_is_left_out(unbound):
    names = ("0.0.0.0_8080", "virtualOutbound")
    listening = _listeners(_status(names[0], "0.0.0.0", 8080), _status(names[1], "0.0.0.0", 15001))
    service = {"name": names[0], "address": _address("0.0.0.0", 8080), **unbound}
    capturing = {"name": names[1], "address": _address("0.0.0.0", 15001)}
    (listener,) = parse_listeners(listening, _dump(dynamic=[service, capturing]))
    assert listener.name == "virtualOutbound"


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_the_direction_comes_from_the_configuration(kind):
    configured = {"name": "x", "address": _address("0.0.0.0", 15001), "traffic_direction": "OUTBOUND"}
    listening = _listeners(_status("x", "0.0.0.0", 15001))
    (listener,) = parse_listeners(listening, _dump(**{kind: [configured]}))
    assert listener.direction == "outbound"


def test_an_unnamed_listener_is_found_in_the_configuration_by_its_address():
    configured = {"address": _address("0.0.0.0", 15090), "transparent": True}
    listening = _listeners(_status("6b1b1e6c-uuid", "0.0.0.0", 15090))
    (listener,) = parse_listeners(listening, _dump(static=[configured]))
    assert listener.transparent is True


@pytest.mark.parametrize(
    "asks",
    [
        {"use_original_dst": True},
        {"listener_filters": [{"name": "envoy.filters.listener.original_dst"}]},
        {"listener_filters": [{"name": "envoy.listener.original_dst"}]},
    ],
    ids=["field", "filter", "filter-of-istio-1.5"],
)
def test_both_ways_to_ask_for_the_original_destination_count(asks):
    configured = {"name": "x", "address": _address("0.0.0.0", 15001), **asks}
    (listener,) = parse_listeners(_listeners(_status("x", "0.0.0.0", 15001)), _dump(dynamic=[configured]))
    assert listener.original_destination is True


def test_a_configured_listener_that_is_not_bound_is_none():
    configured = {"name": "10.0.0.1_80", "address": _address("10.0.0.1", 80)}
    assert parse_listeners(_listeners(), _dump(dynamic=[configured])) == ()


def test_additional_addresses_are_listened_on_too():
    status = _status("x", "0.0.0.0", 15006, additional_local_addresses=[_address("::", 15006)])
    (listener,) = parse_listeners(_listeners(status))
    assert [str(endpoint) for endpoint in listener.endpoints] == ["0.0.0.0:15006", "[::]:15006"]


def test_a_listener_without_socket_is_passed_over():
    internal = {"name": "main_internal", "local_address": {"envoy_internal_address": {}}}
    assert parse_listeners(_listeners(internal)) == ()


@pytest.mark.parametrize("text", ["", "upstream connect error", "[1, 2]", "\0"])
def test_an_answer_that_is_not_this_json_is_refused(text):
    with pytest.raises(ParseError, match="Envoy /listeners"):
        parse_listeners(text)


def test_an_answer_of_another_shape_has_no_listener():
    assert parse_listeners('{"listener_statuses": [{"name": 1}, 2, {"local_address": "x"}]}') == ()
