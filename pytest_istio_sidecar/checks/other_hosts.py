"""Pods that rules may be of, where nobody said what addresses their pod has.

Knows which addresses and interfaces rules name, and which of them a traced packet would fare otherwise by.
Does not know what is asked of the rules. Invariant: a verdict on the default host holds only where it is the
same for each pod that a rule singles out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from string import ascii_lowercase, digits
from typing import TypeAlias, TypeGuard

from pytest_istio_sidecar.checks.tracing import assumed_targets, not_stated
from pytest_istio_sidecar.netfilter.matches import Address, Extension, Interface, Match
from pytest_istio_sidecar.netfilter.model import Family, Rule, Rules, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.packet import DEFAULT_INTERFACES, Fate, Host, IPAddress, Packet
from pytest_istio_sidecar.netfilter.relations import KEYS, Interfaces, Relation
from pytest_istio_sidecar.netfilter.trace.trace import Trace, trace

_EXTERNAL = "eth0"
_MOST, _MOST_STEPS = 128, 50_000
"""Pods that are tried, and rules of all of them; more are not, and the answer is open."""
_MOST_ON_A_WAY = 256
"""The same where one packet is followed in each."""
_BITS: dict[Family, int] = {4: 32, 6: 128}
_BASES: dict[Family, int] = {4: 0x0A010203, 6: 0x20010DB8 << 96 | 0x0A010203}
"""Addresses of which some bits are asked: 10.1.2.3, and one of 2001:db8::/32."""
_SIDES = {
    "--src-range": "source",
    "--dst-range": "destination",
    "--ctorigsrc": "source",
    "--ctorigdst": "destination",
    "--ctreplsrc": "source",
    "--ctrepldst": "destination",
}
"""Options of iprange and conntrack that ask for addresses (iptables-extensions(8))."""


def other_hosts(rules: Rules, expected: Rules | None, host: Host | None) -> Iterator[tuple[Rule, Host]]:
    """Pods that the rules tell apart by address or interface, each with a rule that does.

    Args:
        expected: where the rules are just these, no pod is tried: all let by the same.
        host: the pod, where somebody said what it has; None or the default host: nobody did, else there is
            nothing to try.

    Raises:
        Undecided: there are too many to try.
    """
    if host is not None and host != Host():
        return
    families: tuple[Family, ...] = (4, 6)
    for family in families:
        read, meant = rulesets_of(rules, family), _of(expected, family)
        if _chains(read) == _chains(meant):
            continue
        every = [rule for ruleset in read for rule in ruleset.rules()]
        known = {rule for ruleset in meant for rule in ruleset.rules()}
        if bits := next((rule for rule in every if _is_about_bits(rule, family) and rule not in known), None):
            raise not_stated(rules, bits)  # what several such rules part has no samples
        pods = _pods(sorted(every, key=known.__contains__), family)
        if len(pods) > _MOST or len(pods) * len(every) > _MOST_STEPS:
            raise not_stated(rules, next(iter(pods.values())))
        yield from ((rule, pod) for pod, rule in pods.items())


def _is_about_bits(rule: Rule, family: Family) -> bool:
    return any(_has_holes(match) and next(_spans(match, family, None), None) for match in rule.conditions())


def _chains(rulesets: Sequence[Ruleset]) -> list[dict[tuple[str, str], tuple[Rule, ...]]]:
    """The rules of each ruleset that has any, by table and chain."""
    each = (
        {(table.name, chain.name): chain.rules for table in ruleset.tables for chain in table.chains}
        for ruleset in rulesets
    )
    return [chains for chains in each if any(chains.values())]


Asked: TypeAlias = Callable[[Host], Packet | None]
"""The packet that somebody asks of, in a pod; None: in such a pod it would be another question."""


def by_other_hosts(
    traced: Trace, asked: Asked, expected: Rules | None = None
) -> tuple[list[tuple[Rule, Trace]], bool]:
    """The packet in pods that rules on its way single out, where it fares otherwise; each with the rule.

    Args:
        traced: the packet in the default host.
        expected: rules that single nothing out.

    Returns:
        Them, each with the first rule that tells it apart, and whether all were tried.
    """
    family = traced.packet.family
    meant = {rule for ruleset in _of(expected, family) for rule in ruleset.rules()}
    seen, ways, met = {traced.host}, [traced], dict[Rule, None]()
    otherwise: list[tuple[Rule, Trace]] = []
    for followed in ways:
        met |= dict.fromkeys(_met(followed, meant))
        for host, rule in _pods([*met], family).items():
            if host in seen:
                continue
            if len(seen) > _MOST_ON_A_WAY:
                return otherwise, False
            seen.add(host)
            packet = asked(host)
            if packet is None:
                continue
            there = trace(traced.rules, packet, host=host)
            if _alike(there, traced):
                ways.append(there)
            else:
                otherwise.append((_parting(traced, there) or rule, there))
    return otherwise, not any(_is_about_bits(rule, family) for rule in met)


def by_other_senders(
    traced: Trace, asked: Callable[[IPAddress], Packet], expected: Rules | None = None
) -> Iterator[tuple[Rule, Trace]]:
    """The same of neighbours whose addresses rules on its way single out."""
    family = traced.packet.family
    meant = {rule for ruleset in _of(expected, family) for rule in ruleset.rules()}
    for number, rule in _addresses_apart(_met(traced, meant), family, "source").items():
        source = _kind(family)(number)
        if traced.host.is_local(source):
            continue
        there = trace(traced.rules, asked(source), host=traced.host)
        if not _alike(there, traced):
            yield _parting(traced, there) or rule, there


def singles_pods_out(traced: Trace) -> bool:
    """Whether a rule on a packet's way tells pods apart by their address."""
    family, own = traced.packet.family, traced.host
    pods = _pods(_met(traced, ()), family)
    return any(pod.external() == own.external() and pod != own for pod in pods)


