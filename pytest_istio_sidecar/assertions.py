"""The assertion helpers: each asks its `check_*` twin and raises what that finds.

Knows which exception a finding becomes. Does not know how a verdict is reached
(`checks`) or worded (`reports`). They work anywhere, in a test or a REPL.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime
from functools import update_wrapper
from inspect import signature
from typing import ParamSpec

from pytest_istio_sidecar.checks.bypass.bypasses import check_only_bypasses
from pytest_istio_sidecar.checks.bypass.reviewed import ReviewedBypass, check_reviewed_bypasses
from pytest_istio_sidecar.checks.chains import check_inbound_exclusions, check_jump, check_redirect_target
from pytest_istio_sidecar.checks.comparison.expectation import check_matches_istio
from pytest_istio_sidecar.checks.finding import Finding
from pytest_istio_sidecar.checks.packets import check_not_redirected, check_redirected
from pytest_istio_sidecar.checks.policy_routes import check_policy_routes
from pytest_istio_sidecar.checks.replicas import check_replicas
from pytest_istio_sidecar.checks.sockets.capture_sockets import check_capture_sockets
from pytest_istio_sidecar.checks.sockets.listeners import check_listener, check_rules_reach_listeners
from pytest_istio_sidecar.checks.traffic import check_intercepted, check_not_intercepted
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.pod_options import PodUsers
from pytest_istio_sidecar.netfilter.model import Rules
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.reports.verdict import raise_against

_Parameters = ParamSpec("_Parameters")


def asserting(
    check: Callable[_Parameters, Sequence[Finding]],
) -> Callable[[Callable[[], None]], Callable[_Parameters, None]]:
    """Make an assertion of a check: it takes what the check takes, and raises what that finds.

    The decorated function, which has no body, gives the name and the text.
    """

    def decorate(described: Callable[[], None]) -> Callable[_Parameters, None]:
        def assertion(*arguments: _Parameters.args, **named: _Parameters.kwargs) -> None:
            raise_against(check(*arguments, **named))

        update_wrapper(assertion, described)
        assertion.__annotations__ = {**check.__annotations__, "return": None}
        shape = signature(check).replace(return_annotation=None)
        vars(assertion).update(__wrapped__=check, __signature__=shape)
        return assertion

    return decorate


@asserting(check_jump)
def assert_jump() -> None:
    """Assert that every packet of a protocol entering chain `source` goes on into `target`.

    Raises:
        BypassError: some packet does not; a rule above may take it away.
        RuleSetMismatch: there is no such chain.
        Undecided: the rules do not show it.
    """


@asserting(check_inbound_exclusions)
def assert_inbound_exclusions() -> None:
    """Assert that exactly these TCP ports are not redirected, by effect over all 65,536.

    Raises:
        BypassError: another port is not redirected either.
        RedirectError: one of these ports is.
        Undecided: the rules do not show it.
    """


@asserting(check_redirect_target)
def assert_redirect_target() -> None:
    """Assert that every TCP packet entering `chain` is redirected to the local `port`.

    Raises:
        RedirectError: it is not.
        RuleSetMismatch: there is no such chain.
        Undecided: the rules do not show it.
    """


@asserting(check_redirected)
def assert_redirected() -> None:
    """Assert that a packet is redirected to the local port `to`.

    Args:
        to: None: Envoy's port for the packet's hook, 15006 at PREROUTING and 15001 at OUTPUT. Rules do not
            tell which ports a pod's options moved: name those.

    Raises:
        BypassError: it keeps its destination.
        RedirectError: it goes to another port, or is dropped.
        Undecided: the rules do not show it.
    """


@asserting(check_not_redirected)
def assert_not_redirected() -> None:
    """Assert that a packet keeps its destination.

    Raises:
        RedirectError: it is redirected or dropped.
        Undecided: the rules do not show it.
    """


assert_bypasses = assert_not_redirected
"""The name of `assert_not_redirected` before; goes with 1.0."""


@asserting(check_listener)
def assert_listener() -> None:
    """Assert that Envoy listens on a port, for traffic of a direction ("inbound" or "outbound").

    Raises:
        ListenerMismatch: it does not.
    """


@asserting(check_rules_reach_listeners)
def assert_rules_reach_listeners() -> None:
    """Assert that every TCP packet the rules capture comes to a listener of Envoy that can take it.

    Args:
        sockets: those that listen in the pod, as the fixture `listening_sockets` has them: with them
            an agent that does not listen where the rules leave traffic to it is a notice.

    Raises:
        ListenerMismatch: some packet does not.
        Undecided: the rules do not show it.
    """


@asserting(check_capture_sockets)
def assert_capture_sockets() -> None:
    """Assert that every socket on the ports of Envoy's capturing listeners is Envoy's.

    Args:
        sockets: as the fixture `listening_sockets` has them.
        listeners: as the fixture `envoy_listeners` has them.
        options: what istio-init was told; None: what the template passes.
        pod: how the message names it.

    Raises:
        ListenerMismatch: another process has one, or shares one of Envoy's addresses.
    """


@asserting(check_policy_routes)
def assert_policy_routes() -> None:
    """Assert that what a TPROXY rule marks stays in the pod by a policy route, wherever it is sent.

    Args:
        routes: of each family, as the fixture `policy_routes` has them.

    Raises:
        RedirectError: a mark has none; the message has the commands that make it.
    """


@asserting(check_matches_istio)
def assert_matches_istio() -> None:
    """Assert that rules do to every packet what those of a release with these options do.

    Args:
        exact: whether their text has to be the same too.
        options: what istio-init was told; None: `given`, else what the template passes.

    Raises:
        RuleSetMismatch: some packet has another fate, or, if `exact`, some rule differs.
        Undecided: the rules do not show it.
        UsageProblem: no such release or option.
    """


def assert_reviewed_bypasses(
    version: str,
    options: IstioOptions,
    reviewed: Sequence[ReviewedBypass],
    *,
    today: date | None = None,
    host: Host | None = None,
    rules: Rules | None = None,
    accepted: Collection[str] = (),
    pod: str = "",
    users: PodUsers | None = None,
) -> None:
    """Assert that what a pod's options open beyond the template's is on a project's list, and in date.

    What is open otherwise has to be in date too, where it is on the list.

    Args:
        today: a review counts up to its last day; None: this day, in UTC.
        rules: what was read from the pod; None: what the release makes with these options.
        accepted: fields of options that the project accepts whatever they open.
        pod: `namespace/name`, or what stands for it, where reviews are for some pods.
        users: as whom the pod's containers run, as `sidecar_pod.users` has it; None: not known.

    Raises:
        BypassError: some packets get by that no review allows.
        Undecided: the rules do not tell whether some do, or nobody said whether IPv6 is to be captured.
        UsageProblem: no such release or option.
    """
    day = today or datetime.now(tz=UTC).date()
    raise_against(
        check_reviewed_bypasses(
            version,
            options,
            reviewed,
            today=day,
            host=host,
            rules=rules,
            accepted=accepted,
            pod=pod,
            users=users,
        )
    )


@asserting(check_replicas)
def assert_same_rules() -> None:
    """Assert that other replicas, by name, have the rules of this pod.

    Raises:
        RuleSetMismatch: one has not.
    """


@asserting(check_only_bypasses)
def assert_only_bypasses() -> None:
    """Assert that nothing gets by without Envoy but what is allowed, over all packets.

    Args:
        allowed: bypasses as values (`Bypass.inbound(tcp={22})`) or written ("inbound tcp 22").
        expected: rules whose bypasses are allowed too.

    Raises:
        BypassError: other packets get by; the message has one, and the rule that lets it.
        Undecided: nothing else does, and of some packets it depends on what rules alone do not tell, or
            on what was not read.
        UsageProblem: a text that is no bypass.
    """


@asserting(check_intercepted)
def assert_intercepted() -> None:
    """Assert that Envoy saw this very request, on its listener for a direction if one is given.

    Raises:
        NotIntercepted: it was answered without Envoy, or by way of the other listener.
        Undecided: the evidence does not tell.
    """


@asserting(check_not_intercepted)
def assert_not_intercepted() -> None:
    """Assert that this request was answered, and that Envoy did not see it.

    Raises:
        RedirectError: Envoy saw it.
        Undecided: the evidence does not tell.
    """
