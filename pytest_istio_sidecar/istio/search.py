"""Which options make a release install given rules: found by trying them.

Knows what an option can be set to, and how far the rules it makes are from the given ones. Does
not know why rules are as they are, nor what they do. Invariant: an answer was installed by the
model with exactly these options; no rule's text is taken for a sign of an option.

It is steepest descent: of all single changes the one that leaves the fewest rules apart, as
long as one does. Values come from the rules that are still apart, so that few have to be tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address
from itertools import islice

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import option_kinds as kinds
from pytest_istio_sidecar.istio.option_kinds import ALL, Kind, split
from pytest_istio_sidecar.istio.option_table import OPTIONS, Option
from pytest_istio_sidecar.istio.option_wording import as_a_pod_asks
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.release import in_effect
from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.istio.versions import known_versions, number_of
from pytest_istio_sidecar.netfilter.kernel.unread import unread_tables
from pytest_istio_sidecar.netfilter.matches import (
    Address,
    Interface,
    Mark,
    Multiport,
    Owner,
    Range,
    Transport,
)
from pytest_istio_sidecar.netfilter.model import Family, Rule, Ruleset
from pytest_istio_sidecar.netfilter.targets import Redirect, SetMark, Tproxy

_Rules = Counter[tuple[int, str, Rule]]
_DNS = Range(low=53, high=53)
_ROUNDS = 40
_VALUES = 64
"""Values of a kind that are tried for options: rules that name more are none of one option's."""
_WORTH_A_TRY = 4
"""How many rules further from the given ones than the nearest an explanation may be, to be tried on every
release: options whose rules changed with a release are found on one and fit another."""
_DNS_OPTIONS = ("redirect_dns", "dns_by_envoy")
"""Are tried together with the servers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A release with options, and how near its rules are to the given ones.

    Attributes:
        versions: releases that install the same rules with these options, oldest first.
        options: with nothing left open.
        apart: rules that only one side has, order aside.
        in_order: whether the rules are the given ones in the same order too, chain by chain.
        same_backend: whether these releases write the back end that the rules are in, if that is known.
    """

    versions: tuple[str, ...]
    options: IstioOptions
    apart: int
    in_order: bool = False
    same_backend: bool = True

    @property
    def changes(self) -> tuple[str, ...]:
        """What sets the options apart from the template's, as a pod asks for it."""
        return _asked(self.options, self.versions)

    def changes_from(self, before: IstioOptions) -> tuple[str, ...]:
        """What sets the options apart from others, as a pod asks for it."""
        return as_a_pod_asks(number_of(self.versions[-1]), before, self.options)


def nearest(rulesets: Sequence[Ruleset]) -> tuple[Explanation, ...]:
    """Every release with the options that bring its rules nearest to these, nearest first.

    Of options found equally near the fewest changes come first.
    """
    begins: dict[object, tuple[str, IstioOptions]] = {}
    families = [ruleset.family for ruleset in rulesets]
    for mode in ("init", "cni"):
        begin = IstioOptions(mode=mode)
        # A release is tried of those that make the same of the template, and of DNS capture, too.
        capturing = replace(begin, redirect_dns=True, capture_all_dns=True)
        for version in known_versions():
            made = _tables(version, begin, families), _tables(version, capturing, families)
            begins[made, mode] = (version, begin)
    given, unread = _counted(rulesets), _unread(rulesets)
    reached = [explain(rulesets, version, begin) for version, begin in begins.values()]
    tried: dict[tuple[Ruleset, ...], dict[IstioOptions, list[str]]] = {}
    far = min(other.apart for other in reached) + _WORTH_A_TRY
    for chosen in dict.fromkeys(explanation.options for explanation in reached if explanation.apart <= far):
        for version in known_versions():
            tables = _tables(version, chosen, families)
            if tables is not None:
                tried.setdefault(tables, {}).setdefault(chosen, []).append(version)
    explanations = [
        Explanation(
            versions=tuple(dict.fromkeys(versions)),
            options=chosen,
            apart=_apart(given, _read(_counted(tables), unread)),
            in_order=_in_order(tables, unread) == _in_order(rulesets, unread),
            same_backend=all(
                ruleset.backend in (None, made.backend)
                for ruleset, made in zip(rulesets, tables, strict=True)
            ),
        )
        for tables, asked in tried.items()
        for chosen, versions in [min(asked.items(), key=lambda options: len(_asked(*options)))]
        if chosen.mode == "init" or chosen.outbound_ports_exclude
    ]
    return tuple(
        sorted(
            explanations,
            key=lambda one: (one.apart, not one.in_order, len(one.changes), not one.same_backend),
        )
    )


