"""Clauses of netfilter's semantics, each with the id of the experiment that established it."""

from __future__ import annotations

import pytest

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.netfilter.matches import Hidden
from pytest_istio_sidecar.netfilter.model import Backend, Chain, PodRules, Rule, Ruleset, Table
from pytest_istio_sidecar.netfilter.packet import Fate, Host, Packet, inbound, outbound
from pytest_istio_sidecar.netfilter.targets import Goto, Jump, Verdict
from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save
from pytest_istio_sidecar.netfilter.trace.trace import Trace, trace

OTHER = "192.0.2.20"


def rules(
    *lines: str, table: str = "nat", policy: str = "ACCEPT", chains: str = "", **tables: tuple[str, ...]
) -> Ruleset:
    """A ruleset from the rules of one table, and of others by keyword; user chains are named in `chains`."""
    text = ""
    for name, content in {table: lines, **tables}.items():
        hooks = {"raw": "PREROUTING OUTPUT", "filter": "INPUT FORWARD OUTPUT"}.get(
            name, "PREROUTING INPUT OUTPUT POSTROUTING"
        )
        text += f"*{name}\n" + "".join(f":{hook} {policy} [0:0]\n" for hook in hooks.split())
        text += "".join(f":{chain} - [0:0]\n" for chain in chains.split())
        text += "".join(f"-A {line}\n" for line in content) + "COMMIT\n"
    return parse_iptables_save(text)


def fate(ruleset: Ruleset | PodRules | Table, packet: Packet | None = None, host: Host | None = None) -> str:
    """The fate, and where it changes the destination, that too."""
    found = trace(ruleset, packet or outbound(OTHER, 80), host=host)
    return (
        str(found.fate)
        if found.fate in (Fate.UNCHANGED, Fate.DROPPED, Fate.UNKNOWN)
        else f"{found.fate} {found.destination}"
    )


def hits(found: Trace) -> list[str]:
    return [step.rule.text for step in found.steps if step.rule is not None and step.matched]


TO_PROXY = "OUTPUT -p tcp -j REDIRECT --to-ports 15001"


# Verdicts, §2.5


def test_return_in_a_builtin_chain_is_its_policy() -> None:  # T20
    assert fate(rules("OUTPUT -j RETURN", TO_PROXY)) == "unchanged"
    assert fate(rules("OUTPUT -j RETURN", TO_PROXY, policy="DROP")) == "dropped"


@pytest.mark.parametrize("ending", [("A -j RETURN",), ()], ids=["RETURN", "falling off the end"])
def test_a_user_chain_comes_back_to_the_rule_after_the_jump(ending: tuple[str, ...]) -> None:  # T21, T22
    assert fate(rules("OUTPUT -j A", TO_PROXY, *ending, chains="A")) == "redirected 127.0.0.1:15001"


@pytest.mark.parametrize("ending", [("B -j RETURN",), ()], ids=["RETURN", "falling off the end"])
def test_the_end_of_a_goto_comes_back_to_the_caller_of_the_chain_that_went(
    ending: tuple[str, ...],
) -> None:  # T23
    way = rules("OUTPUT -j A", TO_PROXY, "A -g B", "A -p tcp -j REDIRECT --to-ports 1", *ending, chains="A B")
    assert fate(way) == "redirected 127.0.0.1:15001"


def test_the_end_of_a_goto_from_a_builtin_chain_is_the_policy() -> None:  # T24
    assert fate(rules("OUTPUT -g A", TO_PROXY, chains="A")) == "unchanged"


def test_accept_in_a_user_chain_ends_the_table_but_not_the_hook() -> None:  # T26
    accepted = rules("OUTPUT -j A", TO_PROXY, "A -j ACCEPT", chains="A", filter=("OUTPUT -p tcp -j DROP",))
    assert fate(accepted) == "dropped"


def test_a_rule_without_a_target_lets_the_packet_go_on() -> None:  # T27
    found = trace(rules("OUTPUT -p tcp", TO_PROXY), outbound(OTHER, 80))
    assert hits(found) == ["-A OUTPUT -p tcp", f"-A {TO_PROXY}"]
    assert [step.outcome for step in found.steps] == ["match", "match, redirect"]


