"""Protocols and ports as people write them: one meaning wherever they stand."""

import pytest

from pytest_istio_sidecar import Bypass
from pytest_istio_sidecar.netfilter.matches import PROTOCOLS
from pytest_istio_sidecar.netfilter.text.parse_port import parse_flow


@pytest.mark.parametrize(
    ("text", "protocols", "ports"),
    [
        ("80", (6, 6), (80, 80)),
        ("https", (6, 6), (443, 443)),
        ("9000-9010", (6, 6), (9000, 9010)),
        ("9000:9010", (6, 6), (9000, 9010)),
        ("tcp/80", (6, 6), (80, 80)),
        ("udp:domain", (17, 17), (53, 53)),
        ("icmp", (1, 1), None),
        ("proto/80", (80, 80), None),
        ("proto:80", (80, 80), None),
        ("proto/7-16", (7, 16), None),
        ("proto/33/80", (33, 33), (80, 80)),
    ],
)
def test_the_form_means_the_same_in_a_packet_and_in_a_bypass(text, protocols, ports):
    assert parse_flow(text) == (protocols, ports)
    where = {"protocol": (protocols,)} | ({"destination_port": (ports,)} if ports else {})
    assert Bypass.parse(f"inbound {text}").where == tuple(where.items())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_that_iptables_names_can_stand_alone(protocol):
    assert parse_flow(protocol) == ((PROTOCOLS[protocol],) * 2, None)


@pytest.mark.parametrize(
    "text",
    ["", "/", "80/", "/80", "tcp/", "tcp//80", "6/80", "proto", "proto/", "proto/0", "70000", "9-3", "٨"],
)
def test_what_is_neither_is_refused(text):
    with pytest.raises(ValueError, match=r"^(port|protocol) '.*': expected "):
        parse_flow(text)
