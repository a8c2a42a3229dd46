"""What the kernel does with packets under rules of nf_tables; `tests/kernel` holds the same at random."""

from __future__ import annotations

import json

import pytest

from pytest_istio_sidecar import (
    Fate,
    Packet,
    PodRules,
    inbound,
    outbound,
    parse_iptables_save,
    parse_nftables,
    trace,
)
from pytest_istio_sidecar.netfilter.model import Backend
from pytest_istio_sidecar.netfilter.space.space import Space, agreed, regions

CHAIN = "chain {name} {{\ntype {kind} hook {hook} priority {priority}; policy {policy};\n{rules}\n}}\n"


def chain(rules: str, *, name: str = "c", kind: str = "filter", hook: str = "prerouting", priority: int = 0,
          policy: str = "accept") -> str:  # fmt: skip
    return CHAIN.format(name=name, kind=kind, hook=hook, priority=priority, policy=policy, rules=rules)


def pod(*chains: str, family: str = "inet", name: str = "t", flags: str = "") -> PodRules:
    return parse_nftables(f"table {family} {name} {{\n{flags}\n{''.join(chains)}}}\n")


def from_json(family: str, base: dict[str, object], expressions: list[object], **table: str) -> PodRules:
    place = {"family": family, "table": "t"}
    objects = [
        {"table": {"family": family, "name": "t", **table}},
        {"chain": {**place, **base}},
        {"rule": {**place, "chain": "c", "expr": expressions}},
    ]
    return parse_nftables(json.dumps({"nftables": objects}))


def both(*rules: PodRules) -> PodRules:
    """Several tables of one namespace."""
    four, six = (
        [each for one in rules for each in one.rulesets if each.family == family] for family in (4, 6)
    )
    merged = []
    for each in (four, six):
        first = each[0]
        for other in each[1:]:
            for table in other.tables:
                first = first.with_table(table)
        merged.append(first)
    return PodRules(rulesets=tuple(merged))


def fate(rules: PodRules, packet: Packet) -> Fate:
    """What becomes of a packet, of which `space` says the same."""
    told = trace(rules, packet).fate
    space = Space([rules], packet.hook, host=None, family=packet.family)
    where = [
        cubes
        for answers, cubes in space.cubes(space.within(space.outcomes())).items()
        if agreed(answers).fate is told
    ]
    assert where
    return told


REDIRECT = "tcp dport 1-65535 redirect to :15006"
DROP = chain("drop", name="d", hook="input", priority=0)


@pytest.mark.parametrize(
    "rule",
    ["udp dport != 53 drop", "meta skuid != 1337 drop", "ct mark != 5 drop", "ip6 daddr != ::1 drop",
     "tcp flags != ack ct mark != 0x1 drop", "udp dport vmap { * : drop }", "ct direction != reply drop"],
)  # fmt: skip
def test_what_a_packet_does_not_have_holds_neither_way(rule: str) -> None:
    """Before conntrack there is no connection, at PREROUTING no socket, in TCP no port of UDP."""
    assert fate(pod(chain(rule, priority=-300)), inbound(80)) is Fate.UNCHANGED


def test_a_packet_without_socket_has_no_user() -> None:
    rules = pod(chain("meta skuid != 1337 drop", hook="output"))
    assert fate(rules, outbound("192.0.2.20", 80, uid=1000)) is Fate.DROPPED
    assert fate(rules, outbound("192.0.2.20", 80, uid=None, gid=None)) is Fate.UNCHANGED


def test_accept_ends_its_chain_only() -> None:
    first, second = chain("accept", name="a", priority=-150), chain("drop", name="b", priority=0)
    assert fate(pod(first, second), inbound(80)) is Fate.DROPPED


def test_a_nat_chain_that_accepts_leaves_it_to_the_next() -> None:
    first = chain("accept", name="a", kind="nat", priority=-150)
    second = chain(REDIRECT, name="b", kind="nat", priority=-100)
    assert fate(pod(first, second), inbound(80)) is Fate.REDIRECTED


