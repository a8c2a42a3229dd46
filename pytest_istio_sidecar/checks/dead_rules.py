"""Rules that no packet matches, and why.

Knows how to ask which rules take the packets of another. Does not know Istio's chains. Invariant: a reason
is what the analysis of this very table says; a rule below others is never called shadowed unless they
take packets that it would match.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.arguments import refuse_table
from pytest_istio_sidecar.checks.finding import Finding, Kind, Severity
from pytest_istio_sidecar.checks.tracing import not_read, of_pod
from pytest_istio_sidecar.checks.wording import numbered, of_family
from pytest_istio_sidecar.netfilter.model import HOOKS, Chain, Rule, Table
from pytest_istio_sidecar.netfilter.packet import Hook, Host
from pytest_istio_sidecar.netfilter.space.queries import Reach, reach
from pytest_istio_sidecar.netfilter.targets import Goto, Jump

_HOOKS: tuple[Hook, ...] = ("PREROUTING", "OUTPUT")
_ABOVE = "rules above"
"""Chain of a trial table; no chain of iptables has a blank in its name."""


def check_dead_rules(nat: Table, *, host: Host | None = None) -> list[Finding]:
    """Rules that no packet of this host can match, each as a notice with the rules that shadow it.

    Raises:
        Undecided: a chain by which packets come to the table's rules was not read.
    """
    refuse_table(nat)
    reached = _reached(nat, host)
    findings = []
    for rule in _unmatched(nat, reached):
        why = _reason(rule, nat, reached, host)
        findings.append(
            Finding(
                severity=Severity.NOTICE,
                kind=Kind.RULES,
                failure=messages.DEAD_RULE(
                    chain=f"{of_family(nat.ruleset.family)}{rule.chain}",
                    number=rule.number,
                    pod=of_pod(nat),
                    reason=why,
                ),
                rule=rule,
                facts=(("rule", rule.text),),
                cause=why,
            )
        )
    return findings


def dead_rules(nat: Table, *, host: Host | None = None) -> list[Rule]:
    """The same rules without the reasons, which take longer."""
    return _unmatched(nat, _reached(nat, host))


def _reached(nat: Table, host: Host | None) -> dict[Hook, Reach]:
    if not set(_HOOKS).isdisjoint(nat.unread):
        raise not_read(nat, "which rules no packet comes to")
    return {hook: reach(nat, hook, host=host) for hook in _HOOKS}


def _unmatched(nat: Table, reached: Mapping[Hook, Reach]) -> list[Rule]:
    matched = {place for hook in reached.values() for place in hook.matched}
    elsewhere = _run_elsewhere(nat)
    return [
        rule
        for rule in nat.rules()
        if (rule.chain, rule.number) not in matched and rule.chain not in elsewhere
    ]


def _run_elsewhere(nat: Table) -> set[str]:
    """INPUT and POSTROUTING with what they jump to: what comes to them is not followed."""
    chains = {chain.name: chain for chain in nat.chains}
    waiting = [name for name in HOOKS if name in chains and name not in _HOOKS]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in chains:
            continue
        seen.add(name)
        waiting += [rule.target.chain for rule in chains[name] if isinstance(rule.target, Jump | Goto)]
    return seen


def _reason(rule: Rule, nat: Table, reached: Mapping[Hook, Reach], host: Host | None) -> str:
    """Why no packet matches a rule."""
    hooks = [hook for hook in _HOOKS if rule.chain in reached[hook].entered]
    if not hooks:
        return f"no packet comes to {rule.chain}"
    trial = _with_its_packets_only(nat, rule)
    tried = [reach(trial, hook, host=host) for hook in hooks]
    takers = sorted({number for hook in tried for chain, number in hook.matched if chain == _ABOVE})
    if takers:
        takes = "takes" if len(takers) == 1 else "take"
        return f"{numbered(takers)} of {rule.chain} {takes} every packet that it would match"
    if any((rule.chain, 1) in hook.matchable for hook in tried):
        return "no route of this host makes a packet that it would match"
    return f"no packet that comes to {rule.chain} is one that it would match"


def _with_its_packets_only(nat: Table, rule: Rule) -> Table:
    """A trial: what a rule matches, of all that enters its chain, goes through the rules above it."""
    chain = nat.chain(rule.chain)
    above = [
        replace(other, chain=_ABOVE)
        for other in chain
        if other.number < rule.number and other.target is not None
    ]
    asked = replace(chain, rules=(replace(rule, number=1, target=Jump(_ABOVE)),))
    table = nat.with_chain(asked)
    table = replace(table, chains=(*table.chains, Chain(name=_ABOVE, rules=tuple(above))))
    return nat.ruleset.with_table(table).table(nat.name)