def test_a_mark_is_seen_by_the_rules_after_it() -> None:  # T28
    marked = rules(
        "OUTPUT -j MARK --set-xmark 0x7/0xffffffff",
        "OUTPUT -p tcp -m mark --mark 0x7 -j REDIRECT --to-ports 9",
    )
    assert fate(marked) == "redirected 127.0.0.1:9"
    assert trace(marked, outbound(OTHER, 80)).mark == 7


def test_a_mark_is_changed_within_its_mask_only() -> None:
    marked = rules("OUTPUT -j MARK --set-xmark 0x10/0xf0")
    assert trace(marked, outbound(OTHER, 80, mark=0x1FF)).mark == 0x11F


def test_a_connmark_is_seen_by_the_rules_after_it_and_restored_to_the_packet() -> None:  # T29
    kept = rules(
        "OUTPUT -j CONNMARK --set-xmark 0x111/0xffffffff",
        "OUTPUT -p tcp -m connmark --mark 0x111 -j REDIRECT --to-ports 9",
        mangle=("POSTROUTING -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",),
    )
    assert fate(kept) == "redirected 127.0.0.1:9"
    assert trace(kept, outbound(OTHER, 80)).mark == 0x111


def test_a_drop_policy_of_nat_drops() -> None:  # Z01
    assert fate(rules("OUTPUT -p udp -j ACCEPT", policy="DROP")) == "dropped"


def test_reject_drops() -> None:
    assert fate(rules("OUTPUT -j REJECT --reject-with tcp-reset", table="filter")) == "dropped"


def test_chains_that_jump_in_a_circle_are_refused() -> None:
    for target in (Jump("A"), Goto("A")):
        chain = Chain(name="A", rules=(Rule(chain="A", target=target, number=1),))
        start = Chain(name="OUTPUT", policy="ACCEPT", rules=(Rule(chain="OUTPUT", target=target, number=1),))
        with pytest.raises(UsageProblem, match="circle"):
            trace(Ruleset(tables=(Table(name="nat", chains=(start, chain)),)), outbound(OTHER, 80))


# When nat is asked, §2.2


@pytest.mark.parametrize("state", ["ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"])
def test_nat_is_asked_for_new_connections_only(state: str) -> None:
    assert fate(rules(TO_PROXY), outbound(OTHER, 80, state=state)) == "unchanged"


def test_a_packet_that_raw_does_not_track_is_not_translated_and_the_raw_rule_decides() -> None:  # T30
    untracked = rules(TO_PROXY, raw=("OUTPUT -p tcp -j CT --notrack",))
    assert fate(untracked) == "unchanged"
    assert trace(untracked, outbound(OTHER, 80)).deciding_rule == untracked.raw.chain("OUTPUT").rules[0]


def test_conntrack_target_without_options_that_are_known_leaves_the_fate_open() -> None:
    assert fate(rules(TO_PROXY, raw=("OUTPUT -p tcp -j CT",))) == "unknown"


def test_a_connection_to_itself_is_not_translated_again_as_it_comes_in_through_lo() -> None:  # T01
    assert (
        fate(rules("PREROUTING -p tcp -j REDIRECT --to-ports 15006"), outbound("192.0.2.10", 80))
        == "unchanged"
    )


def test_a_connection_to_itself_meets_raw_mangle_and_filter_as_it_comes_in_through_lo() -> None:  # T03
    looped = rules(
        raw=("PREROUTING -i lo",), mangle=("PREROUTING -i lo", "INPUT -i lo"), filter=("INPUT -i lo -j DROP",)
    )
    assert fate(looped, outbound("192.0.2.10", 80)) == "dropped"
    assert fate(looped) == "unchanged"


def test_what_nat_redirects_to_lo_comes_in_through_lo() -> None:  # T03
    found = trace(rules(TO_PROXY, filter=("INPUT -i lo -p tcp -m tcp --dport 15001",)), outbound(OTHER, 80))
    assert hits(found)[-1] == "-A INPUT -i lo -p tcp -m tcp --dport 15001"


def test_conntrack_states_in_raw_are_invalid_and_in_nat_new() -> None:  # T31
    seen = rules(
        "OUTPUT -m conntrack --ctstate NEW",
        "OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "OUTPUT -m conntrack --ctstate DNAT -j ACCEPT",
        raw=("OUTPUT -m conntrack --ctstate NEW -j DROP",),
    )
    assert hits(trace(seen, outbound(OTHER, 80))) == ["-A OUTPUT -m conntrack --ctstate NEW"]


