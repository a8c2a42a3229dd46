"""Rules being put together, in the order in which istio-iptables puts them.

Knows what appending and inserting do to a chain, and the text of iptables-save, in which
Istio's rules are written here. Does not know which rules Istio installs, nor since when.
"""

from __future__ import annotations

from functools import cache

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.netfilter.matches import Match
from pytest_istio_sidecar.netfilter.model import TABLES, Backend, Chain, Family, Rule, Ruleset, Table
from pytest_istio_sidecar.netfilter.targets import Jump, Target
from pytest_istio_sidecar.netfilter.text.parse_rule import parse_rule
from pytest_istio_sidecar.netfilter.text.tokens import words

_CHAINS = frozenset(
    f"ISTIO_{name}"
    for name in (
        "DIVERT", "DROP", "INBOUND", "IN_REDIRECT", "OUTPUT", "OUTPUT_DNS", "REDIRECT", "TPROXY",
    )
)  # fmt: skip


class RuleBuilder:
    """The rules of one family, table by table and chain by chain.

    A chain is there from its first rule on, as in `istio-iptables`, which makes those it has rules for.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self._tables: dict[str, dict[str, list[str]]] = {"nat": {}}

    def append(self, table: str, chain: str, rule: str) -> None:
        """Put a rule at a chain's end.

        Args:
            rule: as iptables-save writes it after `-A CHAIN`.
        """
        self._chain(table, chain).append(rule)

    def insert(self, table: str, chain: str, rule: str, *, position: int = 1) -> None:
        """Put a rule at a position, counted from 1, before what stands there now."""
        self._chain(table, chain).insert(position - 1, rule)

    def _chain(self, table: str, chain: str) -> list[str]:
        return self._tables.setdefault(table, {}).setdefault(chain, [])

    def ruleset(self, *, backend: Backend, source: str, origin: tuple[str, ...]) -> Ruleset:
        """What a kernel holds after these rules were loaded.

        Raises:
            UsageProblem: iptables-restore would refuse one of them.
        """
        tables = (
            Table(name=name, chains=tuple(self._chains(name, texts)))
            for name, texts in sorted(self._tables.items())
        )
        return Ruleset(
            tables=tuple(tables), family=self.family, backend=backend, source=source, origin=origin
        )

    def _chains(self, table: str, texts: dict[str, list[str]]) -> list[Chain]:
        own = sorted(set(texts).difference(TABLES[table]))
        chains = []
        for name in (*TABLES[table], *own):
            rules = []
            for number, text in enumerate(texts.get(name, ()), 1):
                matches, target = _parse(text, self.family)
                if isinstance(target, Jump) and target.chain not in texts:
                    raise UsageProblem(
                        f"iptables-restore refuses `-A {name} {text}`: no rule is in {target.chain}, "
                        "so istio-init does not make that chain"
                    )
                rules.append(Rule(chain=name, matches=matches, target=target, number=number))
            policy = "ACCEPT" if name in TABLES[table] else None
            chains.append(Chain(name=name, rules=tuple(rules), policy=policy))
        return chains


@cache
def _parse(text: str, family: Family) -> tuple[tuple[Match, ...], Target | None]:
    try:
        matches, target, _ = parse_rule(words(text), family, _CHAINS)
    except ValueError as problem:
        raise UsageProblem(f"iptables-restore refuses `{text}`: {problem}") from None
    return matches, target
