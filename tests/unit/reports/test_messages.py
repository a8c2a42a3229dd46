"""What a person reads when a table is broken: six faults, each message kept whole in data/messages.

`pytest tests/unit/reports/test_messages.py --update-messages` is not there on purpose: a message is
changed by hand, and read while it is changed.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_istio_sidecar import (
    IstioOptions,
    PodRules,
    VerdictAgainst,
    assert_bypasses,
    assert_inbound_exclusions,
    assert_jump,
    assert_redirect_target,
    assert_redirected,
    expected_ruleset,
    inbound,
    outbound,
    parse_iptables_save,
    render_save,
)
from pytest_istio_sidecar.checks.cause import expecting

MESSAGES = Path(__file__).parents[2] / "data" / "messages"
EXCLUDED = {15008, 22, 15090, 15021, 15020}


def without(rule: str) -> Callable[[str], str]:
    return lambda text: text.replace(f"{rule}\n", "")


def before(rule: str, added: str) -> Callable[[str], str]:
    return lambda text: text.replace(f"{rule}\n", f"{added}\n{rule}\n")


def instead(rule: str, other: str) -> Callable[[str], str]:
    return lambda text: text.replace(f"{rule}\n", f"{other}\n")


JUMP = "-A PREROUTING -p tcp -j ISTIO_INBOUND"
CATCH_ALL = "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT"

FAULTS = {
    "prerouting-emptied": (
        without(JUMP),
        lambda rules, nat: assert_jump(nat, "PREROUTING", "ISTIO_INBOUND", protocol="tcp"),
    ),
    "8443-excluded": (
        before(CATCH_ALL, "-A ISTIO_INBOUND -p tcp -m tcp --dport 8443 -j RETURN"),
        lambda rules, nat: assert_inbound_exclusions(rules, EXCLUDED),
    ),
    "redirect-to-a-wrong-port": (
        instead(
            "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
            "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
        ),
        lambda rules, nat: assert_redirected(rules, inbound(80), to=15006),
    ),
    "istio-redirect-emptied": (
        without("-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001"),
        lambda rules, nat: assert_redirect_target(nat, "ISTIO_REDIRECT", 15001),
    ),
    "return-above-the-jump": (
        before(JUMP, "-A PREROUTING -p tcp -m tcp --dport 80 -j RETURN"),
        lambda rules, nat: assert_jump(nat, "PREROUTING", "ISTIO_INBOUND", protocol="tcp"),
    ),
    "15021-not-excluded": (
        without("-A ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN"),
        lambda rules, nat: assert_bypasses(rules, inbound(15021)),
    ),
}


def pod(edit: Callable[[str], str]) -> PodRules:
    """Istio's rules with one fault, as read from a pod."""
    text = render_save(expected_ruleset("1.8.3"))
    broken = edit(text)
    assert broken != text
    ruleset = parse_iptables_save(broken, source="httpbin.rules")
    rules = PodRules(rulesets=(replace(ruleset, pod="demo/httpbin-7d9c"),), pod="demo/httpbin-7d9c")
    return expecting(rules, "1.8.3", IstioOptions())


@pytest.mark.parametrize("fault", FAULTS)
def test_the_message_for_a_broken_table_is_the_one_that_was_reviewed(fault):
    edit, check = FAULTS[fault]
    rules = pod(edit)
    with pytest.raises(VerdictAgainst) as raised:
        check(rules, rules.rulesets[0].nat)
    message = str(raised.value)
    assert message == (MESSAGES / f"{fault}.txt").read_text().rstrip("\n")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_message_fits_the_terminal_of_a_ci_log(fault):
    lines = (MESSAGES / f"{fault}.txt").read_text().splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("fault", FAULTS)
def test_the_same_check_passes_on_the_untouched_table(fault):
    rules = PodRules(rulesets=(expected_ruleset("1.8.3"),))
    FAULTS[fault][1](rules, rules.rulesets[0].nat)


def test_the_first_line_names_packet_outcome_and_pod():
    rules = pod(without("-A ISTIO_OUTPUT -j ISTIO_REDIRECT"))
    with pytest.raises(VerdictAgainst) as raised:
        assert_redirected(rules, outbound("198.51.100.7", 443), to=15001)
    first = str(raised.value).splitlines()[0]
    assert first == (
        "outbound tcp 443 to 198.51.100.7 from uid 1000 leaves the application without Envoy "
        "(demo/httpbin-7d9c)"
    )