def _met(traced: Trace, meant: Collection[Rule]) -> list[Rule]:
    return [step.rule for step in traced.steps if step.rule is not None and step.rule not in meant]


def _parting(one: Trace, other: Trace) -> Rule | None:
    """The first rule on both ways that holds on one of them only."""
    for here, there in zip(one.steps, other.steps, strict=False):
        if here.rule == there.rule and here.matched is not there.matched:
            return here.rule
    return None


def _alike(one: Trace, other: Trace) -> bool:
    """Whether two packets end up at one place; each pod's own address is the same place."""
    if (one.fate, one.destination.port) != (other.fate, other.destination.port):
        return False
    return one.destination.address == other.destination.address or (_is_own(one) and _is_own(other))


def _is_own(traced: Trace) -> bool:
    return traced.fate is Fate.UNCHANGED or traced.host.is_local(traced.destination.address)


def _of(rules: Rules | None, family: Family) -> tuple[Ruleset, ...]:
    return () if rules is None else rulesets_of(rules, family)


def _pods(rules: Sequence[Rule], family: Family) -> dict[Host, Rule]:
    """Pods of which no two are alike to all conditions of these rules, each with a rule that tells it apart.

    One for each interface and each address that the rules' conditions part from the others, and for the
    usual ones.
    """
    usual = DEFAULT_INTERFACES[_EXTERNAL]
    others = [text for text in usual if (":" in text) != (family == 6)]
    names, numbers = _interfaces_apart(rules), _addresses_apart(rules, family, None)
    pods: dict[Host, Rule] = {}
    for name in names or (_EXTERNAL,):
        if name in names:
            pods.setdefault(Host(interfaces={name: list(usual)}), names[name])
        for number, by_number in numbers.items():
            address = (
                f"{_kind(family)(number)}/{64 if family == 6 else 24 if 0 < number & 0xFF < 0xFF else 32}"
            )
            pods.setdefault(Host(interfaces={name: [address, *others]}), by_number)
    pods.pop(Host(), None)
    return pods


def _interfaces_apart(rules: Iterable[Rule]) -> dict[str, Rule]:
    """Interfaces that conditions part from each other: every one named, one of each pattern, and another."""
    asked: dict[str, Rule] = {}
    for rule in rules:
        for match in rule.conditions():
            asked |= {name: asked.get(name, rule) for name in _names(match) if name not in ("lo", "+")}
    if not asked:
        return {}
    patterns = [name[:-1] for name in asked if name.endswith("+")]
    parted = {_EXTERNAL: next(iter(asked.values()))}
    for name, rule in asked.items():
        longer = tuple(pattern for pattern in patterns if len(pattern) >= len(name))
        if not name.endswith("+"):
            parted[name] = rule
        elif free := next(_free(name[:-1], asked, longer), None):
            parted[free] = rule
    others = (
        name for letter in ("other", *ascii_lowercase) for name in _free(letter, asked, tuple(patterns))
    )
    return parted | dict.fromkeys(islice(others, 1), parted[_EXTERNAL])


def _names(match: Match) -> Iterable[str]:
    """The interfaces that a condition names; a pattern ends with +."""
    if isinstance(match, Interfaces):
        return [f"{name[:-1]}+" if name.endswith("*") else name for name in match.names]
    return [match.name] if isinstance(match, Interface) else []


