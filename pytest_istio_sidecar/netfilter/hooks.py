"""In which order a packet meets what is registered at the kernel's hooks.

Knows base chains by hook, priority and type, nat's and conntrack's own places, and by which hooks a packet
comes. Does not know what chains do to a packet (`trace`, `space`: both go through what is told here).
Invariant: the order follows from the base chains alone; the tables of iptables are one case of them, and
a chain that was not read has its place among them where it could capture packets.

Source: include/uapi/linux/netfilter_ipv4.h for priorities, net/netfilter/nf_nat_core.c for nat's place.
Semantics: docs/semantics.md, 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from itertools import permutations
from operator import itemgetter
from typing import Literal, NamedTuple, TypeVar

from pytest_istio_sidecar.netfilter.matches import Mark
from pytest_istio_sidecar.netfilter.model import (
    TABLES,
    Backend,
    Family,
    PodRules,
    Rules,
    Ruleset,
    rulesets_of,
)
from pytest_istio_sidecar.netfilter.packet import Fate
from pytest_istio_sidecar.netfilter.routes import RoutingPolicy
from pytest_istio_sidecar.netfilter.targets import Goto, Jump, Redirect, Tproxy, Translate
from pytest_istio_sidecar.netfilter.unread import with_unread_legacy

C = TypeVar("C")
ChainType = Literal["filter", "route", "nat"]


class BaseChain(NamedTuple):
    """A chain that the kernel calls at a hook. Of type route: a mark set in it is routed again."""

    hook: str
    priority: int
    type: ChainType
    table: str
    name: str


NAT_PRIORITIES: Mapping[str, int] = {"PREROUTING": -100, "INPUT": 100, "OUTPUT": -100, "POSTROUTING": 100}
"""nat's own place at each hook, where all chains of type nat run; their priorities order them only there."""

PRIORITIES: Mapping[str, int] = {"raw": -300, "mangle": -150, "filter": 0, "security": 150}
"""iptables' tables but nat, which stands at nat's own place."""

OF_LEGACY: Mapping[str, int] = {"security": 50}
"""Where iptables-legacy has another priority: its security stands before nat at INPUT."""


class Moment(IntEnum):
    """What the kernel does with a packet between two base chains."""

    TRACK = 0
    """Conntrack looks up its connection."""
    REROUTE = 1
    """It is routed again, if nat has changed its destination; the hook's other chains see the old route."""
    ROUTE = 2
    """It is delivered or forwarded."""
    LEAVE = 3
    """It has its outgoing interface for good."""
    LOOP_BACK = 4
    """What left by lo comes in by lo."""


MOMENTS: Mapping[str, tuple[tuple[int, Moment], ...]] = {
    "PREROUTING": ((-200, Moment.TRACK),),
    "OUTPUT": ((-200, Moment.TRACK), (NAT_PRIORITIES["OUTPUT"], Moment.REROUTE)),
}
"""What the kernel does within a hook, at which priority: behind the chains that stand there."""


class Leg(IntEnum):
    """A part of a packet's course within which it does not branch."""

    SEND = 0
    LOOP = 1
    RECEIVE = 2
    DELIVER = 3
    FORWARD = 4


COURSE: Mapping[Leg, tuple[str | Moment, ...]] = {
    Leg.SEND: ("OUTPUT", Moment.LEAVE, "POSTROUTING", Moment.LOOP_BACK),
    Leg.LOOP: ("PREROUTING", "INPUT"),
    Leg.RECEIVE: ("PREROUTING", Moment.ROUTE),
    Leg.DELIVER: ("INPUT",),
    Leg.FORWARD: ("FORWARD", Moment.LEAVE, "POSTROUTING"),
}
"""The hooks of each leg. A packet that comes back by lo has its connection: nat and conntrack let it be."""

FIRST = {"OUTPUT": Leg.SEND, "PREROUTING": Leg.RECEIVE}
"""The leg that begins at each hook where a packet can enter."""

CAPTURES: Mapping[str, tuple[str, ...]] = {"nat": ("PREROUTING", "OUTPUT"), "mangle": ("PREROUTING",)}
"""The built-in chains in which rules can send packets to another socket: by nat, or by TPROXY."""

MARKS: Mapping[str, tuple[str, ...]] = {"mangle": ("PREROUTING", "OUTPUT")}
"""Those that can give a packet, before nat, the mark by which a rule that was read captures it."""

STANDS = (Fate.REDIRECTED, Fate.TPROXIED)
"""Fates that hold whatever chains that were not read may do: no other answer is more of a capture."""

Step = Moment | tuple[tuple[BaseChain, C], ...]
"""One base chain, or all of type nat at a hook: the first of those that translates is the last asked."""

Legs = Mapping[Leg, tuple[Step[C], ...]]


