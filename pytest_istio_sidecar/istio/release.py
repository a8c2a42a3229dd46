"""One run of istio-iptables: a release, what it is told, and the rules it is making.

Knows what is in effect where nothing was told, and what every part of the description asks
for. Does not know a single rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import messages, ports
from pytest_istio_sidecar.istio.builder import RuleBuilder
from pytest_istio_sidecar.istio.options import ALL, IstioOptions, group_ids, split
from pytest_istio_sidecar.istio.versions import Number
from pytest_istio_sidecar.netfilter.model import Family

READINESS_SINCE = (1, 6, 0)
"""The template excludes 15021: Envoy's readiness has a port of its own."""
CNI_DNS_SINCE = (1, 11, 0)
"""istio-cni captures DNS, all of it (istio/istio#32416)."""
ONE_LAYOUT_SINCE = (1, 12, 0)
"""IPv6 has the rules of IPv4 (istio/istio#34274). Before, a layout of its own: nothing of DNS capture,
plain REDIRECT where TPROXY was asked for, and the interfaces of virtual machines returned, not redirected."""

LOOPBACK_CIDR_SINCE = (1, 21, 0)
"""What counts as this host can be set (istio/istio#48045)."""

_CNI_INBOUND = "15020,15021,15090"
"""The inbound ports that istio-cni excludes, in its order (cni/pkg/plugin, NewRedirect)."""


def installs_rules(options: IstioOptions, family: Family) -> bool:
    """Whether any rule of this family is installed at all."""
    return options.inbound_interception_mode != "NONE" and (family == 4 or options.enable_ipv6 is not False)


def in_effect(number: Number, options: IstioOptions) -> IstioOptions:
    """Options with everything filled in that was left to the release and to who installs the rules."""
    by_cni = options.mode == "cni"
    inbound, outbound, every_server = options.inbound_ports_exclude, options.outbound_ports_exclude, by_cni
    if inbound is None:
        inbound = _CNI_INBOUND if by_cni else _excluded_by_template(number)
    if outbound is None:
        outbound = str(ports.AGENT) if by_cni else ""
    if options.capture_all_dns is not None:
        every_server = options.capture_all_dns
    return replace(
        options,
        inbound_ports_exclude=inbound,
        outbound_ports_exclude=outbound,
        capture_all_dns=every_server,
        redirect_dns=options.redirect_dns and (not by_cni or number >= CNI_DNS_SINCE),
        dns_by_envoy=options.dns_by_envoy and not by_cni,
    )


def _excluded_by_template(number: Number) -> str:
    readiness = [ports.READINESS] if number >= READINESS_SINCE else []
    return ",".join(str(port) for port in (ports.TELEMETRY, *readiness, ports.AGENT))


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
        if self.family == 6:
            return "::1/128"
        return self.options.host_ipv4_loopback_cidr if self.number >= LOOPBACK_CIDR_SINCE else "127.0.0.1/32"

    @property
    def passthrough(self) -> str:
        """From where Envoy connects to the application (its cluster InboundPassthroughCluster)."""
        return "127.0.0.6/32" if self.family == 4 else "::6/128"

    def listed(self, name: str) -> tuple[str, ...]:
        """The members of an option that is a list of ports, interfaces, users or groups.

        Raises:
            UsageProblem: an empty member, where the release hands that on to iptables-restore.
        """
        text = getattr(self.options, name) or ""
        keeps_empty_ones = self.number < (1, 5, 8) or (1, 6, 0) <= self.number < (1, 6, 5)
        if text and keeps_empty_ones and not all(text.split(",")):
            release = ".".join(map(str, self.number))
            raise UsageProblem(messages.EMPTY_MEMBER(option=name, text=text, release=release))
        return split(text)

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
