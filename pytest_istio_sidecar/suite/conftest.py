"""Packets and requests in the pod's own addresses, for the tests beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime
from inspect import signature

import pytest

from pytest_istio_sidecar import (
    Bypass,
    BypassError,
    Finding,
    Host,
    Packet,
    PodRules,
    Ruleset,
    Table,
    VerdictAgainst,
    check_dead_rules,
    expected_ruleset,
    inbound,
    outbound,
    trace,
)

ELSEWHERE = "198.51.100.7"
"""An address outside the pod and its networks (RFC 5737)."""


@pytest.fixture(scope="session")
def expected(istio_version, istio_options) -> Ruleset:
    """What istio-init of this release installs with the pod's options."""
    return expected_ruleset(istio_version, options=istio_options)


@pytest.fixture(scope="session")
def expected_of_pod(expected, pod_rules, istio_version, istio_options) -> PodRules:
    """The same for each family in which Istio's rules are."""
    chains = (chain for rules in pod_rules.of_family(6) for table in rules.tables for chain in table.chains)
    if not any(chain.name.startswith("ISTIO_") for chain in chains):
        return PodRules(rulesets=(expected,))
    return PodRules(rulesets=(expected, expected_ruleset(istio_version, family=6, options=istio_options)))


@pytest.fixture(scope="session")
def today() -> date:
    """The day that reviews have to reach, in UTC."""
    return datetime.now(tz=UTC).date()


@pytest.fixture(scope="session")
def allowed(reviewed_bypasses, sidecar_pod, today) -> tuple[Bypass, ...]:
    """The packets that reviews of this project allow the pod to let by, on this day."""
    in_force = (entry for entry in reviewed_bypasses if entry.holds(pod=sidecar_pod.name, today=today))
    return tuple(entry.packets for entry in in_force)


@pytest.fixture
def claim(
    expected, expected_of_pod, sidecar_pod, istio_version, istio_options, allowed, is_reviewed, notice
) -> Callable[..., None]:
    """A function: asserts of the pod's rules what the expected ones hold to; skips what these do not.

    What gets by and is reviewed is a notice.
    """

    def assert_if_meant(assertion, rules, *arguments, **named) -> None:
        __tracebackhide__ = True
        meant = expected.table(rules.name) if hasattr(rules, "chains") else expected_of_pod
        named["host"] = sidecar_pod.host
        try:
            assertion(meant, *arguments, **named)
        except VerdictAgainst as problem:
            options = " and ".join(f"{name}={value}" for name, value in istio_options.changed().items())
            pytest.skip(
                f"Istio {istio_version}, told {options or 'nothing'}, means otherwise: {summary_of(problem)}"
            )
        if "allowed" in signature(assertion).parameters:
            named["allowed"] = allowed
        try:
            assertion(rules, *arguments, **named)
        except BypassError as problem:
            traces = [getattr(finding, "trace", None) for finding in problem.findings]
            if not all(trace is not None and is_reviewed(trace.packet) for trace in traces):
                raise
            notice(f"{summary_of(problem)}, which is reviewed")

    return assert_if_meant


@pytest.fixture(scope="session")
def is_reviewed(allowed, sidecar_pod) -> Callable[[Packet], bool]:
    """A function: whether a review allows a packet to get by."""
    return lambda packet: any(bypass.has(packet, host=sidecar_pod.host) for bypass in allowed)


@pytest.fixture(scope="session")
def excluded(expected) -> Callable[[int], bool]:
    """A function: whether this release leaves an inbound port to the pod."""
    return lambda port: str(trace(expected, inbound(port)).fate) == "unchanged"


@pytest.fixture(scope="session")
def meant(expected, sidecar_pod, istio_version, is_reviewed, trace_packet) -> Callable[..., None]:
    """A function: skips unless the expected rules capture a packet, or do not, as said."""

    def skip_unless(packet: Packet, *, captured: bool) -> None:
        if captured and is_reviewed(packet) and str(trace_packet(packet).fate) == "unchanged":
            pytest.skip("gets by without Envoy, which is reviewed")
        if (str(trace(expected, packet, host=sidecar_pod.host).fate) != "unchanged") is not captured:
            verb = "leaves it alone" if captured else "captures it"
            pytest.skip(f"Istio {istio_version} {verb}, told what this pod is told")

    return skip_unless


