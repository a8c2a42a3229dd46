"""The order of base chains at hooks follows from their priority and type."""

from __future__ import annotations

import pytest

from pytest_istio_sidecar import inbound, parse_iptables_save, trace
from pytest_istio_sidecar.netfilter.kernel import hooks
from pytest_istio_sidecar.netfilter.kernel.hooks import BaseChain, Leg, Moment, base_chains, legs
from pytest_istio_sidecar.netfilter.model import TABLES, Chain, Ruleset, Table
from pytest_istio_sidecar.netfilter.packet import Fate
from pytest_istio_sidecar.netfilter.space.space import regions

EVERY_TABLE = Ruleset(
    tables=tuple(
        Table(name=table, chains=tuple(Chain(name=hook, policy="ACCEPT") for hook in names))
        for table, names in TABLES.items()
    )
)
IN_ORDER = {
    Leg.SEND: "raw TRACK mangle nat REROUTE filter security LEAVE mangle nat LOOP_BACK",
    Leg.LOOP: "raw mangle mangle filter security",
    Leg.RECEIVE: "raw TRACK mangle nat ROUTE",
    Leg.DELIVER: "mangle filter nat security",
    Leg.FORWARD: "mangle filter security LEAVE mangle nat",
}

MARKED_THEN_REDIRECTED = """*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -j MARK --set-xmark 0x1/0xffffffff
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m mark --mark 0x1 -j REDIRECT --to-ports 15006
COMMIT
"""


def names(leg: Leg, chains: list[BaseChain]) -> list[str]:
    steps = legs((base, base.table) for base in chains)[leg]
    return [
        word
        for step in steps
        for word in ([step.name] if isinstance(step, Moment) else [table for _, table in step])
    ]


@pytest.mark.parametrize("leg", Leg)
def test_a_packet_meets_the_tables_of_iptables_in_their_order(leg: Leg) -> None:
    assert names(leg, list(base_chains(EVERY_TABLE))) == IN_ORDER[leg].split()


def test_a_chain_of_type_nat_runs_at_nats_own_place_whatever_its_priority() -> None:
    early = BaseChain("PREROUTING", -199, "nat", "early", "c")
    late = BaseChain("PREROUTING", 300, "nat", "late", "c")
    between = BaseChain("PREROUTING", -150, "filter", "between", "c")
    behind = BaseChain("PREROUTING", -50, "filter", "behind", "c")
    order = ["TRACK", "between", "early", "late", "behind", "ROUTE"]
    assert names(Leg.RECEIVE, [late, behind, early, between]) == order


def test_several_base_chains_of_a_hook_are_asked_by_priority() -> None:
    chains = [BaseChain("INPUT", priority, "filter", str(priority), "c") for priority in (7, -1, 0)]
    assert names(Leg.DELIVER, chains) == ["-1", "0", "7"]


def test_of_two_chains_with_one_place_the_one_given_first_is_asked_first() -> None:
    two = [BaseChain("INPUT", 0, "filter", table, "c") for table in ("b", "a")]
    assert names(Leg.DELIVER, two) == ["b", "a"]


@pytest.mark.parametrize(("mangle", "fate"), [(-150, Fate.REDIRECTED), (-50, Fate.UNCHANGED)])
def test_one_packet_and_all_packets_go_by_the_same_order(mangle, fate, monkeypatch) -> None:
    monkeypatch.setattr(hooks, "PRIORITIES", {**hooks.PRIORITIES, "mangle": mangle})
    rules = parse_iptables_save(MARKED_THEN_REDIRECTED)
    assert trace(rules, inbound(80)).fate is fate
    tcp = {region.fate for region in regions(rules, "PREROUTING") if region.witness.protocol == 6}
    assert tcp == {fate}
