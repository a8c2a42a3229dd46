"""The end of a packet's way, joined with Envoy's listeners."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from pytest_istio_sidecar import (
    ListenerMismatch,
    Undecided,
    assert_rules_reach_listeners,
    check_rules_reach_listeners,
    expected_ruleset,
    render_save,
)
from pytest_istio_sidecar.checks.finding import Severity
from pytest_istio_sidecar.istio.listeners import Listener
from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save

RULES = expected_ruleset("1.8.3")
ANY = ipaddress.ip_address("0.0.0.0")
OUTBOUND = Listener(
    address=ANY, port=15001, direction="outbound", transparent=False, original_destination=True
)
INBOUND = replace(OUTBOUND, port=15006, direction="inbound")
READINESS = Listener(address=ANY, port=15021)


def summaries(listeners: tuple[Listener, ...], rules=RULES) -> list[str]:
    return [finding.summary for finding in check_rules_reach_listeners(rules, listeners)]


def test_istios_rules_reach_istios_listeners() -> None:
    assert summaries((OUTBOUND, INBOUND, READINESS)) == []


def test_a_port_that_envoy_serves_though_it_is_excluded_is_a_notice() -> None:
    rules = expected_ruleset("1.8.3", inbound_ports_exclude="15090,15021,8443,15020")
    ingress = Listener(address=ANY, port=8443, direction="inbound")
    (found,) = check_rules_reach_listeners(rules, (OUTBOUND, INBOUND, READINESS, ingress))
    assert found.severity is Severity.NOTICE
    assert found.summary == (
        "inbound tcp 8443 is not redirected, and comes to Envoy all the same: it listens on 8443"
    )


def test_a_capturing_port_that_is_not_captured_itself_is_no_news() -> None:
    assert summaries((OUTBOUND, INBOUND), expected_ruleset("1.8.3", inbound_ports_include="80")) == []


def test_an_excluded_port_of_envoy_on_localhost_serves_no_neighbour() -> None:
    rules = expected_ruleset("1.8.3", inbound_ports_exclude="15090,15021,8443,15020")
    local = Listener(address=ipaddress.ip_address("127.0.0.1"), port=8443)
    assert summaries((OUTBOUND, INBOUND, local), rules) == []


def test_a_listener_that_is_not_there_is_named_with_a_packet_that_misses_it() -> None:
    (found,) = summaries((OUTBOUND, READINESS))
    assert found.startswith("inbound tcp 80 ")
    assert "is sent to 192.0.2.10:15006, where Envoy does not listen" in found


def test_a_listener_of_the_wrong_direction_takes_nothing() -> None:
    swapped = replace(INBOUND, direction="outbound")
    (found,) = summaries((OUTBOUND, swapped))
    assert "Envoy listens for outbound traffic, and this is inbound" in found


@pytest.mark.parametrize("version", ["1.8.3", "1.20.8", "1.27.3"])
def test_dns_that_goes_to_the_agent_needs_no_listener_of_envoy(version: str) -> None:
    rules = expected_ruleset(version, redirect_dns=True, capture_all_dns=True)
    assert summaries((OUTBOUND, INBOUND), rules) == []


@pytest.mark.parametrize("version", ["1.8.3", "1.20.8", "1.27.3"])
def test_what_the_application_sends_to_port_53_of_its_own_pod_may_be_outbound(version: str) -> None:
    rules = expected_ruleset(version, redirect_dns=True, dns_servers_v4="192.0.2.53")
    assert summaries((OUTBOUND, INBOUND), rules) == []


def test_what_envoy_sends_to_its_own_pod_must_be_inbound() -> None:
    rule = "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -m owner --uid-owner 1337 -j "
    text = render_save(RULES)
    assert f"{rule}ISTIO_IN_REDIRECT" in text
    astray = parse_iptables_save(text.replace(f"{rule}ISTIO_IN_REDIRECT", f"{rule}ISTIO_REDIRECT"))
    (found,) = summaries((OUTBOUND, INBOUND), astray)
    assert "from uid 1337" in found
    assert "Envoy listens for outbound traffic, and this is inbound" in found


def test_other_traffic_to_the_agents_dns_port_needs_one() -> None:
    astray = parse_iptables_save(
        "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 15053\nCOMMIT\n"
    )
    (found, *_) = summaries((OUTBOUND, INBOUND), astray)
    assert "where Envoy does not listen" in found


def test_a_listener_on_localhost_takes_nothing_from_the_network() -> None:
    local = replace(INBOUND, address=ipaddress.ip_address("127.0.0.1"))
    found = summaries((OUTBOUND, local))
    assert any("Envoy does not listen: it is bound to 127.0.0.1:15006 only" in text for text in found)


def test_a_listener_on_every_ipv6_address_takes_ipv4_too() -> None:
    dual = replace(INBOUND, address=ipaddress.ip_address("::"))
    assert summaries((OUTBOUND, dual)) == []


def test_ipv6_traffic_does_not_reach_a_listener_that_is_bound_to_ipv4() -> None:
    found = summaries((OUTBOUND, INBOUND), expected_ruleset("1.8.3", family=6))
    assert found
    assert all("where Envoy does not listen: it is bound to 0.0.0.0:" in text for text in found)


def test_what_tproxy_hands_over_needs_a_transparent_socket() -> None:
    hooks = ":PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    rule = "-A PREROUTING -p tcp -j TPROXY --on-port 15006 --on-ip 127.0.0.1 --tproxy-mark 0x539/0xffffffff\n"
    handed_over = parse_iptables_save(f"*mangle\n{hooks}{rule}COMMIT\n")
    (found, _) = summaries((OUTBOUND, INBOUND), handed_over)
    assert "its socket is not transparent" in found
    assert (
        "no rule sends traffic to Envoy's outbound listener on :15001"
        in summaries((OUTBOUND, replace(INBOUND, transparent=True)), handed_over)[0]
    )


def test_a_capturing_listener_that_no_rule_feeds_is_a_notice_and_fails_nothing() -> None:
    extra = replace(INBOUND, port=15007)
    (finding,) = check_rules_reach_listeners(RULES, (OUTBOUND, INBOUND, extra))
    assert finding.severity is Severity.NOTICE
    assert_rules_reach_listeners(RULES, (OUTBOUND, INBOUND, extra))


def test_the_assertion_shows_the_packets_path_and_what_is_bound() -> None:
    with pytest.raises(ListenerMismatch) as raised:
        assert_rules_reach_listeners(RULES, (OUTBOUND,))
    message = str(raised.value)
    assert "wanted   a listener of Envoy for inbound traffic at 192.0.2.10:15006" in message
    assert "got      0.0.0.0:15001 outbound" in message
    assert "<- decides" in message


def test_a_port_that_the_kernel_picks_at_random_reaches_no_listener_for_certain() -> None:
    text = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -j REDIRECT --to-ports {} --random\nCOMMIT\n"
    with pytest.raises(Undecided, match="the kernel picks one of the ports 15006-15010 at random"):
        summaries((INBOUND,), parse_iptables_save(text.format("15006-15010")))
    assert summaries((INBOUND,), parse_iptables_save(text.format("15006"))) == []
