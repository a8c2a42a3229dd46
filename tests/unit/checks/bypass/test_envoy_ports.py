"""Captured is what comes to Envoy's port for its direction; the other direction's port is a way past it."""

from __future__ import annotations

from datetime import date

import pytest

from pytest_istio_sidecar import Host, IstioOptions, bypasses, check_only_bypasses, expected_ruleset
from pytest_istio_sidecar.checks.bypass.envoy_ports import EnvoyPorts
from pytest_istio_sidecar.checks.bypass.reviewed import judged_bypasses
from pytest_istio_sidecar.cli import main
from pytest_istio_sidecar.netfilter.text.forms import read_text
from pytest_istio_sidecar.netfilter.text.render import render_save

ISTIO = expected_ruleset("1.8.3")


def rules_with(old: str, new: str):
    return read_text(render_save(ISTIO).replace(old, new))


def beside(rules) -> list[str]:
    return [each.text for each in bypasses(rules, expected=ISTIO).unexpected]


def test_inbound_at_the_outbound_port_is_not_captured() -> None:
    rules = rules_with("--to-ports 15006", "--to-ports 15001")
    assert beside(rules) == ["inbound tcp not 22,15008,15020-15021,15090: sent to 192.0.2.10:15001"]


def test_outbound_at_the_inbound_port_is_not_captured() -> None:
    rules = rules_with("--to-ports 15001", "--to-ports 15006")
    assert beside(rules) == ["outbound tcp from uid not 1337 gid not 1337 by eth0: sent to 127.0.0.1:15006"]


def test_what_the_pod_sends_to_itself_may_come_to_either() -> None:
    rules = rules_with("--uid-owner 1337 -j ISTIO_IN_REDIRECT", "--uid-owner 1337 -j ISTIO_REDIRECT")
    assert beside(rules) == []


def test_the_message_tells_which_port_is_passed_by() -> None:
    (finding,) = check_only_bypasses(rules_with("--to-ports 15006", "--to-ports 15001"), [], expected=ISTIO)
    assert finding.summary == (
        "inbound tcp not 22,15008,15020-15021,15090 is sent to 192.0.2.10:15001, "
        "which is not Envoy's port for inbound traffic"
    )


def test_ports_in_order_are_of_what_leaves_and_of_what_comes() -> None:
    moved = expected_ruleset("1.8.3", proxy_port="15101", inbound_capture_port="15106")
    assert not any(": sent" in each.text for each in bypasses(moved, envoy_ports=(15101, 15106)).inbound)
    assert any(": sent" in each.text for each in bypasses(moved, envoy_ports=(15106, 15101)).inbound)


def test_a_set_of_ports_has_each_for_either() -> None:
    swapped = expected_ruleset("1.8.3", proxy_port="15006", inbound_capture_port="15001")
    report = bypasses(swapped, envoy_ports={15001, 15006})
    assert not any(": sent" in each.text for each in (*report.inbound, *report.outbound))


@pytest.mark.parametrize("version", ["1.5.10", "1.8.3", "1.9.0", "1.20.8"])
def test_tproxy_hands_inbound_to_the_port_of_its_release(version: str) -> None:
    rules = expected_ruleset(version, inbound_interception_mode="TPROXY")
    assert not any(": sent" in each.text for each in bypasses(rules).inbound)
    ports = EnvoyPorts.of_release(version, IstioOptions(inbound_interception_mode="TPROXY"))
    assert ports.handed_over == ({15001} if version < "1.9" and version != "1.20.8" else {15006})


def test_before_1_6_a_list_of_inbound_ports_goes_to_the_outbound_port() -> None:
    listed = IstioOptions(inbound_ports_include="80")
    assert EnvoyPorts.of_release("1.5.10", listed).inbound == {15001}
    assert EnvoyPorts.of_release("1.5.10", IstioOptions()).inbound == {15006}
    assert EnvoyPorts.of_release("1.6.0", listed).inbound == {15006}


def test_the_interface_that_the_pod_is_reached_by_is_no_virtual_machines() -> None:
    ports = EnvoyPorts.of_release("1.8.3", IstioOptions(kube_virt_interfaces="eth0,k6t-+"))
    host = Host(interfaces={"eth0": ["10.0.0.5/24"], "k6t-eth0": ["10.0.2.1/24"], "net1": ["10.9.0.1/24"]})
    assert list(ports.exceptions("PREROUTING", host)) == [({"interface": ("k6t-eth0",)}, {15001, 15006})]


