"""What is open in a pod's rules, and by whom: the release's template, an option of the pod, or somebody else.

Knows which options can open anything, and how to find the one that does: by the rules that a release makes
with that option alone, and with all others but that. Does not know what a project allows beyond its list.
Invariant: every class that gets by has one standing; what the template lets by is by design, nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

from pytest_istio_sidecar.checks.bypass.bypasses import (
    BypassReport,
    by_design,
    classes_of,
    families_of,
    judged_fates,
    passes_alike,
    report_of,
)
from pytest_istio_sidecar.checks.bypass.envoy_ports import EnvoyPorts
from pytest_istio_sidecar.checks.bypass.found_bypass import FoundBypass, Passing, Standing
from pytest_istio_sidecar.checks.other_hosts import other_hosts
from pytest_istio_sidecar.checks.wording import HOOKS, PacketClass, of_direction
from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio.option_kinds import split
from pytest_istio_sidecar.istio.option_table import OPTIONS, Option
from pytest_istio_sidecar.istio.option_wording import in_words
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.pod_options import PodUsers
from pytest_istio_sidecar.istio.release import in_effect
from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.istio.tables import ipv6_is_untold, is_captured
from pytest_istio_sidecar.istio.versions import number_of
from pytest_istio_sidecar.netfilter.model import Family, PodRules, Rule, Rules, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.packet import DEFAULT_INTERFACES, Host
from pytest_istio_sidecar.netfilter.space.queries import no_collection

_MOVES = (
    "mode",
    "enable_ipv6",
    "proxy_port",
    "inbound_capture_port",
    "inbound_tproxy_mark",
    "inbound_tproxy_route_table",
    "redirect_dns",
    "dns_by_envoy",
    "capture_all_dns",
    "dns_servers_v4",
    "dns_servers_v6",
)
"""Options that open nothing: they say who installs the rules or where Envoy listens, or have DNS go to the
agent as well."""
_IDENTITY = ("proxy_uid", "proxy_gid")
"""Options that say whose packets are Envoy's: a move, too, as long as it is one user and one group, and the
sidecar's own."""


@dataclass(frozen=True)
class Pod:
    """What the rules of a pod are held against.

    Attributes:
        version: its release.
        options: what its istio-init was told.
        accepted: fields of options that the project accepts whatever they open.
        users: as whom its containers run.
    """

    version: str
    options: IstioOptions
    accepted: Collection[str] = ()
    users: PodUsers = field(default_factory=PodUsers)

    @property
    def envoy_ports(self) -> EnvoyPorts:
        """Where captured packets go."""
        return EnvoyPorts.of_release(self.version, self.resolved)

    @cached_property
    def template(self) -> IstioOptions:
        """What the template of the release would have told this pod, nothing left open."""
        moved = {name: getattr(self.options, name) for name in _MOVES}
        own = {name: text for name, text in self._identity.items() if self.users.is_sidecars(name, text)}
        return in_effect(number_of(self.version), IstioOptions(**moved, **own))

    @cached_property
    def moved(self) -> Mapping[str, Any]:
        """Envoy's user and group where an option names others, of whom nothing that was read tells."""
        return {
            name: text
            for name, text in self._identity.items()
            if text != getattr(self.template, name) and not self.users.is_applications(name, text)
        }

    @property
    def _identity(self) -> dict[str, Any]:
        """By option Envoy's user and group, as this pod was told; of several, the first."""
        return {name: first for name in _IDENTITY for first in split(getattr(self.options, name))[:1]}

    @cached_property
    def resolved(self) -> IstioOptions:
        """What this pod was told, nothing left open."""
        return in_effect(number_of(self.version), self.options)

    @cached_property
    def own(self) -> tuple[Option, ...]:
        """The options that are not as the template has them."""
        return tuple(
            option
            for option in OPTIONS
            if getattr(self.resolved, option.name) != getattr(self.template, option.name)
        )

    def asks(self, name: str) -> str:
        """How the pod asks for an option: "excludeInboundPorts: 8443"."""
        (option,) = (option for option in OPTIONS if option.name == name)
        return in_words(option, number_of(self.version), self.resolved)

    def rules(self, family: Family, options: IstioOptions) -> Ruleset | None:
        """What the release makes with these options; None where it refuses them."""
        try:
            return expected_ruleset(self.version, family=family, options=options)
        except UsageProblem:
            return None

    def with_only(self, names: Collection[str]) -> IstioOptions:
        """The template's options, but for these of the pod's."""
        return replace(self.template, **{name: getattr(self.resolved, name) for name in names})

    def families(self, rules: Rules | None) -> tuple[Family, ...]:
        """The families of which the release makes rules for this pod.

        Args:
            rules: what was read; without them IPv6 counts unless the pod tells that it has none.
        """
        ipv6 = self.options.enable_ipv6
        if ipv6 is None:
            ipv6 = rules is None or any(map(is_captured, rulesets_of(rules, 6)))
        return (4, 6) if ipv6 else (4,)

    def leaves_ipv6_alone(self, rules: Rules, host: Host | None) -> bool:
        """Whether a pod that has an IPv6 address, or of which that is not known, is to have no IPv6 rules."""
        ends = self.options.enable_ipv6 is False and self.options.inbound_interception_mode != "NONE"
        return ends and 6 in families_of(rules) and _has_ipv6(host or Host())


