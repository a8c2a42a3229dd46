"""A trace whose answer depends on what nobody stated of the pod: its address, its interface, who sends.

Knows which of them leaves the answer open, and which only bears a remark: no pod has the address that is
taken, nearly every pod has eth0 and its neighbours. Does not know how other answers are found
(`other_hosts`). Invariant: each sentence names the rule and the option that decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pytest_istio_sidecar.netfilter.model import Rule
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate
from pytest_istio_sidecar.netfilter.trace.trace import Trace
from pytest_istio_sidecar.reports.message import outcome_of

Others = Iterable[tuple[Rule, Trace]]
"""The same packet where it fares otherwise, each with the rule that singles the place out."""


def with_pods(traced: Trace, pods: Others, *, all_tried: bool = True) -> tuple[Trace, list[str]]:
    """The answer beside those of other pods, unknown where the address decides; and what is to be remarked.

    Args:
        all_tried: whether these are all that fare otherwise.
    """
    reasons: dict[str, None] = {}
    remarks: dict[str, str] = {}
    for rule, there in pods:
        name, usual = there.host.external(), traced.host.external()
        if name != usual:
            remarks.setdefault(
                name,
                f"in a pod with interface {name} it would be {outcome_of(there)}: {_placed(rule)}; "
                f"give --interface {name}=ADDRESS/PREFIX if this one has it",
            )
            continue
        reasons[
            f"the pod's address decides, and nobody stated it: with {_own(there)} {outcome_of(there)}, "
            f"with {_own(traced)} {outcome_of(traced)}; {_placed(rule)} tells them apart; "
            f"give --interface {name}=ADDRESS/PREFIX"
        ] = None
    if not all_tried:
        remarks[""] = (
            "not every pod was tried that a rule on the way singles out; --interface states this one's"
        )
    if not reasons or traced.fate is Fate.UNKNOWN:
        return traced, [*remarks.values()]
    packet = traced.packet
    own = Endpoint(packet.destination, packet.destination_port)  # type: ignore[arg-type]
    return replace(
        traced, fate=Fate.UNKNOWN, destination=own, mark=None, deciding_rule=None, reasons=tuple(reasons)
    ), [*remarks.values()]


def of_senders(senders: Others) -> list[str]:
    """What is to be said of other neighbours."""
    return [
        f"from {there.packet.source} it would be {outcome_of(there)}: {_placed(rule)}; "
        "--source says who sends it"
        for rule, there in senders
    ]


def _placed(rule: Rule) -> str:
    return f"`{rule.text}`{f' ({rule.location})' if rule.location else ''}"


def _own(traced: Trace) -> str:
    address = traced.host.primary(traced.host.external(), traced.packet.family)
    return f"{traced.host.external()}={address}"