def test_a_foreign_nat_chain_before_istios_decides_where_it_translates() -> None:
    evil = chain("tcp dport 80 dnat ip to 192.0.2.10:8080", name="evil", kind="nat", priority=-150)
    istio = chain(REDIRECT, kind="nat", priority=-100)
    told = trace(pod(istio, evil), inbound(80))
    assert (told.fate, str(told.destination)) == (Fate.TRANSLATED, "192.0.2.10:8080")
    assert told.deciding_rule is not None
    assert told.deciding_rule.text == "tcp dport 80 dnat ip to 192.0.2.10:8080"


def test_a_nat_chain_runs_at_nats_place_whatever_its_priority() -> None:
    early = chain(REDIRECT, name="n", kind="nat", priority=-199)
    marks = chain("meta mark set 0x1", name="m", priority=-150)
    asks = chain("meta mark 0x1 tcp dport 80 redirect to :15006", name="n", kind="nat", priority=-199)
    assert fate(pod(early, marks), inbound(80)) is Fate.REDIRECTED
    assert fate(pod(asks, marks), inbound(80)) is Fate.REDIRECTED


def test_of_two_chains_of_a_table_with_one_priority_the_later_one_is_asked_first() -> None:
    first = chain("tcp dport 80 redirect to :1", name="a", kind="nat", priority=-100)
    second = chain("tcp dport 80 redirect to :2", name="b", kind="nat", priority=-100)
    assert trace(pod(first, second), inbound(80)).destination.port == 2


def test_between_tables_of_one_priority_the_order_is_not_known_and_said_where_it_decides() -> None:
    one = pod(chain("tcp dport 80 redirect to :1", kind="nat", priority=-100), name="a")
    other = pod(chain("tcp dport 80 redirect to :2", kind="nat", priority=-100), name="b")
    told = trace(both(one, other), inbound(80))
    assert told.fate is Fate.UNKNOWN
    assert told.reasons[0].startswith(
        "which of several chains of one priority the kernel asks first cannot be read"
    )
    assert "with inet a c before inet b c redirected to 192.0.2.10:1" in told.reasons[0]
    assert trace(both(one, other), inbound(443)).fate is Fate.UNCHANGED


def test_a_filter_chain_at_nats_own_priority_may_stand_before_it_or_behind() -> None:
    nat = chain(REDIRECT, name="n", kind="nat", priority=-100)
    told = trace(pod(nat, chain("tcp dport 15006 drop", name="f", priority=-100)), inbound(80))
    assert told.fate is Fate.UNKNOWN
    assert "inet t f before nat" in told.reasons[0]
    assert (
        trace(pod(nat, chain("tcp dport 15006 drop", name="f", priority=-99)), inbound(80)).fate
        is Fate.DROPPED
    )


def test_more_chains_of_one_place_than_can_be_tried_leave_the_fate_unknown() -> None:
    tables = [pod(chain("counter", priority=-100), name=f"t{number}") for number in range(6)]
    told = trace(both(*tables), inbound(80))
    assert told.fate is Fate.UNKNOWN
    assert "too many base chains have one place" in told.reasons[0]
    assert {region.fate for region in regions(both(*tables), "PREROUTING")} == {Fate.UNKNOWN}


def test_a_dormant_table_does_nothing() -> None:
    assert fate(pod(chain("drop"), flags="flags dormant"), inbound(80)) is Fate.UNCHANGED


def test_a_table_that_may_be_dormant_is_followed_both_ways() -> None:
    base = {"name": "c", "type": "filter", "hook": "prerouting", "prio": 0, "policy": "drop"}
    told = trace(from_json("inet", base, [], flags="ok"), inbound(80))
    assert told.fate is Fate.UNKNOWN
    assert told.reasons[0].startswith("whether a table is dormant cannot be read from this JSON, and decides")


