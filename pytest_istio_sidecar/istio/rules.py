"""The rules that Istio's own builder installs, as a ruleset.

Knows Istio's tables and since when they look so. Does not know how they are
judged. Invariant: every table made here equals, rule for rule and in order,
what a kernel reads back after that release's istio-init has run.

The rules have changed at five releases; each is a constant below, with the change it began.
"""

from __future__ import annotations

from ipaddress import ip_network

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.versions import Number, number_of
from pytest_istio_sidecar.netfilter.matches import (
    PROTOCOLS,
    Address,
    Interface,
    Match,
    Owner,
    Protocol,
    Range,
    Side,
    Transport,
)
from pytest_istio_sidecar.netfilter.model import TABLES, Backend, Chain, Family, Rule, Ruleset, Table
from pytest_istio_sidecar.netfilter.targets import Jump, Redirect, Target, Verdict

READINESS_SINCE = (1, 6, 0)
"""The template excludes 15021: Envoy's readiness has a port of its own."""
TUNNEL_SINCE = (1, 7, 0)
"""15008 is left to the tunnel (istio/istio#25392, 7405e49a014)."""
SSH_UNTIL = (1, 13, 0)
"""22 is no longer excluded by a fixed rule: virtual machines exclude it themselves (istio/istio#36312)."""
TUNNEL_TO_SELF_SINCE = (1, 18, 0)
"""What the proxy sends to its own pod's 15008 is not redirected (istio/istio#43414, 57f3b2bab3c)."""
EVERY_PROTOCOL_SINCE = (1, 25, 0)
"""OUTPUT sends every protocol to ISTIO_OUTPUT, whose redirects are of tcp still (istio/istio#53998)."""
NF_TABLES_SINCE = (1, 25, 4)
"""istio-init writes into nf_tables where nothing is in the legacy back end yet (istio/istio#55281)."""

ERAS = ("1.8.3", "1.5.10", "1.6.14", "1.17.8", "1.24.6", "1.30.3")
"""A release of each set of rules, the lab's first."""

_TCP = Protocol(number=PROTOCOLS["tcp"])
_RETURN = Verdict("RETURN")


def expected_ruleset(version: str, *, family: Family = 4) -> Ruleset:
    """What istio-init of a release installs with its injection template's arguments.

    Args:
        version: a release of Istio, "1.8.3".
        family: 4, or 6 for a pod where Istio programs ip6tables.

    Raises:
        UsageProblem: a version that is none, or older than 1.5.

    Source: istio/istio tools/istio-iptables/pkg, run.go, with the arguments of the injection template
    (manifests/charts/istio-control/istio-discovery/files), as a kernel reads them back.
    """
    number = _number(version)
    user_chains = {
        "ISTIO_INBOUND": _inbound(number),
        "ISTIO_IN_REDIRECT": [_rule((_TCP,), Redirect(ports=(ports.INBOUND, ports.INBOUND)))],
        "ISTIO_OUTPUT": _output(number, family),
        "ISTIO_REDIRECT": [_rule((_TCP,), Redirect(ports=(ports.OUTBOUND, ports.OUTBOUND)))],
    }
    sent: tuple[Match, ...] = () if number >= EVERY_PROTOCOL_SINCE else (_TCP,)
    entries = {"PREROUTING": ((_TCP,), Jump("ISTIO_INBOUND")), "OUTPUT": (sent, Jump("ISTIO_OUTPUT"))}
    chains = [
        _chain(hook, [_rule(*entries[hook])] if hook in entries else [], policy="ACCEPT")
        for hook in TABLES["nat"]
    ]
    chains += [_chain(name, rules) for name, rules in user_chains.items()]
    return Ruleset(
        tables=(Table(name="nat", chains=tuple(chains)),),
        family=family,
        backend=backend(version),
        source=f"Istio {version}",
    )


def backend(version: str) -> Backend:
    """The back end that istio-init of this release writes in a clean namespace.

    Releases up to 1.21 run plain `iptables-restore`, which is the legacy one in their images; later
    ones ask which back end holds rules already (tools/istio-iptables/pkg/dependencies,
    DetectIptablesVersion).
    """
    return Backend.NF_TABLES if _number(version) >= NF_TABLES_SINCE else Backend.LEGACY


def _number(version: str) -> Number:
    number = number_of(version)
    if number < (1, 5, 0):
        raise UsageProblem(f"the rules of Istio {version} are not described; the oldest described is 1.5.0")
    return number


def _inbound(number: Number) -> list[Rule]:
    """Ports that stay outside the mesh, then everything else.

    The first two are the builder's own, the others the injection template's `-d`.
    """
    excluded = [
        *([ports.TUNNEL] if number >= TUNNEL_SINCE else []),
        *([ports.SSH] if number < SSH_UNTIL else []),
        ports.TELEMETRY,
        *([ports.READINESS] if number >= READINESS_SINCE else []),
        ports.AGENT,
    ]
    rules = [_rule((_TCP, _destination_port(port)), _RETURN) for port in excluded]
    return [*rules, _rule((_TCP,), Jump("ISTIO_IN_REDIRECT"))]


def _output(number: Number, family: Family) -> list[Rule]:
    """Who may leave without Envoy, and what Envoy sends to its own pod.

    The block of three for the proxy's user stands again for its group. A packet on lo never
    reaches the group's first two: the user's block has returned or redirected it already.
    """
    loopback, passthrough = ("127.0.0.1", "127.0.0.6") if family == 4 else ("::1", "::6")
    to_self = _address("destination", loopback)
    not_to_self = _address("destination", loopback, negated=True)
    on_lo = Interface(direction="out", name="lo")
    not_to_tunnel: tuple[Match, ...] = ()
    if number >= TUNNEL_TO_SELF_SINCE:
        not_to_tunnel = (_TCP, _destination_port(ports.TUNNEL, negated=True))
    rules = [_rule((_address("source", passthrough), on_lo), _RETURN)]
    for owned, not_owned in (
        (Owner(uid=_proxy()), Owner(uid=_proxy(negated=True))),
        (Owner(gid=_proxy()), Owner(gid=_proxy(negated=True))),
    ):
        rules += [
            _rule((not_to_self, on_lo, *not_to_tunnel, owned), Jump("ISTIO_IN_REDIRECT")),
            _rule((on_lo, not_owned), _RETURN),
            _rule((owned,), _RETURN),
        ]
    return [*rules, _rule((to_self,), _RETURN), _rule((), Jump("ISTIO_REDIRECT"))]


def _proxy(negated: bool = False) -> Range:
    return Range(low=ports.PROXY_ID, high=ports.PROXY_ID, negated=negated)


def _destination_port(port: int, *, negated: bool = False) -> Transport:
    return Transport(module="tcp", destination=Range(low=port, high=port, negated=negated))


def _address(side: Side, text: str, *, negated: bool = False) -> Address:
    network = ip_network(text)
    return Address(
        side=side,
        family=4 if network.version == 4 else 6,
        network=int(network.network_address),
        mask=int(network.netmask),
        negated=negated,
    )


def _rule(matches: tuple[Match, ...], target: Target) -> Rule:
    return Rule(chain="", matches=matches, target=target)


def _chain(name: str, rules: list[Rule], *, policy: str | None = None) -> Chain:
    placed = (
        Rule(chain=name, matches=rule.matches, target=rule.target, number=number)
        for number, rule in enumerate(rules, 1)
    )
    return Chain(name=name, rules=tuple(placed), policy=policy)
