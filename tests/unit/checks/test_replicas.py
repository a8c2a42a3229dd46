"""Rules of several pods, side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_istio_sidecar import RuleSetMismatch, assert_same_rules, expected_ruleset
from pytest_istio_sidecar.netfilter.model import Backend, PodRules, Ruleset
from pytest_istio_sidecar.selftest.mutants import mutants

LEGACY = replace(expected_ruleset("1.8.3"), backend=Backend.LEGACY)
HERE = PodRules(rulesets=(LEGACY,), pod="demo/httpbin-1")
ONE_MORE = """\
demo/httpbin-2 has other rules than demo/httpbin-1

  wanted   the rules of demo/httpbin-1
  got      20 in legacy (IPv4)

  extra    IPv4 nat -A ISTIO_INBOUND -p tcp -m tcp --dport 8443 -j RETURN

  cause    their sidecars were injected with different options, or somebody changed one of them"""


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


def with_exclusions(ports: str) -> PodRules:
    """The other pod, as it is when its annotation excludes these ports too."""
    rules = expected_ruleset("1.8.3", inbound_ports_exclude=f"15090,15021,{ports}15020")
    return PodRules(rulesets=(replace(rules, backend=Backend.LEGACY),), pod="demo/httpbin-2")


def test_the_message_names_the_pods_the_count_and_the_rules_that_only_the_other_has() -> None:
    with pytest.raises(RuleSetMismatch) as raised:
        assert_same_rules(HERE, {"demo/httpbin-2": with_exclusions("8443,")})
    assert str(raised.value) == ONE_MORE


@pytest.mark.parametrize(
    ("count", "last"), [(8, "--dport 8007 -j RETURN"), (9, "and 1 more"), (11, "and 3 more")]
)
def test_of_many_rules_that_differ_eight_are_shown_and_the_others_counted(count: int, last: str) -> None:
    ports = "".join(f"{8000 + number}," for number in range(count))
    with pytest.raises(RuleSetMismatch) as raised:
        assert_same_rules(HERE, {"demo/httpbin-2": with_exclusions(ports)})
    shown = str(raised.value).partition("extra")[2].partition("\n\n")[0].splitlines()
    assert sum("-j RETURN" in line for line in shown) == 8
    assert shown[-1].endswith(last)


def test_a_pod_with_the_same_rules_is_not_named_beside_one_that_differs() -> None:
    with pytest.raises(RuleSetMismatch) as raised:
        assert_same_rules(
            HERE,
            {
                "demo/httpbin-3": replace(HERE, pod="demo/httpbin-3"),
                "demo/httpbin-2": with_exclusions("8443,"),
            },
        )
    assert "demo/httpbin-3" not in str(raised.value)