# Interfaces and routes, §2.5


def test_filter_sees_the_route_from_before_nat_and_postrouting_the_one_after() -> None:  # T03
    found = trace(
        rules(
            TO_PROXY, "POSTROUTING -o lo", "POSTROUTING -o eth0", filter=("OUTPUT -o eth0 -d 127.0.0.1/32",)
        ),
        outbound(OTHER, 80),
    )
    assert hits(found)[1:] == ["-A OUTPUT -d 127.0.0.1/32 -o eth0", "-A POSTROUTING -o lo"]


@pytest.mark.parametrize(("name", "holds"), [("eth+", True), ("et", False), ("eth0", True), ("lo", False)])
def test_a_plus_stands_for_the_rest_of_an_interface_name(name: str, holds: bool) -> None:  # T05
    assert (fate(rules(f"OUTPUT -o {name} -p tcp -j REDIRECT --to-ports 9")) != "unchanged") is holds


def test_a_local_destination_leaves_by_lo() -> None:
    by_lo = rules("OUTPUT -o lo -p tcp -j REDIRECT --to-ports 9")
    assert fate(by_lo, outbound("192.0.2.10", 80)) == "redirected 127.0.0.1:9"
    assert fate(by_lo, outbound("127.0.0.6", 80)) == "redirected 127.0.0.1:9"


def test_a_packet_comes_in_by_the_interface_whose_network_holds_its_source() -> None:
    two = Host(interfaces={"eth0": ["192.0.2.10/25"], "eth1": ["192.0.2.130/25"]})
    by_eth1 = rules("PREROUTING -i eth1 -p tcp -j REDIRECT --to-ports 9")
    assert fate(by_eth1, inbound(80, source="192.0.2.200"), two) == "redirected 192.0.2.130:9"
    assert fate(by_eth1, inbound(80, source="192.0.2.20"), two) == "unchanged"


def test_what_is_not_for_the_host_is_forwarded_without_a_socket() -> None:  # O01
    forwarded = rules(
        "POSTROUTING -o eth0 -m owner ! --uid-owner 1337",
        "POSTROUTING -m owner --uid-owner 0-4294967294 -j ACCEPT",
        "INPUT -j ACCEPT",
    )
    found = trace(forwarded, inbound(80, destination=OTHER, source="192.0.2.21"))
    assert (found.fate, hits(found)) == (
        Fate.UNCHANGED,
        ["-A POSTROUTING -o eth0 -m owner ! --uid-owner 1337"],
    )


# Where targets send, §2.6


@pytest.mark.parametrize(
    ("packet", "arrives"),
    [
        (outbound(OTHER, 80), "127.0.0.1:9"),  # T02
        (inbound(80), "192.0.2.10:9"),
        (inbound(80, destination="192.0.2.11"), "192.0.2.10:9"),  # T06
    ],
)
def test_redirect_sends_to_loopback_or_to_the_first_address_of_the_incoming_interface(
    packet: Packet, arrives: str
) -> None:
    both = rules(*(f"{hook} -p tcp -j REDIRECT --to-ports 9" for hook in ("OUTPUT", "PREROUTING")))
    host = Host(interfaces={"eth0": ["192.0.2.10/24", "192.0.2.11/24"]})
    assert fate(both, packet, host) == f"redirected {arrives}"


def test_redirect_of_ipv6_goes_to_loopback_or_to_an_address_of_the_destinations_scope() -> (
    None
):  # T50, T50b, N01
    lines = ("*nat", *(f":{hook} ACCEPT [0:0]" for hook in ("PREROUTING", "OUTPUT")))
    redirects = (f"-A {hook} -p tcp -j REDIRECT --to-ports 9" for hook in ("PREROUTING", "OUTPUT"))
    both = parse_iptables_save("\n".join((*lines, *redirects, "COMMIT", "")), family=6)
    host = Host(interfaces={"eth0": ["2001:db8::10/64", "fe80::1/64"]})
    assert fate(both, outbound("2001:db8::20", 80), host) == "redirected [::1]:9"
    assert fate(both, inbound(80, family=6), host) == "redirected [2001:db8::10]:9"
    assert fate(both, inbound(80, family=6, destination="fe80::1"), host) == "redirected [fe80::1]:9"


