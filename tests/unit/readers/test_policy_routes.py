"""Policy routes as `ip` shows them, those that istio-init makes, and what is missing."""

import pytest

from pytest_istio_sidecar import ParseError, RedirectError, assert_policy_routes, expected_ruleset
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.policy_route import expected_policy_routes, parse_policy_routing

# As iproute2 6.1 printed them in a namespace after `ip rule add fwmark 1337 lookup 133`.
RULES = """\
0:\tfrom all lookup local
32765:\tfrom all fwmark 0x539 lookup 133
32766:\tfrom all lookup main
32767:\tfrom all lookup default
"""
BEHIND_MAIN = """\
0:\tfrom all lookup local
32766:\tfrom all lookup main
32770:\tfrom all fwmark 0x539 lookup 133
"""
ROUTES = """\
local default dev lo table 133 scope host
default via 192.0.2.20 dev eth0
192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.10
local 127.0.0.0/8 dev lo table local proto kernel scope host src 127.0.0.1
"""
ROUTES_6 = (
    "local default dev lo table 133 metric 1024 pref medium\nfe80::/64 dev eth0 proto kernel metric 256\n"
)
NONE = "0:\tfrom all lookup local\n32766:\tfrom all lookup main\n"


def tproxy(family=4):
    return expected_ruleset("1.20.8", family=family, inbound_interception_mode="TPROXY")


@pytest.mark.parametrize(("family", "routes"), [(4, ROUTES), (6, ROUTES_6)])
def test_a_mark_with_its_rule_and_a_local_default_route_is_kept(family, routes):
    assert_policy_routes(tproxy(family), {family: parse_policy_routing(RULES, routes)})


@pytest.mark.parametrize(
    ("rules", "routes", "got", "fix"),
    [
        (
            NONE,
            "",
            "no ip rule for fwmark 0x539",
            "ip rule add fwmark 1337 lookup 133\n           ip route add local 0.0.0.0/0 dev lo table 133",
        ),
        (NONE, ROUTES, "no ip rule for fwmark 0x539", "ip rule add fwmark 1337 lookup 133"),
        (
            RULES,
            "default via 192.0.2.20 dev eth0 table 133\n",
            "ip rule looks 0x539 up in table 133, which has no local default route",
            "ip route add local 0.0.0.0/0 dev lo table 133",
        ),
        (
            BEHIND_MAIN,
            ROUTES,
            "ip rule looks 0x539 up in table 133 only after the main table",
            "ip rule add fwmark 1337 lookup 133",
        ),
        (RULES.replace("0x539", "0x53a"), ROUTES, "no ip rule for fwmark 0x539", "ip rule add fwmark 1337"),
    ],
    ids=["nothing", "no rule", "no local route", "behind main", "another mark"],
)
def test_what_is_missing_is_named_with_the_commands_that_make_it(rules, routes, got, fix):
    with pytest.raises(RedirectError) as caught:
        assert_policy_routes(tproxy(), {4: parse_policy_routing(rules, routes)})
    assert f"  got      {got}\n" in str(caught.value)
    assert f"  fix      {fix}" in str(caught.value)


def test_a_rule_may_leave_bits_of_the_mark_out():
    routing = parse_policy_routing(RULES.replace("0x539", "0x539/0xfff"), ROUTES)
    assert (routing.table_of(0x539), routing.table_of(0x1539), routing.table_of(0x53A)) == (
        "133",
        "133",
        None,
    )


def test_rules_without_tproxy_need_no_policy_route():
    assert_policy_routes(expected_ruleset("1.20.8"), {})


def test_text_that_ip_did_not_print_is_refused():
    with pytest.raises(ParseError):
        parse_policy_routing("command not found\n", "")


@pytest.mark.parametrize(
    ("version", "options", "families"),
    [
        ("1.5.0", {}, [4]),
        ("1.11.8", {"enable_ipv6": True}, [4]),
        ("1.12.0", {"enable_ipv6": True}, [4, 6]),
        ("1.30.3", {"inbound_ports_include": ""}, []),
        ("1.30.3", {"inbound_interception_mode": "REDIRECT"}, []),
    ],
    ids=str,
)
def test_istio_init_makes_them_for_captured_ports_in_tproxy_mode(version, options, families):
    told = IstioOptions(**{"inbound_interception_mode": "TPROXY", **options})
    assert [route.family for route in expected_policy_routes(version, told)] == families


def test_mark_and_table_are_those_of_the_options():
    told = IstioOptions(
        inbound_interception_mode="TPROXY", inbound_tproxy_mark="77", inbound_tproxy_route_table="200"
    )
    (route,) = expected_policy_routes("1.20.8", told)
    assert route.commands() == (
        "ip rule add fwmark 77 lookup 200",
        "ip route add local 0.0.0.0/0 dev lo table 200",
    )
