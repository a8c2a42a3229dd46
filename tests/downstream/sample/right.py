# pyright: strict
"""A user's own tests, with types: what a checker knows of the plugin. Checked, never run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import assert_type

import pytest

from pytest_istio_sidecar import (
    Fate,
    Host,
    IstioOptions,
    Listener,
    Observation,
    Packet,
    PodRules,
    Ruleset,
    SidecarPod,
    Table,
    Trace,
    assert_inbound_exclusions,
    assert_intercepted,
    assert_jump,
    assert_listener,
    assert_matches_istio,
    assert_not_redirected,
    assert_redirected,
    expected_ruleset,
    inbound,
    outbound,
    parse_iptables,
    render_save,
    trace,
)

HOST = Host(interfaces={"lo": ["127.0.0.1/8"], "eth0": ["192.0.2.10/24"]})


@pytest.fixture(scope="session")
def istio_install_options() -> dict[str, str]:
    return {"meshConfig.accessLogFile": "/dev/stdout"}


@pytest.mark.istio_version(">=1.8,<1.13")
def test_port_22_is_left_to_the_pod(pod_rules: PodRules) -> None:
    assert_inbound_exclusions(pod_rules, {15008, 22, 15090, 15021, 15020}, host=HOST)


def test_fixtures_have_types(
    iptables_nat: Table,
    envoy_listeners: tuple[Listener, ...],
    sidecar_pod: SidecarPod,
    trace_packet: Callable[[Packet], Trace],
    send_request: Callable[..., Observation],
) -> None:
    assert_jump(iptables_nat, "OUTPUT", "ISTIO_OUTPUT", host=sidecar_pod.host)
    assert_listener(envoy_listeners, 15006, direction="inbound")
    assert_type(trace_packet(inbound(80)).fate, Fate)
    assert_intercepted(send_request("inbound", port=80))


def test_a_listing_says_where_packets_go(tmp_path: Path) -> None:
    rules = parse_iptables(tmp_path.joinpath("pod.rules").read_text(), source="pod.rules")
    assert_type(rules, Ruleset)
    assert_jump(rules.nat, "PREROUTING", "ISTIO_INBOUND", protocol="tcp")
    way = trace(rules, inbound(80), host=HOST)
    assert_type(way.fate, Fate)
    assert_type(way.reasons, tuple[str, ...])
    assert way.destination.port == 15006
    assert_redirected(rules, outbound("198.51.100.7", 443, uid=1000))
    assert_redirected(rules, outbound("198.51.100.7", 443, uid=1000), to=15001)
    assert_not_redirected(rules, inbound(15021), host=HOST)
    packet = Packet(hook="PREROUTING", protocol="udp", source="192.0.2.1", destination="192.0.2.10")
    assert trace(rules, packet).deciding_rule is None


def test_expectations_are_rulesets() -> None:
    assert_type(assert_matches_istio(parse_iptables(""), "1.8.3", redirect_dns=True), None)
    by_name = expected_ruleset("1.8.3", inbound_ports_exclude="15090,15021,9000")
    assert by_name == expected_ruleset(
        "1.8.3", options=IstioOptions(inbound_ports_exclude="15090,15021,9000")
    )
    assert_type(render_save(by_name), str)