@pytest.mark.parametrize(
    ("version", "given", "port"),
    [
        ("1.6.14", {"redirect_dns": True}, 15013),
        ("1.7.8", {"redirect_dns": True}, 15053),
        ("1.7.8", {"dns_by_envoy": True}, 15013),
        ("1.8.3", {"dns_by_envoy": True}, None),
        ("1.20.8", {"redirect_dns": True}, 15053),
        ("1.20.8", {}, None),
    ],
)
def test_the_proxy_of_dns_is_among_them_only_where_the_release_sends_dns_there(version, given, port) -> None:
    ports = EnvoyPorts.of_release(version, IstioOptions(**given))
    assert (ports.outbound, set(ports.dns.values())) == ({15001}, {port} if port else set())


def test_what_is_sent_to_a_proxy_of_dns_that_is_not_there_gets_by(tmp_path, capsys) -> None:
    jump = "-A ISTIO_OUTPUT -j ISTIO_REDIRECT"
    text = render_save(expected_ruleset("1.20.8")).replace(
        jump, f"-A ISTIO_OUTPUT -p tcp -m tcp --dport 9999 -j REDIRECT --to-ports 15053\n{jump}"
    )
    (tmp_path / "rules").write_text(text)
    assert main(["bypasses", str(tmp_path / "rules"), "--istio-version", "1.20.8"]) == 1
    assert "outbound tcp 9999" in capsys.readouterr().err


def open_in(version: str, rule: str, **options: object) -> list[str]:
    """What is open beyond the release's template where a rule stands before all others of OUTPUT."""
    told = IstioOptions.of(options)
    text = render_save(expected_ruleset(version, options=told))
    rules = read_text(text.replace("-A OUTPUT", f"{rule}\n-A OUTPUT", 1))
    report = judged_bypasses(rules, version, told, today=date(2026, 1, 1))
    return [each.text for each in report.unexpected]


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("1.5.0", {}),
        ("1.6.14", {"redirect_dns": True}),
        ("1.8.3", {}),
        ("1.8.3", {"redirect_dns": True}),
        ("1.27.3", {"redirect_dns": True, "capture_all_dns": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("port", [15013, 15053])
def test_nobody_answers_other_than_dns_at_the_ports_of_dns(version, options, port) -> None:
    rule = f"-A OUTPUT -p tcp -m tcp --dport 8443 -j REDIRECT --to-ports {port}"
    opened = open_in(version, rule, **options)
    assert any("outbound tcp 8443" in each and f":{port}" in each for each in opened), opened


@pytest.mark.parametrize(
    ("version", "protocol", "port", "options", "captured"),
    [
        ("1.5.10", "udp", 15013, {}, False),
        ("1.6.14", "udp", 15013, {"redirect_dns": True}, True),
        ("1.6.14", "udp", 15053, {"redirect_dns": True}, False),
        ("1.6.14", "tcp", 15013, {"redirect_dns": True}, False),
        ("1.6.14", "udp", 15013, {}, False),
        ("1.7.3", "udp", 15053, {"redirect_dns": True}, True),
        ("1.7.3", "udp", 15013, {"redirect_dns": True}, False),
        ("1.7.3", "udp", 15013, {"dns_by_envoy": True}, True),
        ("1.8.3", "tcp", 15053, {"redirect_dns": True}, True),
        ("1.8.3", "tcp", 15013, {"redirect_dns": True}, False),
        ("1.8.3", "tcp", 15053, {}, False),
        ("1.27.3", "udp", 15053, {"redirect_dns": True, "capture_all_dns": True}, True),
        ("1.27.3", "udp", 15013, {"redirect_dns": True, "capture_all_dns": True}, False),
    ],
)
def test_dns_is_captured_where_the_proxy_of_its_release_takes_it(
    version, protocol, port, options, captured
) -> None:
    rule = f"-A OUTPUT -p {protocol} -m {protocol} --dport 53 -j REDIRECT --to-ports {port}"
    opened = open_in(version, rule, **options)
    assert any(f"sent to 127.0.0.1:{port}" in each for each in opened) is not captured, opened
