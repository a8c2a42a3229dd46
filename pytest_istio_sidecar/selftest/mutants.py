"""Rulesets with one change each, as faults and hands make them.

Knows how a ruleset can be spoiled: by a rule lost, doubled, moved, negated,
widened, narrowed, retargeted, put above another, loaded twice, or held in
another back end. Does not know which change matters: that is for checks and
the kernel to say. Invariant: no two mutants of a pod's rules are equal, none
equals the original, and iptables-restore takes each of them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pytest_istio_sidecar.netfilter.matches import (
    Address,
    Interface,
    Mark,
    Match,
    Multiport,
    Owner,
    Protocol,
    Range,
    Transport,
)
from pytest_istio_sidecar.netfilter.model import TABLES, Backend, Chain, PodRules, Rule, Ruleset, Table
from pytest_istio_sidecar.netfilter.targets import Goto, Jump, Redirect, SetMark, Target, Tproxy, Verdict

TCP, UDP = 6, 17
_DOCUMENTATION = {4: "203.0.113.0/24", 6: "2001:db8:ffff::/48"}
"""Networks no pod is in (RFC 5737, RFC 3849), for conditions that narrow."""

_Lines = tuple[Rule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A pod's rules with one change.

    Attributes:
        operator: the kind of change: "delete", "swap", "negate" …
        change: what was changed, as a sentence's end: "deletes -A ISTIO_INBOUND …".
        rules: the pod's rules with it.
    """

    operator: str
    change: str
    rules: PodRules


def mutants(rules: PodRules) -> Iterator[Mutant]:
    """Every mutant of a pod's rules, in a fixed order."""
    seen = {rules.rulesets}
    for mutant in _all(rules):
        if mutant.rules.rulesets not in seen:
            seen.add(mutant.rules.rulesets)
            yield mutant


def _all(rules: PodRules) -> Iterator[Mutant]:
    yield from _of_halves(rules)
    for place, ruleset in enumerate(rules.rulesets):
        for operator, change, changed in _of_ruleset(ruleset):
            yield Mutant(operator=operator, change=change, rules=_with(rules, place, changed))


def _with(rules: PodRules, place: int, ruleset: Ruleset) -> PodRules:
    return replace(rules, rulesets=(*rules.rulesets[:place], ruleset, *rules.rulesets[place + 1 :]))


def _of_halves(rules: PodRules) -> Iterator[Mutant]:
    """One family lost, or moved to the other back end."""
    for place, ruleset in enumerate(rules.rulesets):
        if not any(ruleset.rules()):
            continue
        family = f"the IPv{ruleset.family} half"
        yield Mutant(
            operator="drop the half of a family",
            change=f"drops {family}",
            rules=_with(rules, place, replace(ruleset, tables=())),
        )
        if ruleset.backend is not None:
            other = Backend.LEGACY if ruleset.backend is Backend.NF_TABLES else Backend.NF_TABLES
            rest = (each for each in rules.rulesets if each is not ruleset)
            kept = tuple(each for each in rest if (each.family, each.backend) != (ruleset.family, other))
            moved = replace(ruleset, backend=other)
            yield Mutant(
                operator="move to the other back end",
                change=f"moves {family} to {other}",
                rules=replace(rules, rulesets=(*kept, moved)),
            )


def _of_ruleset(ruleset: Ruleset) -> Iterator[tuple[str, str, Ruleset]]:
    whose = "" if ruleset.family == 4 else " of ip6tables"
    for table in ruleset.tables:
        for chain in table.chains:
            for operator, change, changed in _of_chain(table, chain, ruleset.family):
                mutant = ruleset.with_table(table.with_chain(changed))
                yield operator, f"{change} (table {table.name}{whose})", mutant
        doubled = (chain.with_rules((*chain.rules, *chain.rules)) for chain in table.chains)
        change = f"holds every rule of table {table.name}{whose} twice"
        yield "load twice", change, ruleset.with_table(replace(table, chains=tuple(doubled)))
    for hook in ("INPUT", "OUTPUT"):
        dropped = Rule(chain=hook, matches=_tcp_to(80), target=Verdict("DROP"))
        yield (
            "insert DROP",
            f"puts {dropped.text} above rule 1 (table filter{whose})",
            _beginning_with(ruleset, "filter", hook, dropped),
        )