def test_return_within_a_rule_is_that_of_its_chain() -> None:
    called = "chain called {\ntcp dport vmap { 80 : return }\ndrop\n}\n"
    rules = pod(called, chain("jump called\ntcp dport 80 redirect to :1", kind="nat", priority=-100))
    assert fate(rules, inbound(80)) is Fate.REDIRECTED
    assert fate(rules, inbound(443)) is Fate.DROPPED


def test_goto_within_a_rule_does_not_come_back_to_the_chain() -> None:
    called = "chain called {\n}\n"
    assert (
        fate(pod(called, chain("tcp dport vmap { 80 : goto called }\ndrop")), inbound(80)) is Fate.UNCHANGED
    )


def test_a_map_is_asked_once_whatever_the_chain_that_it_called_has_changed() -> None:
    called = "chain called {\nmeta mark set 0x1\n}\n"
    rules = pod(called, chain("meta mark vmap { 0x0 : jump called, 0x1 : drop }"))
    assert fate(rules, inbound(80)) is Fate.UNCHANGED


def test_behind_a_map_without_the_element_the_rule_ends() -> None:
    rules = pod(chain("meta mark set tcp dport map { 80 : 0x1 } drop"))
    assert fate(rules, inbound(80)) is Fate.DROPPED
    assert fate(rules, inbound(443)) is Fate.UNCHANGED


def test_a_statement_is_done_before_the_conditions_behind_it() -> None:
    rules = pod(chain("meta mark set 0x1 tcp dport 80 counter\nmeta mark 0x1 drop"))
    assert fate(rules, inbound(443)) is Fate.DROPPED


def test_tproxy_hands_over_and_goes_on() -> None:
    rules = pod(chain("meta l4proto tcp tproxy to :15006 meta mark set 0x539", priority=-150))
    told = trace(rules, inbound(80))
    assert (told.fate, told.destination.port, told.mark) == (Fate.TPROXIED, 15006, 0x539)
    assert fate(pod(chain("meta l4proto tcp tproxy to :15006\ndrop")), inbound(80)) is Fate.DROPPED
    assert (
        fate(pod(chain("meta l4proto { tcp, udp, gre } tproxy ip6 to :15006")), inbound(80)) is Fate.UNCHANGED
    )


@pytest.mark.parametrize("family", [4, 6])
def test_a_table_of_family_inet_meets_packets_of_both_families(family: int) -> None:
    assert (
        fate(pod(chain(REDIRECT, kind="nat", priority=-100)), inbound(80, family=family)) is Fate.REDIRECTED
    )


def test_a_table_of_one_family_meets_no_packet_of_the_other() -> None:
    rules = pod(chain("drop"), family="ip6")
    assert fate(rules, inbound(80)) is Fate.UNCHANGED
    assert fate(rules, inbound(80, family=6)) is Fate.DROPPED


def test_dnat_to_an_address_of_the_other_family_does_nothing() -> None:
    rules = pod(chain("meta l4proto tcp dnat ip to 192.0.2.20:1", kind="nat", priority=-100))
    assert fate(rules, inbound(80)) is Fate.TRANSLATED
    assert fate(rules, inbound(80, family=6)) is Fate.UNCHANGED


def test_a_chain_at_a_device_meets_what_comes_by_it() -> None:
    hooked = (
        'chain c {\ntype filter hook ingress device "eth0" priority 0; policy accept;\ntcp dport 80 drop\n}\n'
    )
    other = hooked.replace("eth0", "eth1")
    assert fate(pod(hooked, family="netdev"), inbound(80)) is Fate.DROPPED
    assert fate(pod(other, family="netdev"), inbound(80)) is Fate.UNCHANGED
    assert fate(pod(hooked, family="netdev"), outbound("127.0.0.1", 80)) is Fate.UNCHANGED


