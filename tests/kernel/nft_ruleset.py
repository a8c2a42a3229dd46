"""A ruleset of nf_tables as text in parts, so that rules can be taken out one by one.

Knows how nft takes tables and chains. Does not know what rules say. Invariant: whatever is taken out, the
text is one that nft takes, and conntrack keeps each packet's last mark.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

KEPT = "keep"
"""The table that keeps marks, and quiet what is not tested; it stands last and first at every hook."""

_KEEP = """table inet keep {
    chain quiet-in { type filter hook prerouting priority -500; meta l4proto { icmp, ipv6-icmp } drop; }
    chain quiet-out { type filter hook output priority -500; meta l4proto { icmp, ipv6-icmp } drop; }
    chain sent { type filter hook postrouting priority 500; counter ct direction original ct mark set mark; }
    chain delivered { type filter hook input priority 500; counter ct direction original ct mark set mark; }
    chain forwarded { type filter hook forward priority 500; counter ct direction original ct mark set mark; }
    chain binds { type nat hook postrouting priority 300; counter; }
}
"""


@dataclass
class Chain:
    """A chain as text in parts, so that rules can be taken out one by one."""

    name: str
    declared: str = ""
    """Of a base chain, how it is registered."""
    rules: list[str] = field(default_factory=list)

    def text(self) -> list[str]:
        first = [f"        {self.declared}"] if self.declared else []
        return [f"    chain {self.name} {{", *first, *(f"        {rule}" for rule in self.rules), "    }"]


@dataclass
class Table:
    family: str
    name: str
    chains: list[Chain] = field(default_factory=list)
    declared: list[str] = field(default_factory=list)

    def text(self) -> list[str]:
        lines = [f"table {self.family} {self.name} {{", *(f"    {each}" for each in self.declared)]
        for chain in self.chains:
            lines += chain.text()
        return [*lines, "}"]


@dataclass
class NftRules:
    """A ruleset as text in parts."""

    tables: list[Table] = field(default_factory=list)

    def text(self) -> str:
        """For `nft -f`, in place of every rule there was."""
        lines = [line for table in self.tables for line in table.text()]
        return "\n".join(["flush ruleset", *lines, _KEEP])

    def places(self) -> list[tuple[int, int, int]]:
        return [
            (t, c, r)
            for t, table in enumerate(self.tables)
            for c, chain in enumerate(table.chains)
            for r, _ in enumerate(chain.rules)
        ]

    def without(self, place: tuple[int, int, int]) -> NftRules:
        tables = [replace(t, chains=[replace(c, rules=list(c.rules)) for c in t.chains]) for t in self.tables]
        del tables[place[0]].chains[place[1]].rules[place[2]]
        return NftRules(tables)

    def shown(self) -> list[str]:
        """The lines that say anything."""
        kept = [
            replace(t, chains=[c for c in t.chains if c.rules or "drop" in c.declared]) for t in self.tables
        ]
        return [line for table in kept if table.chains for line in table.text()]
