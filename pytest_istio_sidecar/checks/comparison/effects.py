"""The classes of packets that two sets of rules treat differently, over all packets.

Knows in which directions and states packets come, and that a fate in doubt is no fate. Does not
know which side is right. Invariant: what neither side, or only one, can tell raises `Undecided`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.tracing import decided, of_pod
from pytest_istio_sidecar.checks.wording import (
    DIRECTIONS,
    PacketClass,
    describe,
    in_words,
    of_direction,
    packet_fields,
)
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.netfilter.matches import Extension
from pytest_istio_sidecar.netfilter.model import Family, Rules, rulesets_of
from pytest_istio_sidecar.netfilter.packet import STATES, Fate, Hook, Host, Packet
from pytest_istio_sidecar.netfilter.relations import Relation
from pytest_istio_sidecar.netfilter.space.queries import (
    Cube,
    Difference,
    Outcome,
    differing,
    left_of,
    regions,
)

_HOOKS: tuple[Hook, ...] = ("PREROUTING", "OUTPUT")
_PORTS = 0xFFFF
_STAYING = (Fate.UNCHANGED, Fate.DROPPED, Fate.UNKNOWN)
"""Fates that send a packet nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Packets of one direction that one side sends elsewhere than the other.

    Attributes:
        observed, expected: what becomes of them on either side.
        cubes: the packets, as disjoint products of sets.
        witness: one of them.
    """

    observed: Outcome
    expected: Outcome
    cubes: tuple[Cube, ...]
    witness: Packet

    @property
    def where(self) -> tuple[dict[str, Any], ...]:
        """The packets, by the names of `Packet`'s fields: closed intervals and names."""
        return tuple(dict(cube.where) for cube in self.cubes)

    @property
    def text(self) -> str:
        """The packets in words: "inbound tcp 15021"."""
        return in_words(self.cubes)

    @property
    def names_its_ports(self) -> bool:
        """Whether both sides name a port, and neither the packet's own."""
        moved = (side for side in (self.observed, self.expected) if side.fate not in _STAYING)
        return not any(isinstance(side.port, str) for side in moved)

    @property
    def fates(self) -> str:
        """Both sides in words: "expected unchanged, here redirected to :15006"."""
        return f"expected {self._words(self.expected)}, here {self._words(self.observed)}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "text": self.text,
            "where": list(self.where),
            "witness": packet_fields(self.witness),
            "observed": self._words(self.observed),
            "expected": self._words(self.expected),
        }

    def _words(self, outcome: Outcome) -> str:
        spans = {tuple(map(tuple, where.get("destination_port", ()))) for where in self.where}
        ports = {span for each in spans or {()} for span in each or ((0, _PORTS),)}
        low, high = next(iter(ports))
        return outcome_in_words(outcome, low if len(ports) == 1 and low == high else None)


def effects_of(
    observed: Rules, expected: Rules, *, family: Family, host: Host, meant: bool = False
) -> tuple[Effect, ...]:
    """Every class of packets whose fate differs; disjoint.

    Args:
        meant: whether the expected rules are met by packets that go where the host's addresses tell.

    Raises:
        Undecided: one side does not tell what becomes of some packet.
    """
    effects: list[Effect] = []
    for state in _states(observed, expected, family):
        for hook in _HOOKS:
            differences = differing(
                observed, expected, hook, host=host, family=family, state=state, meant=meant
            )
            theirs = host.meant if meant else host
            _refuse_doubt(observed, expected, hook, (host, theirs), family, state, differences)
            effects += _together(
                Effect(
                    observed=difference.observed,
                    expected=difference.expected,
                    cubes=difference.cubes,
                    witness=difference.witness,
                )
                for difference in differences
            )
    return tuple(effects)


def _together(effects: Iterable[Effect]) -> Iterator[Effect]:
    """Those that read the same as one: packets that go to a port already are not told apart from others."""
    alike: dict[str, list[Effect]] = {}
    for effect in effects:
        alike.setdefault(effect.fates, []).append(effect)
    for first, *others in alike.values():
        cubes = (*first.cubes, *(cube for other in others for cube in other.cubes))
        named = next((one for one in (first, *others) if one.names_its_ports), first)
        yield replace(named, cubes=cubes)


def not_allowed(effects: Iterable[Effect], allowed: Sequence[PacketClass]) -> tuple[Effect, ...]:
    """The effects without the packets that get by and may."""
    return tuple(left for effect in effects for left in _left(effect, allowed))


def _left(effect: Effect, allowed: Sequence[PacketClass]) -> Iterator[Effect]:
    if effect.observed.fate not in (Fate.UNCHANGED, Fate.TRANSLATED):
        yield effect
        return
    fields = effect.cubes[0].fields
    products = of_direction(allowed, DIRECTIONS[fields.hook], fields.family)
    cubes = left_of(effect.cubes, products) if products else effect.cubes
    if cubes:
        yield replace(effect, cubes=cubes, witness=cubes[0].witness)


def outcome_in_words(outcome: Outcome, port: int | None = None) -> str:
    """What becomes of packets, in a few words.

    Args:
        port: to which all of them go; None: to several.
    """
    if outcome.fate in _STAYING:
        return str(outcome.fate)
    kept = isinstance(outcome.port, str)
    to = outcome.port if not kept else port
    if outcome.fate is Fate.TRANSLATED:
        address = "its own address" if isinstance(outcome.address, str) else str(outcome.address)
        return f"{outcome.fate} to {address}" + ("" if kept or to is None else f":{to}")
    if to is None:
        return f"{outcome.fate} to its own port" if kept else str(outcome.fate)
    return f"{outcome.fate} to :{to}"


def _states(observed: Rules, expected: Rules, family: Family) -> tuple[str, ...]:
    """NEW, and where some rule may ask for conntrack's state every other."""
    asked = any(
        isinstance(match, Extension) or (isinstance(match, Relation) and match.key.startswith("ct "))
        for rules in (observed, expected)
        for ruleset in rulesets_of(rules, family)
        for rule in ruleset.rules()
        for match in rule.conditions()
    )
    return STATES if asked else ("NEW",)


def _refuse_doubt(
    observed: Rules,
    expected: Rules,
    hook: Hook,
    hosts: tuple[Host, Host],
    family: Family,
    state: str,
    differences: tuple[Difference, ...],
) -> None:
    for difference in differences:
        sides = zip((observed, expected), hosts, (difference.observed, difference.expected), strict=True)
        for rules, host, outcome in sides:
            if outcome.fate is Fate.UNKNOWN:
                decided(rules, difference.witness, host)
                raise Undecided(messages.NOT_TOLD(packet=describe(difference.witness), pod=of_pod(rules)))
    for packet in _in_doubt(expected, hook, hosts[1], family, state):
        decided(expected, packet, hosts[1])
        raise Undecided(messages.NEITHER_TELLS(packet=describe(packet)))


def _in_doubt(rules: Rules, hook: Hook, host: Host, family: Family, state: str) -> Iterator[Packet]:
    for region in regions(rules, hook, host=host, family=family, state=state):
        if region.fate is Fate.UNKNOWN:
            yield region.witness
