"""Where nobody said what addresses the pod has, a rule that singles out some pods leaves the answer open."""

import pytest

from pytest_istio_sidecar import (
    Host,
    Undecided,
    bypasses,
    check_inbound_exclusions,
    check_matches_istio,
    check_only_bypasses,
    check_redirect_target,
    check_redirected,
    expected_ruleset,
    inbound,
    outbound,
    parse_iptables_save,
    render_save,
)

EXPECTED = expected_ruleset("1.8.3")
ISTIO = render_save(EXPECTED)
OWN_OUT = "-A ISTIO_OUTPUT -s 10.244.0.7/32 -j RETURN\n"
OWN_IN = "-A PREROUTING -d 10.244.0.7/32 -p tcp -j RETURN\n"
OWN_DEVICE = "-A PREROUTING -i ens5 -p tcp -j RETURN\n"
NOT_OURS = "-A PREROUTING ! -d 192.0.2.0/24 -p tcp -j RETURN\n"


def with_first(rule):
    chain = f"-A {rule.split()[1]} "
    return parse_iptables_save(ISTIO.replace(chain, rule + chain, 1)).nat


@pytest.mark.parametrize("rule", [OWN_OUT, OWN_IN, OWN_DEVICE, NOT_OURS])
def test_a_rule_that_may_be_about_this_pod_leaves_the_answer_open(rule):
    nat = with_first(rule)
    with pytest.raises(Undecided, match="depends on the pod's own addresses and interfaces"):
        check_matches_istio(nat, "1.8.3")
    with pytest.raises(Undecided, match="nobody stated"):
        check_only_bypasses(nat, [], expected=EXPECTED)


@pytest.mark.parametrize("rule", [OWN_OUT, OWN_IN])
def test_where_it_is_stated_the_answer_is_against_or_holds(rule):
    nat = with_first(rule)
    mine, another = (Host(interfaces={"eth0": [address]}) for address in ("10.244.0.7/24", "10.244.0.8/24"))
    assert check_only_bypasses(nat, [], expected=EXPECTED, host=mine)
    assert check_only_bypasses(nat, [], expected=EXPECTED, host=another) == []


@pytest.mark.parametrize(
    "rule",
    [
        "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n",
        "-A OUTPUT -s 10.244.0.7/32 -p tcp -j ISTIO_OUTPUT\n",
        "-A PREROUTING -i ens5 -p tcp -j ISTIO_INBOUND\n",
    ],
)
def test_a_rule_that_does_no_harm_to_any_pod_leaves_it_closed(rule):
    nat = (
        with_first(rule)
        if rule.split()[1] != "POSTROUTING"
        else parse_iptables_save(ISTIO.replace("COMMIT", f"{rule}COMMIT")).nat
    )
    assert check_only_bypasses(nat, [], expected=EXPECTED) == []


def translated(direction, to):
    chain, port = ("ISTIO_IN_REDIRECT", 15006) if direction == "inbound" else ("ISTIO_REDIRECT", 15001)
    redirect = f"-A {chain} -p tcp -j REDIRECT --to-ports {port}"
    assert redirect in ISTIO
    return parse_iptables_save(
        ISTIO.replace(redirect, f"-A {chain} -p tcp -j DNAT --to-destination {to}:{port}")
    ).nat


PACKETS = {"inbound": inbound(80), "outbound": outbound("10.1.2.3", 443)}
CHAINS = {"inbound": ("ISTIO_IN_REDIRECT", 15006), "outbound": ("ISTIO_REDIRECT", 15001)}


@pytest.mark.parametrize("direction", PACKETS)
@pytest.mark.parametrize("host", [None, Host()], ids=["none", "the assumed one"])
def test_a_translation_to_the_assumed_address_is_none_to_the_pods_own(direction, host):
    nat = translated(direction, "192.0.2.10")
    with pytest.raises(Undecided, match="nobody stated"):
        check_redirected(nat, PACKETS[direction], host=host)
    with pytest.raises(Undecided, match="nobody stated"):
        check_redirect_target(nat, *CHAINS[direction], host=host)
    with pytest.raises(Undecided, match="nobody stated"):
        check_only_bypasses(nat, [], expected=EXPECTED, host=host)
    report = bypasses(nat, expected=EXPECTED, host=host)
    each = next(each for each in report.conditional if each.direction == direction)
    assert "sent to 192.0.2.10" in each.text
    assert "192.0.2.10 only stands for them" in each.conditions[0]


def test_what_is_left_out_is_not_told_where_the_rest_goes_to_the_assumed_address():
    with pytest.raises(Undecided, match="nobody stated"):
        check_inbound_exclusions(translated("inbound", "192.0.2.10"), {22, 15008, 15090, 15021, 15020})


@pytest.mark.parametrize("direction", PACKETS)
def test_a_translation_to_an_address_that_is_stated_is_one_to_the_pods_own(direction):
    mine = Host(interfaces={"eth0": ["10.244.0.7/24"]})
    nat = translated(direction, "10.244.0.7")
    assert check_only_bypasses(nat, [], expected=EXPECTED, host=mine) == []
    assert check_redirect_target(nat, *CHAINS[direction], host=mine) == []
    assert check_only_bypasses(translated(direction, "192.0.2.10"), [], expected=EXPECTED, host=mine)


@pytest.mark.parametrize("direction", PACKETS)
def test_a_translation_to_another_port_of_the_assumed_address_is_wrong_in_any_pod(direction):
    assert check_redirected(translated(direction, "192.0.2.10"), PACKETS[direction], 9)


def test_a_translation_of_the_port_alone_needs_no_address_stated():
    redirect = "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006"
    nat = parse_iptables_save(
        ISTIO.replace(redirect, "-A ISTIO_IN_REDIRECT -p tcp -j DNAT --to-destination :15006")
    ).nat
    assert check_redirected(nat, PACKETS["inbound"]) == []
    assert check_only_bypasses(nat, [], expected=EXPECTED) == []


def test_a_translation_to_a_loopback_address_needs_no_address_stated():
    nat = translated("outbound", "127.0.0.1")
    assert check_redirected(nat, PACKETS["outbound"]) == []
    assert check_only_bypasses(nat, [], expected=EXPECTED) == []
