"""What is open in a pod's rules, and by whom: the release's template, an option of the pod, or somebody else.

Knows which options can open anything, and how to find the one that does: by the rules that a release makes
with that option alone, and with all others but that. Does not know what a project allows beyond its list.
Invariant: every class that gets by has one standing; what the template lets by is by design, nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple

from pytest_istio_sidecar.checks.bypass.bypasses import (
    BypassReport,
    by_design,
    classes_of,
    families_of,
    judged_fates,
    passes_alike,
    report_of,
)
from pytest_istio_sidecar.checks.bypass.found_bypass import FoundBypass, Passing, Standing
from pytest_istio_sidecar.checks.wording import HOOKS, PacketClass, of_direction
from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.option_table import OPTIONS, Option
from pytest_istio_sidecar.istio.option_wording import in_words
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.release import in_effect
from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.istio.tables import has_istio
from pytest_istio_sidecar.istio.versions import number_of
from pytest_istio_sidecar.netfilter.model import Family, Rules, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Host
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
agent as well. Whose packets are Envoy's is a move too, as long as it is one user and one group."""


@dataclass(frozen=True)
class Pod:
    """What the rules of a pod are held against.

    Attributes:
        version: its release.
        options: what its istio-init was told.
        accepted: fields of options that the project accepts whatever they open.
    """

    version: str
    options: IstioOptions
    accepted: Collection[str] = ()

    @property
    def envoy_ports(self) -> tuple[int, ...]:
        """Where captured packets go: Envoy's ports, and the DNS proxy's."""
        return int(self.options.proxy_port), int(self.options.inbound_capture_port), *ports.DNS

    @cached_property
    def template(self) -> IstioOptions:
        """What the template of the release would have told this pod, nothing left open."""
        moved = {name: getattr(self.options, name) for name in _MOVES}
        identity = {
            name: getattr(self.options, name).partition(",")[0] for name in ("proxy_uid", "proxy_gid")
        }
        return in_effect(number_of(self.version), IstioOptions(**moved, **identity))

    @cached_property
    def told(self) -> IstioOptions:
        """What this pod was told, nothing left open."""
        return in_effect(number_of(self.version), self.options)

    @cached_property
    def own(self) -> tuple[Option, ...]:
        """The options that are not as the template has them."""
        return tuple(
            option
            for option in OPTIONS
            if getattr(self.told, option.name) != getattr(self.template, option.name)
        )

    def asks(self, name: str) -> str:
        """How the pod asks for an option: "excludeInboundPorts: 8443"."""
        (option,) = (option for option in OPTIONS if option.name == name)
        return in_words(option, self.template, self.told)

    def rules(self, family: Family, options: IstioOptions) -> Ruleset | None:
        """What the release makes with these options; None where it refuses them."""
        try:
            return expected_ruleset(self.version, family=family, options=options)
        except UsageProblem:
            return None

    def with_only(self, names: Collection[str]) -> IstioOptions:
        """The template's options, but for these of the pod's."""
        return replace(self.template, **{name: getattr(self.told, name) for name in names})

    def families(self, rules: Rules | None) -> tuple[Family, ...]:
        """The families of which the release makes rules for this pod.

        Args:
            rules: what was read; without them IPv6 counts unless the pod tells that it has none.
        """
        ipv6 = self.options.enable_ipv6
        if ipv6 is None:
            ipv6 = rules is None or any(map(has_istio, rulesets_of(rules, 6)))
        return (4, 6) if ipv6 else (4,)


class Review(NamedTuple):
    """A class of packets that is on the project's list, by its number there.

    Attributes:
        holds: whether the review does, for this pod, family and day.
    """

    what: PacketClass
    number: int
    holds: bool


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
    return standing_beside(
        rules,
        lambda family: _sides(pod, family, has_rules=family in known),
        reviews,
        envoy_ports=pod.envoy_ports,
        host=host,
        finish=partial(_with_words, pod),
    )


@no_collection()
def standing_beside(
    rules: Rules,
    sides: Callable[[Family], Sequence[Side]],
    reviews: Reviews,
    *,
    envoy_ports: Collection[int],
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
    sides.append((expected_ruleset(pod.version, family=family, options=pod.told), _as_told))
    names = [option.name for option in pod.own]
    for name in names:
        alone = pod.rules(family, pod.with_only([name]))
        without = pod.rules(family, pod.with_only([other for other in names if other != name]))
        sides += [(alone, _opener(name, opens=True))] if alone is not None else []
        sides += [(without, _opener(name, opens=False))] if without is not None else []
    accepted = [name for name in names if name in pod.accepted]
    chosen = pod.rules(family, pod.with_only(accepted)) if accepted else None
    return [*sides, (chosen, _as_accepted)] if chosen is not None else sides


def _as_told(here: Hashable, there: Hashable) -> Hashable:
    if not isinstance(here, Passing) or here.by_design:
        return here
    return replace(here, by_options=passes_alike(here, there))


def _opener(name: str, *, opens: bool) -> Combine:
    """What follows where an option alone opens a class, or where all others without it do not."""

    def combine(here: Hashable, there: Hashable) -> Hashable:
        if not isinstance(here, Passing) or not here.by_options or name in here.opened_by:
            return here
        opener = passes_alike(here, there) is opens
        return replace(here, opened_by=(*here.opened_by, name)) if opener else here

    return combine


def _as_accepted(here: Hashable, there: Hashable) -> Hashable:
    if not isinstance(here, Passing) or not here.by_options or not passes_alike(here, there):
        return here
    return replace(here, standing=Standing.ACCEPTED)


def _as_reviewed(review: Review, answer: Hashable) -> Hashable:
    if not isinstance(answer, Passing) or answer.by_design or answer.standing is not Standing.OPEN:
        return answer
    standing = Standing.REVIEWED if review.holds else Standing.OPEN
    return replace(answer, standing=standing, reviews=(*answer.reviews, review.number))


def _with_words(pod: Pod, answer: Hashable) -> Hashable:
    """With the options that open it in a pod's words; where only all together do, all of them."""
    if not isinstance(answer, Passing) or not answer.by_options:
        return answer
    names = answer.opened_by or tuple(option.name for option in pod.own)
    return replace(answer, opened_by=names, asked=tuple(map(pod.asks, names)))
