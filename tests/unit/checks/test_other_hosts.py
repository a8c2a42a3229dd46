"""Where nobody said what addresses the pod has, a rule that singles out some pods leaves the answer open."""

import pytest

from pytest_istio_sidecar import (
    Host,
    Undecided,
    check_matches_istio,
    check_only_bypasses,
    expected_ruleset,
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
