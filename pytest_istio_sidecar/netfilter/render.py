"""A ruleset, written as iptables-save writes it.

Knows the layout of a restore file. Does not know where it goes. Invariant:
`parse_iptables_save(render_save(ruleset))` equals the ruleset, an empty one too.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_istio_sidecar.netfilter.model import Chain, Ruleset
from pytest_istio_sidecar.netfilter.parse_save import HEADER


def render_save(ruleset: Ruleset) -> str:
    """Text that iptables-restore loads and `parse_iptables_save` reads back; without counters."""
    return "\n".join(_lines(ruleset)) + "\n"


def _lines(ruleset: Ruleset) -> Iterator[str]:
    yield HEADER.format(family=ruleset.family, backend=ruleset.backend or "unknown")
    for table in ruleset.tables:
        yield f"*{table.name}"
        for chain in table.chains:
            yield _declaration(chain)
        for rule in table.rules():
            yield rule.text
        yield "COMMIT"


def _declaration(chain: Chain) -> str:
    return f":{chain.name} {chain.policy or '-'} [0:0]"
