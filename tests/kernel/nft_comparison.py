"""What the kernel did with packets under nf_tables' rules, beside what the tracer says of them.

Knows how rules are read back in both of nft's forms, and how an outcome shows in conntrack and in counters.
Does not know how packets and rules come about. Invariant: only differences that last are told, and a
difference is shown by the smallest ruleset and one packet.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from kernel_testbed import HOST, Kernel, Observed, key_of
from nft_ruleset import KEPT, NftRules

from pytest_istio_sidecar import parse_iptables_save, parse_nftables, trace
from pytest_istio_sidecar.netfilter.model import Backend, PodRules
from pytest_istio_sidecar.netfilter.packet import Fate, Packet
from pytest_istio_sidecar.netfilter.relations import Unmodelled
from pytest_istio_sidecar.netfilter.trace.table import Step
from pytest_istio_sidecar.netfilter.trace.trace import Trace
from pytest_istio_sidecar.selftest.first_packets import connections


class NftKernel(Kernel):
    """The two namespaces with rules of nf_tables, and of iptables-legacy beside them."""

    def __init__(self, family: int, scratch: Path, *, with_legacy: bool = False) -> None:
        super().__init__("legacy", family, scratch)
        self.with_legacy = with_legacy

    def load_nft(self, text: str):
        """Replace nf_tables' rules; the caller judges the exit status."""
        return self._tool("nft", text, "-f", "-")

    def in_json(self) -> str:
        return self._tool("nft", "", "-j", "list", "ruleset").stdout

    def in_text(self, *options: str) -> str:
        return self._tool("nft", "", *options, "list", "ruleset").stdout

    def legacy(self) -> str:
        return super().saved() if self.with_legacy else ""

    def seen(self) -> Observed:
        return Observed(connections(), self.in_text("-a"))


@dataclass
class Differences:
    """Packets with both accounts of them; what else differs; of what the tracer could not tell, why."""

    packets: dict[Packet, list[str]] = field(default_factory=dict)
    counters: list[str] = field(default_factory=list)
    undecided: dict[Packet, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.packets or self.counters)


def rules_read(kernel: NftKernel, text: str) -> PodRules:
    """Everything that is loaded, as the product reads it."""
    pod = parse_nftables(text)
    rulesets = [ruleset for ruleset in pod.rulesets if ruleset.family == kernel.family]
    saved = kernel.legacy()
    if saved:
        legacy = parse_iptables_save(saved, family=kernel.family)
        assert legacy.backend is Backend.LEGACY
        rulesets.append(legacy)
    return PodRules(rulesets=tuple(rulesets))


def disagreements(
    kernel: NftKernel, packets: list[Packet], *, patience: tuple[float, ...] = (0, 0.05, 0.5)
) -> Differences:
    """What the loaded rules do to the packets other than traced."""
    kernel.forget_connections()
    for packet in packets:
        kernel.send(packet)
    wrong = Differences()
    for seconds in patience:
        # The kernel may still be at it when the last send returns.
        time.sleep(seconds)
        wrong = _differences(kernel, packets)
        if not wrong:
            break
    return wrong


def _differences(kernel: NftKernel, packets: list[Packet]) -> Differences:
    observed = kernel.seen()
    rules = rules_read(kernel, observed.saved)
    hits: Counter[tuple[str, str, int]] = Counter()
    wrong = Differences()
    known = True
    for packet in packets:
        traced = trace(rules, packet, host=HOST)
        known = known and traced.fate is not Fate.UNKNOWN
        for step in traced.steps:
            known = known and step.matched is not None and not _is_in_doubt(step)
            if step.rule is not None and step.matched and step.rule.nft is not None:
                hits[step.table, step.chain, step.rule.number] += 1
        if traced.fate is Fate.UNKNOWN or traced.mark is None:
            wrong.undecided[packet] = "; ".join(traced.reasons) or "the mark is not known"
            continue
        said, done = _as_traced(traced), _as_observed(observed, traced)
        if traced.fate is Fate.DROPPED and any(map(_is_in_doubt, traced.steps)):
            continue  # dropped it is, but where: before or behind the place at which conntrack keeps it
        if said != done:
            wrong.packets[packet] = [f"traced   {said}", f"kernel   {done}"]
    if known:
        for table in rules.rulesets[0].tables:
            for rule in table.rules() if table.name != f"inet {KEPT}" else ():
                expected = hits[table.name, rule.chain, rule.number]
                if rule.packets != expected:
                    wrong.counters.append(
                        f"{table.name}: {rule.text}: traced {expected}, counted {rule.packets}"
                    )
    return wrong


def _is_in_doubt(step: Step) -> bool:
    """Whether a rule asks, somewhere behind a statement, for what is not modelled."""
    rule = step.rule
    return rule is not None and any(isinstance(condition, Unmodelled) for condition in rule.conditions())


def _met(traced: Trace, chain: str) -> bool:
    return any(step.table == f"inet {KEPT}" and step.chain == chain for step in traced.steps)


def _as_traced(traced: Trace) -> str:
    tracked = any(step.table == f"inet {KEPT}" and "mark" in step.remark for step in traced.steps)
    if traced.fate is Fate.DROPPED and not _met(traced, "sent"):
        return "no connection"
    if not tracked:
        return "no connection"
    if traced.fate is Fate.DROPPED:
        return "a connection"
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


def explain(kernel: NftKernel, rules: NftRules, packets: list[Packet], wrong: Differences, seed: str) -> str:
    """The smallest ruleset, and packets, that still show a disagreement."""
    for packet in (*list(wrong.packets)[:1], *packets):
        if _still(kernel, rules, [packet]):
            packets = [packet]
            break
    shrinking = True
    while shrinking:
        shrinking = False
        for place in reversed(rules.places()):
            smaller = rules.without(place)
            if _still(kernel, smaller, packets):
                rules, shrinking = smaller, True
    wrong = _still(kernel, rules, packets) or wrong
    lines = [
        f"tracer and kernel disagree (TRACE_SEED={seed} repeats it); smallest ruleset:",
        *rules.shown(),
        "",
    ]
    for packet, texts in wrong.packets.items():
        lines += [f"{packet}", *(f"  {text}" for text in texts)]
    return "\n".join([*lines, *wrong.counters, *map(str, packets[:1])])


def _still(kernel: NftKernel, rules: NftRules, packets: list[Packet]) -> Differences:
    if kernel.load_nft(rules.text()).returncode != 0:
        return Differences()
    return disagreements(kernel, packets, patience=(0, 0.02))