def same_in(rulesets: Sequence[Ruleset], options: IstioOptions) -> tuple[str, ...]:
    """The releases that install exactly these rules with these options, order aside; oldest first."""
    families = tuple(ruleset.family for ruleset in rulesets)
    given = dict(_counted(rulesets))  # equal without hashing every rule again, which Counter does
    unread = _unread(rulesets)
    return tuple(
        version
        for version in known_versions()
        if (made := _installed(version, options, families)) is not None and dict(_read(made, unread)) == given
    )


def _asked(options: IstioOptions, versions: Sequence[str]) -> tuple[str, ...]:
    """How the newest of these releases is asked for the options, beyond what its template passes."""
    number = number_of(versions[-1])
    default = in_effect(number, IstioOptions(mode=options.mode))
    return (
        *(["istio-cni"] if options.mode == "cni" else []),
        *as_a_pod_asks(number, default, in_effect(number, options)),
    )


def _in_order(
    rulesets: Iterable[Ruleset], unread: frozenset[tuple[Family, str]]
) -> dict[tuple[int, str, str], tuple[Rule, ...]]:
    return {
        (ruleset.family, table.name, chain.name): chain.rules
        for ruleset in rulesets
        for table in ruleset.tables
        if (ruleset.family, table.name) not in unread
        for chain in table.chains
        if chain.rules
    }


def explain(
    rulesets: Sequence[Ruleset], version: str, begin: IstioOptions | None = None, *, rounds: int = _ROUNDS
) -> Explanation:
    """The options nearest to these rules that can be reached from `begin`, one change at a time.

    Args:
        rulesets: the rules to explain, one ruleset a family.
        begin: where to start; None: what the template passes.
        rounds: changes at most; 0: how far the rules are apart as it is.
    """
    options = in_effect(number_of(version), begin or IstioOptions())
    given, unread = _counted(rulesets), _unread(rulesets)
    families = tuple(ruleset.family for ruleset in rulesets)
    now = _installed(version, options, families)
    if now is None:
        return Explanation(versions=(version,), options=options, apart=given.total())
    now = _read(now, unread)
    apart = _apart(given, now)
    for _ in range(rounds):
        if not apart:
            break
        best: tuple[int, IstioOptions, _Rules] | None = None
        for changed in _changes(options, given, now):
            then = _installed(version, changed, families)
            if then is None:
                continue
            then = _read(then, unread)
            if best is None or _apart(given, then) < best[0]:
                best = (_apart(given, then), changed, then)
        if best is None or best[0] >= apart:
            break
        apart, options, now = best
    return Explanation(versions=(version,), options=options, apart=apart)


def _tables(version: str, options: IstioOptions, families: Iterable[Family]) -> tuple[Ruleset, ...] | None:
    """What the release installs; None where it refuses."""
    try:
        return tuple(expected_ruleset(version, family=family, options=options) for family in families)
    except UsageProblem:
        return None


@lru_cache(1024)
def _installed(version: str, options: IstioOptions, families: tuple[Family, ...]) -> _Rules | None:
    """The rules of the release, order aside; None where it refuses. Not to be changed by who asks."""
    tables = _tables(version, options, families)
    return None if tables is None else _counted(tables)


def _counted(rulesets: Iterable[Ruleset]) -> _Rules:
    return Counter(
        (ruleset.family, table.name, rule)
        for ruleset in rulesets
        for table in ruleset.tables
        for rule in table.rules()
    )


def _unread(rulesets: Iterable[Ruleset]) -> frozenset[tuple[Family, str]]:
    """The tables of which nothing was read: what a release has there is no rule more or less."""
    return frozenset(
        (ruleset.family, table) for ruleset in rulesets for table in unread_tables(ruleset.unread)
    )


def _read(made: _Rules, unread: frozenset[tuple[Family, str]]) -> _Rules:
    """The rules of tables that were read."""
    if not unread:
        return made
    kept = {each: count for each, count in made.items() if (each[0], each[1]) not in unread}
    return Counter(kept)


def _apart(one: _Rules, other: _Rules) -> int:
    """How many rules only one of them has; one of them may have thousands, which nothing is asked of."""
    few, many = (one, other) if len(one) < len(other) else (other, one)
    return one.total() + other.total() - 2 * sum(min(count, many[rule]) for rule, count in few.items())


def _changes(options: IstioOptions, given: _Rules, made: _Rules) -> Iterator[IstioOptions]:
    """Every single change worth trying; what Istio refuses is left out."""
    extra, missing = [rule for _, _, rule in given - made], [rule for _, _, rule in made - given]
    for change in _fields(options, _Values(extra, given), _Values(missing, made)):
        try:
            changed = replace(options, **change)  # type: ignore[arg-type]
        except UsageProblem:
            continue
        if changed != options:
            yield changed


