# pyright: strict
"""Wrong uses that a type checker has to see: one a line, each marked."""

from pytest_istio_sidecar import Packet, assert_jump, expected_ruleset, inbound, parse_iptables, trace

rules = parse_iptables("*nat\nCOMMIT\n")
inbound("eighty")  # wrong
parse_iptables(b"*nat")  # wrong
trace(rules, "tcp/80")  # wrong
assert_jump(rules, "PREROUTING", "ISTIO_INBOUND")  # wrong
expected_ruleset("1.8.3", inbound_port_exclude="22")  # wrong
Packet(hook="FORWARD", protocol="tcp", source="192.0.2.1", destination="192.0.2.2")  # wrong
str(trace(rules, inbound(80)).fates)  # wrong
