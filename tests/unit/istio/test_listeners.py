"""Envoy's listeners, from the JSON of its admin interface."""

import ipaddress
import json
from pathlib import Path

import pytest

from pytest_istio_sidecar import assert_listener, assert_rules_reach_listeners, expected_ruleset
from pytest_istio_sidecar.environments.excerpts import configuration_as_evidence
from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.istio.listeners import _field, parse_listeners

RECORDED = Path(__file__).parents[2] / "data" / "envoy"
LISTENING = (RECORDED / "listeners-1.8.json").read_text()
DUMPS = {
    path.stem: path.read_text() for path in sorted(RECORDED.glob("*.json")) if path.stem != "listeners-1.8"
}


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


@pytest.mark.parametrize(
    "unbound",
    [
        {"bind_to_port": False},
        {"bindToPort": False},
        {"deprecated_v1": {"bind_to_port": False}},
        {"deprecatedV1": {"bindToPort": False}},
    ],
    ids=lambda unbound: next(iter(unbound)),
)
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
        {"useOriginalDst": True},
        {"hidden_envoy_deprecated_use_original_dst": True},
        {"hiddenEnvoyDeprecatedUseOriginalDst": True},
    ],
    ids=lambda asks: next(iter(asks)),
)
def test_the_flag_for_the_original_destination_counts_as_every_release_spells_it(asks):
    assert _configured_with(asks).original_destination is True


@pytest.mark.parametrize("filters", ["listener_filters", "listenerFilters"])
@pytest.mark.parametrize(
    "asks",
    [
        {"name": "envoy.filters.listener.original_dst"},
        {"name": "envoy.listener.original_dst", "config": {}},
        {
            "name": "mine",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.filter.listener.original_dst.v2.OriginalDst"
            },
        },
        {
            "name": "mine",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
            },
        },
    ],
    ids=["by-name", "by-name-of-old", "by-type-of-v2", "by-type-of-v3"],
)
def test_the_filter_for_the_original_destination_counts_by_name_and_by_type(asks, filters):
    assert _configured_with({filters: [{"name": "envoy.listener.tls_inspector"}, asks]}).original_destination


@pytest.mark.parametrize(
    "other",
    [
        {"use_original_dst": False},
        {"listener_filters": [{"name": "envoy.filters.listener.original_src"}]},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_listener_that_does_not_ask_for_the_original_destination_is_told_as_such(other):
    assert _configured_with(other).original_destination is False


def _configured_with(more):
    configured = {"name": "x", "address": _address("0.0.0.0", 15001), **more}
    (listener,) = parse_listeners(_listeners(_status("x", "0.0.0.0", 15001)), _dump(dynamic=[configured]))
    return listener


@pytest.mark.parametrize("dump", DUMPS)
def test_the_recorded_capturing_listeners_have_direction_and_original_destination(dump):
    held = {listener.port: listener for listener in parse_listeners(LISTENING, DUMPS[dump])}
    assert (held[15001].direction, held[15001].original_destination) == ("outbound", True)
    assert (held[15006].direction, held[15006].original_destination) == ("inbound", True)


def test_listeners_of_istio_1_8_pass_the_checks_with_its_rules():
    listeners = parse_listeners(LISTENING, DUMPS["config-dump-1.8"])
    assert [listener.port for listener in listeners] == [15001, 15006, 15090, 15021]
    assert_listener(listeners, 15001, direction="outbound")
    assert_rules_reach_listeners(expected_ruleset("1.8.3"), listeners)


def test_a_dump_of_before_envoy_1_13_has_its_listeners_without_states():
    configured = {"name": "x", "address": _address("0.0.0.0", 15001), "traffic_direction": "OUTBOUND"}
    dump = json.dumps({"configs": [{"dynamic_active_listeners": [{"listener": configured}]}]})
    (listener,) = parse_listeners(_listeners(_status("x", "0.0.0.0", 15001)), dump)
    assert listener.direction == "outbound"


def test_a_body_in_camel_case_is_read():
    address = {"socketAddress": {"address": "0.0.0.0", "portValue": 15006}}
    more = {"socketAddress": {"address": "::", "portValue": 15006}}
    status = {"name": "x", "localAddress": address, "additionalLocalAddresses": [more]}
    (listener,) = parse_listeners(json.dumps({"listenerStatuses": [status]}))
    assert [str(endpoint) for endpoint in listener.endpoints] == ["0.0.0.0:15006", "[::]:15006"]


@pytest.mark.parametrize("dump", DUMPS)
def test_the_kept_configuration_reads_as_the_whole_one(dump):
    kept = configuration_as_evidence(DUMPS[dump])
    assert parse_listeners(LISTENING, kept) == parse_listeners(LISTENING, DUMPS[dump])


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


@pytest.mark.parametrize("text", ["", "upstream connect error", "[1, 2]", "\0", "[]", "[" * 100_000])
def test_an_answer_that_is_not_this_json_is_refused(text):
    with pytest.raises(ParseError, match="Envoy /listeners"):
        parse_listeners(text)


@pytest.mark.parametrize("text", ["", "upstream connect error", '["0.0.0.0:15090"]', "3", "[]"])
def test_a_configuration_that_is_not_this_json_is_refused(text):
    with pytest.raises(ParseError, match="Envoy /config_dump"):
        parse_listeners(LISTENING, text)


def test_an_answer_of_another_shape_has_no_listener():
    assert parse_listeners('{"listener_statuses": [{"name": 1}, 2, {"local_address": "x"}]}') == ()


@pytest.mark.parametrize("value", [None, 1, "x", [3], {"x": []}], ids=str)
@pytest.mark.parametrize(
    "field", ["name", "address", "traffic_direction", "use_original_dst", "listener_filters", "deprecated_v1"]
)
def test_a_field_of_another_shape_is_passed_over(field, value):
    configured = {"name": "x", "address": _address("0.0.0.0", 15001), "traffic_direction": "OUTBOUND"}
    dump = _dump(dynamic=[{**configured, field: value}])
    (listener,) = parse_listeners(_listeners(_status("x", "0.0.0.0", 15001)), dump)
    assert listener.port == 15001
    assert configuration_as_evidence(dump)


def test_a_field_that_is_null_in_one_spelling_is_read_in_the_other():
    listener = {
        "name": "virtualOutbound",
        "use_original_dst": None,
        "hidden_envoy_deprecated_use_original_dst": True,
    }
    assert _field(listener, "use_original_dst") is True
