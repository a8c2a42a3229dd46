"""What becomes of packets where that must be known, and what sets the rules they met apart from Istio's.

Knows whole classes of packets that are captured, and single ones; how the chains that a packet passed differ
from a described release's. Does not know what should become of a packet. Invariant: a packet whose fate
is unknown raises `Undecided`; a cause is a difference of text only, and no verdict rests on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.wording import describe
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.failure import Fact
from pytest_istio_sidecar.istio.rules import ERAS, expected_ruleset
from pytest_istio_sidecar.netfilter.matches import PROTOCOLS
from pytest_istio_sidecar.netfilter.model import Chain, Family, Rule, Rules, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Fate, Hook, Host, IPAddress, Packet
from pytest_istio_sidecar.netfilter.space.partition import FieldName, regions
from pytest_istio_sidecar.netfilter.targets import Goto, Jump
from pytest_istio_sidecar.netfilter.trace.trace import Trace, trace

CAPTURED = (Fate.REDIRECTED, Fate.TPROXIED, Fate.TRANSLATED)
_ALIKE = 0.5
"""Share of a release's rules that a ruleset must have for the two to be worth comparing."""
_FAMILIES: tuple[Family, ...] = (4, 6)
_HOOKS: tuple[Hook, ...] = ("PREROUTING", "OUTPUT")


def decided(rules: Rules, packet: Packet, host: Host | None) -> Trace:
    """Trace a packet whose fate must be known.

    Raises:
        Undecided: it is not, or nothing was read for the packet's family.
    """
    if not rulesets_of(rules, packet.family):
        raise Undecided(
            messages.NO_RULES_READ(packet=describe(packet), family=packet.family, pod=of_pod(rules))
        )
    traced = trace(rules, packet, host=host)
    if traced.fate is Fate.UNKNOWN:
        raise Undecided(
            messages.NOT_TOLD(
                packet=describe(packet), pod=of_pod(rules), facts=[("because", "\n".join(traced.reasons[:3]))]
            )
        )
    return traced


def captured(
    rules: Rules, host: Host, protocol: str, *, destination_port: int | None = None
) -> Iterator[Trace]:
    """Traces of packets that are captured: one of each class that the rules tell apart.

    Args:
        protocol: the name of theirs.
        destination_port: where they go; None: wherever.

    Raises:
        Undecided: what becomes of some packet is not known.
    """
    wanted: dict[FieldName, int] = {"protocol": PROTOCOLS[protocol]}
    if destination_port is not None:
        wanted["destination_port"] = destination_port
    for family in _FAMILIES:
        if not _has_rules(rules, family):
            continue
        for hook in _HOOKS:
            for region in regions(rules, hook, host=host, family=family):
                if region.fate not in CAPTURED and region.fate is not Fate.UNKNOWN:
                    continue
                for cube in region.cubes:
                    packet = cube.packet(wanted)
                    if all(getattr(packet, name) == value for name, value in wanted.items()):
                        yield decided(rules, packet, host)


def addressed_families(rules: Rules, host: Host) -> Iterator[tuple[Family, IPAddress]]:
    """The families in which there are rules and neighbours reach the host, with its address."""
    for family in _FAMILIES:
        own = host.primary(host.external(), family)
        if own is not None and _has_rules(rules, family):
            yield family, own


def _has_rules(rules: Rules, family: Family) -> bool:
    return any(any(ruleset.rules()) for ruleset in rulesets_of(rules, family))


def of_pod(rules: Rules) -> str:
    """The pod in brackets, where it is known."""
    pod = getattr(rules, "pod", "") or getattr(getattr(rules, "ruleset", None), "pod", "")
    return f" ({pod})" if pod else ""


def assumptions(rules: Rules, family: int) -> tuple[str, ...]:
    """What the rulesets of a family took from an expectation."""
    taken = rulesets_of(rules, 4 if family == 4 else 6)
    return tuple(assumption for ruleset in taken for assumption in ruleset.assumptions)


def routing_facts(host: Host | None) -> list[Fact]:
    """What somebody added to the namespace's routing, where it leads packets elsewhere than meant."""
    policies = [] if host is None else host.policies.values()
    added = [line for policy in policies for line in policy.added]
    return [("routing", "\n".join(added))] if added else []


def cause_of(traced: Trace, rules: Rules) -> str:
    """What sets the chains of nat that a packet passed apart from Istio's, or led it another way, or ""."""
    routed = [step.outcome for step in traced.steps if step.table == "routing"]
    if routed:
        return f"rules and routes that somebody added to the namespace lead it {routed[0]}"
    steps = [step for step in traced.steps if step.table == "nat"]
    passed = {step.chain for step in steps}
    for step in steps:
        if step.matched and step.rule is not None and isinstance(step.rule.target, Jump | Goto):
            passed.add(step.rule.target.chain)
    for ruleset in rulesets_of(rules, traced.packet.family):
        version, expected = _nearest(ruleset)
        if expected is None:
            continue
        parts = [
            part
            for chain in expected.nat.chains
            if chain.name in passed
            for part in _differences(chain, _chain(ruleset, chain.name), version)
        ]
        if parts:
            return "; ".join(parts)
    return ""


def _nearest(ruleset: Ruleset) -> tuple[str, Ruleset | None]:
    """The described release from which this ruleset differs least, if they have enough in common."""
    own = set(ruleset.nat.rules())
    best: tuple[int, str, Ruleset] | None = None
    for version in ERAS:
        expected = _expected(version, ruleset.family)
        wanted = set(expected.nat.rules())
        differing = len(wanted ^ own)
        alike = len(wanted & own) >= _ALIKE * len(wanted)
        if alike and (best is None or differing < best[0]):
            best = differing, version, expected
    return (best[1], best[2]) if best else ("", None)


@cache
def _expected(version: str, family: Family) -> Ruleset:
    return expected_ruleset(version, family=family)


def _chain(ruleset: Ruleset, name: str) -> Chain:
    return ruleset.nat.chain(name) if name in ruleset.nat else Chain(name=name)


def _differences(expected: Chain, observed: Chain, version: str) -> list[str]:
    missing = [rule for rule in expected if rule not in observed.rules]
    foreign = [rule for rule in observed if rule not in expected.rules]
    parts = []
    if missing:
        parts.append(f"{expected.name} lacks Istio {version}'s {_listed(missing)}")
    if foreign:
        numbers = ", ".join(str(rule.number) for rule in foreign)
        which = f"rule{'s' if len(foreign) > 1 else ''} {numbers}"
        where = f" ({foreign[0].location})" if foreign[0].location else ""
        parts.append(f"{which} of {expected.name}{where} is not Istio {version}'s")
    if not parts and observed.rules != expected.rules:
        parts.append(f"the rules of {expected.name} are in another order than Istio {version}'s")
    return parts


def _listed(rules: list[Rule]) -> str:
    return ", ".join(f"`{rule.text.removeprefix(f'-A {rule.chain} ')}`" for rule in rules)
