"""Which of the tables read from a pod are Istio's.

Knows how Istio's chains are named. Does not know what they should hold.
"""

from __future__ import annotations

from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.netfilter.model import Family, PodRules, Table

PREFIX = "ISTIO_"


def istio_nat(rules: PodRules, family: Family) -> Table:
    """The nat table of a family from the back end that holds Istio's chains.

    Where none does, the first that was read: an empty table is an answer too.

    Raises:
        Undecided: nothing was read for this family.
    """
    tables = [ruleset.nat for ruleset in rules.of_family(family)]
    if not tables:
        raise Undecided(f"no IPv{family} rules were read, so there is no nat table to judge")
    for table in tables:
        if any(chain.name.startswith(PREFIX) for chain in table.chains):
            return table
    return tables[0]