class Review(NamedTuple):
    """A class of packets that is on the project's list, by its number there.

    Attributes:
        holds: whether the review does, for this pod, family and day.
    """

    what: PacketClass
    number: int
    holds: bool


def leaves_ipv6_untold(rules: Rules, options: IstioOptions, host: Host | None) -> bool:
    """Whether nobody said if ip6tables is to have rules of Istio's, where it was read and has none.

    A pod of which it was said that it has no IPv6 address is to have none.
    """
    said_to_have_none = host is not None and host != Host() and not _has_ipv6(host)
    return not said_to_have_none and ipv6_is_untold(rules, options.enable_ipv6)


def _has_ipv6(host: Host) -> bool:
    """Whether others than those on its link reach a host by IPv6."""
    return any(
        address.version == 6 and not address.is_link_local
        for name, addresses in host.addresses.items()
        for address in addresses
        if name != "lo"
    )


UNTOLD = "no rule of Istio's was read of ip6tables; nobody said whether there should be any (enable_ipv6)"

Combine = Callable[[Hashable, Hashable], Hashable]
"""What follows of how packets get by here from how they do under other rules."""
Side = tuple[Rules, Combine]
Reviews = Callable[[Family], Sequence[Review]]
"""Those that say something of packets of a family."""


def open_classes(rules: Rules, pod: Pod, reviews: Reviews, *, host: Host | None = None) -> BypassReport:
    """Every class of packets that gets by, each with its standing and the options that open it.

    Raises:
        UsageProblem: as `expected_ruleset`; chains jump in a circle.
    """
    known = pod.families(rules)
    untold = leaves_ipv6_untold(rules, pod.options, host)

    def sides(family: Family) -> list[Side]:
        if family == 6 and untold:
            return [(Ruleset(family=family), _in_doubt)]
        if family == 6 and pod.options.enable_ipv6 is False:
            return [(Ruleset(family=family), _left_alone)]
        return _sides(pod, family, has_rules=family in known)

    return standing_beside(
        rules,
        sides,
        reviews,
        envoy_ports=pod.envoy_ports,
        host=host,
        finish=partial(_with_words, pod),
    )


def opened_elsewhere(rules: Rules, pod: Pod, reviews: Reviews, host: Host | None) -> Rule | None:
    """A rule that tells pods apart, where an option opens more in one of them than in the usual one.

    Args:
        host: what the pod has; where somebody said it, there are no others.

    Raises:
        Undecided: there are too many pods to try.
    """
    families = pod.families(rules)
    template = (pod.rules(family, pod.template) for family in families)
    as_template = PodRules(rulesets=tuple(ruleset for ruleset in template if ruleset is not None))
    for rule, other in other_hosts(rules, as_template, host) if pod.own else ():
        # Another interface than the usual one may be a virtual machine's, which stands beside that.
        beside = Host(interfaces={**DEFAULT_INTERFACES, **other.interfaces})
        opened = open_classes(rules, pod, reviews, host=beside).unexpected
        if any(each.standing is Standing.OPEN and each.opened_by for each in opened):
            return rule
    return None


