"""Which table a text of `iptables -S` or `iptables -L` is of, as neither says.

Knows the built-in chains of each table, and the targets that only one allows. Does not guess:
chains that may be of several tables are of none that is known.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_istio_sidecar.netfilter.model import HOOKS, TABLES, Chain
from pytest_istio_sidecar.netfilter.targets import Extended, Redirect, Target, Tproxy, Translate

_TABLE_OF_TARGET = {
    **dict.fromkeys(("REDIRECT", "DNAT", "SNAT", "MASQUERADE", "NETMAP"), "nat"),
    "TPROXY": "mangle",
    "CT": "raw",
    "NOTRACK": "raw",
    "REJECT": "filter",
}
"""Targets that only one table allows (iptables-extensions(8))."""

USUAL = ("filter", "nat", "mangle", "raw")
"""filter and security have the same chains: filter, the command's default, is the usual one."""


def infer_table(chains: Mapping[str, Chain]) -> str | None:
    """The table's name: the built-in chains decide, then targets; None where neither does."""
    builtin = chains.keys() & set(HOOKS)
    if builtin == {"PREROUTING", "OUTPUT", "POSTROUTING"}:
        return "nat"  # before Linux 2.6.36
    for name in USUAL:
        if builtin == set(TABLES[name]):
            return name
    only = (_only_table(rule.target) for chain in chains.values() for rule in chain.rules)
    return next((name for name in only if name and builtin <= set(TABLES[name])), None)


def _only_table(target: Target | None) -> str | None:
    match target:
        case Redirect() | Translate():
            return "nat"
        case Tproxy():
            return "mangle"
        case Extended(name=name):
            return _TABLE_OF_TARGET.get(name)
    return None
