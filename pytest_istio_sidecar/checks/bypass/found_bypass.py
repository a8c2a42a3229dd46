"""A class of packets that get by without Envoy, as it was found: with its rules and a witness.

Knows how a class is told in few words and by which rules its packets get by. Does not know which
classes there are (`bypasses`). Invariant: `where` is exact, `text` leaves out what changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import islice
from typing import cast

from pytest_istio_sidecar.checks.bypass.bypass import Bypass
from pytest_istio_sidecar.checks.tracing import stays_by_assumption
from pytest_istio_sidecar.checks.wording import (
    CLAUSES,
    DIRECTIONS,
    Direction,
    named_family,
    packet_fields,
    top_of,
)
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval, common, joined, outside
from pytest_istio_sidecar.netfilter.model import Family, Rule, Rules, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate, Packet
from pytest_istio_sidecar.netfilter.space.queries import NO_SOCKET, Part, Values, Where
from pytest_istio_sidecar.netfilter.trace.trace import Trace, in_each_order, trace

_NONE = (NO_SOCKET, NO_SOCKET)
_SOME = outside((_NONE,), top_of("uid", None))
"""The ids of a packet that has a socket."""
_READABLE = 256
"""Classes of one kind whose texts are compared with each other."""
_ENDS = 3
"""Places to which packets of a class are sent that are told; the rest are not."""
_MOVED = (Fate.REDIRECTED, Fate.TPROXIED, Fate.TRANSLATED)
_WHOSE = (
    "that depends on the pod's own addresses, which nobody stated, and {address} only stands for them: give "
    "--interface eth0=ADDRESS/PREFIX"
)
_TRACED = 16
"""Packets of a class that are traced to name the rules which let it by."""


class Standing(StrEnum):
    """Whether what gets by may."""

    BY_DESIGN = "by design"
    """The expected rules let it by: of a pod, those that its release's template asks for."""
    ACCEPTED = "accepted"
    """The project accepts the option that opens it."""
    MOVED = "moved"
    """It is taken for Envoy's: an option of the pod names Envoy's user or group, and nothing gainsays it."""
    REVIEWED = "reviewed"
    """It is on the project's list."""
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Passing:
    """How packets get by (or may), and whether by design."""

    certain: bool
    by_design: bool
    moved: bool
    """They are sent elsewhere than where they were going, though not to Envoy."""
    standing: Standing = Standing.OPEN
    """Where they do not get by by design."""
    by_options: bool = False
    """The pod's own options have them get by."""
    opened_by: tuple[str, ...] = ()
    """Those options, by the fields of `IstioOptions`."""
    asked: tuple[str, ...] = ()
    """The same as the pod asks for them: "excludeInboundPorts: 8443"."""
    doubt: str = ""
    """Why it cannot be told whether they may, where rules do tell that they get by."""
    reviews: tuple[int, ...] = ()
    """Which of the project's reviews have them: the one that holds, or all that do not."""


