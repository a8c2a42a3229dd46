"""Chains that jump in a circle.

Knows jumps and gotos between chains. Does not know what else the rules do. Invariant:
only circles are found that a packet can enter, which no kernel holds; where no built-in
chain leads, and behind an unconditional verdict, the legacy kernel lets circles be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_istio_sidecar.netfilter.kernel.actions import takes_every_packet
from pytest_istio_sidecar.netfilter.model import Chain, Rule
from pytest_istio_sidecar.netfilter.targets import called_by


def first_circle(chains: Mapping[str, Chain]) -> tuple[tuple[str, ...], Rule] | None:
    """The chains of a circle, from the built-in chain that leads there, and the rule that closes it."""
    done: set[str] = set()
    for start in [name for name, chain in chains.items() if chain.policy is not None]:
        path = {start: _jumps(chains[start])}
        while path:
            name, jumps = next(reversed(path.items()))
            jump = next(jumps, None)
            if jump is None:
                del path[name]
                done.add(name)
                continue
            rule, following = jump
            if following in path:
                return (*path, following), rule
            if following not in done and following in chains:
                path[following] = _jumps(chains[following])
    return None


def _jumps(chain: Chain) -> Iterator[tuple[Rule, str]]:
    for rule in chain:
        for called in called_by(rule.target):
            yield rule, called
        if takes_every_packet(rule):
            return
