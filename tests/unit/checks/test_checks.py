"""Checks by effect: what they find, what they leave, and when they refuse to answer."""

from pathlib import Path

import pytest

from pytest_istio_sidecar import (
    BypassError,
    Host,
    PodRules,
    Severity,
    Undecided,
    assert_bypasses,
    assert_inbound_exclusions,
    assert_jump,
    assert_redirected,
    check_dead_rules,
    check_inbound_exclusions,
    check_jump,
    check_redirect_target,
    check_redirected,
    expected_ruleset,
    inbound,
    outbound,
    parse_iptables,
    parse_iptables_save,
    render_save,
)
from pytest_istio_sidecar.checks.finding import Kind
from pytest_istio_sidecar.reports.sentences import explain

EXCLUDED = {15008, 22, 15090, 15021, 15020}
ISTIO = render_save(expected_ruleset("1.8.3"))
JUMP = "-A PREROUTING -p tcp -j ISTIO_INBOUND\n"


def nat_with(old: str, new: str):
    assert old in ISTIO
    return parse_iptables_save(ISTIO.replace(old, new)).nat


def test_istios_own_table_has_exactly_its_five_exclusions():
    assert check_inbound_exclusions(expected_ruleset("1.8.3"), EXCLUDED) == []


@pytest.mark.parametrize("port", sorted(EXCLUDED))
def test_an_exclusion_that_nobody_wanted_is_found(port):
    findings = check_inbound_exclusions(expected_ruleset("1.8.3"), EXCLUDED - {port})
    assert [finding.trace.packet.destination_port for finding in findings] == [port]


def test_a_range_of_ports_let_by_is_one_finding_with_both_ends():
    nat = nat_with(JUMP, f"-A PREROUTING -p tcp -m tcp --dport 3000:3999 -j RETURN\n{JUMP}")
    (finding,) = check_inbound_exclusions(nat, EXCLUDED)
    assert "tcp 3000-3999 reaches the application without Envoy" in finding.summary


def test_a_port_that_the_kernel_drops_is_neither_captured_nor_let_by():
    text = f"{ISTIO}*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 8080 -j DROP\nCOMMIT\n"
    (finding,) = check_inbound_exclusions(parse_iptables_save(text), EXCLUDED)
    assert finding.summary == "inbound tcp 8080 is dropped"
    assert (finding.got, finding.kind) == ("it is dropped", Kind.REDIRECT)


def test_a_packet_whose_sender_is_told_is_said_to_be_dropped_by_reject():
    reject = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n"
    (finding,) = check_redirected(parse_iptables_save(f"{ISTIO}{reject}"), inbound(8080))
    assert finding.summary == "inbound tcp 8080 is dropped by REJECT"
    assert finding.got == "it is dropped by REJECT"
    assert explain(finding.trace)[-1] == "So inbound tcp 8080 goes nowhere: it is dropped by REJECT."


def test_a_port_let_by_for_one_network_only_is_found():
    nat = nat_with(JUMP, f"-A PREROUTING -s 198.51.100.0/24 -p tcp -m tcp --dport 80 -j ACCEPT\n{JUMP}")
    (finding,) = check_inbound_exclusions(nat, EXCLUDED)
    assert str(finding.trace.packet.source).startswith("198.51.100.")


def test_what_a_target_that_is_not_modelled_takes_is_not_said_to_come():
    nat = nat_with(JUMP, f"-A PREROUTING -p tcp -m tcp --dport 80 -j NFQUEUE --queue-num 0\n{JUMP}")
    with pytest.raises(Undecided, match="NFQUEUE"):
        check_jump(nat, "PREROUTING", "ISTIO_INBOUND")


def test_a_jump_on_another_interface_than_the_pods_is_no_jump():
    nat = nat_with(JUMP, "-A PREROUTING -i eth1 -p tcp -j ISTIO_INBOUND\n")
    with pytest.raises(BypassError):
        assert_jump(nat, "PREROUTING", "ISTIO_INBOUND")
    with_eth1 = Host(interfaces={"eth1": ["192.0.2.10/24"]})
    assert check_jump(nat, "PREROUTING", "ISTIO_INBOUND", host=with_eth1) == []


