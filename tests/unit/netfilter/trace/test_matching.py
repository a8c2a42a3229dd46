"""Whether a condition holds: each in its three answers where it has them."""

from __future__ import annotations

import pytest

from pytest_istio_sidecar.netfilter.matches import Hidden
from pytest_istio_sidecar.netfilter.namespace.routing import Routing
from pytest_istio_sidecar.netfilter.packet import Host, Packet, inbound, outbound
from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save
from pytest_istio_sidecar.netfilter.trace.match import compile_match
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb

OTHER = "192.0.2.20"
HOST = Host(interfaces={"eth0": ["192.0.2.10/24", "2001:db8::10/64"]})


def holds(conditions: str, packet: Packet) -> bool | None:
    """What the conditions of one rule say of a packet that conntrack has seen."""
    lines = (
        "*mangle",
        f":{packet.hook} ACCEPT [0:0]",
        f"-A {packet.hook} {conditions} -j ACCEPT",
        "COMMIT",
        "",
    )
    (rule,) = parse_iptables_save("\n".join(lines), family=packet.family).rules()
    answers = {compile_match(match)(_seen(packet)) for match in rule.matches}
    return False if False in answers else None if None in answers else True


def _seen(packet: Packet) -> Skb:
    skb = Skb(packet, Routing(HOST))
    skb.state, skb.tracked = packet.state, packet.state not in ("INVALID", "UNTRACKED")
    return skb


NO_SOCKET = outbound(OTHER, 80, uid=None, gid=None)


@pytest.mark.parametrize(
    ("conditions", "app", "proxy", "no_socket"),
    [
        ("--uid-owner 1337", False, True, False),
        ("! --uid-owner 1337", True, False, True),
        ("--uid-owner 1000-1336", True, False, False),
        ("--uid-owner 0-4294967294", True, True, False),
        ("--gid-owner 1337", False, True, False),
        ("! --uid-owner 1 ! --gid-owner 1337", True, False, True),
        ("! --uid-owner 1 --gid-owner 1337", False, True, False),
        ("--socket-exists", True, True, False),
        ("! --socket-exists", False, False, True),
    ],
)
def test_owner_without_a_socket_holds_only_inverted(
    conditions, app, proxy, no_socket
) -> None:  # E01, T42, T43
    said = [
        holds(f"-m owner {conditions}", packet)
        for packet in (outbound(OTHER, 80), outbound(OTHER, 80, uid=1337, gid=1337), NO_SOCKET)
    ]
    assert said == [app, proxy, no_socket]


def test_supplementary_groups_are_not_known_unless_the_group_itself_matches() -> None:  # T41b
    assert holds("-m owner --gid-owner 1337 --suppl-groups", outbound(OTHER, 80, gid=1337)) is True
    assert holds("-m owner --gid-owner 1337 --suppl-groups", outbound(OTHER, 80)) is None


