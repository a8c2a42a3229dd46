"""What gets by without Envoy as rows of a table, whichever form lays it out.

Knows what a row says, and which classes are told as one. Does not know how it looks. Invariant: each row
names rules or says that a policy lets the packets by; what is told as one has just the packets of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

from pytest_istio_sidecar.checks.bypass.bypass import BOTH_FAMILIES, Bypass, without_remark
from pytest_istio_sidecar.checks.wording import top_of
from pytest_istio_sidecar.netfilter.diagram.intervals import joined
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.netfilter.space.queries import FieldName, Values

HEADS = ("Packets", "Let by", "By design")
POLICY = "the chain's policy"
ByDesign = Literal["yes", "no", "moved", "accepted", "reviewed", "cannot be told"]
_ALLOWED: Sequence[ByDesign] = ("moved", "accepted", "reviewed")
_READABLE = 128
"""Rows that are compared with each other."""
KINDS = ("inbound", "outbound", "conditional")


@dataclass(frozen=True, slots=True, kw_only=True)
class BypassRow:
    """One row.

    Attributes:
        rules: those that let packets of the class by; none: a policy does.
        conditions: why it cannot be told; empty where it can.
        asked: how the pod asks for the options that open it.
    """

    packets: str
    rules: tuple[str, ...]
    by_design: ByDesign
    conditions: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()

    @property
    def meant(self) -> str:
        """Whether it may get by, and which options of the pod open it."""
        return f"{self.by_design} ({', '.join(self.asked)})" if self.asked else self.by_design

    @property
    def let_by(self) -> str:
        """The rules in one line."""
        more = f" (and {len(self.rules) - 1} more)" if len(self.rules) > 1 else ""
        return f"{self.rules[0]}{more}" if self.rules else POLICY


def rows_of(classes: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[BypassRow]:
    """The rows of a report, as `BypassReport.to_dict` has it and with the `rules` of each class."""
    rows: dict[tuple[str, str], BypassRow] = {}
    for kind in KINDS:
        for each in classes.get(kind, ()):
            row = BypassRow(
                packets=each["text"],
                rules=tuple(each["rules"]),
                by_design=_by_design(each, "cannot be told" if kind == "conditional" else "no"),
                conditions=tuple(each.get("conditions", ())),
                asked=tuple(each.get("asked", ())),
            )
            rows.setdefault((row.packets, row.by_design), row)
    return _told_as_one(list(rows.values()))


def _told_as_one(rows: list[BypassRow]) -> list[BypassRow]:
    """Fewer rows: two that differ in one condition, or in the family only, are one."""
    if len(rows) > _READABLE:
        return rows
    for one, other in combinations(rows, 2):
        both = _both(one, other)
        if both is not None:
            place = rows.index(one)
            left = [row for row in rows if row not in (one, other)]
            return _told_as_one([*left[:place], both, *left[place:]])
    return rows


def _both(one: BypassRow, other: BypassRow) -> BypassRow | None:
    texts = [without_remark(row.packets) for row in (one, other)]
    remarks = [row.packets.removeprefix(text) for row, text in zip((one, other), texts, strict=True)]
    alike = replace(other, packets=one.packets, rules=one.rules)
    if alike != one or remarks[0] != remarks[1]:
        return None
    rules = tuple(dict.fromkeys((*one.rules, *other.rules)))
    here, there = map(Bypass.parse, texts)
    if here.direction == there.direction and here.where == there.where and here.family != there.family:
        whole = here if here.family is None else there
        same_rules = one.rules == other.rules and whole.family is None
        return replace(one, packets=f"{whole}{remarks[0]}{BOTH_FAMILIES}") if same_rules else None
    if (here.direction, here.family) != (there.direction, there.family):
        return None
    where = _differing_in_one(dict(here.where), dict(there.where), here.family)
    if where is None:
        return None
    return replace(one, packets=f"{replace(here, where=where)}{remarks[0]}", rules=rules)


def _differing_in_one(
    here: dict[FieldName, Values], there: dict[FieldName, Values], family: Family | None
) -> tuple[tuple[FieldName, Values], ...] | None:
    """The conditions of both as one's, where both name the same fields and one of these has other values."""
    if here.keys() != there.keys():
        return None
    differing = [name for name in here if here[name] != there[name]]
    if len(differing) != 1:
        return None
    (name,) = differing
    spans = [value for value in (*here[name], *there[name]) if isinstance(value, tuple)]
    names = [value for value in (*here[name], *there[name]) if isinstance(value, str)]
    values: Values = (*joined(spans), *dict.fromkeys(names))
    lowest = 1 if name == "protocol" else 0
    return tuple(
        (field, values if field == name else here[field])
        for field in here
        if field != name or values != ((lowest, top_of(name, family)),)
    )


def _by_design(each: Mapping[str, Any], otherwise: ByDesign) -> ByDesign:
    if each["by_design"] and otherwise == "no":
        return "yes"
    return next((standing for standing in _ALLOWED if standing == each.get("standing")), otherwise)
