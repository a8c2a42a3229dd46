"""Pods that rules may be of, where nobody said what addresses their pod has.

Knows which addresses and interfaces rules name. Does not know what is asked of the rules. Invariant: a
verdict on the default host holds only where it is the same for each pod that a rule singles out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.tracing import of_pod
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.netfilter.matches import Address, Interface, Match
from pytest_istio_sidecar.netfilter.model import Family, Rule, Rules, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.packet import DEFAULT_INTERFACES, Host
from pytest_istio_sidecar.netfilter.relations import KEYS, Interfaces, Relation

_EXTERNAL = "eth0"
_MOST = 32
"""Pods that are tried; more are not, and the answer is open."""
_ELSEWHERE: dict[Family, str] = {4: "198.51.100.10/24", 6: "2001:db8:ffff::10/64"}
"""An address for a pod that is anything but what a rule names (RFC 5737, RFC 3849)."""


def other_hosts(rules: Rules, expected: Rules | None, host: Host | None) -> Iterator[tuple[Rule, Host]]:
    """Pods that rules beyond the expected ones single out by address or interface, each with its rule.

    Args:
        host: the pod, where somebody said what it has; None or the default host: nobody did, else there is
            nothing to try.

    Raises:
        Undecided: there are too many to try.
    """
    if host is not None and host != Host():
        return
    seen = {Host()}
    families: tuple[Family, ...] = (4, 6)
    for family in families:
        meant = {rule for ruleset in _of(expected, family) for rule in ruleset.rules()}
        for ruleset in rulesets_of(rules, family):
            for rule in ruleset.rules():
                for other in _singled_out(rule, family) if rule not in meant else ():
                    if other in seen:
                        continue
                    if len(seen) > _MOST:
                        raise not_stated(rules, rule)
                    seen.add(other)
                    yield rule, other


def not_stated(rules: Rules, rule: Rule) -> Undecided:
    """The error where an answer depends on what the pod has, which nobody said."""
    return Undecided(
        messages.HOST_NOT_STATED(
            rule=rule.text, place=f" ({rule.location})" if rule.location else "", pod=of_pod(rules)
        )
    )


def _of(rules: Rules | None, family: Family) -> tuple[Ruleset, ...]:
    return () if rules is None else rulesets_of(rules, family)


def _singled_out(rule: Rule, family: Family) -> Iterator[Host]:
    conditions = list(rule.conditions())
    names = [name for match in conditions for name in _names(match)]
    name = names[0] if names else _EXTERNAL
    named = [own for match in conditions for own in _addresses(match, family)]
    if not names and not named:
        return
    usual = DEFAULT_INTERFACES[_EXTERNAL]
    for own in named or [""]:
        others = [text for text in usual if (":" in text) != (family == 6)]
        yield Host(interfaces={name: [own, *others] if own else list(usual)})


def _names(match: Match) -> Iterator[str]:
    """An interface that a pod can have and the condition means."""
    if isinstance(match, Interface) and match.name != "lo":
        yield _name(match)
    elif isinstance(match, Interfaces):
        others = [name for name in match.names if name != "lo"]
        if match.negated and others:
            yield "other0"
        elif not match.negated:
            yield from (f"{name[:-1]}0" if name.endswith("*") else name for name in others)


def _addresses(match: Match, family: Family) -> Iterator[str]:
    """Addresses that a pod can have and the condition means."""
    if isinstance(match, Address):
        if _counts(match, family):
            yield _address(match)
        return
    if not isinstance(match, Relation) or KEYS[match.key].family != family:
        return
    top = KEYS[match.key].top
    for low, high in match.intervals if match.key.endswith(("saddr", "daddr")) else ():
        # The whole of a network but its first address; or of flags under a mask, one that has these.
        one = Address(side="destination", family=family, network=low + (low < high), mask=top)
        if (low, high) != (0, top) and _counts(one, family):
            yield _ELSEWHERE[family] if match.negated else _address(one)


def _name(match: Interface) -> str:
    if match.negated:
        return "other0"
    return f"{match.name[:-1]}0" if match.name.endswith("+") else match.name


def _counts(match: Address, family: Family) -> bool:
    """Whether a pod can have an address that it means: not a loopback one, nor a group's."""
    if match.family != family or not match.mask:
        return False
    address = _kind(family)(match.network)
    return not (address.is_loopback or address.is_multicast or address.is_unspecified)


def _address(match: Address) -> str:
    """An address that the condition holds for, with its network."""
    family = match.family
    if match.negated:
        return _ELSEWHERE[family]
    full = (1 << (32 if family == 4 else 128)) - 1
    free = full ^ match.mask
    number = match.network | (free & -free)
    return f"{_kind(family)(number)}/{24 if family == 4 else 64}"


def _kind(family: Family) -> type[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