def test_redirect_on_an_interface_without_an_address_drops() -> None:  # Z06
    bare = Host(interfaces={"eth0": [], "lo": ["127.0.0.1/8", "192.0.2.10/32"]})
    assert (
        fate(rules("PREROUTING -p tcp -j REDIRECT --to-ports 9"), inbound(80, in_interface="eth0"), bare)
        == "dropped"
    )


@pytest.mark.parametrize(
    ("ports", "arrives"),
    [("", 80), (" --to-ports 70-90", 80), (" --to-ports 90-99", 90), (" --to-ports 0", 0)],
)
def test_redirect_keeps_the_port_or_takes_the_first_of_the_range(
    ports: str, arrives: int
) -> None:  # T07, T08, T09
    assert fate(rules(f"OUTPUT -p tcp -j REDIRECT{ports}")) == f"redirected 127.0.0.1:{arrives}"


@pytest.mark.parametrize(("ports", "arrives"), [("", 80), (" --to-ports 15006", 15006)])
def test_at_random_the_only_port_there_is_stays_the_only_one(ports: str, arrives: int) -> None:
    assert fate(rules(f"OUTPUT -p tcp -j REDIRECT{ports} --random")) == f"redirected 127.0.0.1:{arrives}"


def test_a_port_chosen_at_random_is_not_known() -> None:
    found = trace(rules("OUTPUT -p tcp -j REDIRECT --to-ports 15006-15010 --random"), outbound(OTHER, 80))
    assert found.fate is Fate.UNKNOWN
    (reason,) = found.reasons
    assert reason.startswith("the kernel picks one of the ports 15006-15010 at random (`-j REDIRECT")


def test_dnat_without_an_address_keeps_it() -> None:  # T11
    assert fate(rules("OUTPUT -p tcp -j DNAT --to-destination :8080")) == "translated 192.0.2.20:8080"


def test_dnat_of_ipv6_without_a_port_is_to_an_address() -> None:
    text = "*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp -j DNAT --to-destination ::1\nCOMMIT\n"
    assert fate(parse_iptables_save(text, family=6), outbound("2001:db8::20", 80)) == "translated [::1]:80"


def test_dnat_to_a_range_of_addresses_is_unknown() -> None:
    found = trace(rules("OUTPUT -p tcp -j DNAT --to-destination 192.0.2.30-192.0.2.31"), outbound(OTHER, 80))
    assert found.fate is Fate.UNKNOWN
    assert "by a hash" in found.reasons[0]


def test_what_comes_in_and_is_sent_to_loopback_is_dropped() -> None:  # T12
    assert fate(rules("PREROUTING -p tcp -j DNAT --to-destination 127.0.0.1:8080"), inbound(80)) == "dropped"


def test_a_changed_source_changes_no_fate_and_is_seen_on_lo() -> None:  # T61
    captured = rules(
        "OUTPUT -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.1:15053",
        "POSTROUTING -p udp -m udp --dport 15053 -j SNAT --to-source 127.0.0.1",
        mangle=("INPUT -s 127.0.0.1/32 -i lo",),
    )
    found = trace(captured, outbound(OTHER, 53, protocol="udp"))
    assert str(found.destination) == "127.0.0.1:15053"
    assert hits(found)[-1] == "-A INPUT -s 127.0.0.1/32 -i lo"


TPROXY = (
    "PREROUTING -p tcp -m tcp --dport 80 -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xfff"
)


def test_tproxy_hands_over_and_marks() -> None:  # G01
    found = trace(rules(TPROXY, table="mangle"), inbound(80))
    assert (found.fate, str(found.destination), found.mark) == (Fate.TPROXIED, "192.0.2.10:15006", 0x539)
    assert found.deciding_rule is not None


def test_tproxy_takes_what_the_pod_sends_itself_too() -> None:  # G01
    found = trace(rules(TPROXY, table="mangle"), outbound("192.0.2.10", 80))
    assert (found.fate, str(found.destination)) == (Fate.TPROXIED, "127.0.0.1:15006")


