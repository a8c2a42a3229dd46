"""In which order a packet meets what is registered at the kernel's hooks.

Knows base chains by hook, priority and type, nat's and conntrack's own places, and by which hooks a packet
comes. Does not know what chains do to a packet (`trace`, `space`: both go through what is told here).
Invariant: the order follows from the base chains alone; the tables of iptables are one case of them, and
a chain that was not read has its place among them where it could capture packets.

Source: include/uapi/linux/netfilter_ipv4.h for priorities, net/netfilter/nf_nat_core.c for nat's place.
Semantics: docs/semantics.md, 2, 3 and 10.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from itertools import permutations, product
from math import prod
from operator import itemgetter
from typing import Literal, NamedTuple, TypeVar

from pytest_istio_sidecar.netfilter.kernel.unread import with_unread_legacy
from pytest_istio_sidecar.netfilter.matches import Mark, asks_for_marks
from pytest_istio_sidecar.netfilter.model import (
    TABLES,
    Backend,
    Chain,
    Family,
    PodRules,
    Rules,
    Ruleset,
    rulesets_of,
)
from pytest_istio_sidecar.netfilter.packet import Fate
from pytest_istio_sidecar.netfilter.routes import RoutingPolicy
from pytest_istio_sidecar.netfilter.targets import Goto, Jump, Redirect, Tproxy, Translate

C = TypeVar("C")
ChainType = Literal["filter", "route", "nat"]


class BaseChain(NamedTuple):
    """A chain that the kernel calls at a hook. Of type route: a mark set in it is routed again.

    Attributes:
        devices: where it hangs at a device, which ones; none where that is not known.
        behind: whether it is asked after what the kernel does itself at its priority (nat, conntrack).
    """

    hook: str
    priority: int
    type: ChainType
    table: str
    name: str
    devices: tuple[str, ...] = ()
    behind: bool = False


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
    Leg.SEND: ("OUTPUT", Moment.LEAVE, "POSTROUTING", "EGRESS", Moment.LOOP_BACK),
    Leg.LOOP: ("INGRESS", "PREROUTING", "INPUT"),
    Leg.RECEIVE: ("INGRESS", "PREROUTING", Moment.ROUTE),
    Leg.DELIVER: ("INPUT",),
    Leg.FORWARD: ("FORWARD", Moment.LEAVE, "POSTROUTING", "EGRESS"),
}
"""The hooks of each leg. A packet that comes back by lo has its connection: nat and conntrack let it be."""

AT_DEVICES = frozenset(("INGRESS", "EGRESS"))
"""Hooks at which a chain sees the packets of some devices only."""

HOOKS_FROM: Mapping[str, Collection[str]] = {
    "PREROUTING": ("INGRESS", "PREROUTING", "INPUT", "FORWARD", "POSTROUTING", "EGRESS"),
    "OUTPUT": ("OUTPUT", "POSTROUTING", "EGRESS", "INGRESS", "PREROUTING", "INPUT"),
}
"""The hooks that a packet can come by from each where it enters."""

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


Placed = tuple[Ruleset, BaseChain]

MOST_TIED = 5
"""Base chains with one place, beyond which nothing is said of packets."""

WHICH_BACK_END = "which back end the kernel asks first cannot be read from a listing"
WHICH_CHAIN = "which of several chains of one priority the kernel asks first cannot be read from a listing"
MAY_BE_DORMANT = "whether a table is dormant cannot be read from this JSON"

MOST_ORDERS = 128
"""Orders in which the kernel may ask base chains, beyond which nothing is said of packets."""


class Order(NamedTuple):
    """One order in which the kernel may ask base chains.

    Attributes:
        chains: every base chain with its ruleset; of those with one place, the first is asked first.
        rulesets: those of the family that take part, also what was not read of them.
        said: what sets it apart from other orders, "" where it is the only one.
        unknown: what is not known, so that there are others.
    """

    chains: tuple[Placed, ...]
    rulesets: tuple[Ruleset, ...] = ()
    said: str = ""
    unknown: str = ""


def orders(rules: Rules, family: Family, hook: str = "") -> list[Order]:
    """The orders in which the kernel may ask the base chains of a family: several where none is known.

    None at all where there are more than `MOST_ORDERS`.

    Args:
        hook: where packets enter; "": anywhere.
    """
    rulesets = rulesets_of(rules, family)
    if len(rulesets) > 1 or any(ruleset.beside_legacy for ruleset in rulesets):
        rulesets = with_unread_legacy(rulesets)
        # A back end without a rule has no say, whether it is asked first or last.
        speaking = tuple(ruleset for ruleset in rulesets if ruleset.has_a_say)
        unread = tuple(ruleset for ruleset in rulesets if ruleset.unread and not ruleset.has_a_say)
        rulesets = (*unread, *speaking) or rulesets[:1]
    chains = tuple((ruleset, base) for ruleset in rulesets for base in base_chains(ruleset))
    if isinstance(rules, PodRules) and rules.order_known:
        return [Order(chains, rulesets)]
    made = [
        order._replace(rulesets=rulesets)
        for without in _dormant(rulesets)
        for order in _of_those(
            [each for each in chains if (id(each[0]), each[1].table) not in without.tables], hook, without
        )
    ]
    return made if len(made) <= MOST_ORDERS else []


class _Without(NamedTuple):
    """Tables that may be dormant, by the identity of their ruleset and their name."""

    tables: frozenset[tuple[int, str]]
    said: str


def _dormant(rulesets: Sequence[Ruleset]) -> Iterator[_Without]:
    """Which tables may be dormant together: none, where all listings tell."""
    doubtful = [
        (id(ruleset), table.name)
        for ruleset in rulesets
        for table in ruleset.tables
        if table.dormant is None and any(map(_does_anything, table.chains))
    ][:MOST_TIED]
    for some in product((False, True), repeat=len(doubtful)):
        tables = frozenset(each for each, is_dormant in zip(doubtful, some, strict=True) if is_dormant)
        words = (f"table {name} {'dormant' if (key, name) in tables else 'active'}" for key, name in doubtful)
        yield _Without(tables, ", ".join(words))


def _of_those(chains: Sequence[Placed], hook: str, without: _Without) -> list[Order]:
    ties = _ties(chains, HOOKS_FROM.get(hook, ()))
    if ties is None:
        return [Order(())] * (MOST_ORDERS + 1)
    loose = {(id(ruleset), base) for ruleset, base in chains}
    for tie in ties:
        loose.difference_update((id(ruleset), base._replace(behind=False)) for ruleset, base in tie[0].chains)
    free = tuple(each for each in chains if (id(each[0]), each[1]) in loose)
    return [
        Order(
            (*free, *(each for chosen in choice for each in chosen.chains)),
            (),
            "; ".join(dict.fromkeys(filter(None, (without.said, *(chosen.said for chosen in choice))))),
            " and ".join(
                dict.fromkeys([*([MAY_BE_DORMANT] if without.said else []), *(one.unknown for one in choice)])
            ),
        )
        for choice in product(*ties)
    ]


def _ties(chains: Sequence[Placed], hooks: Collection[str]) -> list[list[Order]] | None:
    """Of chains with one place, each order that they may have there; None where they have too many."""
    acting = {
        (id(ruleset), table.name, chain.name)
        for ruleset in {id(ruleset): ruleset for ruleset, _ in chains}.values()
        for table in ruleset.tables
        for chain in table.chains
        if chain.rules or chain.policy == "DROP"
    }
    places: dict[tuple[str, bool, int], list[Placed | str]] = {}
    for ruleset, base in chains:
        if (id(ruleset), base.table, base.name) in acting and (not hooks or base.hook in hooks):
            nat = base.type == "nat"
            places.setdefault((base.hook, nat, base.priority), []).append((ruleset, base))
    for (hook, nat, priority), each in places.items():
        if not nat and priority == NAT_PRIORITIES.get(hook) and any(h == hook and n for h, n, _ in places):
            each.append("nat")
        elif not nat and (priority, Moment.TRACK) in MOMENTS.get(hook, ()):
            each.append("conntrack")
    tied = [each for each in places.values() if len(each) > 1]
    if any(len(each) > MOST_TIED for each in tied):
        return None
    by_back_end = all(
        len({id(one[0]) if isinstance(one, tuple) else one for one in each}) == len(each)
        and all(isinstance(one, tuple) for one in each)
        for each in tied
    )
    ties = [[_order(each, by_back_end=by_back_end) for each in _permuted(each)] for each in tied]
    ties = [tie for tie in ties if len(tie) > 1]
    return None if prod(map(len, ties)) > MOST_ORDERS else ties


def _permuted(each: Sequence[Placed | str]) -> Iterator[tuple[Placed | str, ...]]:
    """The orders that keep each table's chains as they are: those are known."""
    for order in permutations(range(len(each))):
        last: dict[tuple[int, str], int] = {}
        for number in order:
            one = each[number]
            if isinstance(one, tuple):
                if last.get((id(one[0]), one[1].table), -1) > number:
                    break
                last[id(one[0]), one[1].table] = number
        else:
            yield tuple(each[number] for number in order)


