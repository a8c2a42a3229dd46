"""The written form of a bypass: what it says, and what is refused."""

import pytest

from pytest_istio_sidecar import Bypass, UsageProblem


def test_ports_of_a_protocol_are_written_behind_it():
    assert str(Bypass.inbound(tcp={22, 15008})) == "inbound tcp 22,15008"


def test_an_id_is_written_with_its_kind():
    assert str(Bypass.outbound(gid=1337)) == "outbound from gid 1337"


@pytest.mark.parametrize(
    ("written", "same_as"),
    [
        ("inbound tcp 22,15008", Bypass.inbound(tcp={22, 15008})),
        ("inbound tcp to 22, 15008", Bypass.inbound(tcp=[15008, 22])),
        ("outbound from gid 1337", Bypass.outbound(gid=1337)),
        ("outbound gid 1337", Bypass.outbound(gid=1337)),
        ("inbound udp", Bypass.parse("all inbound udp")),
        ("all inbound IPv6: no rules", Bypass(direction="inbound", family=6)),
        ("outbound tcp 443 from uid 0-999", Bypass.outbound(tcp=443, uid="0-999")),
        ("inbound 80", Bypass.inbound(tcp=80)),
        ("inbound https,9000-9010", Bypass.inbound(tcp="443,9000-9010")),
        ("inbound not 80", Bypass.inbound(tcp="not 80")),
        ("inbound to 22", Bypass.inbound(tcp=22)),
        ("outbound to 192.0.2.0/24 443", Bypass.outbound(tcp=443, destination="192.0.2.0/24")),
        ("inbound tcp/22,15008", Bypass.inbound(tcp={22, 15008})),
        ("inbound udp:53", Bypass.inbound(udp="domain")),
        ("inbound proto/80", Bypass.inbound(protocol=80)),
        ("inbound protocol 80,81", Bypass.inbound(protocol={80, 81})),
        ("inbound proto/33/80", Bypass.parse("inbound proto/33 80")),
    ],
)
def test_a_written_bypass_is_that_value(written, same_as):
    assert Bypass.parse(written) == same_as


@pytest.mark.parametrize(
    "text",
    [
        "all inbound",
        "all outbound IPv6",
        "inbound not tcp",
        "inbound tcp 22,15008,15020-15021",
        "outbound tcp not 53 from uid not 1337 gid 0 by lo",
        "outbound tcp 443 to 192.0.2.0/24,198.51.100.1 from 192.0.2.10",
        "outbound tcp to 192.0.2.3-192.0.2.9",
        "outbound IPv6 tcp 80 to 2001:db8::/32",
        "outbound from uid none,0-5",
        "inbound tcp from port 1024-65535",
        "outbound udp,tcp mark 0x1",
        "outbound mark 0x1/0xff",
        "inbound proto/80",
        "inbound not tcp,proto/2-5",
        "inbound proto/33 80",
        "outbound to port 53",
        "outbound not 6",
    ],
)
def test_what_is_written_reads_back_as_the_same(text):
    bypass = Bypass.parse(text)
    assert Bypass.parse(str(bypass)) == bypass


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a direction, inbound or outbound is missing"),
        ("sideways tcp", "'sideways' where inbound or outbound should be"),
        ("inbound tcp 70000", "'70000' where a value for to port should be"),
        ("inbound tcp 9-3", "'9-3'"),
        ("inbound 70000", "'70000' where a value for to port should be"),
        ("inbound tcp,80", "'80' where a value for protocol should be, as in tcp or proto/47"),
        ("inbound 80 443", "'443' where a value for protocol should be, as in tcp or proto/47"),
        ("inbound proto/300", "'proto/300' where a value for protocol should be"),
        ("inbound tcp/22,udp/53", "'udp/53' where a value for to port should be"),
        ("inbound frob", "'frob' where a value for protocol should be"),
        ("outbound from uid", "a value for from uid is missing"),
        ("outbound to 192.0.2.300", "'192.0.2.300'"),
        ("inbound tcp 1 tcp 2", "each field once"),
        ("outbound from 192.0.2.1 to 2001:db8::/32", "'2001:db8::/32' where an IPv4 address should be"),
        ("inbound IPv6 tcp from 192.0.2.1", "'192.0.2.1' where an IPv6 address should be"),
        ("outbound not by lo", "'by'"),
        ("outbound by not lo", "no `not` before by lo"),
    ],
)
def test_what_is_no_bypass_is_refused_where_it_stops_being_one(text, told):
    with pytest.raises(UsageProblem, match="is no bypass") as problem:
        Bypass.parse(text)
    assert told in str(problem.value)


@pytest.mark.parametrize("nothing", [set(), ""])
def test_no_port_at_all_is_not_taken_as_every_port(nothing):
    with pytest.raises(UsageProblem, match="'tcp' has no value"):
        Bypass.inbound(tcp=nothing)


def test_a_port_of_every_protocol_is_told_from_one_of_tcp():
    assert Bypass.parse("inbound to port 22") == Bypass.inbound(destination_port=22) != Bypass.inbound(tcp=22)


def test_a_field_that_no_packet_has_is_refused():
    with pytest.raises(UsageProblem, match="'colour' is no field of a bypass"):
        Bypass.inbound(colour=3)


def test_an_ipv4_mask_with_holes_is_read_as_of_ipv4():
    assert Bypass.parse("outbound from 0.0.0.10/0.0.0.255").family == 4
