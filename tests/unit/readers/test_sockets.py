"""The kernel's lists of sockets, and what the agent's port and DNS need of them."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from pytest_istio_sidecar import (
    Endpoint,
    Host,
    Listener,
    ParseError,
    Socket,
    check_rules_reach_listeners,
    expected_ruleset,
)
from pytest_istio_sidecar.checks.finding import Severity
from pytest_istio_sidecar.netfilter.namespace.sockets import parse_sockets

ANY = ip_address("0.0.0.0")
ENVOY = tuple(
    Listener(address=ANY, port=port, direction=direction, original_destination=True)
    for port, direction in ((15001, "outbound"), (15006, "inbound"))
)
AGENT = Socket(protocol="tcp", address=ANY, port=15020)
RULES = expected_ruleset("1.8.3")
DNS = expected_ruleset("1.20.8", redirect_dns=True, capture_all_dns=True)
DNS_SOCKETS = [
    Socket(protocol=protocol, address=ip_address("127.0.0.1"), port=15053) for protocol in ("tcp", "udp")
]


@pytest.mark.parametrize(
    ("family", "address", "listing"),
    [
        (socket.AF_INET, "127.0.0.1", "tcp"),
        (socket.AF_INET, "0.0.0.0", "tcp"),
        (socket.AF_INET6, "::", "tcp6"),
        (socket.AF_INET6, "::1", "tcp6"),
    ],
)
def test_the_kernels_own_list_has_a_socket_that_listens(family: int, address: str, listing: str) -> None:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(socket.create_server((address, 0), family=family))
        except OSError as problem:
            pytest.skip(f"this machine has no {address}: {problem}")
        port = server.getsockname()[1]
        client = stack.enter_context(socket.create_connection((address, port), 5))
        found = parse_sockets("tcp", Path("/proc/net", listing).read_text())
        assert Socket(protocol="tcp", address=ip_address(address), port=port) in found
        assert client.getsockname()[1] not in {held.port for held in found}


def test_a_udp_socket_waits_for_anyone_unless_it_is_connected() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as free, socket.socket(type=socket.SOCK_DGRAM) as connected:
        free.bind(("127.0.0.1", 0))
        connected.bind(("127.0.0.1", 0))
        connected.connect(free.getsockname())
        ports = {held.port for held in parse_sockets("udp", Path("/proc/net/udp").read_text())}
        assert free.getsockname()[1] in ports
        assert connected.getsockname()[1] not in ports


def test_a_list_without_its_heading_is_not_taken_for_an_empty_one() -> None:
    with pytest.raises(ParseError, match="no list of sockets: ''"):
        parse_sockets("tcp", "")
    assert parse_sockets("tcp", "  sl  local_address rem_address   st\n") == ()


def test_a_line_that_is_no_socket_is_refused() -> None:
    with pytest.raises(ParseError, match="'cat: permission denied'"):
        parse_sockets("tcp", "  sl  local_address\ncat: permission denied\n")


@pytest.mark.parametrize(
    ("address", "destination", "taken"),
    [
        ("0.0.0.0", "192.0.2.10", True),
        ("0.0.0.0", "2001:db8::10", False),
        ("::", "192.0.2.10", True),
        ("::", "2001:db8::10", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "192.0.2.10", False),
        ("192.0.2.10", "192.0.2.10", True),
    ],
)
def test_a_socket_takes_what_is_sent_to_its_address(address: str, destination: str, taken: bool) -> None:
    held = Socket(protocol="tcp", address=ip_address(address), port=80)
    assert held.takes("tcp", Endpoint(ip_address(destination), 80)) is taken
    assert not held.takes("udp", Endpoint(ip_address(destination), 80))
    assert not held.takes("tcp", Endpoint(ip_address(destination), 81))


def test_an_agent_that_listens_is_no_news() -> None:
    assert check_rules_reach_listeners(RULES, ENVOY, sockets=[AGENT]) == []


def test_an_agent_that_does_not_listen_where_the_rules_leave_its_port_to_it_is_told() -> None:
    other = Socket(protocol="tcp", address=ANY, port=80)
    (found,) = check_rules_reach_listeners(RULES, ENVOY, sockets=[other])
    assert found.severity is Severity.NOTICE, "no packet gets by Envoy for that"
    assert found.summary == "inbound tcp 15020 is left to the agent, which does not listen there"
    assert found.wanted == "a tcp socket at 192.0.2.10:15020"
    assert found.got == "tcp 0.0.0.0:80"


def test_an_agent_on_localhost_serves_no_neighbour() -> None:
    local = Socket(protocol="tcp", address=ip_address("127.0.0.1"), port=15020)
    (found,) = check_rules_reach_listeners(RULES, ENVOY, sockets=[local])
    assert found.got == "tcp 127.0.0.1:15020"


@pytest.mark.parametrize(
    "options",
    [{"inbound_ports_exclude": "15090,15021"}, {"inbound_ports_include": "80"}],
    ids=["captured with the rest", "not among those captured"],
)
def test_an_agents_port_that_no_rule_leaves_out_is_not_asked_for(options: dict[str, str]) -> None:
    rules = expected_ruleset("1.8.3", **options)
    assert check_rules_reach_listeners(rules, ENVOY, sockets=[]) == []


def test_nothing_is_asked_of_an_agent_whose_sockets_were_not_read() -> None:
    assert check_rules_reach_listeners(RULES, ENVOY) == []


def test_dns_that_the_agent_answers_is_no_news() -> None:
    assert check_rules_reach_listeners(DNS, ENVOY, sockets=[AGENT, *DNS_SOCKETS]) == []


def test_dns_that_nobody_answers_is_a_notice_for_each_protocol() -> None:
    tcp, udp = check_rules_reach_listeners(DNS, ENVOY, sockets=[AGENT])
    assert tcp.severity is udp.severity is Severity.NOTICE
    assert tcp.summary == "DNS by tcp is sent to 127.0.0.1:15053, where nothing listens"
    assert udp.summary == "DNS by udp is sent to 127.0.0.1:15053, where nothing listens"


def test_dns_of_a_family_that_the_pod_has_no_address_of_is_not_asked_for() -> None:
    rules = expected_ruleset("1.20.8", family=6, redirect_dns=True, capture_all_dns=True, enable_ipv6=True)
    ipv4_only = Host(interfaces={"eth0": ["192.0.2.10/24"]})
    dual = tuple(
        Listener(address=ip_address("::"), port=held.port, direction=held.direction) for held in ENVOY
    )
    assert check_rules_reach_listeners(rules, dual, host=ipv4_only, sockets=[]) == []
