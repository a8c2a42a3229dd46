"""A ruleset, written as iptables-save writes it.

Knows the layout of a restore file. Does not know where it goes. Invariant:
`parse_iptables_save(render_save(ruleset))` equals the ruleset, an empty one and
one with hidden fields too; the latter is no text that iptables-restore takes.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_istio_sidecar.netfilter.kernel.unread import written
from pytest_istio_sidecar.netfilter.matches import Hidden, Match, quote
from pytest_istio_sidecar.netfilter.model import Chain, Rule, Ruleset
from pytest_istio_sidecar.netfilter.targets import Jump
from pytest_istio_sidecar.netfilter.text.parse_save import CHAIN_NOT_HERE, HEADER, NOT_READ


def render_save(ruleset: Ruleset) -> str:
    """Text that iptables-restore loads and `parse_iptables_save` reads back; without counters.

    The first line is a comment with what iptables-save text does not tell: family and back end. Another
    says what was not read, where the rules are of a text that shows a part only.
    """
    return "\n".join(_lines(ruleset)) + "\n"


def _lines(ruleset: Ruleset) -> Iterator[str]:
    yield HEADER.format(family=ruleset.family, backend=ruleset.backend or "unknown")
    if ruleset.unread:
        yield f"{NOT_READ}{written(ruleset.unread)}"
    if ruleset.beside_legacy:
        program = "iptables" if ruleset.family == 4 else "ip6tables"
        yield f"# Warning: {program}-legacy tables present, use {program}-legacy-save to see them"
    elsewhere: set[str] = set()
    for table in ruleset.tables:
        jumps = {rule.target.chain for rule in table.rules() if isinstance(rule.target, Jump)}
        elsewhere |= jumps - {chain.name for chain in table.chains}
    yield from (f"{CHAIN_NOT_HERE}{chain}" for chain in sorted(elsewhere))
    for table in ruleset.tables:
        yield f"*{table.name}"
        for chain in table.chains:
            yield _declaration(chain)
        for rule in table.rules():
            yield _line(rule)
        yield "COMMIT"


def _declaration(chain: Chain) -> str:
    return f":{chain.name} {chain.policy or '-'} [0:0]"


def _line(rule: Rule) -> str:
    if not rule.hidden:
        return rule.text
    target = () if rule.target is None else (str(rule.target),)
    return " ".join((f"-A {rule.chain}", *map(_match, rule.matches), *target))


def _match(match: Match) -> str:
    """In quotes, where iptables-save never puts a value, what stands for a hidden one is told from it."""
    if not isinstance(match, Hidden):
        return str(match)
    return f"{'! ' if match.negated else ''}{match.field} {quote(f'<{match.shown}>')}"