def _order(each: Sequence[Placed | str], *, by_back_end: bool) -> Order:
    chains: list[Placed] = []
    names: list[str] = []
    behind = False
    for one in each:
        if isinstance(one, str):
            behind = True
            names.append(one)
            continue
        ruleset, base = one
        chains.append((ruleset, base._replace(behind=behind)))
        back_end = str(ruleset.backend or ruleset.source or "one ruleset")
        names.append(back_end if by_back_end else f"{base.table} {base.name}")
    return Order(tuple(chains), (), " before ".join(names), WHICH_BACK_END if by_back_end else WHICH_CHAIN)


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
        asks_for_marks(match)
        and (
            not isinstance(match, Mark)
            or match.negated
            or match.value == 0
            or isinstance(rule.target, Jump | Goto | Redirect | Translate | Tproxy)
        )
        for rule in ruleset.rules()
        for match in rule.conditions()
    )


def base_chains(ruleset: Ruleset) -> Iterator[BaseChain]:
    """The chains that the kernel calls: the built-in ones of iptables' tables, and nft's base chains.

    Of chains of one table with one place, the first is asked first: the one registered last.
    """
    for table in ruleset.tables:
        if table.dormant is True:
            continue
        if table.nft_family:
            for chain in reversed(table.chains):
                if chain.registered is not None:
                    hook, priority, kind, devices = chain.registered
                    if hook in AT_DEVICES and not (devices or _does_anything(chain)):
                        continue  # nft 1.0.6 shows no devices in its JSON: here they do not matter
                    yield BaseChain(hook, priority, kind, table.name, chain.name, devices)
            continue
        for chain in table.chains:
            if chain.name in TABLES.get(table.name, ()):
                yield _of_iptables(table.name, chain.name, ruleset.backend)


def _does_anything(chain: Chain) -> bool:
    counts = all(target is None for rule in chain.rules for target in rule.targets())
    return chain.policy == "DROP" or not counts


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
    placed: list[tuple[int, int, Step[C]]] = [
        (_priority(each), 1 if each[0].behind else -1, (each,)) for each in chains if each[0].type != "nat"
    ]
    placed += [(NAT_PRIORITIES.get(hook, 0), 0, nat)] if nat else []
    placed += [(priority, 0, moment) for priority, moment in MOMENTS.get(hook, ())]
    placed.sort(key=itemgetter(0, 1))
    return [step for _, _, step in placed]


def _priority(each: tuple[BaseChain, object]) -> int:
    return each[0].priority


def _is_of_connection(step: Step[C]) -> bool:
    """Whether only the first packet of a connection meets it, or one that has none yet."""
    return isinstance(step, Moment) or step[0][0].type == "nat"