def _of_chain(table: Table, chain: Chain, family: int) -> Iterator[tuple[str, str, Chain]]:
    for operator, change, lines in _of_lines(table, chain, family):
        yield operator, change, chain.with_rules(lines)
    if chain.policy == "ACCEPT":
        yield "change the policy", f"sets the policy of {chain.name} to DROP", replace(chain, policy="DROP")


def _of_lines(table: Table, chain: Chain, family: int) -> Iterator[tuple[str, str, _Lines]]:
    lines = chain.rules
    if lines:
        yield "delete", f"empties {chain.name}", ()
    for place, rule in enumerate(lines):
        above, below = lines[:place], lines[place + 1 :]
        yield "delete", f"deletes {rule.text}", (*above, *below)
        yield "duplicate", f"repeats {rule.text}", (*above, rule, rule, *below)
        if below:
            yield "swap", f"swaps {rule.text} with the next", (*above, below[0], rule, *below[1:])
            yield "move", f"moves {rule.text} to the end", (*above, *below, rule)
        for operator, changed in _of_rule(rule, table, family):
            yield operator, f"makes {rule.text} {changed.text}", (*above, changed, *below)
    for place in range(len(lines) + 1):
        for inserted in _insertions(chain.name):
            where = f"above rule {place + 1}" if place < len(lines) else "at the end"
            yield (
                f"insert {inserted.text.rpartition(' ')[2]}",
                f"puts {inserted.text} {where}",
                (*lines[:place], inserted, *lines[place:]),
            )


def _insertions(chain: str) -> Iterator[Rule]:
    for verdict in ("RETURN", "ACCEPT"):
        for matches in ((Protocol(number=TCP),), _tcp_to(80), _tcp_to(443)):
            yield Rule(chain=chain, matches=matches, target=Verdict(verdict))


def _tcp_to(port: int) -> tuple[Match, ...]:
    return Protocol(number=TCP), Transport(module="tcp", destination=Range(low=port, high=port))


def _of_rule(rule: Rule, table: Table, family: int) -> Iterator[tuple[str, Rule]]:
    for place, match in enumerate(rule.matches):
        above, below = rule.matches[:place], rule.matches[place + 1 :]
        needed = isinstance(match, Protocol) and _needs_protocol(rule)
        if not needed:
            yield "widen", replace(rule, matches=(*above, *below))
        for operator, changed in _of_match(match, fixed=needed):
            yield operator, replace(rule, matches=(*above, changed, *below))
    yield from _narrowed(rule, family)
    if not any(isinstance(match, Transport | Multiport) for match in rule.matches):
        yield from _of_protocol(rule)
    for operator, target in _of_target(rule, table):
        yield operator, replace(rule, target=target)


def _needs_protocol(rule: Rule) -> bool:
    """Whether iptables refuses the rule without its protocol."""
    ports = isinstance(rule.target, Tproxy) or (
        isinstance(rule.target, Redirect) and rule.target.ports is not None
    )
    return ports or any(isinstance(match, Transport | Multiport) for match in rule.matches)


def _of_protocol(rule: Rule) -> Iterator[tuple[str, Rule]]:
    for place, match in enumerate(rule.matches):
        if isinstance(match, Protocol) and match.number == TCP and not match.negated:
            udp = (*rule.matches[:place], Protocol(number=UDP), *rule.matches[place + 1 :])
            yield "change the protocol", replace(rule, matches=udp)


def _narrowed(rule: Rule, family: int) -> Iterator[tuple[str, Rule]]:
    network = ipaddress.ip_network(_DOCUMENTATION[family])
    if not any(isinstance(match, Address) and match.side == "source" for match in rule.matches):
        address = Address(
            side="source",
            family=4 if family == 4 else 6,
            network=int(network.network_address),
            mask=int(network.netmask),
        )
        yield "narrow", replace(rule, matches=(address, *rule.matches))
    tcp = Protocol(number=TCP) in rule.matches
    if tcp and not any(isinstance(match, Transport | Multiport) for match in rule.matches):
        port = Transport(module="tcp", destination=Range(low=80, high=80))
        yield "narrow", replace(rule, matches=(*rule.matches, port))


