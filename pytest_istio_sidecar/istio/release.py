"""One run of istio-iptables: a release, what it is told, and the rules it is making.

Knows what of them every part of the description asks for. Does not know a single rule.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_istio_sidecar.istio.builder import RuleBuilder
from pytest_istio_sidecar.istio.options import ALL, IstioOptions, group_ids
from pytest_istio_sidecar.istio.versions import Number
from pytest_istio_sidecar.netfilter.model import Family

ONE_LAYOUT_SINCE = (1, 12, 0)
"""IPv6 has the rules of IPv4 (istio/istio#34274). Before, a layout of its own: nothing of DNS capture,
plain REDIRECT where TPROXY was asked for, and the interfaces of virtual machines returned, not redirected."""


@dataclass(frozen=True, slots=True)
class Installation:
    """What the description of the rules works on.

    Attributes:
        number: the release.
        options: with nothing left open.
        builder: where the rules go.
    """

    number: Number
    options: IstioOptions
    builder: RuleBuilder

    @property
    def family(self) -> Family:
        return self.builder.family

    @property
    def intercepts_by_tproxy(self) -> bool:
        knows = self.family == 4 or self.number >= ONE_LAYOUT_SINCE
        return knows and self.options.inbound_interception_mode == "TPROXY"

    @property
    def loopback(self) -> str:
        """This host, as rules name it."""
        return self.options.host_ipv4_loopback_cidr if self.family == 4 else "::1/128"

    @property
    def passthrough(self) -> str:
        """From where Envoy connects to the application (its cluster InboundPassthroughCluster)."""
        return "127.0.0.6/32" if self.family == 4 else "::6/128"

    def append(self, table: str, chain: str, rule: str) -> None:
        self.builder.append(table, chain, rule)

    def output(self, rule: str) -> None:
        """Append to the chain that most rules are in."""
        self.builder.append("nat", "ISTIO_OUTPUT", rule)

    def uncaptured_groups(self) -> list[str]:
        """Matches of what belongs to no captured group, one text a rule."""
        included = self.options.owner_groups_include
        if included == ALL:
            excluded = group_ids(self.options.owner_groups_exclude)
            return [f"-m owner --gid-owner {group} " for group in excluded]
        return ["".join(f"-m owner ! --gid-owner {group} " for group in group_ids(included))]