def _free(beginning: str, taken: Collection[str], patterns: tuple[str, ...]) -> Iterator[str]:
    """Names of interfaces that begin so, and are none of these and of no such pattern."""
    for end in ("0", "1", "", *digits, *ascii_lowercase):
        name = f"{beginning}{end}"
        if name not in taken and name != "lo" and not name.startswith(patterns):
            yield name


def _addresses_apart(rules: Iterable[Rule], family: Family, side: str | None) -> dict[int, Rule]:
    """An address of each piece that conditions cut all addresses into, which a pod can have.

    Args:
        side: "source" or "destination", of which the conditions are; None: whichever.
    """
    cuts: dict[int, Rule] = {}
    for rule in rules:
        spans = [span for match in rule.conditions() for span in _spans(match, family, side)]
        targets = () if side else assumed_targets(rule)
        spans += [(int(address), int(address)) for address in targets if address.version == family]
        for low, high in spans:
            if _usual(low, high, family) is None:
                continue  # addresses that no pod has part none
            cuts.setdefault(low, rule)
            cuts.setdefault(high + 1, rule)
    ends = sorted({0, *cuts, 1 << _BITS[family]})
    pieces = [(low, following - 1, cuts.get(low) or cuts.get(following)) for low, following in pairwise(ends)]
    tried = ((_usual(low, high, family), rule) for low, high, rule in pieces if rule is not None)
    return {number: rule for number, rule in tried if number is not None}


def _usual(low: int, high: int, family: Family) -> int | None:
    """An address of an interval that a pod can have, none of a network's ends if there is such a one."""
    within = [low + 1, low, high - 1, high, *((1 << bit) + 1 for bit in range(_BITS[family]))]
    had = [each for each in within if low <= each <= high and _can_be_had(_kind(family)(each))]
    return next((each for each in had if each & 0xFF not in (0, 0xFF)), had[0] if had else None)


def _spans(match: Match, family: Family, side: str | None) -> Iterator[tuple[int, int]]:
    """The addresses that a condition asks for, as closed intervals."""
    if isinstance(match, Address) and match.family == family and match.mask and side in (None, match.side):
        if _has_holes(match):
            yield from _samples(match.network, match.mask, family)
        else:
            yield match.network, match.network | match.mask ^ ((1 << _BITS[family]) - 1)
    if _asks_address(match) and KEYS[match.key].family == family and side in (None, _side(match.key)):
        if match.mask is None:
            yield from match.intervals
        else:
            yield from (each for low, _ in match.intervals for each in _samples(low, match.mask, family))
    for option in match.options if isinstance(match, Extension) else ():
        if option.name in _SIDES and side in (None, _SIDES[option.name]):
            for text in option.values:
                yield from _interval(text, family)


def _asks_address(match: Match) -> TypeGuard[Relation]:
    return isinstance(match, Relation) and match.key.endswith(("saddr", "daddr"))


def _has_holes(match: Match) -> bool:
    """Whether a condition asks for bits of an address that are no network's."""
    if isinstance(match, Address):
        free = match.mask ^ ((1 << _BITS[match.family]) - 1)
        return free & (free + 1) != 0
    return _asks_address(match) and match.mask is not None


def _samples(network: int, mask: int, family: Family) -> Iterator[tuple[int, int]]:
    """Addresses that have the bits that a mask with holes asks for, and one that has not."""
    base = _BASES[family]
    for asked in (network, network ^ (mask & -mask)):
        number = base & ~mask | asked
        yield number, number


def _side(key: str) -> str:
    return "source" if key.endswith("saddr") else "destination"


def _interval(text: str, family: Family) -> Iterator[tuple[int, int]]:
    low, dash, high = text.partition("-")
    try:
        if dash:
            ends = ipaddress.ip_address(low), ipaddress.ip_address(high)
        else:
            network = ipaddress.ip_network(low, strict=False)
            ends = network[0], network[-1]
    except ValueError:
        return
    if ends[0].version == family:
        yield int(ends[0]), int(ends[1])


def _can_be_had(address: IPAddress) -> bool:
    """Whether a pod can have it: not a loopback one, nor a group's, nor one of no host."""
    nobodys = address.is_loopback or address.is_multicast or address.is_unspecified
    return not nobodys and not (
        address.version == 4 and (int(address) >> 24 == 0 or int(address) == 0xFFFFFFFF)
    )


def _kind(family: Family) -> type[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
