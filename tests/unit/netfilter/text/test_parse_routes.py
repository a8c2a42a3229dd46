"""What `ip rule` and `ip route` print, as values; a word that is not known is never passed over."""

import re
from pathlib import Path

import pytest

from pytest_istio_sidecar import Host, ParseError
from pytest_istio_sidecar.netfilter.matches import Range
from pytest_istio_sidecar.netfilter.routes import NOT_TOLD, NOWHERE, Hop
from pytest_istio_sidecar.netfilter.text.parse_routes import parse_routes

KERNELS = "0:\tfrom all lookup local\n32766:\tfrom all lookup main\n32767:\tfrom all lookup default\n"


def rule(text):
    return parse_routes(f"100:\t{text}\n", "", family=4).rules[0]


def route(text):
    return parse_routes("", text, family=4).routes[0]


def test_every_selector_of_a_rule_is_read():
    read = rule(
        "not from 192.0.2.0/24 to 198.51.100.7 fwmark 0x10/0xf0 iif eth0 oif eth1 uidrange 1000-1001 "
        "ipproto tcp sport 1-2 dport 80 lookup 100 suppress_prefixlength 0 proto static"
    )
    assert (read.negated, read.iif, read.oif, read.protocol, read.suppressed) == (True, "eth0", "eth1", 6, 0)
    assert (read.mark.value, read.mark.mask) == (0x10, 0xF0)
    assert [(each.side, each.mask) for each in read.addresses] == [
        ("source", 0xFFFFFF00),
        ("destination", 0xFFFFFFFF),
    ]
    assert (read.uids, read.destination_ports) == (Range(low=1000, high=1001), Range(low=80, high=80))
    assert (read.action, read.table, read.unknown) == ("lookup", "100", "")


@pytest.mark.parametrize("text", ["from all tos 0x10 lookup 100", "from all l3mdev lookup 100", "from all"])
def test_a_rule_with_a_word_that_is_not_known_is_not_modelled(text):
    assert rule(text).unknown


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("default via 192.0.2.20 dev eth0 proto static metric 100 onlink", Hop("eth0", "sent")),
        ("local 192.0.2.10 dev eth0 table local proto kernel scope host src 192.0.2.10", Hop("lo", "local")),
        ("broadcast 192.0.2.255 dev eth0 table local", Hop("eth0", "local")),
        ("unreachable default metric 4294967295", NOWHERE),
        ("throw 192.0.2.0/24 table 100", None),
        ("default encap seg6 mode encap dev eth0", NOT_TOLD),
        ("default \n\tnexthop via 192.0.2.1 dev eth0 weight 1 \n\tnexthop dev eth1 weight 1 ", NOT_TOLD),
        (
            "default \n\tnexthop via 192.0.2.1 dev eth0 weight 1 \n\tnexthop dev eth0 weight 1 ",
            Hop("eth0", "sent"),
        ),
    ],
)
def test_a_route_leads_where_its_line_says(text, hop):
    assert route(text).hop == hop


def test_a_route_of_a_dead_device_is_left_out_as_the_kernel_does():
    assert parse_routes("", "default via 192.0.2.1 dev eth0 dead linkdown", family=4).routes == ()


@pytest.mark.parametrize(("rules", "routes"), [("bash: ip: not found", ""), (KERNELS, "Error: nonsense.")])
def test_what_is_neither_rule_nor_route_is_refused(rules, routes):
    with pytest.raises(ParseError):
        parse_routes(rules, routes, family=4)


@pytest.mark.parametrize("name", ["tproxy", "dual-stack"])
def test_what_ip_prints_beside_a_sidecar_leads_no_packet_elsewhere(name):
    text = (Path(__file__).parents[3] / "data" / "routes" / f"{name}.txt").read_text()
    lines = [line for line in text.splitlines() if line.strip()]
    rules = [line for line in lines if re.match(r"\d+:", line)]
    second = next(place for place, rule in enumerate(rules) if place and rule.startswith("0:"))
    routes = [line for line in lines if line not in rules]
    of_6 = [line for line in routes if "::" in line]
    read = (
        parse_routes(
            "\n".join(rules[:second]), "\n".join(line for line in routes if line not in of_6), family=4
        ),
        parse_routes("\n".join(rules[second:]), "\n".join(of_6), family=6),
    )
    own = re.findall(r"^local ([\d.]+|[\da-f:]+) dev eth0", text, re.MULTILINE)
    lo = [
        "127.0.0.1/8",
        *(f"{each}/128" for each in re.findall(r"^local (\S*:\S*) dev lo", text, re.MULTILINE)),
    ]
    host = Host(
        interfaces={"lo": lo, "eth0": [f"{each}/{64 if ':' in each else 24}" for each in own]}, routes=read
    )
    assert len(own) > 1
    assert host.policies == {}


def test_a_kernel_before_5_0_calls_no_route_multicast():
    (read,) = parse_routes("", "ff00::/8 dev eth0 table local metric 256 pref medium", family=6).routes
    assert read.type == "multicast"
