"""Everything that the suite asks of a pod's rules, in one call.

Knows which checks the suite makes of rules, and with which packets. Does not know pytest:
`tests/slow/plugin/test_suite_asks_what_judge_asks.py` holds these calls and the suite's to be the same.
Invariant: rules that fail a test of the suite have a violation here; what a release's own rules do not
hold to is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.chains import (
    check_inbound_exclusions,
    check_jump,
    check_redirect_target,
)
from pytest_istio_sidecar.checks.comparison.expectation import check_matches_istio
from pytest_istio_sidecar.checks.dead_rules import dead_rules
from pytest_istio_sidecar.checks.finding import Finding, Kind, violations
from pytest_istio_sidecar.checks.packets import check_not_redirected, check_redirected
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.istio.tables import istio_nat
from pytest_istio_sidecar.netfilter.model import PodRules, Rule, Ruleset
from pytest_istio_sidecar.netfilter.packet import Fate, Host, Packet, inbound, outbound
from pytest_istio_sidecar.netfilter.trace.trace import trace

APPLICATION = 1000
"""User and group of the application."""
ELSEWHERE = "198.51.100.7"
"""An address outside the pod and its networks (RFC 5737)."""
EXCLUDED = (ports.TUNNEL, ports.SSH, ports.TELEMETRY, ports.READINESS, ports.AGENT)
"""Inbound ports that one release or another leaves to the pod."""

Question = Callable[[PodRules], list[Finding]]


def judge(
    rules: PodRules, version: str, *, options: IstioOptions | None = None, host: Host
) -> Iterator[Finding]:
    """What is found against the rules of a pod.

    The exhaustive comparison comes last: what goes before explains better, and costs less.

    Args:
        options: what istio-init was told; None: what the release's template passes.

    Raises:
        Undecided: the rules do not tell what becomes of some packet.
    """
    for question in _meant(version, options or IstioOptions(), host):
        yield from question(rules)
    yield from check_matches_istio(rules, version, options=options or IstioOptions(), host=host)


@lru_cache(16)
def _meant(version: str, options: IstioOptions, host: Host) -> tuple[Question, ...]:
    """The questions of which the release's own rules make nothing."""
    expected = expected_ruleset(version, options=options)
    own = PodRules(rulesets=(expected,))
    return tuple(asked for asked in _questions(expected, host) if not violations(asked(own)))


def _questions(expected: Ruleset, host: Host) -> Iterator[Question]:
    for source, target in (("PREROUTING", "ISTIO_INBOUND"), ("OUTPUT", "ISTIO_OUTPUT")):
        yield lambda rules, source=source, target=target: check_jump(  # type: ignore[misc]
            istio_nat(rules, 4), source, target, protocol="tcp", host=host
        )
    for chain, port in (("ISTIO_IN_REDIRECT", ports.INBOUND), ("ISTIO_REDIRECT", ports.OUTBOUND)):
        yield lambda rules, chain=chain, port=port: check_redirect_target(  # type: ignore[misc]
            istio_nat(rules, 4), chain, port, host=host
        )
    excluded = {port for port in EXCLUDED if trace(expected, inbound(port)).fate is Fate.UNCHANGED}
    yield lambda rules: check_inbound_exclusions(rules, excluded, host=host)
    for packet in _left_alone(excluded, host):
        yield lambda rules, packet=packet: check_not_redirected(rules, packet, host=host)  # type: ignore[misc]
    for packet, port in _captured(host):
        yield lambda rules, packet=packet, port=port: check_redirected(  # type: ignore[misc]
            rules, packet, port, host=host
        )
    dead = frozenset(dead_rules(expected.nat, host=host))
    yield lambda rules: _woken(rules, dead, host)


def _woken(rules: PodRules, dead: frozenset[Rule], host: Host) -> list[Finding]:
    """Rules of ISTIO_OUTPUT that match no packet in the release's table, and match one in this."""
    nat = istio_nat(rules, 4)
    if "ISTIO_OUTPUT" not in nat:
        return []
    still = {(rule.chain, rule.number) for rule in dead_rules(nat, host=host)}
    return [
        Finding(kind=Kind.RULES, failure=messages.RULE_WOKEN(rule=rule.text), rule=rule)
        for rule in nat.chain("ISTIO_OUTPUT")
        if rule in dead and (rule.chain, rule.number) not in still
    ]


def _left_alone(excluded: set[int], host: Host) -> Iterator[Packet]:
    own, proxy = _own_address(host), ports.PROXY_ID
    for port in sorted(excluded):
        yield inbound(port, destination=own, in_interface=host.external())
    yield outbound(own, 80, uid=proxy, gid=proxy, source="127.0.0.6")
    yield outbound(own, 80, uid=APPLICATION, gid=APPLICATION, source=own)
    yield outbound(own, 80, uid=APPLICATION, gid=proxy, source=own)
    yield outbound(ELSEWHERE, 80, uid=proxy, gid=APPLICATION, source=own)
    yield outbound(ELSEWHERE, 80, uid=APPLICATION, gid=proxy, source=own)
    yield outbound("127.0.0.1", 80, uid=APPLICATION, gid=APPLICATION, source="127.0.0.1")


def _captured(host: Host) -> Iterator[tuple[Packet, int]]:
    """Packets, and the ports of Envoy that they are sent to."""
    own, proxy = _own_address(host), ports.PROXY_ID
    yield inbound(80, destination=own, in_interface=host.external()), ports.INBOUND
    yield outbound(own, 80, uid=proxy, gid=proxy, source=own), ports.INBOUND
    for port in (80, 443, ports.OUTBOUND, ports.INBOUND):
        packet = outbound(ELSEWHERE, port, uid=APPLICATION, gid=APPLICATION, source=own)
        yield packet, ports.OUTBOUND


def _own_address(host: Host) -> str:
    return str(host.primary(host.external(), 4))