def _of_match(match: Match, *, fixed: bool) -> Iterator[tuple[str, Match]]:
    """A condition negated, and its value changed."""
    match match:
        case Protocol():
            if not fixed:
                yield "negate", replace(match, negated=not match.negated)
        case Interface():
            yield "negate", replace(match, negated=not match.negated)
            yield "change the interface", replace(match, name="eth0" if match.name == "lo" else "lo")
        case Address():
            yield "negate", replace(match, negated=not match.negated)
            bits = 32 if match.family == 4 else 128
            host = (1 << bits) - 1
            if match.mask == host:
                yield "change the address", replace(match, network=match.network ^ 0b11)
                wider = host ^ 0xFF
                yield "widen", replace(match, network=match.network & wider, mask=wider)
        case Transport(destination=Range() as ports):
            yield "negate", replace(match, destination=replace(ports, negated=not ports.negated))
            yield "change the port", replace(match, destination=_shifted(ports))
            if ports.high < 65535:
                yield "widen", replace(match, destination=replace(ports, high=ports.high + 1))
        case Multiport():
            yield "negate", replace(match, negated=not match.negated)
        case Owner():
            for name in ("uid", "gid"):
                owner: Range | None = getattr(match, name)
                if owner is not None:
                    negated, shifted = replace(owner, negated=not owner.negated), _shifted(owner)
                    yield "negate", _owned(match, name, negated)
                    yield "change the owner", _owned(match, name, shifted)
            if (match.uid is None) != (match.gid is None):
                yield "change the owner", replace(match, uid=match.gid, gid=match.uid)
        case Mark():
            yield "negate", replace(match, negated=not match.negated)
            yield "change the mark", replace(match, value=match.value ^ 1)
        case _:
            return


def _owned(match: Owner, name: str, value: Range) -> Owner:
    return replace(match, uid=value) if name == "uid" else replace(match, gid=value)


def _shifted(ports: Range) -> Range:
    step = 1 if ports.high < 65535 else -1
    return replace(ports, low=ports.low + step, high=ports.high + step)


def _of_target(rule: Rule, table: Table) -> Iterator[tuple[str, Target | None]]:
    chains = [chain.name for chain in table.chains if chain.policy is None and chain.name != rule.chain]
    match rule.target:
        case Verdict(name="RETURN"):
            yield "change the target", Verdict("ACCEPT")
        case Verdict(name="ACCEPT"):
            yield "change the target", Verdict("RETURN")
        case Jump(chain=name) | Goto(chain=name):
            yield "change the target", Verdict("RETURN")
            yield "change the target", Verdict("ACCEPT")
            yield "change the target", None
            yield "change the target", Goto(name) if isinstance(rule.target, Jump) else Jump(name)
            for other in chains:
                if other != name and _may_lead(table, rule.chain, other):
                    yield "change the target", Jump(other)
        case Redirect(ports=(low, high)):
            yield "change the redirect port", replace(rule.target, ports=(low + 1, high + 1))
            wrong = 15001 if low == 15006 else 15006
            yield "change the redirect port", replace(rule.target, ports=(wrong, wrong))
            yield "change the redirect port", replace(rule.target, ports=None)
            yield "change the target", Verdict("RETURN")
        case Tproxy():
            yield "change the redirect port", replace(rule.target, port=rule.target.port + 1)
            yield "change the target", Verdict("RETURN")
        case SetMark():
            yield "change the mark", replace(rule.target, value=rule.target.value ^ 1)
        case _:
            return


def _may_lead(table: Table, chain: str, other: str) -> bool:
    """Whether iptables takes a jump: no circle, and no question for an owner of what came in.

    Source: kernel net/netfilter/xt_owner.c, `hooks` of owner_mt_reg.
    """
    beyond = _reached(table, other)
    if chain in beyond:
        return False
    comes_in = any(chain in _reached(table, hook) for hook in ("PREROUTING", "INPUT") if hook in table)
    return not comes_in or not any(
        isinstance(match, Owner) for name in beyond for rule in table.chain(name) for match in rule.matches
    )


def _reached(table: Table, start: str) -> set[str]:
    """The chains that a packet in chain `start` can come to, itself too."""
    waiting, seen = [start], {start}
    while waiting:
        for rule in table.chain(waiting.pop()):
            if isinstance(rule.target, Jump | Goto) and rule.target.chain not in seen:
                seen.add(rule.target.chain)
                waiting.append(rule.target.chain)
    return seen


def _beginning_with(ruleset: Ruleset, name: str, hook: str, rule: Rule) -> Ruleset:
    """The ruleset with a rule first in a built-in chain, whose table may not be there yet."""
    hooks = tuple(Chain(name=hook, policy="ACCEPT") for hook in TABLES[name])
    table = ruleset.table(name) if name in ruleset else Table(name=name, chains=hooks)
    chain = table.chain(hook)
    return ruleset.with_table(table.with_chain(chain.with_rules((rule, *chain.rules))))
