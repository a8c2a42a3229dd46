"""The lines of a summary that tell which packets go to which port: true over all ports."""

from pathlib import Path

import pytest

from pytest_istio_sidecar import Host, IstioOptions, PodRules, expected_ruleset, parse_iptables
from pytest_istio_sidecar.reports.redirected import redirected

REPORTS = Path(__file__).parents[2] / "data" / "reports"
DUAL = Host(interfaces={"eth0": ["192.0.2.10/24", "2001:db8::10/64"]})


def lines(
    options: IstioOptions, version: str = "1.27.3", *, families=(4,), host: Host | None = None
) -> list[str]:
    rulesets = tuple(expected_ruleset(version, family=family, options=options) for family in families)
    return redirected(PodRules(rulesets=rulesets), host or Host(), options)


def test_the_labs_pod_sends_inbound_to_15006_but_for_the_excluded_ports():
    assert lines(IstioOptions(), "1.8.3") == [
        "inbound tcp not 22,15008,15020-15021,15090 -> :15006",
        "outbound tcp of the application -> :15001",
        "outbound tcp of the proxy to its own pod -> :15006",
    ]


def test_one_port_that_goes_elsewhere_is_told_as_one_port():
    rules = PodRules(rulesets=(parse_iptables((REPORTS / "10-telepresence-2.6.txt").read_text()),))
    told = redirected(rules, Host(), IstioOptions())
    assert told[:2] == ["inbound tcp 80 -> :9900", "inbound tcp not 80,15008,15020-15021,15090 -> :15006"]


def test_packets_that_go_to_the_port_already_are_not_left_out_beside_a_dnat():
    """R5 of the reports: beside a target that may keep a port, their outcome is their own port."""
    text = (REPORTS / "F1b-istio-1.8.3-and-a-udp-dnat.txt").read_text()
    rules = PodRules(rulesets=(parse_iptables(text),))
    assert redirected(rules, Host(), IstioOptions()) == lines(IstioOptions(), "1.8.3")


@pytest.mark.parametrize("uid", ["1337", "1234"])
def test_the_proxy_is_who_the_options_say(uid):
    told = lines(IstioOptions(proxy_uid=uid, proxy_gid=uid), "1.8.3")
    assert "outbound tcp of the proxy to its own pod -> :15006" in told


def test_a_list_of_included_ports_is_told():
    assert (
        lines(IstioOptions(inbound_ports_include="8080,9000:9010"))[0]
        == "inbound tcp 8080,9000-9010 -> :15006"
    )


def test_both_families_are_told_and_ipv6_is_named():
    told = lines(IstioOptions(enable_ipv6=True), families=(4, 6), host=DUAL)
    assert "inbound tcp not 15008,15020-15021,15090 -> :15006" in told
    assert "inbound IPv6 tcp not 15008,15020-15021,15090 -> :15006" in told


def test_dns_and_excluded_ranges_are_told_of_the_application():
    told = lines(
        IstioOptions(redirect_dns=True, capture_all_dns=True, outbound_ip_ranges_exclude="10.0.0.0/8")
    )
    assert "outbound tcp 53 of the application -> :15053" in told
    assert "outbound tcp not 53 to not 10.0.0.0/8 of the application -> :15001" in told


def test_what_tproxy_hands_over_is_told():
    assert lines(IstioOptions(inbound_interception_mode="TPROXY"))[0] == (
        "inbound tcp not 15020-15021,15090 -> :15006"
    )