def orders(rules: Rules, family: Family) -> list[tuple[Ruleset, ...]]:
    """The orders in which the kernel may ask the rulesets of a family: several where none is known."""
    rulesets = rulesets_of(rules, family)
    if len(rulesets) == 1 and not rulesets[0].beside_legacy:
        return [rulesets]
    rulesets = with_unread_legacy(rulesets)
    # A back end without a rule has no say, whether it is asked first or last.
    speaking = tuple(filter(has_a_say, rulesets))
    unread = tuple(ruleset for ruleset in rulesets if ruleset.unread and not has_a_say(ruleset))
    speaking = speaking if speaking or unread else rulesets[:1]
    if len(speaking) < 2 or not isinstance(rules, PodRules) or rules.order_known:
        return [(*unread, *speaking)]
    return [(*unread, *order) for order in permutations(speaking)]


def has_a_say(ruleset: Ruleset) -> bool:
    """Whether packets may fare otherwise than without it."""
    return any(chain.rules or chain.policy == "DROP" for table in ruleset.tables for chain in table.chains)


class UnreadChain(NamedTuple):
    """What stands in the order for a base chain whose rules were not read."""

    ruleset: Ruleset
    base: BaseChain


def unread_chains(rulesets: Iterable[Ruleset]) -> list[UnreadChain]:
    """The chains of a family that were not read and that could capture packets."""
    rulesets = tuple(rulesets)
    if not any(ruleset.unread for ruleset in rulesets):
        return []
    places = {(table, chain) for table, chains in CAPTURES.items() for chain in chains}
    if any(map(_captures_by_mark, rulesets)):
        places |= {(table, chain) for table, chains in MARKS.items() for chain in chains}
    return [
        UnreadChain(ruleset, _of_iptables(table, chain, ruleset.backend))
        for ruleset in rulesets
        for table, chain in sorted(places & ruleset.unread)
    ]


def may_route_by_unread(rulesets: Iterable[Ruleset], policy: RoutingPolicy | None) -> bool:
    """Whether policy rules ask for a mark that chains which were not read could give."""
    if policy is None or not any(isinstance(condition, Mark) for condition in policy.masks):
        return False
    places = {(table, chain) for table, chains in MARKS.items() for chain in chains}
    return any(places & ruleset.unread for ruleset in rulesets)


def _captures_by_mark(ruleset: Ruleset) -> bool:
    """Whether rules may capture what has got a mark: by matching it, or by letting by what has none."""
    return any(
        isinstance(match, Mark)
        and (
            isinstance(rule.target, Jump | Goto | Redirect | Translate | Tproxy)
            or match.negated
            or match.value == 0
        )
        for rule in ruleset.rules()
        for match in rule.matches
    )


def base_chains(ruleset: Ruleset) -> Iterator[BaseChain]:
    """The built-in chains of iptables' tables as what the kernel knows them as."""
    for table in ruleset.tables:
        for chain in table.chains:
            if chain.name in TABLES.get(table.name, ()):
                yield _of_iptables(table.name, chain.name, ruleset.backend)


def _of_iptables(table: str, hook: str, backend: Backend | None) -> BaseChain:
    if table == "nat":
        return BaseChain(hook, NAT_PRIORITIES[hook], "nat", table, hook)
    kind: ChainType = "route" if (table, hook) == ("mangle", "OUTPUT") else "filter"
    own = OF_LEGACY if backend is Backend.LEGACY else {}
    return BaseChain(hook, own.get(table, PRIORITIES[table]), kind, table, hook)


def legs(chains: Iterable[tuple[BaseChain, C]]) -> Legs[C]:
    """The course of packets past base chains.

    Args:
        chains: what is registered, each with what stands for its rules; of those with one place, the
            first is asked first: what was not read, as it may be.
    """
    at: dict[str, list[tuple[BaseChain, C]]] = {}
    for each in chains:
        at.setdefault(each[0].hook, []).append(each)
    made: dict[Leg, tuple[Step[C], ...]] = {}
    for leg, parts in COURSE.items():
        steps: list[Step[C]] = []
        for part in parts:
            if isinstance(part, Moment):
                steps.append(part)
            elif part in at or part in MOMENTS:
                steps += _in_order(part, at.get(part, ()))
        made[leg] = tuple(steps)
    made[Leg.LOOP] = tuple(step for step in made[Leg.LOOP] if not _is_of_connection(step))
    return made


def _in_order(hook: str, chains: Iterable[tuple[BaseChain, C]]) -> list[Step[C]]:
    """What a packet meets at one hook."""
    nat = tuple(sorted((each for each in chains if each[0].type == "nat"), key=_priority))
    placed: list[tuple[int, Step[C]]] = [
        (_priority(each), (each,)) for each in chains if each[0].type != "nat"
    ]
    placed += [(NAT_PRIORITIES[hook], nat)] if nat else []
    placed += MOMENTS.get(hook, ())
    placed.sort(key=itemgetter(0))
    return [step for _, step in placed]


def _priority(each: tuple[BaseChain, object]) -> int:
    return each[0].priority


def _is_of_connection(step: Step[C]) -> bool:
    """Whether only the first packet of a connection meets it, or one that has none yet."""
    return isinstance(step, Moment) or step[0][0].type == "nat"
