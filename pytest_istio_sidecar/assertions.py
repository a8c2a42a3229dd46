"""The assertion helpers: each asks its `check_*` twin and raises what it found.

Knows which exception a finding becomes. Does not know how a verdict is reached
(`checks`) or worded (`reports`). They work anywhere, in a test or a REPL.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Unpack

from pytest_istio_sidecar.checks.bypass.bypass import Bypass
from pytest_istio_sidecar.checks.bypass.bypasses import check_only_bypasses
from pytest_istio_sidecar.checks.bypass.found_bypass import FoundBypass
from pytest_istio_sidecar.checks.bypass.reviewed import ReviewedBypass, check_reviewed_bypasses
from pytest_istio_sidecar.checks.chains import check_inbound_exclusions, check_jump, check_redirect_target
from pytest_istio_sidecar.checks.comparison.expectation import check_matches_istio
from pytest_istio_sidecar.checks.finding import Finding, Kind, violations
from pytest_istio_sidecar.checks.listeners import check_listener, check_rules_reach_listeners
from pytest_istio_sidecar.checks.packets import check_bypasses, check_redirected
from pytest_istio_sidecar.checks.policy_routes import check_policy_routes
from pytest_istio_sidecar.checks.replicas import check_replicas
from pytest_istio_sidecar.checks.traffic import check_intercepted, check_not_intercepted
from pytest_istio_sidecar.errors import (
    BypassError,
    ListenerMismatch,
    NotIntercepted,
    RedirectError,
    RuleSetMismatch,
    VerdictAgainst,
)
from pytest_istio_sidecar.istio.listeners import Listener
from pytest_istio_sidecar.istio.observation import Observation
from pytest_istio_sidecar.istio.options import IstioOptions, OptionFields
from pytest_istio_sidecar.istio.policy_route import Routings
from pytest_istio_sidecar.netfilter.model import Family, PodRules, Rules, Table
from pytest_istio_sidecar.netfilter.packet import Host, Packet
from pytest_istio_sidecar.netfilter.sockets import Socket
from pytest_istio_sidecar.reports.message import render_findings

_ERRORS: dict[Kind, type[VerdictAgainst]] = {
    Kind.BYPASS: BypassError,
    Kind.REDIRECT: RedirectError,
    Kind.RULES: RuleSetMismatch,
    Kind.LISTENER: ListenerMismatch,
    Kind.TRAFFIC: NotIntercepted,
}


def assert_jump(
    nat: Table, source: str, target: str, *, protocol: str = "tcp", host: Host | None = None
) -> None:
    """Assert that every packet of a protocol entering chain `source` goes on into `target`.

    Raises:
        BypassError: some packet does not; a rule above may take it away.
        RuleSetMismatch: there is no such chain.
        Undecided: the rules do not show it.
    """
    _raise(check_jump(nat, source, target, protocol=protocol, host=host))


def assert_inbound_exclusions(
    nat: Rules, ports: Collection[int], *, host: Host | None = None, family: Family = 4
) -> None:
    """Assert that exactly these TCP ports are not redirected, by effect over all 65,536.

    Raises:
        BypassError: another port is not redirected either.
        RedirectError: one of these ports is.
        Undecided: the rules do not show it.
    """
    _raise(check_inbound_exclusions(nat, ports, host=host, family=family))


def assert_redirect_target(nat: Table, chain: str, port: int, *, host: Host | None = None) -> None:
    """Assert that every TCP packet entering `chain` is redirected to the local `port`.

    Raises:
        RedirectError: it is not.
        RuleSetMismatch: there is no such chain.
        Undecided: the rules do not show it.
    """
    _raise(check_redirect_target(nat, chain, port, host=host))


def assert_redirected(nat: Rules, packet: Packet, to: int | None = None, *, host: Host | None = None) -> None:
    """Assert that a packet is redirected to the local port `to`.

    Args:
        to: None: Envoy's port for the packet's hook, 15006 at PREROUTING and 15001 at OUTPUT. Rules do not
            tell which ports a pod's options moved: name those.

    Raises:
        BypassError: it keeps its destination.
        RedirectError: it goes to another port, or is dropped.
        Undecided: the rules do not show it.
    """
    _raise(check_redirected(nat, packet, to, host=host))


def assert_bypasses(nat: Rules, packet: Packet, *, host: Host | None = None) -> None:
    """Assert that a packet keeps its destination.

    Raises:
        RedirectError: it is redirected or dropped.
        Undecided: the rules do not show it.
    """
    _raise(check_bypasses(nat, packet, host=host))


def assert_listener(listeners: Sequence[Listener], port: int, *, direction: str | None = None) -> None:
    """Assert that Envoy listens on a port, for traffic of a direction ("inbound" or "outbound").

    Raises:
        ListenerMismatch: it does not.
    """
    _raise(check_listener(listeners, port, direction=direction))


def assert_rules_reach_listeners(
    rules: Rules,
    listeners: Sequence[Listener],
    *,
    host: Host | None = None,
    sockets: Collection[Socket] | None = None,
) -> None:
    """Assert that every TCP packet the rules capture comes to a listener of Envoy that can take it.

    Args:
        sockets: those that listen in the pod, as the fixture `listening_sockets` has them: with them
            an agent that does not listen where the rules leave traffic to it is a notice.

    Raises:
        ListenerMismatch: some packet does not.
        Undecided: the rules do not show it.
    """
    _raise(check_rules_reach_listeners(rules, listeners, host=host, sockets=sockets))


def assert_policy_routes(rules: Rules, routes: Routings) -> None:
    """Assert that what a TPROXY rule marks stays in the pod by a policy route, wherever it is sent.

    Args:
        routes: of each family, as the fixture `policy_routes` has them.

    Raises:
        RedirectError: a mark has none; the message has the commands that make it.
    """
    _raise(check_policy_routes(rules, routes))


def assert_matches_istio(
    rules: Rules,
    version: str,
    exact: bool = False,
    *,
    options: IstioOptions | None = None,
    host: Host | None = None,
    **given: Unpack[OptionFields],
) -> None:
    """Assert that rules do to every packet what those of a release with these options do.

    Args:
        exact: whether their text has to be the same too.
        options: what istio-init was told; None: `given`, else what the template passes.

    Raises:
        RuleSetMismatch: some packet has another fate, or, if `exact`, some rule differs.
        Undecided: the rules do not show it.
        UsageProblem: no such release or option.
    """
    _raise(check_matches_istio(rules, version, exact, options=options, host=host, **given))


def assert_reviewed_bypasses(
    version: str,
    options: IstioOptions,
    reviewed: Sequence[ReviewedBypass],
    *,
    today: date | None = None,
    host: Host | None = None,
) -> None:
    """Assert that what these options open beyond the template's is on a project's list, and in date.

    Args:
        today: a review counts up to its last day; None: this day, in UTC.

    Raises:
        BypassError: some packets get by that no review allows.
        UsageProblem: no such release or option.
    """
    day = today or datetime.now(tz=UTC).date()
    _raise(check_reviewed_bypasses(version, options, reviewed, today=day, host=host))


def assert_same_rules(rules: PodRules, others: Mapping[str, PodRules]) -> None:
    """Assert that other replicas, by name, have the rules of this pod.

    Raises:
        RuleSetMismatch: one has not.
    """
    _raise(check_replicas(rules, others))


def assert_only_bypasses(
    rules: Rules,
    allowed: Iterable[Bypass | FoundBypass | str],
    *,
    envoy_ports: Collection[int] = (15001, 15006),
    expected: Rules | None = None,
    host: Host | None = None,
) -> None:
    """Assert that nothing gets by without Envoy but what is allowed, over all packets.

    Args:
        allowed: bypasses as values (`Bypass.inbound(tcp={22})`) or written ("inbound tcp 22").
        expected: rules whose bypasses are allowed too.

    Raises:
        BypassError: other packets get by; the message has one, and the rule that lets it.
        Undecided: it depends on a condition that rules alone do not tell.
        UsageProblem: a text that is no bypass.
    """
    _raise(check_only_bypasses(rules, allowed, envoy_ports=envoy_ports, expected=expected, host=host))


def assert_intercepted(observation: Observation, *, direction: str | None = None) -> None:
    """Assert that Envoy saw this very request, on its listener for a direction if one is given.

    Raises:
        NotIntercepted: it was answered without Envoy, or by way of the other listener.
        Undecided: the evidence does not tell.
    """
    _raise(check_intercepted(observation, direction=direction))


def assert_not_intercepted(observation: Observation) -> None:
    """Assert that this request was answered, and that Envoy did not see it.

    Raises:
        RedirectError: Envoy saw it.
        Undecided: the evidence does not tell.
    """
    _raise(check_not_intercepted(observation))


def _raise(findings: Sequence[Finding]) -> None:
    against = violations(findings)
    if against:
        error = _ERRORS[against[0].kind](render_findings(against))
        error.findings = tuple(against)
        raise error
