"""A host's policy rules and routes in what becomes of a packet; what nobody added changes nothing."""

from dataclasses import replace

import pytest

from pytest_istio_sidecar import (
    Host,
    bypasses,
    check_matches_istio,
    expected_ruleset,
    outbound,
    parse_iptables_save,
    trace,
)
from pytest_istio_sidecar.checks.cause import cause_of
from pytest_istio_sidecar.netfilter.space.queries import regions
from pytest_istio_sidecar.netfilter.text.parse_routes import parse_routes

KERNELS = "0: from all lookup local\n{}32766: from all lookup main\n32767: from all lookup default\n"
ROUTES = """default via 192.0.2.20 dev eth0
192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.10
local 127.0.0.0/8 dev lo table local proto kernel scope host src 127.0.0.1
local 192.0.2.10 dev eth0 table local proto kernel scope host src 192.0.2.10
broadcast 192.0.2.255 dev eth0 table local proto kernel scope link src 192.0.2.10
"""
RULES = expected_ruleset("1.8.3")
AWAY = outbound("198.51.100.7", 80)


def host(rules="", routes="", own=ROUTES, **more):
    return Host(routes=(parse_routes(KERNELS.format(rules), own + routes, family=4),), **more)


@pytest.mark.parametrize(
    ("rules", "routes"),
    [
        ("", ""),
        ("100: from all uidrange 1000-1000 lookup 100\n", ""),
        ("", "default dev lo table 100\n"),
        ("", "unreachable 203.0.113.0/24\n"),
        ("", "198.18.0.0/15 \n\tnexthop via 192.0.2.1 dev eth0 weight 1\n\tnexthop dev eth1 weight 1\n"),
    ],
    ids=["nothing", "an empty table", "a table nobody asks", "no route", "several next hops"],
)
def test_what_leads_no_packet_elsewhere_leaves_every_answer_as_it_was(rules, routes):
    assert host(rules, routes).policies == {}


def test_what_tproxy_rests_on_changes_nothing():
    rule, route = "100: from all fwmark 0x539 lookup 133\n", "local default dev lo table 133 scope host\n"
    assert host(rule, route).policies == {}


def test_a_route_by_lo_lets_a_packet_by_and_stands_in_its_path():
    seen = trace(
        RULES, AWAY, host=host("100: from all to 198.51.100.7 lookup 100\n", "default dev lo table 100\n")
    )
    assert seen.fate == "unchanged"
    assert [step.outcome for step in seen.steps if step.table == "routing"] == [
        "by lo: rule 100: from all to 198.51.100.7 lookup 100; route default dev lo table 100"
    ]


def test_a_rule_that_is_not_modelled_leaves_a_packet_undecided_and_is_named():
    seen = trace(RULES, AWAY, host=host("100: from all l3mdev lookup [l3mdev-table]\n"))
    assert seen.fate == "unknown"
    assert "l3mdev" in seen.reasons[0]


def test_a_rule_that_is_not_modelled_but_cannot_hold_leaves_the_answer():
    rule = "100: from all fwmark 0x7 tos 0x10 lookup 100\n"
    assert trace(RULES, AWAY, host=host(rule, "default dev lo table 100\n")).destination.port == 15001


def test_a_process_sends_no_packet_where_no_route_leads_so_that_none_is_told_of():
    blocked = host("100: from all to 198.51.100.7 unreachable\n")
    assert trace(RULES, AWAY, host=blocked).destination.port == 15001
    assert check_matches_istio(RULES, "1.8.3", host=blocked) == []


def test_what_is_forwarded_is_dropped_where_nothing_forwards():
    dnat = "*nat\n-A PREROUTING -p tcp -j DNAT --to-destination 203.0.113.5:80\nCOMMIT\n"
    rules = parse_iptables_save(dnat.replace("*nat\n", "*nat\n:PREROUTING ACCEPT [0:0]\n"))
    packet = replace(
        AWAY, hook="PREROUTING", uid=None, gid=None, destination="192.0.2.10", source="192.0.2.20"
    )
    assert trace(rules, packet, host=Host(forwards=frozenset({"eth0"}))).fate == "translated"
    assert trace(rules, packet, host=Host(forwards=frozenset())).fate == "dropped"


def test_an_own_address_without_its_local_route_is_told_though_the_rules_are_istios():
    lost = host(own=ROUTES.replace("local 192.0.2.10 dev eth0 table local", "throw 203.0.113.9 table 55"))
    (finding,) = check_matches_istio(RULES, "1.8.3", host=lost)
    assert finding.summary.startswith("rules and routes of the namespace lead packets elsewhere")


DNAT = """*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -p tcp -j DNAT --to-destination {0}:15006
-A OUTPUT -p tcp -m owner ! --uid-owner 1337 -j DNAT --to-destination {0}:15001
COMMIT
"""
LED_AWAY = "100: from all to 192.0.2.10 lookup 100\n", "default via 192.0.2.20 dev eth0 table 100\n"
INWARD = {"hook": "PREROUTING", "uid": None, "gid": None, "destination": "192.0.2.10", "source": "192.0.2.20"}


@pytest.mark.parametrize("target", ["192.0.2.10", ""], ids=["to its address", "to its port"])
@pytest.mark.parametrize("way", [INWARD, {"destination": "192.0.2.10"}], ids=["inbound", "outbound"])
def test_what_nat_sends_to_envoy_is_not_captured_where_a_policy_rule_leads_it_elsewhere(target, way):
    first = "0: from all lookup local\n"
    away = Host(
        routes=(parse_routes(LED_AWAY[0] + KERNELS.format("").replace(first, first.replace("0:", "200:")),
                             ROUTES + LED_AWAY[1], family=4),),
    )  # fmt: skip
    rules = parse_iptables_save(DNAT.format(target))
    packet = replace(AWAY, **way)
    assert trace(rules, packet, host=Host()).fate == "translated"
    seen = trace(rules, packet, host=away)
    assert seen.fate == "dropped"
    assert "but routed by eth0" in seen.steps[-1].outcome
    fates = {
        region.fate for region in regions(rules, packet.hook, host=away) if str(region.address) == target
    }
    assert "translated" not in fates


def test_routes_are_the_cause_where_a_packet_fares_otherwise_by_them_and_only_there():
    rule, route = "100: from all to 198.51.100.7 lookup 100\n", "default dev {} table 100\n"
    led = trace(RULES, AWAY, host=host(rule, route.format("lo")))
    assert cause_of(led, RULES).startswith(
        "rules and routes that somebody added to the namespace lead it by lo"
    )
    flushed = parse_iptables_save("*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
    expecting = replace(flushed, expected_from=RULES.origin)
    passed = trace(expecting, AWAY, host=host(rule, route.format("eth0")))
    assert passed.fate == "unchanged"
    assert "somebody added" not in cause_of(passed, expecting)
    assert "no chain of Istio's is in these rules" in cause_of(passed, expecting)


@pytest.mark.parametrize("rule", ["from all fwmark 0x7", "from all to 203.0.113.9"], ids=["mark", "address"])
def test_what_tables_that_were_not_read_could_mark_is_undecided_where_marks_lead_packets(rule):
    marking = host(f"100: {rule} lookup 100\n", "default dev lo table 100\n")
    rules = replace(RULES, unread=frozenset({("mangle", "OUTPUT")}))
    undecided = "fwmark" in rule
    seen = trace(rules, AWAY, host=marking)
    assert (seen.fate == "unknown") is undecided
    assert (seen.reasons != ()) is undecided
    assert (bypasses(rules, expected=RULES, host=marking).conditional != ()) is undecided
