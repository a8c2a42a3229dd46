"""Packets and classes of packets in words: one form, which reads back."""

import pytest

from pytest_istio_sidecar import (
    Bypass,
    Packet,
    check_only_bypasses,
    compare,
    expected_ruleset,
    inbound,
    outbound,
)
from pytest_istio_sidecar.checks.wording import describe

NEIGHBOUR = "192.0.2.20"


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (inbound(8443), "inbound tcp 8443"),
        (inbound(80, protocol=80), "inbound proto/80 80"),
        (inbound(53, protocol="udp", family=6), "inbound IPv6 udp 53"),
        (outbound(NEIGHBOUR, 443), "outbound tcp 443 to 192.0.2.20 from uid 1000"),
        (outbound(NEIGHBOUR, 443, gid=1337), "outbound tcp 443 to 192.0.2.20 from uid 1000 gid 1337"),
        (outbound(NEIGHBOUR, 443, uid=None, gid=None), "outbound tcp 443 to 192.0.2.20 from uid none"),
        (outbound("2001:db8::5", 443), "outbound IPv6 tcp 443 to 2001:db8::5 from uid 1000"),
    ],
)
def test_a_packet_is_written_as_a_class_is(packet: Packet, words: str) -> None:
    assert describe(packet) == words
    assert str(Bypass.parse(words)) == words


@pytest.mark.parametrize(
    "words",
    [
        "inbound tcp 65535",
        "inbound tcp 1024-65535",
        "inbound tcp not 0",
        "outbound to 255.255.255.255",
        "outbound to 240.0.0.0/4",
        "outbound from gid 4294967294",
        "outbound from gid not none",
        "outbound from uid not 1337",
        "outbound mark 0xffffffff",
        "outbound mark not 0x0",
        "inbound proto/255",
        "inbound not tcp",
    ],
)
def test_a_class_is_told_by_what_it_leaves_out_only_where_that_is_less(words: str) -> None:
    assert str(Bypass.parse(words)) == words


def texts(version: str, against: str, **options: bool) -> list[str]:
    """The classes that a release with options treats otherwise than another."""
    observed = expected_ruleset(version, **options)
    return [effect.text for effect in compare(observed, expected_ruleset(against)).effects]


@pytest.mark.parametrize("against", ["1.5.0", "1.20.8"])
def test_what_a_release_lets_by_beyond_another_is_allowed_by_the_words_for_it(against: str) -> None:
    rules, expected = expected_ruleset("1.8.3"), expected_ruleset(against)
    beyond = [
        words
        for effect in compare(rules, expected).effects
        for words in effect.text.split("; ")
        if effect.observed.fate == "unchanged"
    ]
    assert beyond
    assert check_only_bypasses(rules, [], expected=expected)
    assert check_only_bypasses(rules, beyond, expected=expected) == []


def test_destinations_are_told_by_the_few_that_an_interface_leaves_out() -> None:
    assert "outbound tcp 15008 to not 127.0.0.1 from not 127.0.0.6 from uid 1337 by lo" in texts(
        "1.8.3", "1.20.8"
    )


def test_a_state_other_than_new_is_said_behind_the_class() -> None:
    words = texts("1.27.3", "1.27.3", drop_invalid=True)
    assert words == ["all inbound, conntrack state INVALID", "outbound by lo, conntrack state INVALID"]


def test_long_lists_of_a_class_are_cut_and_say_so() -> None:
    few = expected_ruleset("1.20.8")
    many = expected_ruleset("1.20.8", inbound_ports_exclude="1,3,5,7,9,11,13,15,17")
    assert "inbound tcp 1,3,5,7,9,11 and 3 more" in [effect.text for effect in compare(many, few).effects]
