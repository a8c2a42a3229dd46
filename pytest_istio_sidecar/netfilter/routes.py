"""The policy rules and routes of one family in a network namespace, as values.

Knows in which order the kernel asks rules and tables, and what sets a namespace apart from one that
nobody has changed. Does not know how they were read (`text/parse_routes`). Invariant: a rule or a route
that is not modelled says so in `unknown`, and is never left out.

Source: net/core/fib_rules.c, net/ipv4/fib_rules.c, net/ipv4/fib_trie.c, net/ipv6/fib6_rules.c;
ip-rule(8), ip-route(8). Semantics: docs/semantics.md, 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal, NamedTuple

from pytest_istio_sidecar.netfilter.diagram.intervals import Interval, joined
from pytest_istio_sidecar.netfilter.matches import FULL_MASK, Address, Mark, Range

Family = Literal[4, 6]
LO: Final = "lo"
_OWN_TABLES = ("local", "main", "default")
"""What a kernel asks that nobody gave a rule (fib_default_rules_init), in this order."""
_HERE = frozenset({"local", "broadcast", "multicast", "anycast"})
"""Types of routes by which the host itself takes a packet."""
_LINK_LOCAL: Interval = (0xFE80 << 112, (0xFEC0 << 112) - 1)
_NOWHERE = frozenset({"blackhole", "unreachable", "prohibit"})


class Hop(NamedTuple):
    """Where a packet goes on.

    Attributes:
        device: the interface by which it leaves; lo to the host itself. "": none.
        kind: sent by the device, taken by the host itself, nowhere, or not told.
    """

    device: str
    kind: Literal["sent", "local", "nowhere", "unknown"]


NOWHERE: Final = Hop("", "nowhere")
NOT_TOLD: Final = Hop("", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A line of a routing table.

    Attributes:
        type: as ip-route(8) names it; "unicast" where it names none.
        network, prefix: the destinations.
        device: "" where it has none.
        unknown: what of it is not modelled; "": nothing.
    """

    type: str
    network: int
    prefix: int
    family: Family
    device: str
    table: str
    metric: int = 0
    text: str
    unknown: str = ""

    @property
    def hop(self) -> Hop | None:
        """Where it leads; None: on to the next rule (throw)."""
        if self.type == "throw":
            return None
        if self.unknown:
            return NOT_TOLD
        if self.type in _NOWHERE:
            return NOWHERE
        if self.type in ("local", "anycast"):
            return Hop(LO, "local")
        return Hop(self.device, "local" if self.type in _HERE else "sent")

    @property
    def interval(self) -> Interval:
        """Its destinations as numbers."""
        rest = (1 << (_bits(self.family) - self.prefix)) - 1
        return self.network, self.network | rest

    @property
    def target(self) -> Address:
        """Its destinations as a condition."""
        mask = (1 << _bits(self.family)) - 1 ^ (self.interval[1] - self.network)
        return Address(side="destination", family=self.family, network=self.network, mask=mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRule:
    """A policy rule.

    Attributes:
        negated: it holds where its selectors together do not.
        addresses, mark: its selectors by addresses and mark.
        iif: the interface by which a packet came; lo: from a process of the host. "": any.
        oif: the device that a socket is bound to. "": any.
        uids, protocol, source_ports, destination_ports: of the packet.
        action: "lookup", "goto", "nop", or a type of route that leads nowhere.
        table: that is looked up.
        suppressed: routes of this prefix length or less are not taken (suppress_prefixlength).
        goto: the priority to go on at.
        unknown: what of it is not modelled; "": nothing.
    """

    priority: int
    negated: bool = False
    addresses: tuple[Address, ...] = ()
    mark: Mark | None = None
    iif: str = ""
    oif: str = ""
    uids: Range | None = None
    protocol: int | None = None
    source_ports: Range | None = None
    destination_ports: Range | None = None
    action: str
    table: str = ""
    suppressed: int | None = None
    goto: int | None = None
    text: str
    unknown: str = ""

    @property
    def is_for_all(self) -> bool:
        """Whether it holds for every packet."""
        asked = (self.mark, self.uids, self.protocol, self.source_ports, self.destination_ports)
        chosen = self.addresses or self.iif or self.oif or any(one is not None for one in asked)
        return not (chosen or self.negated or self.unknown)


@dataclass(frozen=True, kw_only=True)
class RoutingPolicy:
    """Every policy rule and every route of one family.

    Attributes:
        rules: in the order in which they are asked.
        routes: of all tables.
    """

    family: Family
    rules: tuple[PolicyRule, ...]
    routes: tuple[Route, ...]
    tables: Mapping[str, tuple[Route, ...]] = field(init=False, repr=False, compare=False)
    """The routes of each table, the longest prefix first, of one prefix the least metric first."""

    def __post_init__(self) -> None:
        tables: dict[str, list[Route]] = {}
        for route in sorted(self.routes, key=lambda route: (-route.prefix, route.metric)):
            tables.setdefault(route.table, []).append(route)
        object.__setattr__(self, "tables", {name: tuple(routes) for name, routes in tables.items()})

    def __hash__(self) -> int:
        return hash((self.family, self.rules, self.routes))

    @cached_property
    def asked(self) -> tuple[PolicyRule, ...]:
        """The rules that can change anything.

        Left out is one whose table is empty, and the one that TPROXY rests on: what bears the mark is for the
        host itself. The tracer takes that for given where a rule hands over (docs/semantics.md, 5).
        """
        return tuple(rule for rule in self.rules if not self._is_empty(rule) and not self._is_tproxys(rule))

    def type_of(self, address: int, device: str | None) -> str:
        """What the table of local addresses calls an address of IPv4, as addrtype(8) writes it.

        Args:
            device: whose addresses are meant; None: all.
        """
        for route in self.tables.get("local", ()):
            if route.interval[0] <= address <= route.interval[1]:
                return route.type.upper() if device in (None, route.device) else "UNICAST"
        return "UNICAST"

    def place_of(self, rule: PolicyRule, following: int) -> int:
        """Where a goto leads among the rules `asked`; one that leads to no rule does nothing."""
        if not any(one.priority == rule.goto for one in self.rules):
            return following
        here = (place for place, one in enumerate(self.asked) if one.priority >= (rule.goto or 0))
        return max(following, next(here, len(self.asked)))

    def is_plain(self, own: Iterable[Interval]) -> bool:
        """Whether packets go as they do where nobody added a rule or a route that matters.

        To the host's own addresses by lo, to all others by other interfaces.

        Args:
            own: the host's own addresses.
        """
        tables = tuple(rule.table for rule in self.asked)
        wanted = tuple(name for name in _OWN_TABLES if name in tables)
        told = all(rule.is_for_all and rule.suppressed is None for rule in self.asked)
        if not told or tables != wanted:
            return False
        mine = joined(own)
        taken = joined(
            route.interval for route in self.tables.get("local", ()) if route.type in ("local", "anycast")
        )
        # A link-local address is in no table before the kernel knows that nobody else has it (RFC 4862 5.4).
        missing = not all(_within(one, taken) for one in mine if not _within(one, [_LINK_LOCAL]))
        return not missing and not any(
            self._is_odd(route, mine) for name in tables for route in self.tables[name]
        )

    def _is_odd(self, route: Route, own: Iterable[Interval]) -> bool:
        """Whether a route of the kernel's own tables leads elsewhere than addresses tell."""
        if route.table == "local":
            return route.type not in _HERE or (route.type == "local" and not _within(route.interval, own))
        if route.type in _NOWHERE:
            return False
        if route.type != "unicast":
            return True
        return route.device == LO and not _within(route.interval, own)

    def _is_empty(self, rule: PolicyRule) -> bool:
        nothing = rule.action == "nop" or (rule.action == "lookup" and not self.tables.get(rule.table))
        return nothing and not rule.unknown

    def _is_tproxys(self, rule: PolicyRule) -> bool:
        routes = self.tables.get(rule.table, ())
        only_mark = rule == PolicyRule(
            priority=rule.priority, mark=rule.mark, action="lookup", table=rule.table, text=rule.text
        )
        return (
            only_mark
            and rule.mark is not None
            and rule.mark.mask == FULL_MASK
            and all(route.type == "local" and route.prefix == 0 and route.device == LO for route in routes)
        )

    @property
    def masks(self) -> Iterator[Address | Mark]:
        """The conditions that ask for addresses and marks."""
        for rule in self.asked:
            yield from rule.addresses
            if rule.mark is not None:
                yield rule.mark

    @property
    def local(self) -> Iterator[Interval]:
        """The addresses that some table calls the host's own."""
        looked_up = {rule.table for rule in self.asked}
        return (route.interval for route in self.routes if route.type == "local" and route.table in looked_up)

    @property
    def added(self) -> tuple[str, ...]:
        """What somebody added that may lead packets elsewhere, as `ip` writes it: rules with their routes."""
        lines: list[str] = []
        for rule in self.asked:
            if rule.is_for_all and rule.table in _OWN_TABLES:
                continue
            lines += [f"ip {self._flag}rule: {rule.text}", *map(self.told, self.tables.get(rule.table, ()))]
        own = joined(self.local)
        lines += [
            self.told(route)
            for route in self.routes
            if route.table in _OWN_TABLES and route.device == LO and route.type == "unicast"
            if not _within(route.interval, own)
        ]
        return tuple(lines)

    @property
    def _flag(self) -> str:
        return "-6 " if self.family == 6 else ""

    def told(self, route: Route) -> str:
        """A route, as a message has it."""
        return f"ip {self._flag}route: {route.text}"


def _bits(family: Family) -> int:
    return 32 if family == 4 else 128


def _within(one: Interval, many: Iterable[Interval]) -> bool:
    return any(low <= one[0] and one[1] <= high for low, high in many)