@pytest.fixture(scope="session")
def inbound_listener(expected, istio_options) -> str:
    """The direction of the listener that this release hands inbound packets to.

    In TPROXY mode before 1.9 that is Envoy's outbound one, on 15001 (istio/istio#28457).
    """
    included = str(istio_options.inbound_ports_include).partition(",")[0]
    port = int(included) if included.isdecimal() else 80
    to = trace(expected, inbound(port)).destination
    return "outbound" if str(to.port) == istio_options.proxy_port else "inbound"


@pytest.fixture
def only_if_excluded(excluded, istio_version, request) -> None:
    """Skips a test of an excluded port where this release, told what the pod tells it, captures it."""
    port = request.getfixturevalue("port")
    if not excluded(port):
        pytest.skip(f"Istio {istio_version} captures {port}")


@pytest.fixture(scope="session")
def own_address(sidecar_pod) -> str:
    """The pod's own address."""
    return str(sidecar_pod.host.primary(sidecar_pod.host.external(), 4))


@pytest.fixture(scope="session")
def to_pod(sidecar_pod, own_address) -> Callable[[int], Packet]:
    """A function: the first packet of a neighbour's connection to a port of the pod."""
    interface = sidecar_pod.host.external()
    return lambda port: inbound(port, destination=own_address, in_interface=interface)


@pytest.fixture(scope="session")
def from_pod(own_address) -> Callable[..., Packet]:
    """A function: the first packet that a process of the pod sends."""

    def packet(destination: str, port: int = 80, *, uid: int, gid: int, source: str = own_address) -> Packet:
        return outbound(destination, port, uid=uid, gid=gid, source=source)

    return packet


@pytest.fixture(scope="session")
def _captures_outbound(expected, istio_version) -> None:
    """Skips where this release makes no rules at all for the pod (interceptionMode: NONE)."""
    if all(chain.name != "ISTIO_OUTPUT" for chain in expected.nat.chains):
        pytest.skip(f"Istio {istio_version} installs no rules, told what this pod is told")


@pytest.fixture(scope="session")
def istio_output(_captures_outbound, iptables_nat) -> frozenset[str]:
    """The rules of ISTIO_OUTPUT, as text."""
    return frozenset(text_of(rule) for rule in iptables_nat.chain("ISTIO_OUTPUT"))


@pytest.fixture(scope="session")
def dead_rules(_captures_outbound, iptables_nat, sidecar_pod) -> dict[str, list[Finding]]:
    """What is found of the rules of ISTIO_OUTPUT that no packet of this pod matches, by their text.

    A rule that stands there several times is among them where no packet matches any of its copies.
    """
    dead = _dead(iptables_nat, sidecar_pod.host)
    copies = Counter(map(text_of, iptables_nat.chain("ISTIO_OUTPUT")))
    return {text: findings for text, findings in dead.items() if len(findings) == copies[text]}


@pytest.fixture(scope="session")
def meant_dead(_captures_outbound, expected, sidecar_pod) -> dict[str, list[Finding]]:
    """The same of the expected ISTIO_OUTPUT."""
    return _dead(expected.nat, sidecar_pod.host)


def _dead(nat: Table, host: Host) -> dict[str, list[Finding]]:
    by_text: dict[str, list[Finding]] = {}
    for finding in check_dead_rules(nat, host=host):
        if finding.rule is not None and finding.rule.chain == "ISTIO_OUTPUT":
            by_text.setdefault(text_of(finding.rule), []).append(finding)
    return by_text


@pytest.fixture
def notice(request) -> Callable[[str], None]:
    """A function that leaves a sentence for the summary; it fails nothing."""
    return lambda text: request.node.user_properties.append(("istio-notice", text))


def text_of(rule) -> str:
    """A rule without its chain."""
    return str(rule.text.removeprefix(f"-A {rule.chain} "))


def summary_of(problem: VerdictAgainst) -> str:
    """What a verdict says in one sentence: it stands on its own."""
    return str(problem.failure.summary).splitlines()[0]