@no_collection()
def standing_beside(
    rules: Rules,
    sides: Callable[[Family], Sequence[Side]],
    reviews: Reviews,
    *,
    envoy_ports: EnvoyPorts,
    host: Host | None,
    finish: Callable[[Hashable], Hashable] = lambda answer: answer,
) -> BypassReport:
    """Every class of packets that gets by, with what follows for it from other rules and from reviews.

    Args:
        finish: what is known of how packets get by once all others had their say.
    """
    classes: list[FoundBypass] = []
    for family in families_of(rules):
        listed = sorted(reviews(family), key=lambda review: not review.holds)
        beside = sides(family)
        for direction, hook in HOOKS.items():
            every = [rules, *(side for side, _ in beside)]
            here, *there = judged_fates(every, hook, envoy_ports=envoy_ports, host=host, family=family)
            for other, (_, combine) in zip(there, beside, strict=True):
                here = here.beside(other, combine)
            partition = here.partition()
            for review in listed:
                products = of_direction([review.what], direction, family)
                partition = partition.relabelled(products, partial(_as_reviewed, review))
            classes += classes_of(partition.relabelled([{}], finish), rules)
    return report_of(classes, rules)


def _sides(pod: Pod, family: Family, *, has_rules: bool) -> list[Side]:
    """Other rules for the same packets, and what follows from how these fare there."""
    nothing = Ruleset(family=family)  # where a release installs no rules, it means to let all of it by
    if not has_rules:
        return [(nothing, by_design)]
    template = expected_ruleset(pod.version, family=family, options=pod.template)
    sides: list[Side] = [(template, by_design)]
    if not pod.own:
        return sides
    sides.append((expected_ruleset(pod.version, family=family, options=pod.resolved), _as_asked))
    names = [option.name for option in pod.own]
    for name in names:
        alone = pod.rules(family, pod.with_only([name]))
        without = pod.rules(family, pod.with_only([other for other in names if other != name]))
        sides += [(alone, _opener(name, opens=True))] if alone is not None else []
        sides += [(without, _opener(name, opens=False))] if without is not None else []
    accepted = pod.with_only([name for name in names if name in pod.accepted])
    for options, standing in (
        (accepted, Standing.ACCEPTED),
        (replace(pod.template, **pod.moved), Standing.MOVED),
        (replace(accepted, **pod.moved), Standing.ACCEPTED),
    ):
        allowed = pod.rules(family, options) if options != pod.template else None
        sides += [(allowed, partial(_as_allowed, standing))] if allowed is not None else []
    return sides


def _as_asked(here: Hashable, there: Hashable) -> Hashable:
    """What follows where all the pod's options let it by; what they take back is not by design."""
    if not isinstance(here, Passing):
        return here
    if here.by_design:
        return replace(here, by_design=passes_alike(here, there))
    return replace(here, by_options=passes_alike(here, there))


def _opener(name: str, *, opens: bool) -> Combine:
    """What follows where an option alone opens a class, or where all others without it do not."""

    def combine(here: Hashable, there: Hashable) -> Hashable:
        if not isinstance(here, Passing) or not here.by_options or name in here.opened_by:
            return here
        opener = passes_alike(here, there) is opens
        return replace(here, opened_by=(*here.opened_by, name)) if opener else here

    return combine


def _as_allowed(standing: Standing, here: Hashable, there: Hashable) -> Hashable:
    """What follows where options that may open it let it by."""
    if not isinstance(here, Passing) or not here.by_options or here.standing is not Standing.OPEN:
        return here
    return replace(here, standing=standing) if passes_alike(here, there) else here


def _in_doubt(here: Hashable, _: Hashable) -> Hashable:
    """What follows where nobody said whether a release makes rules of the family."""
    return replace(here, certain=False, doubt=UNTOLD) if isinstance(here, Passing) else here


def _as_reviewed(review: Review, answer: Hashable) -> Hashable:
    if not isinstance(answer, Passing) or answer.by_design or answer.standing is not Standing.OPEN:
        return answer
    standing = Standing.REVIEWED if review.holds else Standing.OPEN
    return replace(answer, standing=standing, reviews=(*answer.reviews, review.number))


def _left_alone(here: Hashable, there: Hashable) -> Hashable:
    """By design, as the pod is told to have no rules of the family."""
    here = by_design(here, there)
    if not isinstance(here, Passing) or not here.by_design:
        return here
    return replace(here, asked=("enable_ipv6: false",))


def _with_words(pod: Pod, answer: Hashable) -> Hashable:
    """With the options that open it in a pod's words; where only all together do, all of them."""
    if not isinstance(answer, Passing) or not answer.by_options:
        return answer
    names = answer.opened_by or tuple(option.name for option in pod.own)
    return replace(answer, opened_by=names, asked=tuple(map(pod.asks, names)))
