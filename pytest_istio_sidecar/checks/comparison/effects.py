"""The classes of packets that two sets of rules treat differently, over all packets.

Knows in which directions and states packets come, and that a fate in doubt is no fate. Does not
know which side is right. Invariant: what neither side, or only one, can tell raises `Undecided`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.tracing import decided, of_pod
from pytest_istio_sidecar.checks.wording import describe, in_words, packet_fields
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.netfilter.matches import Extension
from pytest_istio_sidecar.netfilter.model import Family, Rules, rulesets_of
from pytest_istio_sidecar.netfilter.packet import STATES, Fate, Hook, Host, Packet
from pytest_istio_sidecar.netfilter.space.partition import Cube, Difference, Outcome, differing, regions

_HOOKS: tuple[Hook, ...] = ("PREROUTING", "OUTPUT")


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
    def fates(self) -> str:
        """Both sides in words: "expected unchanged, here redirected to :15006"."""
        return f"expected {outcome_in_words(self.expected)}, here {outcome_in_words(self.observed)}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "text": self.text,
            "where": list(self.where),
            "witness": packet_fields(self.witness),
            "observed": outcome_in_words(self.observed),
            "expected": outcome_in_words(self.expected),
        }


def effects_of(
    observed: Rules, expected: Rules, *, family: Family, host: Host, meant: bool = False
) -> tuple[Effect, ...]:
    """Every class of packets whose fate differs; disjoint.

    Args:
        meant: whether the expected rules are met by packets that go where the host's addresses tell.

    Raises:
        Undecided: one side does not tell what becomes of some packet.
    """
    effects = []
    for state in _states(observed, expected, family):
        for hook in _HOOKS:
            differences = differing(
                observed, expected, hook, host=host, family=family, state=state, meant=meant
            )
            theirs = host.meant if meant else host
            _refuse_doubt(observed, expected, hook, (host, theirs), family, state, differences)
            effects += [
                Effect(
                    observed=difference.observed,
                    expected=difference.expected,
                    cubes=difference.cubes,
                    witness=difference.witness,
                )
                for difference in differences
            ]
    return tuple(effects)


def outcome_in_words(outcome: Outcome) -> str:
    """What becomes of packets, in a few words."""
    if outcome.fate in (Fate.UNCHANGED, Fate.DROPPED, Fate.UNKNOWN):
        return str(outcome.fate)
    port = "" if outcome.port in ("own", None) else f":{outcome.port}"
    where = port if outcome.fate is not Fate.TRANSLATED else f"{outcome.address}{port}"
    return f"{outcome.fate} to {where}" if where else str(outcome.fate)


def _states(observed: Rules, expected: Rules, family: Family) -> tuple[str, ...]:
    """NEW, and where some rule may ask for conntrack's state every other."""
    asked = any(
        isinstance(match, Extension)
        for rules in (observed, expected)
        for ruleset in rulesets_of(rules, family)
        for rule in ruleset.rules()
        for match in rule.matches
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