def test_the_return_that_spares_a_packet_from_tproxy_decides() -> None:
    spared = rules(
        "PREROUTING -p tcp -m tcp --dport 22 -j RETURN",
        TPROXY.replace("-m tcp --dport 80 ", ""),
        table="mangle",
    )
    assert trace(spared, inbound(22)).deciding_rule == spared.mangle.chain("PREROUTING").rules[0]


# What is not known


def test_a_match_that_is_not_modelled_makes_the_fate_unknown_and_says_which_rule() -> None:
    unsure = rules("OUTPUT -p tcp -m statistic --mode random --probability 0.5 -j RETURN", TO_PROXY)
    found = trace(unsure, outbound(OTHER, 80))
    assert fate(unsure) == "unknown"
    assert found.destination == trace(rules(), outbound(OTHER, 80)).destination
    assert "rule 1 of OUTPUT" in found.reasons[0]
    assert "statistic" in found.reasons[0]
    assert found.steps[0].outcome == "unknown"
    assert found.deciding_rule == unsure.nat.chain("OUTPUT").rules[0]


def test_what_a_listing_hides_of_a_rule_is_one_reason() -> None:
    hidden = (Hidden(field="-o"), Hidden(field="-d", shown="localhost"))
    rule = Rule(chain="OUTPUT", matches=hidden, target=Verdict("DROP"), number=1, location="list.txt:3")
    listed = Table(name="filter", chains=(Chain(name="OUTPUT", policy="ACCEPT", rules=(rule,)),))
    (reason,) = trace(listed, outbound(OTHER, 80)).reasons
    assert reason.startswith(
        "rule 1 of OUTPUT (list.txt:3): its listing does not show -o, -d (only 'localhost'): "
    )
    assert reason.endswith(rule.text)


def test_a_match_that_is_not_known_but_changes_nothing_leaves_the_fate_known() -> None:
    both = rules("OUTPUT -p tcp -m statistic --mode nth --every 2 -j REDIRECT --to-ports 15001", TO_PROXY)
    assert fate(both) == "redirected 127.0.0.1:15001"
    assert trace(both, outbound(OTHER, 80)).reasons == ()


def test_a_mark_that_may_be_set_is_not_known_though_the_fate_is() -> None:
    maybe = rules("OUTPUT -m statistic --mode nth --every 2 -j MARK --set-xmark 0x1/0xffffffff", TO_PROXY)
    found = trace(maybe, outbound(OTHER, 80))
    assert (found.fate, found.mark) == (Fate.REDIRECTED, None)


def test_many_unknown_matches_do_not_take_for_ever() -> None:
    many = rules(*["OUTPUT -m recent --name x --rcheck -j MARK --set-xmark 0x1/0x1"] * 40, TO_PROXY)
    found = trace(many, outbound(OTHER, 80))
    assert found.fate is Fate.UNKNOWN
    assert "combinations" in found.reasons[-1]


def test_unknown_counting_rules_cost_nothing() -> None:
    assert fate(rules(*["OUTPUT -m recent --name x --rcheck"] * 40, TO_PROXY)) == "redirected 127.0.0.1:15001"


def test_a_target_that_is_not_modelled_is_unknown() -> None:
    found = trace(rules("OUTPUT -p tcp -j NFQUEUE --queue-num 1", table="filter"), outbound(OTHER, 80))
    assert found.fate is Fate.UNKNOWN
    assert "NFQUEUE" in found.reasons[0]


def test_a_port_that_is_not_known_is_unknown_where_a_rule_asks() -> None:
    asked = rules("OUTPUT -p tcp -m tcp --dport 80 -j RETURN", TO_PROXY)
    found = trace(asked, Packet(hook="OUTPUT", protocol="tcp", source="192.0.2.10", destination=OTHER))
    assert found.fate is Fate.UNKNOWN
    assert "port that is not known" in found.reasons[0]


def test_rules_of_the_other_family_do_not_tell_what_becomes_of_the_packet() -> None:
    assert fate(rules(TO_PROXY), outbound("2001:db8::20", 80)) == "unknown"


def test_a_pod_whose_rules_of_a_family_were_not_read_is_unknown() -> None:
    found = trace(PodRules(rulesets=(rules(TO_PROXY),)), outbound("2001:db8::20", 80))
    assert found.fate is Fate.UNKNOWN
    assert found.reasons == ("no IPv6 rules were read: add ip6tables-save (ip6:FILE)",)


