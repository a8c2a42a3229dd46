"""Pods that rules may be of, where nobody said what addresses their pod has.

Knows which addresses and interfaces rules name, and which of them a traced packet would fare otherwise by.
Does not know what is asked of the rules. Invariant: a verdict on the default host holds only where it is the
same for each pod that a rule singles out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterator
from itertools import product
from typing import TypeAlias

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.tracing import of_pod
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.netfilter.matches import Address, Interface
from pytest_istio_sidecar.netfilter.model import Family, Rule, Rules, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.packet import DEFAULT_INTERFACES, Fate, Host, IPAddress, Packet
from pytest_istio_sidecar.netfilter.trace.trace import Trace, trace

_EXTERNAL = "eth0"
_MOST = 32
"""Pods that are tried; more are not, and the answer is open."""
_MOST_ON_A_WAY = 256
"""The same where one packet is followed in each."""
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
        Them, and whether all were tried.
    """
    family = traced.packet.family
    meant = {rule for ruleset in _of(expected, family) for rule in ruleset.rules()}
    seen, ways = {traced.host}, [traced]
    otherwise: list[tuple[Rule, Trace]] = []
    for way in ways:
        for rule, host in ((met, pod) for met in _met(way, meant) for pod in _singled_out(met, family)):
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
                otherwise.append((rule, there))
    return otherwise, True


def by_other_senders(
    traced: Trace, asked: Callable[[IPAddress], Packet], expected: Rules | None = None
) -> Iterator[tuple[Rule, Trace]]:
    """The same of neighbours whose addresses rules on its way single out."""
    family = traced.packet.family
    meant = {rule for ruleset in _of(expected, family) for rule in ruleset.rules()}
    for rule in _met(traced, meant):
        for match in rule.matches:
            if isinstance(match, Address) and match.side == "source" and _counts(match, family):
                for text in _addresses(match):
                    source = ipaddress.ip_interface(text).ip
                    there = trace(traced.rules, asked(source), host=traced.host)
                    if not traced.host.is_local(source) and not _alike(there, traced):
                        yield rule, there


def singles_pods_out(traced: Trace) -> bool:
    """Whether a rule on a packet's way tells pods apart by their address."""
    family, own = traced.packet.family, traced.host
    pods = (pod for rule in _met(traced, ()) for pod in _singled_out(rule, family))
    return any(pod.external() == own.external() and pod != own for pod in pods)


def _met(traced: Trace, meant: Collection[Rule]) -> list[Rule]:
    return [step.rule for step in traced.steps if step.rule is not None and step.rule not in meant]


def _alike(one: Trace, other: Trace) -> bool:
    """Whether two packets end up at one place; each pod's own address is the same place."""
    if (one.fate, one.destination.port) != (other.fate, other.destination.port):
        return False
    return one.destination.address == other.destination.address or (_is_own(one) and _is_own(other))


def _is_own(traced: Trace) -> bool:
    return traced.fate is Fate.UNCHANGED or traced.host.is_local(traced.destination.address)


def _of(rules: Rules | None, family: Family) -> tuple[Ruleset, ...]:
    return () if rules is None else rulesets_of(rules, family)


def _singled_out(rule: Rule, family: Family) -> Iterator[Host]:
    names = [name for match in rule.matches if isinstance(match, Interface) for name in _names(match)]
    own = [
        text
        for match in rule.matches
        if isinstance(match, Address) and _counts(match, family)
        for text in _addresses(match)
    ]
    if not names and not own:
        return
    usual = DEFAULT_INTERFACES[_EXTERNAL]
    others = [text for text in usual if (":" in text) != (family == 6)]
    for name, address in product(names or [_EXTERNAL], own or [""]):
        yield Host(interfaces={name: [address, *others] if address else list(usual)})


def _names(match: Interface) -> list[str]:
    """Interfaces by which the condition tells pods apart: one that it holds for, one that it does not."""
    if match.name == "lo":
        return []
    name = f"{match.name[:-1]}0" if match.name.endswith("+") else match.name
    return ["other0", name] if match.negated else [name]


def _counts(match: Address, family: Family) -> bool:
    """Whether a pod can have an address that it means: not a loopback one, nor a group's."""
    if match.family != family or not match.mask:
        return False
    address = _kind(family)(match.network)
    return not (address.is_loopback or address.is_multicast or address.is_unspecified)


def _addresses(match: Address) -> list[str]:
    """Addresses by which the condition tells pods apart, each with its network: as `_names`."""
    family = match.family
    full = (1 << (32 if family == 4 else 128)) - 1
    free = full ^ match.mask
    number = match.network | (free & -free)
    within = f"{_kind(family)(number)}/{24 if family == 4 else 64}"
    return [_ELSEWHERE[family], within] if match.negated else [within]


def _kind(family: Family) -> type[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
