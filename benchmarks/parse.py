"""From the text of 10,000 rules to typed rules, beside two parsers of `iptables -L`.

jc gives columns as text, linuxnet-iptables types; neither reads iptables-save. Each parser gets the same
rules, as one kernel lists them with counters and interfaces (for jc also without, which `-L -n` drops and
no verdict can do without).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import jc
from linuxnet.iptables import IptablesPacketFilterTable
from measure import Row, milliseconds, paired
from rulesets import Listings, istio, kube_proxy, listed

from pytest_istio_sidecar import parse_iptables_save
from pytest_istio_sidecar.netfilter.targets import Extended

RULES = 10_000


def rows() -> Iterator[Row]:
    logging.disable(logging.CRITICAL)  # linuxnet-iptables logs each rule that it cannot read
    for shape, text in (("kube-proxy's shape", kube_proxy(RULES)), ("Istio's shape", istio(RULES))):
        yield from _of(shape, listed(text))


def _of(shape: str, listings: Listings) -> Iterator[Row]:
    def ours() -> object:
        return parse_iptables_save(listings.save)

    def linuxnet() -> IptablesPacketFilterTable:
        table = IptablesPacketFilterTable("nat")
        table.init_from_output(listings.exact)
        return table

    work = f"parse {_count(listings.save):,} rules of {shape}"
    verbose = paired(ours, lambda: jc.parse("iptables", listings.verbose, quiet=True))
    mine = milliseconds(verbose.ours)
    yield Row(
        work=work,
        measured=mine,
        against=f"jc, of -L -n -v: {milliseconds(verbose.theirs)}",
        ratio=verbose.ratio,
        target="≥ 3 × as fast",
        holds=verbose.ratio >= 3,
    )
    typed = paired(ours, linuxnet)
    chains = [*linuxnet().get_builtin_chains(), *linuxnet().get_user_chains()]
    unread = sum(chain.get_unparsed_rule_count() for chain in chains)
    yield Row(
        work=work,
        measured=milliseconds(typed.ours),
        against=f"linuxnet-iptables, of -L -n -v -x, {unread:,} rules unparsed: {milliseconds(typed.theirs)}",
        ratio=typed.ratio,
        target="≥ 1 × as fast",
        holds=typed.ratio >= 1,
    )
    lost = _unparsed(listings.save)
    yield Row(work=f"{work}: left unparsed", measured=str(lost), target="0", holds=lost == 0)
    plain = paired(ours, lambda: jc.parse("iptables", listings.plain, quiet=True))
    yield Row(
        work=work,
        measured=milliseconds(plain.ours),
        against=f"jc, of -L -n, without interfaces: {milliseconds(plain.theirs)}",
        ratio=plain.ratio,
    )


def _count(save: str) -> int:
    return sum(" -A " in line[:60] for line in save.splitlines())


def _unparsed(save: str) -> int:
    """Rules that are not wholly typed, or do not read back as the kernel lists them."""
    read = [rule for chain in parse_iptables_save(save).nat.chains for rule in chain.rules]
    untyped = sum(isinstance(rule.target, Extended) for rule in read)
    lines = {line.partition(" ")[2] for line in save.splitlines() if line.startswith("[")}
    return untyped + len(lines - {rule.text for rule in read})
