"""A ruleset as it was read: tables, chains and rules.

Knows the shape of what iptables holds. Does not know what it means for a packet
(`trace`) nor how it is written in a file (`render`). Invariant: every value is
immutable, and equality is about rules, not about counters or where they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, NamedTuple

from pytest_istio_sidecar.errors import Undecided, UsageProblem
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.matches import Hidden, Match
from pytest_istio_sidecar.netfilter.targets import Target, conditions_of, targets_in

Family = Literal[4, 6]

HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
"""Names of the built-in chains, which are those of the kernel's hooks."""

TABLES = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
"""The tables of iptables(8), each with its built-in chains."""

BuiltIn = tuple[str, str]
"""A table and one of its built-in chains."""

ALL_BUILT_IN: frozenset[BuiltIn] = frozenset(
    (table, chain) for table, chains in TABLES.items() for chain in chains
)


class Backend(StrEnum):
    """The kernel interface that holds the rules; both may hold some in one namespace."""

    LEGACY = "legacy"
    NF_TABLES = "nf_tables"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule: all its conditions must hold for its target to act.

    A rule without target counts packets and lets them go on.
    """

    chain: str
    matches: tuple[Match, ...] = ()
    target: Target | None = None
    number: int = field(default=0, compare=False)
    """Position in its chain, from 1, as `--line-numbers` prints it."""
    packets: int | None = field(default=None, compare=False)
    bytes: int | None = field(default=None, compare=False)
    location: str = field(default="", compare=False)
    """`file:line` it was read from, or ""."""
    nft: str | None = None
    """As nft writes it, without the numbers of its counters; None: a rule of iptables."""
    handle: int | None = field(default=None, compare=False)
    """nft's number of it."""

    @property
    def text(self) -> str:
        """The rule as iptables-save writes it, or nft, without counters."""
        if self.nft is not None:
            return self.nft
        parts = [f"-A {self.chain}", *map(str, self.matches)]
        if self.target is not None:
            parts.append(str(self.target))
        return " ".join(parts)

    @property
    def hidden(self) -> tuple[Hidden, ...]:
        """The fields of this rule that its listing does not show."""
        return tuple(match for match in self.matches if isinstance(match, Hidden))

    def conditions(self) -> Iterator[Match]:
        """Every condition of the rule, those of rules within it too."""
        return conditions_of(self.matches, self.target)

    def targets(self) -> Iterator[Target | None]:
        """Every target of the rule, those of rules within it in place of what holds them."""
        return targets_in(self.target)