def _fields(options: IstioOptions, wanted: _Values, lost: _Values) -> Iterator[Mapping[str, object]]:
    """Single changes, lists first: of those that leave equally few rules apart the first counts."""
    lists: tuple[tuple[tuple[Kind, ...], Sequence[str], Sequence[str]], ...] = (
        ((kinds.ports_or_all, kinds.ports, kinds.ports_beside), wanted.ports, lost.ports),
        ((kinds.ranges_or_all, kinds.ranges), wanted.ranges, lost.ranges),
        ((kinds.interfaces,), wanted.interfaces, lost.interfaces),
        ((kinds.users,), wanted.uids, lost.uids),
        ((kinds.groups, kinds.captured_groups, kinds.owner_groups), wanted.gids, lost.gids),
    )
    for of_kinds, values, gone in lists:
        for option in _of(*of_kinds):
            members = getattr(options, option.name)
            yield from ({option.name: value} for value in _lists(members, values, gone, wanted.order))
            if option.default == ALL:
                yield {option.name: ALL}
    single = ((kinds.port, wanted.ports), (kinds.loopback_range, wanted.ranges), (kinds.mark, wanted.marks))
    for kind, values in single:
        for option in _of(kind):
            yield from ({option.name: value} for value in values)
    tproxy = options.inbound_interception_mode == "TPROXY"
    yield {"inbound_interception_mode": "REDIRECT" if tproxy else "TPROXY"}
    for option in _of(kinds.truth):
        if option.default is not None and option.name not in _DNS_OPTIONS:
            yield {option.name: not getattr(options, option.name)}
    yield from _dns(options, wanted.servers)


def _of(*of_kinds: Kind) -> list[Option]:
    return [option for option in OPTIONS if option.kind in of_kinds]


def _dns(options: IstioOptions, servers: Sequence[str]) -> Iterator[Mapping[str, object]]:
    if options.redirect_dns:
        yield {"redirect_dns": False}
    yield {"redirect_dns": False, "dns_by_envoy": not options.dns_by_envoy}
    yield {"redirect_dns": True, "capture_all_dns": True}
    of_family = {
        f"dns_servers_v{version}": [text for text in servers if ip_address(text).version == version]
        for version in (4, 6)
    }
    yield {"redirect_dns": True, "capture_all_dns": False, **of_family}


def _lists(
    text: str | None, wanted: Sequence[str], lost: Sequence[str], order: Sequence[str]
) -> Iterator[str]:
    """A list with one member more or less, or with none, with only one, or with all that is wanted."""
    members = split(text or "") if text != ALL else ()
    yield ""
    yield ",".join(wanted)
    for value in wanted:
        yield value
        if value not in members:
            yield ",".join(_ordered((*members, value), order))
    for value in members:
        if value in lost:
            yield ",".join(member for member in members if member != value)
            for other in wanted:
                yield ",".join(other if member == value else member for member in members)


def _ordered(members: Sequence[str], order: Sequence[str]) -> list[str]:
    """In the order in which the given rules name them; what they do not name stays at its place."""
    named = iter(sorted((member for member in members if member in order), key=order.index))
    return [next(named) if member in order else member for member in members]


class _Values:
    """What rules name that an option could hold, in the order in which they name it."""

    def __init__(self, rules: Iterable[Rule], all_rules: Iterable[tuple[int, str, Rule]]) -> None:
        named: dict[str, dict[str, None]] = {}
        for rule in rules:
            for kind, value in _named(rule):
                named.setdefault(kind, {})[value] = None
        self.ports, self.ranges, self.interfaces, self.uids, self.gids, self.marks = (
            tuple(islice(named.get(kind, ()), _VALUES))
            for kind in ("port", "range", "interface", "uid", "gid", "mark")
        )
        self.servers = tuple(islice(named.get("server", ()), _VALUES))
        self.order = list(dict.fromkeys(value for _, _, rule in all_rules for _, value in _named(rule)))


def _named(rule: Rule) -> Iterator[tuple[str, str]]:
    about_dns = any(isinstance(match, Transport) and match.destination == _DNS for match in rule.matches)
    for match in rule.matches:
        match match:
            case Transport():
                ports = match.destination
                if ports is not None:
                    yield "port", f"{ports.low}" if ports.low == ports.high else f"{ports.low}:{ports.high}"
            case Multiport():
                yield from (("port", str(low)) for low, _ in match.ranges)
            case Address():
                network = str(match).split()[-1]
                yield "range", network
                if about_dns:
                    yield "server", network.partition("/")[0]
            case Interface():
                yield "interface", str(match).split()[-1]
            case Owner():
                for kind, ids in (("uid", match.uid), ("gid", match.gid)):
                    if ids is not None:
                        yield kind, str(ids.low)
            case Mark():
                yield "mark", str(match.value)
    match rule.target:
        case Redirect() | Tproxy():
            yield from (("port", word) for word in str(rule.target).split() if word.isdecimal())
        case SetMark(value=value):
            yield "mark", str(value)
