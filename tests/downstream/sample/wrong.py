# pyright: strict
"""Wrong uses that a type checker has to see: one a line, each marked."""

import pytest_istio_sidecar
from pytest_istio_sidecar import (
    Packet,
    assert_jump,
    assert_matches_istio,
    expected_ruleset,
    inbound,
    parse_iptables,
    trace,
)

rules = parse_iptables("*nat\nCOMMIT\n")
inbound("eighty")  # wrong
parse_iptables(b"*nat")  # wrong
trace(rules, "tcp/80")  # wrong
assert_jump(rules, "PREROUTING", "ISTIO_INBOUND")  # wrong
expected_ruleset("1.8.3", inbound_port_exclude="22")  # wrong
Packet(hook="FORWARD", protocol="tcp", source="192.0.2.1", destination="192.0.2.2")  # wrong
assert_matches_istio(rules, "1.8.3", inbound_port_exclude="22")  # wrong
pytest_istio_sidecar.assert_nothing()  # wrong
str(trace(rules, inbound(80)).fates)  # wrong