# Two back ends in one namespace, §2.4


def _two(legacy: str, nft: str, **more) -> PodRules:
    banners = (
        "# Generated by iptables-save v1.8.11 on Mon Nov 23 12:00:00 2026\n",
        "# Generated by iptables-nft-save v1.8.11 (nf_tables) on Mon Nov 23 12:00:00 2026\n",
    )
    texts = (
        f"{banner}*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT {rule}\nCOMMIT\n"
        for banner, rule in zip(banners, (legacy, nft), strict=True)
    )
    both = PodRules(rulesets=tuple(map(parse_iptables_save, texts)), **more)
    assert [ruleset.backend for ruleset in both.rulesets] == [Backend.LEGACY, Backend.NF_TABLES]
    return both


@pytest.mark.parametrize("verdict", ["RETURN", "ACCEPT"])  # D02, D03, D04
def test_no_verdict_in_one_back_end_protects_from_a_redirect_in_the_other(verdict: str) -> None:
    redirect = "-p tcp -j REDIRECT --to-ports 9"
    assert (
        fate(_two(f"-j {verdict}", redirect))
        == fate(_two(redirect, f"-j {verdict}"))
        == "redirected 127.0.0.1:9"
    )


def test_two_redirects_are_unknown_unless_the_order_is_known() -> None:  # D01
    one, other = "-p tcp -j REDIRECT --to-ports 1", "-p tcp -j REDIRECT --to-ports 2"
    found = trace(_two(one, other), outbound(OTHER, 80))
    assert found.fate is Fate.UNKNOWN
    assert "legacy before nf_tables redirected to 127.0.0.1:1" in found.reasons[0]
    assert "nf_tables before legacy redirected to 127.0.0.1:2" in found.reasons[0]
    assert fate(_two(one, other, order_known=True)) == "redirected 127.0.0.1:1"


def test_an_empty_back_end_leaves_no_trace() -> None:
    text = "*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
    both = PodRules(rulesets=(parse_iptables_save(text), rules("OUTPUT -p udp -j RETURN")))
    assert [step.outcome for step in trace(both, outbound(OTHER, 80)).steps] == ["no match", "policy ACCEPT"]


# What a trace shows


def test_the_deciding_rule_is_the_return_that_let_the_packet_by() -> None:
    by = rules(
        "OUTPUT -j A",
        "A -m owner --uid-owner 1000 -j RETURN",
        "A -p tcp -j REDIRECT --to-ports 9",
        chains="A",
    )
    found = trace(by, outbound(OTHER, 80))
    assert found.deciding_rule == by.nat.chain("A").rules[0]
    assert [(step.chain, step.outcome) for step in found.steps] == [
        ("OUTPUT", "match, jump"),
        ("A", "match, return"),
        ("OUTPUT", "policy ACCEPT"),
    ]


def test_a_policy_decides_where_no_rule_does() -> None:
    found = trace(rules(TO_PROXY), outbound(OTHER, 80, protocol="udp"))
    assert (found.fate, found.deciding_rule) == (Fate.UNCHANGED, None)
    assert [(step.table, step.chain, step.outcome) for step in found.steps] == [
        ("nat", "OUTPUT", "no match"),
        ("nat", "OUTPUT", "policy ACCEPT"),
    ]


def test_a_table_takes_its_whole_ruleset_along() -> None:
    assert fate(rules(TO_PROXY, filter=("OUTPUT -j DROP",)).nat) == "dropped"


def test_a_table_of_its_own_is_traced_alone() -> None:
    assert fate(Table(name="nat", chains=rules(TO_PROXY).nat.chains)) == "redirected 127.0.0.1:15001"


def test_a_dropped_packet_names_the_rule_that_dropped_it() -> None:
    dropped = rules(TO_PROXY, filter=("OUTPUT -d 127.0.0.1/32 -j DROP",))
    assert trace(dropped, outbound(OTHER, 80)).deciding_rule == dropped.filter.chain("OUTPUT").rules[0]


def test_each_ruleset_gets_its_own_answer_however_many_there_are() -> None:
    assert [fate(rules(TO_PROXY.replace("15001", str(port)))) for port in range(1, 200)] == [
        f"redirected 127.0.0.1:{port}" for port in range(1, 200)
    ]
