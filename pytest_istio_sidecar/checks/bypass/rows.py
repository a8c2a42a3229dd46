"""What gets by without Envoy as rows of a table, whichever form lays it out.

Knows what a row says. Does not know how it looks. Invariant: each row names rules or says that a policy
lets the packets by; classes that read the same are one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

HEADS = ("Packets", "Let by", "By design")
POLICY = "the chain's policy"
ByDesign = Literal["yes", "no", "moved", "accepted", "reviewed", "cannot be told"]
_ALLOWED: Mapping[str, ByDesign] = {
    "moved": "moved",
    "accepted": "accepted",
    "reviewed": "reviewed",
}
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
                by_design="cannot be told" if kind == "conditional" else _by_design(each),
                conditions=tuple(each.get("conditions", ())),
                asked=tuple(each.get("asked", ())),
            )
            rows.setdefault((row.packets, row.by_design), row)
    return list(rows.values())


def _by_design(each: Mapping[str, Any]) -> ByDesign:
    return "yes" if each["by_design"] else _ALLOWED.get(each.get("standing", ""), "no")