class FoundBypass:
    """A class of packets that get by without Envoy.

    Attributes:
        direction: "inbound" or "outbound".
        family: 4 or 6.
        by_design: whether the expected rules let the same packets by.
        certain: False where it depends on a condition that rules alone do not tell, or on what nobody said.
        standing: whether it may get by.
        opened_by: the options of the pod that open it, by the fields of `IstioOptions`; none where another
            does, or none was asked of.
        asked: the same as the pod asks for them.
        reviews: which entries of the project's list have it: the one that holds, or those that do not.
    """

    def __init__(self, part: Part, passing: Passing, rules: Rules, *, brief: bool = True) -> None:
        self.direction: Direction = DIRECTIONS[part.hook]
        self.family: Family = part.family
        self.by_design = passing.by_design
        self.certain = passing.certain
        self.standing = Standing.BY_DESIGN if passing.by_design else passing.standing
        self.opened_by = passing.opened_by
        self.asked = passing.asked
        self.reviews = passing.reviews
        self._part = part
        self._passing = passing
        self._rules = rules
        self._brief = brief
        """Whether `text` leaves out what changes nothing."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.text}>"

    @property
    def where(self) -> Where:
        """Names of `Packet`'s fields, each with the closed intervals and names it may have; exact."""
        return self._part.where

    @cached_property
    def witness(self) -> Packet:
        """One of the packets, as ordinary as they come."""
        return max(self._part.witnesses, key=_ordinary)

    @cached_property
    def trace(self) -> Trace:
        """What becomes of the witness."""
        return self._traced(self.witness)

    @property
    def rule(self) -> Rule | None:
        """The rule that lets the witness by; None: a policy."""
        return self.trace.deciding_rule

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that let packets of the class by, of as many as were traced."""
        deciding = (self._traced(packet).deciding_rule for packet in islice(self._part.samples(), _TRACED))
        return tuple(dict.fromkeys(rule for rule in deciding if rule is not None))

    @property
    def conditions(self) -> tuple[str, ...]:
        """Why it cannot be told whether they get by, or may; empty where it can."""
        if self._passing.doubt:
            return (self._passing.doubt,)
        if stays_by_assumption(self.trace):
            return (_WHOSE.format(address=self.trace.destination.address),)
        return self.trace.reasons

    @property
    def in_doubt(self) -> bool:
        """Whether its packets do get by, and what nobody said tells whether they may."""
        return bool(self._passing.doubt)

    @cached_property
    def bypass(self) -> Bypass:
        """The class as a value: exact, as `where` is."""
        return _as_bypass(self._part)

    @cached_property
    def in_brief(self) -> Bypass:
        """The class without the conditions that other classes of the same kind, or no packet, make up for."""
        return _without_half_sockets(_as_bypass(self._part.brief))

    @cached_property
    def text(self) -> str:
        """The class in few words: conditions that change nothing, beside the other classes, are left out."""
        text = str(self.in_brief if self._brief else self.bypass)
        rulesets = rulesets_of(self._rules, self.family)
        if (self.certain or self._passing.doubt) and not any(any(ruleset.rules()) for ruleset in rulesets):
            text += ": no rules"
        elif self._passing.moved:
            text += f": sent to {self.sent_to}" if self.sent_to else ": may be sent elsewhere"
        return text

    @property
    def packets(self) -> str:
        """The class in few words, as `text`, but for where its packets are sent."""
        return str(self.in_brief if self._brief else self.bypass) if self._passing.moved else self.text

    @property
    def passed_port(self) -> str:
        """Behind "without Envoy": the port of Envoy's that they pass by, where they are sent elsewhere."""
        if not self._passing.moved:
            return ""
        return f"'s port for {self.direction} traffic (sent to {self.sent_to or 'elsewhere'})"

    @cached_property
    def sent_to(self) -> str:
        """Where packets of the class are sent, if not where they were going; by any order of base chains."""
        if not self._passing.moved:
            return ""
        ends: dict[Endpoint, None] = {}
        keep_their_ports = False
        packets = (self.witness, *islice(self._part.samples(), _TRACED))
        traced = [in_each_order(self._rules, packet, host=self._part.host) for packet in packets]
        for traces in zip(*traced, strict=True):
            moved = [each for each in traces if each.fate in _MOVED]
            ports = {each.packet.destination_port for each in moved}
            if len(ports) > 1 and all(
                each.destination.port == each.packet.destination_port for each in moved
            ):
                keep_their_ports = True
                moved = moved[:1]
            ends |= dict.fromkeys(each.destination for each in moved)
        if keep_their_ports:
            return f"{next(iter(ends)).address}, each to its own port"
        listed = list(map(str, ends))
        return " or ".join([*listed[:_ENDS], *(["elsewhere"] if len(listed) > _ENDS else [])])

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        rule = self.rule
        entry: dict[str, object] = {
            "text": self.text,
            "where": self.where,
            "witness": packet_fields(self.witness),
            "rule": rule.text if rule is not None else None,
            "by_design": self.by_design,
        }
        if self.opened_by or self.standing not in (Standing.BY_DESIGN, Standing.OPEN):
            entry |= {
                "standing": str(self.standing),
                "opened_by": list(self.opened_by),
                "asked": list(self.asked),
            }
        elif self.asked:
            entry |= {"asked": list(self.asked)}
        return entry if self.certain else {**entry, "conditions": list(self.conditions)}

    def exact(self) -> FoundBypass:
        """The same class, whose text leaves nothing out."""
        return FoundBypass(self._part, self._passing, self._rules, brief=False)

    def widened(self) -> FoundBypass:
        """All packets that the text is true of, as one class."""
        return FoundBypass(self._part.brief, self._passing, self._rules)

    def reads_over(self, other: FoundBypass) -> bool:
        """Whether the text is true of packets of another class too."""
        return self._part.brief.meets(other._part)

    def _traced(self, packet: Packet) -> Trace:
        return trace(self._rules, packet, host=self._part.host)


def told_apart(classes: Sequence[FoundBypass]) -> Iterator[FoundBypass]:
    """Disjoint classes of one kind, those that read the same as one, or else each with its exact text."""
    if len(classes) > _READABLE:
        yield from (each.exact() for each in classes)
        return
    alike: dict[Bypass, list[FoundBypass]] = {}
    for each in classes:
        alike.setdefault(each.in_brief, []).append(each)
    for members in alike.values():
        if len(members) == 1:
            yield members[0]
        elif any(members[0].reads_over(other) for other in classes if other not in members):
            yield from (each.exact() for each in members)
        else:
            yield members[0].widened()


def _as_bypass(part: Part) -> Bypass:
    product = part.product
    return Bypass(
        direction=DIRECTIONS[part.hook],
        family=named_family(part.family, product),
        where=tuple((name, product[name]) for name in CLAUSES if name in product),
    )


def _without_half_sockets(brief: Bypass) -> Bypass:
    """The class without what no packet has, a user but no group or the reverse: "uid none,0 gid not none"."""
    where = dict(brief.where)
    if not {"uid", "gid"} <= where.keys():
        return brief
    uid, gid = (joined(cast("tuple[Interval, ...]", where[name])) for name in ("uid", "gid"))
    if uid[0][0] == NO_SOCKET != gid[0][0]:
        uid = common(uid, _SOME)
    elif gid[0][0] == NO_SOCKET != uid[0][0]:
        gid = common(gid, _SOME)
    if NO_SOCKET not in (uid[0][0], gid[0][0]):
        # One of them says that there is a socket; the other is said in fewer words.
        if gid[-1] == (gid[-1][0], top_of("gid", None)):
            gid = joined([_NONE, *gid])
        elif uid[-1] == (uid[-1][0], top_of("uid", None)):
            uid = joined([_NONE, *uid])
    ids: Mapping[str, Values] = {"uid": uid, "gid": gid}
    everybody: Values = ((NO_SOCKET, top_of("uid", None)),)
    conditions = [(name, ids.get(name, values)) for name, values in brief.where]
    return replace(brief, where=tuple(each for each in conditions if each[1] != everybody))


def _ordinary(packet: Packet) -> tuple[bool, ...]:
    """How much a packet is what people think of first: tcp to a neighbour, from the application."""
    return (
        packet.protocol == 6,
        packet.destination_port == 80,
        packet.uid is not None,
        packet.uid == packet.gid,
        not packet.mark,
        packet.out_interface != "lo",
    )
