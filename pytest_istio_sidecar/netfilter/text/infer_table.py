"""Which table a text of `iptables -S` is of, as it does not say.

Knows the built-in chains of each table, and the targets that only one allows. Does not guess:
chains that may be of several tables are of none that is known.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_istio_sidecar.netfilter.model import HOOKS, TABLES, Chain
from pytest_istio_sidecar.netfilter.targets import Extended, Redirect, Target, Tproxy, Translate


def infer_table(chains: Mapping[str, Chain]) -> str | None:
    """The table's name, or None. filter and security have the same chains: filter is the usual one."""
    builtin = chains.keys() & set(HOOKS)
    if builtin == {"PREROUTING", "OUTPUT", "POSTROUTING"}:
        return "nat"  # before Linux 2.6.36
    for name in ("nat", "mangle", "raw", "filter"):
        if builtin == set(TABLES[name]):
            return name
    told = (_only_table(rule.target) for chain in chains.values() for rule in chain)
    return next((name for name in told if name and builtin <= set(TABLES[name])), None)


def _only_table(target: Target | None) -> str | None:
    """The one table that allows a target (iptables-extensions(8)); None where there are several."""
    match target:
        case Redirect() | Translate() | Extended(name="MASQUERADE" | "NETMAP"):
            return "nat"
        case Tproxy():
            return "mangle"
        case Extended(name="CT" | "NOTRACK"):
            return "raw"
        case Extended(name="REJECT"):
            return "filter"
    return None
