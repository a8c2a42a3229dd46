"""The rules that Istio's own builder installs, as a ruleset.

Knows Istio's tables and since when they look so. Does not know how they are
judged. Invariant: every table made here equals, rule for rule and in order,
what a kernel reads back after that release's istio-init has run.

One release is described so far; a version outside it is refused by name.
"""

from __future__ import annotations

import re
from ipaddress import ip_network

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import ports
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

KNOWN_VERSIONS = ("1.8.3",)
"""Releases whose rules are described here."""

_TCP = Protocol(number=PROTOCOLS["tcp"])
_RETURN = Verdict("RETURN")


def expected_ruleset(version: str, *, family: Family = 4) -> Ruleset:
    """What istio-init of a release installs with its injection template's arguments.

    Args:
        version: a release of Istio, "1.8.3".
        family: 4, or 6 for a pod where Istio programs ip6tables.

    Raises:
        UsageProblem: a version that is none, or whose rules are not described.

    Source: istio/istio@1.8.3 tools/istio-iptables/pkg/cmd/run.go, with the arguments of
    manifests/charts/istio-control/istio-discovery/files/injection-template.yaml, as a kernel
    reads them back.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+(-[\w.]+)?", version):
        raise UsageProblem(f"{version!r} is not a release of Istio; write it as 1.8.3")
    if version not in KNOWN_VERSIONS:
        raise UsageProblem(
            f"the rules of Istio {version} are not described yet; known: {', '.join(KNOWN_VERSIONS)}"
        )
    user_chains = {
        "ISTIO_INBOUND": _inbound(),
        "ISTIO_IN_REDIRECT": [_rule((_TCP,), Redirect(ports=(ports.INBOUND, ports.INBOUND)))],
        "ISTIO_OUTPUT": _output(family),
        "ISTIO_REDIRECT": [_rule((_TCP,), Redirect(ports=(ports.OUTBOUND, ports.OUTBOUND)))],
    }
    entries = {"PREROUTING": "ISTIO_INBOUND", "OUTPUT": "ISTIO_OUTPUT"}
    chains = [
        _chain(hook, [_rule((_TCP,), Jump(entries[hook]))] if hook in entries else [], policy="ACCEPT")
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

    Releases up to 1.21 run plain `iptables-restore`, which is the legacy one in their images
    (tools/istio-iptables/pkg/dependencies/implementation.go).
    """
    if version not in KNOWN_VERSIONS:
        raise UsageProblem(f"the back end of Istio {version} is not described yet")
    return Backend.LEGACY


def _inbound() -> list[Rule]:
    """Ports that stay outside the mesh, then everything else.

    15008 came with 1.7 (istio/istio#25392), 22 is fixed in the builder, the others are
    the injection template's `-d 15090,15021,15020`.
    """
    excluded = (ports.TUNNEL, ports.SSH, ports.TELEMETRY, ports.READINESS, ports.AGENT)
    rules = [_rule((_TCP, _destination_port(port)), _RETURN) for port in excluded]
    return [*rules, _rule((_TCP,), Jump("ISTIO_IN_REDIRECT"))]


def _output(family: Family) -> list[Rule]:
    """Who may leave without Envoy, and what Envoy sends to its own pod.

    The block of three for the proxy's user stands again for its group. A packet on lo never
    reaches the group's first two: the user's block has returned or redirected it already.
    """
    loopback, passthrough = ("127.0.0.1", "127.0.0.6") if family == 4 else ("::1", "::6")
    to_self = _address("destination", loopback)
    not_to_self = _address("destination", loopback, negated=True)
    on_lo = Interface(direction="out", name="lo")
    rules = [_rule((_address("source", passthrough), on_lo), _RETURN)]
    for owned, not_owned in (
        (Owner(uid=_proxy()), Owner(uid=_proxy(negated=True))),
        (Owner(gid=_proxy()), Owner(gid=_proxy(negated=True))),
    ):
        rules += [
            _rule((not_to_self, on_lo, owned), Jump("ISTIO_IN_REDIRECT")),
            _rule((on_lo, not_owned), _RETURN),
            _rule((owned,), _RETURN),
        ]
    return [*rules, _rule((to_self,), _RETURN), _rule((), Jump("ISTIO_REDIRECT"))]


def _proxy(negated: bool = False) -> Range:
    return Range(low=ports.PROXY_ID, high=ports.PROXY_ID, negated=negated)


def _destination_port(port: int) -> Transport:
    return Transport(module="tcp", destination=Range(low=port, high=port))


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
