"""Which options make a release install given rules: found by trying them.

Knows what an option can be set to, and how far the rules it makes are from the given ones. Does
not know why rules are as they are, nor what they do. Invariant: an answer was installed by the
model with exactly these options; no rule's text is taken for a sign of an option.

The way is steepest descent: of all single changes the one that leaves the fewest rules apart, as
long as one does. Values come from the rules that are still apart, so that few have to be tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio.option_wording import as_a_pod_asks
from pytest_istio_sidecar.istio.options import ALL, IstioOptions, split
from pytest_istio_sidecar.istio.release import in_effect
from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.istio.versions import known_versions, number_of
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

_Held = Counter[tuple[int, str, Rule]]
_DNS = Range(low=53, high=53)
_ROUNDS = 40
_WORTH_A_TRY = 4
"""How many rules further from the given ones than the nearest an explanation may be, to be tried on every
release: options whose rules changed with a release are found on one and fit another."""
_PORTS = (
    "inbound_ports_include",
    "inbound_ports_exclude",
    "outbound_ports_include",
    "outbound_ports_exclude",
)
_RANGES = ("outbound_ip_ranges_include", "outbound_ip_ranges_exclude")
_INTERFACES = ("kube_virt_interfaces", "exclude_interfaces")
_ENVOY = ("proxy_port", "inbound_capture_port", "inbound_tunnel_port")
_EVERYTHING = ("inbound_ports_include", "outbound_ip_ranges_include", "owner_groups_include")


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

    def told(self, before: IstioOptions) -> tuple[str, ...]:
        """What sets the options apart from others, as a pod asks for it."""
        return as_a_pod_asks(before, self.options)


def nearest(rulesets: Sequence[Ruleset]) -> tuple[Explanation, ...]:
    """Every release with the options that bring its rules nearest to these, nearest first.

    Of options found equally near the fewest changes come first.
    """
    begins: dict[object, tuple[str, IstioOptions]] = {}
    families = [ruleset.family for ruleset in rulesets]
    for mode in ("init", "cni"):
        begin = IstioOptions(mode=mode)
        for version in known_versions():
            begins[_tables(version, begin, families), mode] = (version, begin)
    held = _held(rulesets)
    found = [explain(rulesets, version, begin) for version, begin in begins.values()]
    tried: dict[tuple[Ruleset, ...], dict[IstioOptions, list[str]]] = {}
    far = min(other.apart for other in found) + _WORTH_A_TRY
    for chosen in dict.fromkeys(explanation.options for explanation in found if explanation.apart <= far):
        for version in known_versions():
            tables = _tables(version, chosen, families)
            if tables is not None:
                tried.setdefault(tables, {}).setdefault(chosen, []).append(version)
    explanations = [
        Explanation(
            versions=tuple(dict.fromkeys(versions)),
            options=chosen,
            apart=_apart(held, _held(tables)),
            in_order=_in_order(tables) == _in_order(rulesets),
            same_backend=all(
                given.backend in (None, made.backend) for given, made in zip(rulesets, tables, strict=True)
            ),
        )
        for tables, ways in tried.items()
        for chosen, versions in [min(ways.items(), key=lambda way: _changed(*way))]
        if chosen.mode == "init" or chosen.outbound_ports_exclude
    ]
    return tuple(
        sorted(
            explanations,
            key=lambda held: (held.apart, not held.in_order, len(held.changes), not held.same_backend),
        )
    )


def same_in(rulesets: Sequence[Ruleset], options: IstioOptions) -> tuple[str, ...]:
    """The releases that install exactly these rules with these options, order aside; oldest first."""
    families = tuple(ruleset.family for ruleset in rulesets)
    held = dict(_held(rulesets))  # equal without hashing every rule again, which Counter does
    return tuple(
        version
        for version in known_versions()
        if (made := _installed(version, options, families)) is not None and dict(made) == held
    )


def _changed(options: IstioOptions, versions: Sequence[str]) -> int:
    return len(_asked(options, versions))


def _asked(options: IstioOptions, versions: Sequence[str]) -> tuple[str, ...]:
    """How the newest of these releases is asked for the options, beyond what its template passes."""
    default = in_effect(number_of(versions[-1]), IstioOptions(mode=options.mode))
    return (*(["istio-cni"] if options.mode == "cni" else []), *as_a_pod_asks(default, options))


def _in_order(rulesets: Iterable[Ruleset]) -> dict[tuple[int, str, str], tuple[Rule, ...]]:
    return {
        (ruleset.family, table.name, chain.name): chain.rules
        for ruleset in rulesets
        for table in ruleset.tables
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
    held = _held(rulesets)
    families = tuple(ruleset.family for ruleset in rulesets)
    now = _installed(version, options, families)
    if now is None:
        return Explanation(versions=(version,), options=options, apart=held.total())
    apart = _apart(held, now)
    for _ in range(rounds):
        if not apart:
            break
        best: tuple[int, IstioOptions, _Held] | None = None
        for changed in _changes(options, held, now):
            then = _installed(version, changed, families)
            if then is not None and (best is None or _apart(held, then) < best[0]):
                best = (_apart(held, then), changed, then)
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
def _installed(version: str, options: IstioOptions, families: tuple[Family, ...]) -> _Held | None:
    """The rules of the release, order aside; None where it refuses. Not to be changed by who asks."""
    tables = _tables(version, options, families)
    return None if tables is None else _held(tables)


def _held(rulesets: Iterable[Ruleset]) -> _Held:
    return Counter(
        (ruleset.family, table.name, rule)
        for ruleset in rulesets
        for table in ruleset.tables
        for rule in table.rules()
    )


def _apart(one: _Held, other: _Held) -> int:
    return (one - other).total() + (other - one).total()


def _changes(options: IstioOptions, held: _Held, made: _Held) -> Iterator[IstioOptions]:
    """Every single change worth trying; what Istio refuses is left out."""
    extra, missing = [rule for _, _, rule in held - made], [rule for _, _, rule in made - held]
    for change in _fields(options, _Values(extra, held), _Values(missing, made)):
        try:
            changed = replace(options, **change)  # type: ignore[arg-type]
        except UsageProblem:
            continue
        if changed != options:
            yield changed


def _fields(options: IstioOptions, wanted: _Values, lost: _Values) -> Iterator[Mapping[str, object]]:
    kinds = (
        (_PORTS, wanted.ports, lost.ports),
        (_RANGES, wanted.ranges, lost.ranges),
        (_INTERFACES, wanted.interfaces, lost.interfaces),
        (("proxy_uid",), wanted.uids, lost.uids),
        (("proxy_gid", "owner_groups_include", "owner_groups_exclude"), wanted.gids, lost.gids),
    )
    for names, values, gone in kinds:
        for name in names:
            yield from ({name: value} for value in _lists(getattr(options, name), values, gone, wanted.order))
            if name in _EVERYTHING:
                yield {name: ALL}
    for name in _ENVOY:
        yield from ({name: port} for port in wanted.ports)
    yield from ({"host_ipv4_loopback_cidr": network} for network in wanted.ranges)
    yield from ({"inbound_tproxy_mark": mark} for mark in wanted.marks)
    yield {
        "inbound_interception_mode": "REDIRECT" if options.inbound_interception_mode == "TPROXY" else "TPROXY"
    }
    yield {"drop_invalid": not options.drop_invalid}
    if options.redirect_dns:
        yield {"redirect_dns": False}
    yield {"redirect_dns": False, "dns_by_envoy": not options.dns_by_envoy}
    yield {"redirect_dns": True, "capture_all_dns": True}
    servers = {
        f"dns_servers_v{version}": [text for text in wanted.servers if ip_address(text).version == version]
        for version in (4, 6)
    }
    yield {"redirect_dns": True, "capture_all_dns": False, **servers}


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
        found: dict[str, dict[str, None]] = {}
        for rule in rules:
            for kind, value in _named(rule):
                found.setdefault(kind, {})[value] = None
        self.ports, self.ranges, self.interfaces, self.uids, self.gids, self.marks = (
            tuple(found.get(kind, ())) for kind in ("port", "range", "interface", "uid", "gid", "mark")
        )
        self.servers = tuple(found.get("server", ()))
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
