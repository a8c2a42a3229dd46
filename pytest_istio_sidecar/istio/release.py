"""One run of istio-iptables: a release, what it is told, and the rules it is making.

Knows what is in effect where nothing was told, and what every part of the description asks
for. Does not know a single rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import messages, ports
from pytest_istio_sidecar.istio.builder import RuleBuilder
from pytest_istio_sidecar.istio.option_kinds import ALL, BESIDE, group_ids, split
from pytest_istio_sidecar.istio.option_table import OPTIONS, OptionValues
from pytest_istio_sidecar.istio.versions import Number
from pytest_istio_sidecar.netfilter.model import Family

_Options = TypeVar("_Options", bound=OptionValues)

READINESS_SINCE = (1, 6, 0)
"""The template excludes 15021: Envoy's readiness has a port of its own."""
CNI_DNS_SINCE = (1, 11, 0)
"""istio-cni captures DNS, all of it (istio/istio#32416)."""
ONE_LAYOUT_SINCE = (1, 12, 0)
"""IPv6 has the rules of IPv4 (istio/istio#34274). Before, a layout of its own: nothing of DNS capture,
plain REDIRECT where TPROXY was asked for, and the interfaces of virtual machines returned, not redirected."""


def installs_rules(options: OptionValues, family: Family) -> bool:
    """Whether any rule of this family is installed at all."""
    return options.inbound_interception_mode != "NONE" and (family == 4 or options.enable_ipv6 is not False)


def in_effect(number: Number, options: _Options) -> _Options:
    """Options with everything filled in that was left to the release and to who installs the rules.

    One that the release does not have yet is unset: it changes nothing.
    """
    chosen: dict[str, Any] = {
        option.name: getattr(options, option.name) if number >= option.since else option.default
        for option in OPTIONS
    }
    by_cni = options.mode == "cni"
    if by_cni:
        chosen["dns_by_envoy"] = False
        chosen["redirect_dns"] = options.redirect_dns and number >= CNI_DNS_SINCE
    left_open = {
        "inbound_ports_exclude": left_inbound(number, by_cni=by_cni),
        "outbound_ports_exclude": (ports.AGENT,) if by_cni else (),
        "capture_all_dns": by_cni,
    }
    asked = chosen["inbound_ports_exclude"] or ""
    if asked.startswith(BESIDE):
        members = split(asked.removeprefix(BESIDE))
        chosen["inbound_ports_exclude"] = left_inbound(number, members, by_cni=by_cni)
    chosen |= {name: value for name, value in left_open.items() if chosen[name] is None}
    return replace(options, **chosen)


def left_inbound(number: Number, asked: Sequence[str] = (), *, by_cni: bool) -> tuple[str, ...]:
    """The inbound ports that are left alone where a pod's annotation asks for these ones.

    Source: `excludeInboundPort` of the injection templates (pkg/kube/inject/template.go), which puts the
    agent's port behind those asked for; cni/pkg/plugin/sidecar_redirect.go.
    """
    if by_cni:
        left = (*asked, *map(str, ports.LEFT_BY_CNI))
    else:
        own = (ports.TELEMETRY, ports.READINESS) if number >= READINESS_SINCE else (ports.TELEMETRY,)
        left = (*map(str, own), *asked, str(ports.AGENT))
    return tuple(dict.fromkeys(left))


@dataclass(frozen=True, slots=True)
class Installation:
    """What the description of the rules works on.

    Attributes:
        number: the release.
        options: with nothing left open.
        builder: where the rules go.
    """

    number: Number
    options: OptionValues
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
        return self.options.host_ipv4_loopback_cidr

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