class Registration(NamedTuple):
    """How a base chain of nf_tables hangs at a hook of the kernel.

    Attributes:
        hook: as `HOOKS` has it, or INGRESS or EGRESS.
        priority: the lower, the earlier.
        type: filter, route or nat.
        devices: of a chain at INGRESS or EGRESS, the interfaces; none: not known.
    """

    hook: str
    priority: int
    type: Literal["filter", "route", "nat"]
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain and its rules in order; only built-in chains, and nft's base chains, have a policy."""

    name: str
    rules: tuple[Rule, ...] = ()
    policy: str | None = None
    packets: int | None = field(default=None, compare=False)
    bytes: int | None = field(default=None, compare=False)
    registered: Registration | None = None
    """Of a base chain read from nft."""
    handle: int | None = field(default=None, compare=False)
    """nft's number of it."""

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def with_rules(self, rules: Iterable[Rule]) -> Chain:
        """This chain with other rules, numbered anew."""
        numbered = (replace(rule, number=number) for number, rule in enumerate(rules, 1))
        return replace(self, rules=tuple(numbered))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Table:
    """One table of one family and back end.

    Read from nft, `ip nat` and `ip6 nat` are both "nat"; others have their family in the name too:
    "inet istio-proxy-nat".
    """

    name: str
    chains: tuple[Chain, ...] = ()
    nft_family: str = ""
    """ip, ip6, inet or netdev where it was read from nft: its chains say themselves where they hang."""
    dormant: bool | None = False
    """Its chains hang nowhere (nft's `flags dormant`); None: the listing does not tell."""
    declarations: tuple[str, ...] = ()
    """Its sets, maps and other objects, as nft writes them."""
    _ruleset: Ruleset | None = field(default=None, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"<Table {self.name}: {sum(1 for _ in self.rules())} rules in {len(self.chains)} chains>"

    @property
    def ruleset(self) -> Ruleset:
        """The ruleset this table belongs to; a table made on its own belongs to one of its own."""
        if self._ruleset is None:
            object.__setattr__(self, "_ruleset", Ruleset(tables=(self,)))
        return self._ruleset  # type: ignore[return-value]

    def chain(self, name: str) -> Chain:
        """Look a chain up; a table of nft has `istio-inbound` for ISTIO_INBOUND, and its hooks' names.

        Raises:
            UsageProblem: there is none of that name; the message lists the names there are.
            Undecided: there is none, and not all of the table was read.
        """
        known = self._own(name)
        if known is not None:
            return known
        if self.unread:
            program = "iptables" if self.ruleset.family == 4 else "ip6tables"
            raise Undecided(messages.CHAIN_NOT_READ(table=self.name, chain=name, program=program))
        names = ", ".join(chain.name for chain in self.chains) or "no chain at all"
        raise UsageProblem(messages.NO_SUCH_CHAIN(table=self.name, chain=name, chains=names))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._own(name) is not None

    def _own(self, name: str) -> Chain | None:
        """The chain of that name; of a table of nft also the one that iptables would name so."""
        for chain in self.chains:
            if chain.name == name:
                return chain
        if not self.nft_family:
            return None
        at_hook = [chain for chain in self.chains if chain.registered and chain.registered.hook == name]
        twin = name.lower().replace("_", "-")
        named = [chain for chain in self.chains if chain.name == twin]
        return next(iter([*at_hook, *named]), None)

    @property
    def unread(self) -> tuple[str, ...]:
        """Its built-in chains that were not read; where there are any, there may be other chains, too."""
        unread = self.ruleset.unread
        return tuple(chain for chain in TABLES.get(self.name, ()) if (self.name, chain) in unread)

    def with_chain(self, chain: Chain) -> Table:
        """This table with a chain in place of its own of that name."""
        return replace(self, chains=tuple(chain if own.name == chain.name else own for own in self.chains))

    def rules(self) -> Iterator[Rule]:
        """Every rule, chain by chain."""
        for chain in self.chains:
            yield from chain.rules


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Ruleset:
    """Everything read from one back end for one family.

    A table that is absent has no rule in the kernel, unless its chains are in `unread`.
    """

    tables: tuple[Table, ...] = ()
    family: Family = 4
    backend: Backend | None = None
    """None: the text does not tell."""
    source: str | None = field(default=None, compare=False)
    """The file it was read from; in <>, or of an `origin`: what else names it."""
    parts: tuple[str, ...] = field(default=(), compare=False)
    """The files of its tables, where each was listed on its own; `source` is the first."""
    pod: str = field(default="", compare=False)
    """How messages name the pod it was read from: `namespace/name`, or what stands for it."""
    writer: str | None = field(default=None, compare=False)
    """Version of the iptables that wrote the text ("1.8.9"), where its banner says."""
    assumptions: tuple[str, ...] = field(default=(), compare=False)
    """What was taken from an expectation because the listing does not show it."""
    origin: tuple[str, ...] = field(default=(), compare=False)
    """Where nobody read them: the options by which the command line is asked for the same rules."""
    completed_from: tuple[str, ...] = field(default=(), compare=False)
    """The `origin` of the expectation that `assumptions` are from."""
    expected_from: tuple[str, ...] = field(default=(), compare=False)
    """The `origin` of the rules that are expected here; (): neither release nor options are known."""
    unread: frozenset[BuiltIn] = field(default=frozenset(), compare=False)
    """The built-in chains that its text does not show: the kernel may hold rules there."""
    beside_legacy: bool = field(default=False, compare=False)
    """Whether its text itself says that iptables-legacy has tables as well."""

    def __repr__(self) -> str:
        backend = f" {self.backend}" if self.backend else ""
        tables = ", ".join(f"{table.name} {sum(1 for _ in table.rules())}" for table in self.tables)
        return f"<Ruleset IPv{self.family}{backend}, rules: {tables or 'none'}>"

    def __post_init__(self) -> None:
        owned = tuple(replace(table) for table in self.tables)
        for table in owned:
            object.__setattr__(table, "_ruleset", self)
        object.__setattr__(self, "tables", owned)

    def table(self, name: str) -> Table:
        """The table of that name; an empty one where the text had none."""
        for table in self.tables:
            if table.name == name:
                return table
        absent = Table(name=name)
        object.__setattr__(absent, "_ruleset", self)
        return absent

    def __contains__(self, name: object) -> bool:
        return any(table.name == name for table in self.tables)

    def with_table(self, table: Table) -> Ruleset:
        """This ruleset with a table in place of its own of that name, or with one more."""
        tables = {own.name: own for own in self.tables} | {table.name: table}
        return replace(self, tables=tuple(tables.values()))

    def map_rules(self, change: Callable[[str, Rule], Rule | None]) -> Ruleset:
        """This ruleset with each rule as `change` makes it of a table's name and a rule.

        What becomes None is left out, and the rules behind it keep their numbers.
        """

        def changed(table: str, chain: Chain) -> Chain:
            rules = (change(table, rule) for rule in chain.rules)
            return replace(chain, rules=tuple(rule for rule in rules if rule is not None))

        return replace(
            self,
            tables=tuple(
                replace(table, chains=tuple(changed(table.name, chain) for chain in table.chains))
                for table in self.tables
            ),
        )

    @property
    def nat(self) -> Table:
        return self.table("nat")

    @property
    def mangle(self) -> Table:
        return self.table("mangle")

    @property
    def raw(self) -> Table:
        return self.table("raw")

    @property
    def filter(self) -> Table:
        return self.table("filter")

    def rules(self) -> Iterator[Rule]:
        """Every rule of every table."""
        for table in self.tables:
            yield from table.rules()

    @property
    def has_a_say(self) -> bool:
        """Whether packets may fare otherwise than without it: by a rule, or by a policy that drops."""
        return any(chain.rules or chain.policy == "DROP" for table in self.tables for chain in table.chains)


def joined(listings: Sequence[Ruleset]) -> Ruleset:
    """Listings of one family and back end, none of whose tables another has, as one ruleset.

    What one of them shows was read.
    """
    first, *others = listings
    if not others:
        return first
    return replace(
        first,
        tables=tuple(table for listing in listings for table in listing.tables),
        parts=tuple(listing.source or "" for listing in listings),
        unread=frozenset.intersection(*(listing.unread for listing in listings)),
        beside_legacy=any(listing.beside_legacy for listing in listings),
    )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PodRules:
    """Every ruleset read from one network namespace, of both families and back ends.

    Within a family the rulesets stand in the order in which the kernel asks
    them; a listing does not show that order, so where two of them hold rules
    of one table `order_known` is False and a tracer must try both.
    """

    rulesets: tuple[Ruleset, ...]
    order_known: bool = False
    pod: str = ""
    """How messages name the pod: `namespace/name`, or what stands for it."""
    notes: tuple[str, ...] = ()
    """What the reader saw that bears on trust in these rulesets."""
    native_tables: tuple[str, ...] = ()
    """nf_tables' own tables, which iptables does not show: "inet istio-proxy-nat"."""
    native_read: bool = False
    """Whether those were looked for, so that none named means that there is none."""

    def __repr__(self) -> str:
        pod = f" of {self.pod}" if self.pod else ""
        return f"<PodRules{pod}: {', '.join(map(repr, self.rulesets)) or 'none were read'}>"

    def of_family(self, family: Family) -> tuple[Ruleset, ...]:
        return tuple(ruleset for ruleset in self.rulesets if ruleset.family == family)


Rules = Table | Ruleset | PodRules
"""What packets can be asked about: a table means its whole ruleset."""


def rulesets_of(rules: Rules, family: Family) -> tuple[Ruleset, ...]:
    """The rulesets of one family that take part when packets meet `rules`.

    Raises:
        UsageProblem: these are no rules, such as a listing that was not parsed.
    """
    if isinstance(rules, PodRules):
        return rules.of_family(family)
    ruleset = rules.ruleset if isinstance(rules, Table) else rules
    if not isinstance(ruleset, Ruleset):
        raise UsageProblem(messages.NO_RULES_GIVEN(kind=type(rules).__name__))
    return (ruleset,) if ruleset.family == family else ()
