"""An argument of another type is wrong use, never a verdict on the pod."""

import pytest

from pytest_istio_sidecar import (
    UsageProblem,
    assert_inbound_exclusions,
    assert_listener,
    assert_not_redirected,
    assert_redirect_target,
    assert_redirected,
    check_dead_rules,
    check_jump,
    check_matches_istio,
    check_only_bypasses,
    check_rules_reach_listeners,
    expected_ruleset,
    inbound,
)

RULES = expected_ruleset("1.8.3")


@pytest.mark.parametrize(
    ("asserted", "message"),
    [
        (
            lambda: assert_redirected(RULES, inbound(80), to="15006"),
            "port '15006': expected a whole number from 1 to 65535",
        ),
        (
            lambda: assert_redirected(RULES, inbound(80), to=0),
            "port 0: expected a whole number from 1 to 65535",
        ),
        (
            lambda: assert_redirected(RULES, 80),
            "80 is no packet; write it as inbound(80), or outbound('198.51.100.7', 443)",
        ),
        (
            lambda: assert_not_redirected(RULES.nat, "inbound"),
            "'inbound' is no packet; write it as inbound(80), or outbound('198.51.100.7', 443)",
        ),
        (
            lambda: assert_redirected("-A PREROUTING", inbound(80)),
            "rules are given as str: expected a table, a ruleset or the rules of a pod",
        ),
        *(
            (
                lambda asked=asked: asked("-A PREROUTING"),
                "rules are given as str: expected a table, a ruleset or the rules of a pod",
            )
            for asked in (
                lambda rules: assert_inbound_exclusions(rules, {22}),
                lambda rules: check_only_bypasses(rules, []),
                lambda rules: check_matches_istio(rules, "1.8.3"),
                lambda rules: check_rules_reach_listeners(rules, ()),
            )
        ),
        *(
            (
                lambda asked=asked: asked(RULES),
                "a table is given as Ruleset: expected one of a ruleset's, as in parse_iptables(text).nat",
            )
            for asked in (
                check_dead_rules,
                lambda rules: check_jump(rules, "PREROUTING", "ISTIO_INBOUND"),
                lambda rules: assert_redirect_target(rules, "ISTIO_REDIRECT", 15001),
            )
        ),
        (
            lambda: assert_redirect_target(RULES.mangle, "ISTIO_REDIRECT", 15001),
            "this is asked of table nat, where alone rules redirect, and table mangle is given",
        ),
        (
            lambda: assert_redirect_target(RULES.nat, "ISTIO_REDIRECT", "15001"),
            "port '15001': expected a whole number from 1 to 65535",
        ),
        (
            lambda: assert_inbound_exclusions(RULES.nat, {"22"}),
            "port '22': expected a whole number from 1 to 65535",
        ),
        (lambda: assert_listener((), "15006"), "port '15006': expected a whole number from 1 to 65535"),
        (
            lambda: assert_listener((), 15006, direction="sideways"),
            "direction 'sideways': expected inbound or outbound",
        ),
    ],
)
def test_what_an_assertion_cannot_mean_is_refused_with_what_it_takes(asserted, message):
    with pytest.raises(UsageProblem) as refused:
        asserted()
    assert str(refused.value) == message
