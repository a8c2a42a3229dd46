"""What the kernel did with packets, beside what the tracer says of them.

Knows how an outcome shows in conntrack and in counters. Does not know how
packets and rules come about. Invariant: only differences that last are told,
and a difference is shown by the smallest ruleset and one packet.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import nullcontext, suppress

from kernel_generator import Rules
from kernel_testbed import HOST, Kernel, Observed, key_of

from pytest_istio_sidecar import parse_iptables_save, trace
from pytest_istio_sidecar.netfilter.model import Ruleset
from pytest_istio_sidecar.netfilter.packet import Fate, Host, Packet
from pytest_istio_sidecar.netfilter.trace.trace import Trace

Differences = dict[Packet | None, list[str]]
"""Packets with both accounts of them; under None the rules whose counters differ."""


def disagreements(
    kernel: Kernel,
    packets: list[Packet],
    *,
    patience: tuple[float, ...] = (0, 0.05, 0.5),
    host: Host = HOST,
) -> Differences:
    """What the loaded rules do to the packets other than traced; None: counters that differ."""
    kernel.forget_connections()
    for packet in packets:
        # What the kernel drops for want of a route it refuses to who sends it.
        with suppress(OSError) if host is not HOST else nullcontext():
            kernel.send(packet)
    wrong: Differences = {}
    for seconds in patience:
        # The kernel may still be at it when the last send returns.
        time.sleep(seconds)
        wrong = _differences(kernel, packets, host)
        if not wrong:
            break
    return wrong


def _differences(kernel: Kernel, packets: list[Packet], host: Host) -> Differences:
    observed = kernel.observe()
    ruleset = parse_iptables_save(observed.saved, family=kernel.family)
    hits: Counter[tuple[str, str, int]] = Counter()
    wrong: Differences = {}
    for packet in packets:
        traced = trace(ruleset, packet, host=host)
        for step in traced.steps:
            if step.rule is not None and step.matched:
                hits[step.table, step.chain, step.rule.number] += 1
        said, done = _as_traced(traced), _as_observed(observed, traced)
        if said != done:
            wrong[packet] = [f"traced   {said}", f"kernel   {done}"]
    counted = _counters(ruleset, hits)
    if counted:
        wrong[None] = counted
    return wrong


def _as_traced(traced: Trace) -> str:
    if traced.fate is Fate.UNKNOWN:
        return f"unknown: {'; '.join(traced.reasons)}"
    # nat POSTROUTING has a rule in every ruleset here, and takes part for every connection that leaves.
    confirmed = any(step.table == "nat" and step.chain == "POSTROUTING" for step in traced.steps)
    tracked = any(step.table == "nat" for step in traced.steps)
    if traced.fate is Fate.DROPPED and not confirmed:
        return "no connection"
    if traced.fate is Fate.DROPPED:
        return "a connection"
    if not tracked:
        return "no connection"
    if traced.fate is Fate.TPROXIED:
        return f"handed over, mark {traced.mark:#x}"
    return f"{traced.destination.address} port {traced.destination.port}, mark {traced.mark:#x}"


def _as_observed(observed: Observed, traced: Trace) -> str:
    found = observed.connections.get(key_of(traced.packet))
    if found is None:
        return "no connection"
    address, port, mark = found
    if traced.fate is Fate.DROPPED:
        return "a connection"
    if traced.fate is Fate.TPROXIED:
        return f"handed over, mark {mark:#x}"
    return f"{address} port {port}, mark {mark:#x}"


def _counters(ruleset: Ruleset, hits: Counter[tuple[str, str, int]]) -> list[str]:
    wrong = []
    for table in ruleset.tables:
        for rule in table.rules():
            expected = hits[table.name, rule.chain, rule.number]
            if rule.packets != expected and "icmp -j DROP" not in rule.text:
                wrong.append(f"{table.name}: {rule.text}: traced {expected}, counted {rule.packets}")
    return wrong


def explain(kernel: Kernel, rules: Rules, packets: list[Packet], wrong: Differences, seed: str) -> str:
    """The smallest ruleset, and packets, that still show a disagreement."""
    culprits = [packet for packet in wrong if packet is not None]
    for packet in (*culprits[:1], *packets):
        if _still(kernel, rules, [packet]):
            packets = [packet]
            break
    shrinking = True
    while shrinking:
        shrinking = False
        for place, index in reversed(rules.places()):
            smaller = rules.without(place, index)
            if _still(kernel, smaller, packets):
                rules, shrinking = smaller, True
    for place in list(rules.policies):
        if _still(kernel, rules.without_policy(place), packets):
            rules = rules.without_policy(place)
    wrong = _still(kernel, rules, packets) or wrong
    lines = [
        f"tracer and kernel disagree ({kernel.backend}; TRACE_SEED={seed} repeats it); smallest ruleset:",
        *(line for line in rules.text().splitlines() if " ACCEPT [" not in line and line != "COMMIT"),
        "",
    ]
    for packet, texts in wrong.items():
        lines += [f"{packet}", *(f"  {text}" for text in texts)]
    return "\n".join(lines)


def _still(kernel: Kernel, rules: Rules, packets: list[Packet]) -> Differences:
    if kernel.load(rules.text()).returncode != 0:
        return {}
    return disagreements(kernel, packets, patience=(0, 0.02))