def test_a_group_that_is_not_known_is_no_answer() -> None:
    assert holds("-m owner --gid-owner 1337", outbound(OTHER, 80, gid=None)) is None


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ("-p tcp -m tcp --dport 80", True),
        ("-p tcp -m tcp ! --dport 80", False),
        ("-p tcp -m tcp --dport 79:80", True),
        ("-p tcp -m tcp --sport 40000 --dport 81", False),
        ("-p tcp -m tcp ! --sport 1 ! --dport 1", True),
        ("-p udp -m udp --dport 80", False),
        ("! -p udp", True),
        ("-p tcp -m multiport --dports 1,80", True),
        ("-p tcp -m multiport ! --dports 1,80", False),
        ("-p tcp -m multiport --ports 40000,1", True),
        ("-p tcp -m multiport ! --ports 40000,1", False),
        ("-p tcp -m multiport --sports 80", False),
        ("-p tcp -m multiport --dports 70:90", True),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", True),
        ("-p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK", False),
        ("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN", False),
        ("-p tcp -m tcp --tcp-option 2", None),
        ("-s 192.0.2.0/24 ! -d 192.0.2.20/32", False),
        ("-d 0.0.0.20/0.0.0.255", True),
        ("-f", False),
        ("! -f", True),
        ("-m mark --mark 0x39/0xff", True),
        ("-m mark ! --mark 0x539", False),
        ("-m connmark --mark 0x0", True),
        ("-m comment --comment x", True),
        ("-m conntrack --ctstate NEW", True),
        ("-m conntrack ! --ctstate RELATED,ESTABLISHED", True),
        ("-m state --state ESTABLISHED", False),
        ("-m conntrack --ctstate NEW --ctproto 17", False),
        ("-m conntrack --ctorigdst 192.0.2.20 --ctorigdstport 80 --ctdir ORIGINAL", True),
        ("-m conntrack --ctexpire 10", None),
        ("-m addrtype --dst-type LOCAL", False),
        ("-m addrtype --dst-type UNICAST --src-type LOCAL", True),
        ("-m addrtype ! --dst-type UNICAST", False),
        ("-m iprange --dst-range 192.0.2.1-192.0.2.30", True),
        ("-m iprange ! --src-range 192.0.2.1-192.0.2.30", False),
        ("-p icmp -m icmp --icmp-type 8", False),
        ("-m statistic --mode random --probability 0.5", None),
        ("-m limit --limit 5/sec", None),
        ("-m set --match-set x dst", None),
        ("-m socket --transparent", None),
        ("-p tcp -m tcp --dport 81 -m limit --limit 5/sec", False),
    ],
)
def test_a_condition_of_a_first_packet(conditions: str, expected: bool | None) -> None:
    assert holds(conditions, outbound(OTHER, 80, mark=0x539)) is expected


def test_what_a_listing_hides_is_never_an_answer() -> None:
    for field in ("-i", "-o", "-s"):
        assert compile_match(Hidden(field=field))(_seen(outbound(OTHER, 80))) is None
        assert compile_match(Hidden(field=field, negated=True))(_seen(outbound(OTHER, 80))) is None


def test_ports_that_are_not_known_are_asked_in_vain() -> None:
    unknown = Packet(hook="OUTPUT", protocol="tcp", source="192.0.2.10", destination=OTHER)
    assert holds("-p tcp -m tcp --dport 80", unknown) is None
    assert holds("-p udp -m udp --dport 80", unknown) is False
    assert holds("-p tcp -m multiport --ports 80", unknown) is None


def test_flags_of_a_packet_that_is_not_the_first_are_not_known() -> None:
    assert holds("-p tcp -m tcp --tcp-flags SYN SYN", outbound(OTHER, 80, state="ESTABLISHED")) is None


def test_of_a_packet_without_a_connection_only_the_state_is_asked() -> None:
    untracked = outbound(OTHER, 80, state="UNTRACKED")
    assert holds("-m conntrack --ctstate UNTRACKED", untracked) is True
    assert holds("-m conntrack --ctproto 6", untracked) is False
    assert holds("-m connmark ! --mark 0x1", untracked) is False


def test_types_of_ipv4_addresses_exclude_each_other() -> None:  # T32
    for destination, kind in (
        ("192.0.2.10", "LOCAL"),
        ("127.0.0.6", "LOCAL"),
        ("192.0.2.255", "BROADCAST"),
        ("255.255.255.255", "BROADCAST"),
        ("224.0.0.1", "MULTICAST"),
        ("192.0.2.20", "UNICAST"),
    ):
        for asked in ("LOCAL", "BROADCAST", "MULTICAST", "UNICAST"):
            assert holds(f"-m addrtype --dst-type {asked}", outbound(destination, 80)) is (asked == kind)


def test_a_local_ipv6_address_is_unicast_too() -> None:
    assert holds("-m addrtype --dst-type LOCAL", inbound(80, family=6)) is True
    assert holds("-m addrtype --dst-type UNICAST", inbound(80, family=6)) is True
    assert holds("-m addrtype --dst-type UNREACHABLE", inbound(80, family=6)) is None
