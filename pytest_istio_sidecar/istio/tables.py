"""Which of the tables read from a pod are Istio's.

Knows how Istio's chains are named. Does not know what they should hold.
"""

from __future__ import annotations

from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.istio import messages
from pytest_istio_sidecar.istio.versions import number_of
from pytest_istio_sidecar.netfilter.model import TABLES, Family, PodRules, Rules, Ruleset, Table, rulesets_of

PREFIX = "ISTIO_"
_NATIVE_SINCE = (1, 27, 0)
"""istio-init writes nf_tables' own tables where it is told to (tools/istio-nftables)."""
_AMBIENT = "ISTIO_PRERT"
_NATIVE, _NATIVE_AMBIENT = "istio-", "istio-ambient-"


def istio_nat(rules: PodRules, family: Family) -> Table:
    """The nat table of a family from the back end that holds Istio's chains.

    Where none does, the first that was read: an empty table is an answer too.

    Raises:
        Undecided: nothing was read for this family.
    """
    tables = [ruleset.nat for ruleset in rules.of_family(family)]
    if not tables:
        raise Undecided(messages.NO_NAT_TABLE(family=family))
    for table in tables:
        if any(chain.name.startswith(PREFIX) for chain in table.chains):
            return table
    return tables[0]


def has_istio(ruleset: Ruleset) -> bool:
    """Whether a chain of Istio's is in it."""
    return any(chain.name.startswith(PREFIX) for table in ruleset.tables for chain in table.chains)


def is_captured(ruleset: Ruleset) -> bool:
    """Whether Istio's rules of a sidecar are in it, by iptables or in tables of nf_tables' own.

    Those are of both families, be IPv6 enabled or not: then only rules have addresses of IPv6.
    """
    native = (rule for table in ruleset.tables if _is_native(table) for rule in table.rules())
    return has_istio(ruleset) or any(ruleset.family == 4 or "ip6 " in rule.text for rule in native)


def _is_native(table: Table) -> bool:
    name = table.name.split()[-1]
    return bool(table.nft_family) and name.startswith(_NATIVE) and not name.startswith(_NATIVE_AMBIENT)


def ipv6_is_untold(rules: Rules, enabled: bool | None) -> bool:
    """Whether IPv6 was read and has no rule of Istio's, and nobody said whether it should have.

    Args:
        enabled: what was said of it (`enable_ipv6`); None: nothing.
    """
    read = rulesets_of(rules, 6)
    return enabled is None and bool(read) and not any(map(is_captured, read))


def other_mode(rules: PodRules) -> str:
    """Which other way of capturing traffic these rules are of, in a sentence; "" for a sidecar's iptables.

    Source: istio/istio tools/istio-nftables/pkg/constants (tables, since 1.27), cni/pkg/nftables and
    cni/pkg/iptables (ISTIO_PRERT).
    """
    chains = {chain.name for ruleset in rules.rulesets for table in ruleset.tables for chain in table.chains}
    native = [name for name in _native_tables(rules) if name.split()[-1].startswith(_NATIVE)]
    if "ISTIO_INBOUND" in chains:
        return ""
    ambient = [name for name in native if name.split()[-1].startswith(_NATIVE_AMBIENT)]
    if ambient or _AMBIENT in chains:
        where = f"the table {ambient[0]}" if ambient else f"the chain {_AMBIENT}"
        return f"{where} is of ambient mode: ztunnel on the node captures this traffic, not a sidecar"
    if native:
        return (
            f"Istio's rules are in nf_tables' own tables ({', '.join(native)}), as with "
            "values.global.nativeNftables=true: iptables shows none of them"
        )
    return ""


def _native_tables(rules: PodRules) -> tuple[str, ...]:
    """The tables of nf_tables that no iptables made: those that were read, and those that were only seen."""
    read = [
        table.name
        for ruleset in rules.rulesets
        for table in ruleset.tables
        if table.nft_family and table.name not in TABLES
    ]
    return tuple(dict.fromkeys((*rules.native_tables, *read)))


def has_istio_rules(rules: PodRules) -> bool:
    """Whether any rule of these stands in a chain of Istio's, or leads to one."""
    return any(
        rule.chain.startswith(PREFIX) or f" {PREFIX}" in rule.text
        for ruleset in rules.rulesets
        for rule in ruleset.rules()
    )


def writes_native_tables(version: str | None) -> bool:
    """Whether a release can write a sidecar's rules where iptables does not show them; None: it may."""
    return version is None or number_of(version) >= _NATIVE_SINCE
