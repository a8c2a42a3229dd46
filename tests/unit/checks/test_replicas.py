"""Rules of several pods, side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_istio_sidecar import RuleSetMismatch, assert_same_rules, expected_ruleset
from pytest_istio_sidecar.netfilter.model import Backend, PodRules, Ruleset
from pytest_istio_sidecar.selftest.mutants import mutants

LEGACY = replace(expected_ruleset("1.8.3"), backend=Backend.LEGACY)
HERE = PodRules(rulesets=(LEGACY,), pod="demo/httpbin-1")


def test_pods_with_the_same_rules_are_the_same_whatever_empty_back_end_was_read_beside() -> None:
    empty = Ruleset(backend=Backend.NF_TABLES)
    assert_same_rules(HERE, {"demo/httpbin-2": PodRules(rulesets=(LEGACY, empty), pod="demo/httpbin-2")})


def test_a_pod_that_lacks_a_rule_is_named_with_the_rule() -> None:
    missing = next(mutant for mutant in mutants(HERE) if mutant.change.startswith("deletes -A ISTIO_INBOUND"))
    with pytest.raises(RuleSetMismatch) as raised:
        assert_same_rules(HERE, {"demo/httpbin-2": missing.rules})
    message = str(raised.value)
    assert message.startswith("demo/httpbin-2 has other rules than demo/httpbin-1")
    assert "missing  IPv4 nat -A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN" in message


def test_a_pod_whose_rules_stand_in_another_order_is_told_apart() -> None:
    swapped = next(mutant for mutant in mutants(HERE) if mutant.operator == "swap")
    with pytest.raises(RuleSetMismatch, match="the same, in another order or back end"):
        assert_same_rules(HERE, {"demo/httpbin-2": swapped.rules})


def test_a_pod_without_rules_is_told() -> None:
    with pytest.raises(RuleSetMismatch, match="no rules"):
        assert_same_rules(HERE, {"demo/httpbin-2": PodRules(rulesets=())})