def test_a_chain_whose_device_is_not_shown_leaves_the_fate_unknown_unless_it_only_counts() -> None:
    base = {"name": "c", "type": "filter", "hook": "ingress", "prio": 0, "policy": "accept"}
    assert fate(from_json("netdev", base, [{"drop": None}]), inbound(80)) is Fate.UNKNOWN
    assert fate(from_json("netdev", base, [{"counter": None}]), inbound(80)) is Fate.UNCHANGED


def test_a_zone_from_raw_makes_a_packet_look_new_before_conntrack() -> None:
    rules = pod(chain("ct zone set 5\nct state new drop", hook="output", priority=-300))
    assert fate(rules, outbound("192.0.2.20", 80)) is Fate.DROPPED
    late = pod(chain("ct state new drop", hook="output", priority=-300))
    assert fate(late, outbound("192.0.2.20", 80)) is Fate.UNCHANGED


def test_what_is_not_tracked_meets_no_nat() -> None:
    raw = chain("notrack", name="r", priority=-300)
    assert fate(pod(raw, chain(REDIRECT, kind="nat", priority=-100)), inbound(80)) is Fate.UNCHANGED


def test_a_statement_that_is_not_modelled_leaves_the_fate_unknown_where_it_is_met() -> None:
    rules = pod(chain("tcp dport 80 ip daddr set 192.0.2.20"))
    told = trace(rules, inbound(80))
    assert told.fate is Fate.UNKNOWN
    assert told.reasons == ("what `ip daddr set 192.0.2.20` does to a packet is not modelled",)
    assert fate(rules, inbound(443)) is Fate.UNCHANGED


def test_a_condition_that_is_not_modelled_leaves_the_fate_unknown_only_where_it_decides() -> None:
    assert fate(pod(chain("limit rate 5/second drop")), inbound(80)) is Fate.UNKNOWN
    assert fate(pod(chain("limit rate 5/second accept")), inbound(80)) is Fate.UNCHANGED


def test_steps_show_the_rule_as_nft_writes_it_and_what_was_done() -> None:
    rules = pod(chain("tcp dport vmap { 80 : drop }", priority=-150))
    steps = [step for step in trace(rules, inbound(80)).steps if step.rule is not None]
    assert [(step.table, step.rule.text, step.outcome) for step in steps if step.rule] == [
        ("inet t", "tcp dport vmap { 80 : drop }", "match, drop")
    ]
    other = [step for step in trace(rules, inbound(443)).steps if step.rule is not None]
    assert [step.outcome for step in other] == ["no match"]


def test_iptables_legacy_stands_beside_nf_tables() -> None:
    marks = "-A PREROUTING -p tcp -j MARK --set-xmark 0x1/0xffffffff"
    legacy = parse_iptables_save(f"*mangle\n:PREROUTING ACCEPT [0:0]\n{marks}\nCOMMIT\n")
    native = pod(chain("meta mark 0x1 drop", priority=-140))
    rules = PodRules(rulesets=(*native.rulesets, legacy))
    assert fate(rules, inbound(80)) is Fate.DROPPED
    assert native.rulesets[0].backend is Backend.NF_TABLES


def test_ip6_nexthdr_is_the_protocol() -> None:
    rules = pod(chain("ip6 nexthdr tcp drop"))
    assert fate(rules, inbound(80, family=6)) is Fate.DROPPED
    assert fate(rules, inbound(80, family=6, protocol="udp")) is Fate.UNCHANGED
    assert fate(rules, inbound(80)) is Fate.UNCHANGED


def test_a_forwarded_packet_keeps_at_postrouting_the_interface_that_it_came_in_by() -> None:
    rules = pod(chain('iifname "eth0" drop', hook="postrouting", priority=0))
    forwarded = inbound(80, destination="192.0.2.77", in_interface="eth0")
    assert trace(rules, forwarded).fate is Fate.DROPPED
    assert fate(rules, outbound("192.0.2.20", 80)) is Fate.UNCHANGED