def test_a_goto_leads_there_as_well_as_a_jump():
    nat = nat_with(JUMP, "-A PREROUTING -p tcp -g ISTIO_INBOUND\n")
    assert check_jump(nat, "PREROUTING", "ISTIO_INBOUND") == []


def test_a_chain_reached_by_nobody_can_still_redirect():
    nat = nat_with(JUMP, "")
    assert check_redirect_target(nat, "ISTIO_IN_REDIRECT", 15006) == []


def test_three_rules_of_istio_are_dead_and_that_is_a_notice():
    findings = check_dead_rules(expected_ruleset("1.8.3").nat)
    assert [(finding.rule.chain, finding.rule.number) for finding in findings] == [
        ("ISTIO_OUTPUT", 5),
        ("ISTIO_OUTPUT", 6),
        ("ISTIO_OUTPUT", 8),
    ]
    assert {finding.severity for finding in findings} == {Severity.NOTICE}


def test_a_rule_below_a_catch_all_is_dead():
    catch_all = "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT\n"
    nat = nat_with(catch_all, f"{catch_all}-A ISTIO_INBOUND -p tcp -m tcp --dport 8443 -j RETURN\n")
    assert any(f.rule.text.endswith("--dport 8443 -j RETURN") for f in check_dead_rules(nat))


def test_a_match_that_is_not_modelled_leaves_the_verdict_open():
    nat = nat_with(JUMP, f"-A PREROUTING -p tcp -m recent --rcheck --name known -j RETURN\n{JUMP}")
    with pytest.raises(Undecided, match="recent"):
        assert_redirected(nat, inbound(80))


def test_a_packet_is_to_be_redirected_to_the_port_of_envoy_for_its_hook_unless_told():
    rules = parse_iptables_save(ISTIO)
    assert_redirected(rules, inbound(80))
    assert_redirected(rules, outbound("198.51.100.7", 443))
    with pytest.raises(AssertionError, match="is sent to :15006 instead of :15001"):
        assert_redirected(rules, inbound(80), to=15001)


@pytest.mark.parametrize(
    ("port", "other", "packet"),
    [(15006, 15001, inbound(80)), (15001, 15006, outbound("198.51.100.7", 443))],
    ids=["inbound", "outbound"],
)
def test_a_packet_that_comes_to_envoys_other_port_is_against(port, other, packet):
    swapped = ISTIO.replace(f"--to-ports {port}", f"--to-ports {other}")
    (finding,) = check_redirected(parse_iptables_save(swapped), packet)
    assert f"is sent to :{other} instead of :{port}" in finding.summary


def test_a_family_that_was_not_read_leaves_the_verdict_open():
    rules = PodRules(rulesets=(expected_ruleset("1.8.3"),))
    with pytest.raises(Undecided, match="no IPv6 rules were read"):
        assert_bypasses(rules, inbound(80, family=6))


def test_a_dropped_packet_is_neither_redirected_nor_let_by():
    text = ISTIO + "*filter\n:OUTPUT DROP [0:0]\nCOMMIT\n"
    rules = parse_iptables_save(text)
    with pytest.raises(AssertionError, match="is dropped"):
        assert_redirected(rules, outbound("198.51.100.7", 80), to=15001)
    with pytest.raises(AssertionError, match="is dropped"):
        assert_bypasses(rules, outbound("198.51.100.7", 80, uid=1337))


def test_rules_in_the_other_back_end_take_part():
    other = parse_iptables_save(
        "# Generated by iptables-nft-save v1.8.9 (nf_tables)\n"
        "*nat\n:PREROUTING ACCEPT [0:0]\n"
        "-A PREROUTING -p tcp -m tcp --dport 22 -j REDIRECT --to-ports 15006\nCOMMIT\n"
    )
    rules = PodRules(rulesets=(expected_ruleset("1.8.3"), other))
    with pytest.raises(AssertionError, match="inbound tcp 22"):
        assert_inbound_exclusions(rules, EXCLUDED)


REPORTS = Path(__file__).parents[2] / "data" / "reports"
BESIDE = (
    "-A PREROUTING -p udp -m udp --dport 9 -j DNAT --to-destination 192.0.2.10:9",
    "-A PREROUTING -p udp -m udp --dport 9 -j DNAT --to-destination 192.0.2.10",
    "-A PREROUTING -p udp -j REDIRECT",
    "-A PREROUTING -p udp -m udp --dport 9 -j REDIRECT --to-ports 9000-9010",
    "-A OUTPUT -p udp -j DNAT --to-destination 127.0.0.1",
)


