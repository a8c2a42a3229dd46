"""Pods whose traffic Istio captures in another way than by a sidecar's iptables rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_istio_sidecar import PodRules, Ruleset, expected_ruleset, parse_iptables_save
from pytest_istio_sidecar.environments.file import FileEnvironment, Given
from pytest_istio_sidecar.environments.shared import read_rules
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio.tables import other_mode

AMBIENT = """*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_PRERT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_PRERT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
COMMIT
"""


def test_a_sidecars_rules_are_of_no_other_mode() -> None:
    assert other_mode(PodRules(rulesets=(expected_ruleset("1.8.3"),))) == ""


def test_a_pod_without_any_rule_is_of_no_other_mode() -> None:
    assert other_mode(PodRules(rulesets=(Ruleset(),))) == ""


def test_ambient_is_told_by_its_chain() -> None:
    assert "ztunnel" in other_mode(PodRules(rulesets=(parse_iptables_save(AMBIENT),)))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("inet istio-proxy-nat", "values.global.nativeNftables=true"),
        ("inet istio-ambient-nat", "ztunnel"),
    ],
)
def test_native_tables_are_told_by_their_names(table: str, said: str) -> None:
    told = other_mode(PodRules(rulesets=(Ruleset(),), native_tables=("inet kube", table)))
    assert said in told
    assert table in told


def test_native_tables_beside_a_sidecars_rules_do_not_hide_them() -> None:
    rules = PodRules(rulesets=(expected_ruleset("1.27.3"),), native_tables=("inet istio-proxy-nat",))
    assert other_mode(rules) == ""


def test_such_a_pod_is_an_error_that_says_so_and_never_no_rules(tmp_path: Path) -> None:
    rules = PodRules(rulesets=(parse_iptables_save(AMBIENT),))
    environment = FileEnvironment(given=Given(rules=rules), names=("ambient.txt",))
    with pytest.raises(EnvironmentProblem, match="ambient mode"):
        read_rules(environment, tmp_path, Path("kept"))
