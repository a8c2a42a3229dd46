"""Which table a text of `iptables -S` or `iptables -L` is of, as neither says.

Knows the built-in chains of each table, and the targets that only one allows. Does not guess:
chains that may be of several tables are of none that is known.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_istio_sidecar.netfilter.kernel.unread import OLD_NAT
from pytest_istio_sidecar.netfilter.model import HOOKS, TABLES, Chain
from pytest_istio_sidecar.netfilter.targets import Extended, Redirect, Target, Tproxy, Translate

_TABLE_OF_TARGET = {
    **dict.fromkeys(("REDIRECT", "DNAT", "SNAT", "MASQUERADE", "NETMAP"), "nat"),
    **dict.fromkeys(("TPROXY", "TOS", "DSCP", "ECN", "TTL", "HL", "CHECKSUM"), "mangle"),
    "CT": "raw",
    "NOTRACK": "raw",
    "REJECT": "filter",
}
"""Targets that only one table allows (iptables-extensions(8), and `.table` of the kernel's xt_target)."""

USUAL = ("filter", "nat", "mangle", "raw")
"""filter and security have the same chains: filter, the command's default, is the usual one."""


def infer_table(chains: Mapping[str, Chain]) -> str | None:
    """The table's name: of those that targets and chains leave, the one with just these built-in chains.

    None where several are left of which the text shows a part only.
    """
    builtin = chains.keys() & set(HOOKS)
    left = [name for name in USUAL if builtin <= set(TABLES[name])]
    for only in {_only_table(rule.target) for chain in chains.values() for rule in chain.rules} - {None}:
        left = [name for name in left if name == only] or left
    if builtin == OLD_NAT and "nat" in left:
        return "nat"
    for name in left:
        if builtin == set(TABLES[name]):
            return name
    return left[0] if len(left) == 1 else None


def _only_table(target: Target | None) -> str | None:
    match target:
        case Redirect() | Translate():
            return "nat"
        case Tproxy():
            return "mangle"
        case Extended(name=name):
            return _TABLE_OF_TARGET.get(name)
    return None
