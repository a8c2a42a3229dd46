"""The fields of a packet that enters at a hook, as levels of a diagram.

Knows which level stands for which field, and turns values, intervals and masks into boxes and
back. Does not know what a rule asks. Invariant: every point of the levels is one packet.

A field is one level, unless rules test it with masks that are no ranges (marks, `-s 10.0.0.1/255.0.0.255`):
then its bits are parted into groups that each mask holds whole or not at all, each a level of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pytest_istio_sidecar.netfilter.diagram.diagram import Box, Diagrams, Node
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval, outside
from pytest_istio_sidecar.netfilter.kernel.hooks import base_chains
from pytest_istio_sidecar.netfilter.matches import Address, Interface, Mark, Match, asks_for_marks
from pytest_istio_sidecar.netfilter.model import Family, Ruleset
from pytest_istio_sidecar.netfilter.packet import Hook, Host
from pytest_istio_sidecar.netfilter.relations import KEYS, Interfaces, Relation
from pytest_istio_sidecar.netfilter.targets import Assign, Extended, SetMark, Tproxy

FieldName = Literal[
    "protocol", "interface", "uid", "gid", "mark", "source", "destination", "destination_port", "source_port"
]
ORDER: Final[tuple[FieldName, ...]] = (
    "protocol",
    "interface",
    "uid",
    "gid",
    "mark",
    "source",
    "destination",
    "destination_port",
    "source_port",
)
"""From the top level down: fields of few values first keep diagrams narrow."""

NO_SOCKET: Final = 0
"""The value of uid and gid where there is no socket; an id is its number plus one."""

_BITS = {"protocol": 8, "uid": 32, "gid": 32, "mark": 32, "destination_port": 16, "source_port": 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A level, and which bits of the field it holds, pressed together."""

    level: int
    mask: int
    shifts: tuple[int, ...]
    """Of each bit held, from the lowest: its place in the field."""

    def press(self, value: int) -> int:
        return sum(((value >> shift) & 1) << place for place, shift in enumerate(self.shifts))

    def spread(self, pressed: int) -> int:
        return sum(((pressed >> place) & 1) << shift for place, shift in enumerate(self.shifts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field of `top + 1` values on one level (no `parts`), or in parts."""

    name: FieldName
    level: int
    top: int
    parts: tuple[Part, ...] = ()

    def masked(self, value: int, mask: int) -> Box:
        """The values whose bits under the mask are these."""
        if not self.parts:
            return {self.level: ((value, value | (mask ^ self.top)),)}
        box: Box = {}
        for part in self.parts:
            if part.mask & mask:
                low = part.press(value & mask)
                box[part.level] = ((low, low | part.press(part.mask & ~mask)),)
        return box

    def intervals(self, diagrams: Diagrams, intervals: Sequence[Interval]) -> Node:
        """The values in these closed intervals, ascending and apart."""
        if not self.parts:
            return (
                diagrams.box({self.level: tuple(intervals)}, diagrams.holds) if intervals else diagrams.fall
            )
        return diagrams.chain(
            [
                diagrams.box(self.masked(value, mask), diagrams.holds)
                for low, high in intervals
                for value, mask in _prefixes(low, high, self.top)
            ]
        )

    def values_in(self, box: Box) -> tuple[Interval, ...]:
        """The field's values in a box, of a field on one level."""
        return box.get(self.level, ((0, self.top),))

    def patterns_in(self, box: Box) -> Iterator[tuple[bool, list[tuple[int, int]]]]:
        """The values in a box of a field in parts: of each part that the box asks for, value and mask pairs.

        A value has one pair of every part, or none of the part's pairs where they are given as excluded.
        """
        for part in self.parts:
            pressed_in = box.get(part.level)
            if pressed_in is None:
                continue
            rest = outside(pressed_in, (1 << len(part.shifts)) - 1)
            excluded = _width(rest) < _width(pressed_in)
            top = (1 << len(part.shifts)) - 1
            yield (
                excluded,
                [
                    (part.spread(value), part.spread(mask))
                    for low, high in (rest if excluded else pressed_in)
                    for value, mask in _prefixes(low, high, top)
                ],
            )

    def is_free(self, box: Box) -> bool:
        """Whether a box leaves every value of the field."""
        levels = [part.level for part in self.parts] or [self.level]
        return not any(level in box for level in levels)


class Fields:
    """All fields of the packets of one family that enter at one hook of a host."""

    def __init__(self, rulesets: Iterable[Ruleset], hook: Hook, host: Host, family: Family) -> None:
        self.hook = hook
        self.host = host
        self.family = family
        rulesets = tuple(rulesets)
        rules = [rule for ruleset in rulesets for rule in ruleset.rules()]
        asked = [match for rule in rules for match in rule.conditions()]
        policy = host.policies.get(family)
        asked += policy.masks if policy is not None else ()
        matches = self.matches = tuple(dict.fromkeys(asked))
        targets = self.targets = tuple(dict.fromkeys(target for rule in rules for target in rule.targets()))
        devices = {name for ruleset in rulesets for base in base_chains(ruleset) for name in base.devices}
        self.interfaces = _interfaces(matches, sorted(devices), host, hook)
        tops: list[int] = []
        self._fields: dict[FieldName, Field] = {}
        bits = {**_BITS, "source": 32 if family == 4 else 128, "destination": 32 if family == 4 else 128}
        for name in ORDER:
            if name == "interface":
                top = len(self.interfaces) - 1
                masks: list[int] = []
            else:
                top = (1 << bits[name]) - 1
                masks = _masks(name, matches, family)
                if name == "mark":
                    masks += [mask for target in targets for mask in _masks_set(target)]
            level = len(tops)
            if name == "mark":
                # What a target keeps of a mark is what its mask does not have.
                holes = any(mask not in (0, top) for mask in masks)
            else:
                holes = any(not _is_prefix(mask, top) for mask in masks)
            parts = _parts(name, masks, top, level) if holes else ()
            tops += [(1 << len(part.shifts)) - 1 for part in parts] or [top]
            self._fields[name] = Field(name=name, level=level, top=top, parts=parts)
        self.tops = tuple(tops)
        """The greatest value of each level."""

    @property
    def is_routed(self) -> bool:
        """Whether rules and routes tell the interface by which packets leave, and addresses do not."""
        return self.family in self.host.policies

    def __getitem__(self, name: FieldName) -> Field:
        return self._fields[name]

    def __iter__(self) -> Iterator[Field]:
        return iter(self._fields.values())


def _width(intervals: Iterable[Interval]) -> int:
    return sum(high - low + 1 for low, high in intervals)


def _interfaces(matches: Iterable[Match], devices: Iterable[str], host: Host, hook: Hook) -> tuple[str, ...]:
    """The host's, those that rules name, one for each prefix they name, and one that none means."""
    names = dict.fromkeys((*host.interfaces, *devices))
    begins: set[str] = set()
    asked: tuple[str, ...]
    for match in matches:
        if isinstance(match, Interface):
            asked, wild = (match.name,), "+"
        elif isinstance(match, Interfaces):
            asked, wild = match.names, "*"
        else:
            continue
        for name in asked:
            if name.endswith(wild):
                begins.add(name[:-1])
            else:
                names[name] = None
    return _with_others(list(names), sorted(begins, key=len), hook)


def _with_others(names: list[str], prefixes: list[str], hook: Hook) -> tuple[str, ...]:
    """These names, one that has each prefix and no longer one, and one that has none."""
    for prefix in [*prefixes, "other"]:
        longer = tuple(other for other in prefixes if len(other) > len(prefix))
        endings = (str(number) for number in range(1000))
        names.append(
            next(
                name
                for name in (prefix + ending for ending in endings)
                if name not in names and not (longer and name.startswith(longer))
            )
        )
    return tuple(name for name in names if name != "lo" or hook == "OUTPUT") or ("lo",)


def _masks(name: str, matches: Iterable[Match], family: Family) -> list[int]:
    masks = []
    asked_by = _ASKED_BY.get(name, "").format("ip" if family == 4 else "ip6")
    for match in matches:
        if isinstance(match, Mark):
            masks += [match.mask] if name == "mark" else []
        elif isinstance(match, Address):
            masks += [match.mask] if match.side == name and match.family == family else []
        elif isinstance(match, Relation) and not match.is_of_loading:
            marks = name == "mark" and asks_for_marks(match)
            if marks or (match.key == asked_by and match.mask is not None):
                masks += [mask for _, mask in masked_values(match)]
    return masks


_ASKED_BY = {"source": "{} saddr", "destination": "{} daddr"}


def masked_values(match: Relation) -> Iterator[tuple[int, int]]:
    """The values of a relation as values under masks: that it is one of these, if it is not inverted."""
    top = KEYS[match.key].top
    own = top if match.mask is None else match.mask
    for low, high in match.intervals:
        for value, mask in _prefixes(low, high, top):
            if not value & ~own:
                yield value, mask & own


def _masks_set(target: object) -> list[int]:
    """The masks by which a target changes the mark: its bits are changed all alike only within them."""
    if isinstance(target, SetMark | Tproxy):
        return [target.mask]
    if isinstance(target, Assign):
        return [target.keep]
    if isinstance(target, Extended) and target.name == "CONNMARK":
        words = [word for option in target.options for value in option.values for word in value.split("/")]
        return [int(word, 0) for word in words if word.startswith("0x") or word.isdecimal()]
    return []


def _is_prefix(mask: int, top: int) -> bool:
    rest = mask ^ top
    return rest & (rest + 1) == 0


def _parts(name: str, masks: Iterable[int], top: int, level: int) -> tuple[Part, ...]:
    """The bits of a field in groups that each mask holds whole or not at all.

    Those of an address stay side by side, as it is asked for by ranges too (the host's networks, iprange): of
    such a group a range holds the first bits, if not all.
    """
    kept = sorted({mask for mask in masks if name == "mark" or not _is_prefix(mask, top)})
    groups: dict[object, list[int]] = {}
    run, last = 0, None
    for shift in reversed(range(top.bit_length())):
        key = tuple(mask >> shift & 1 for mask in kept)
        run += name != "mark" and key != last
        last = key
        groups.setdefault((run, key), []).append(shift)
    return tuple(
        Part(level=level + place, mask=sum(1 << shift for shift in shifts), shifts=tuple(sorted(shifts)))
        for place, shifts in enumerate(groups.values())
    )


def _prefixes(low: int, high: int, top: int) -> Iterator[tuple[int, int]]:
    """The interval as network and mask pairs (ipaddress.summarize_address_range, of any width)."""
    while low <= high:
        size = low & -low or top + 1
        while size > high - low + 1:
            size >>= 1
        yield low, top ^ (size - 1)
        low += size