@pytest.mark.parametrize("name", ["F1-dnat-anywhere.txt", "F1b-istio-1.8.3-and-a-udp-dnat.txt"])
def test_a_dnat_elsewhere_in_the_table_does_not_change_what_a_chain_redirects_to(name):
    nat = parse_iptables((REPORTS / name).read_text()).nat
    assert check_redirect_target(nat, "ISTIO_IN_REDIRECT", 15006) == []


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize(("chain", "port"), [("ISTIO_IN_REDIRECT", 15006), ("ISTIO_REDIRECT", 15001)])
def test_packets_that_go_to_the_port_already_are_redirected_to_it_too(beside, chain, port):
    assert check_redirect_target(nat_with(JUMP, f"{beside}\n{JUMP}"), chain, port) == []


@pytest.mark.parametrize("beside", BESIDE)
def test_another_port_is_found_beside_them_all_the_same(beside):
    nat = nat_with(JUMP, f"{beside}\n{JUMP}")
    (finding,) = check_redirect_target(nat, "ISTIO_REDIRECT", 15002)
    assert finding.got == "the packet is sent to :15001"


def test_a_redirect_to_no_port_keeps_the_packets_own_and_is_found():
    nat = nat_with(
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001", "-A ISTIO_REDIRECT -p tcp -j REDIRECT"
    )
    (finding,) = check_redirect_target(nat, "ISTIO_REDIRECT", 15001)
    assert finding.summary == "ISTIO_REDIRECT does not redirect tcp to :15001"


def test_the_packet_that_shows_a_wrong_redirect_is_one_that_goes_wrong():
    rule = "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\n"
    nat = nat_with(rule, f"-A ISTIO_REDIRECT -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 9\n{rule}")
    (finding,) = check_redirect_target(nat, "ISTIO_REDIRECT", 15001)
    assert finding.trace is not None
    assert (finding.trace.packet.destination_port, finding.trace.destination.port) == (8080, 9)


@pytest.mark.parametrize(
    ("check", "first"),
    [
        (
            lambda nat: check_jump(nat, "PREROUTING", "ISTIO_INBOUND"),
            "no IPv6 tcp packet comes from PREROUTING to ISTIO_INBOUND",
        ),
        (
            lambda nat: check_redirect_target(nat, "ISTIO_REDIRECT", 15009),
            "IPv6 ISTIO_REDIRECT does not redirect tcp to :15009",
        ),
        (lambda nat: check_jump(nat, "PREROUTING", "OTHER"), "the IPv6 nat table has no chain OTHER"),
        (
            lambda nat: check_inbound_exclusions(nat, {80}, family=6),
            "inbound IPv6 tcp 0-65535 reaches the application without Envoy",
        ),
    ],
)
def test_what_is_found_of_ipv6_names_it(check, first):
    text = render_save(expected_ruleset("1.20.8", family=6)).replace(JUMP, "")
    nat = parse_iptables_save(text, family=6).nat
    assert check(nat)[-1].summary in (
        first,
        first.replace("0-65535", "0-79"),
        first.replace("0-65535", "81-65535"),
    )


STRANGER = "-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 203.0.113.9:15006\n"


def test_what_is_sent_to_another_host_is_not_captured_whatever_its_port():
    nat = nat_with(JUMP, STRANGER + JUMP)
    (finding,) = check_redirected(nat, inbound(80))
    assert finding.summary == "inbound tcp 80 is sent to 203.0.113.9:15006, which is not Envoy"
    (also,) = check_inbound_exclusions(nat, EXCLUDED)
    assert also.summary == "inbound tcp 80 is sent to 203.0.113.9:15006, which is not Envoy"
    assert also.got == "also tcp 80: sent to 203.0.113.9:15006"


@pytest.mark.parametrize(("chain", "port"), [("ISTIO_IN_REDIRECT", 15006), ("ISTIO_REDIRECT", 15001)])
def test_a_chain_is_not_blamed_for_what_a_rule_before_it_does(chain, port):
    assert check_redirect_target(nat_with(JUMP, STRANGER + JUMP), chain, port) == []
