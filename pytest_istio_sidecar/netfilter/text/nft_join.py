"""One back end, read by nft and by iptables-nft-save: what each of them alone can show.

Knows how iptables-nft stores a rule, and what nft shows of that. Does not know how either was read.
Invariant: nft is right wherever both show a condition; iptables' text is taken only where all that nft shows
agrees with it, and what nft shows only the name of is in it.

Source: iptables/nft.c, nft-shared.c of iptables 1.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval
from pytest_istio_sidecar.netfilter.kernel.hooks import base_chains
from pytest_istio_sidecar.netfilter.matches import (
    FULL_MASK,
    Address,
    Extension,
    Fragment,
    Interface,
    Mark,
    Match,
    Multiport,
    Owner,
    Protocol,
    Range,
    Transport,
)
from pytest_istio_sidecar.netfilter.model import TABLES, Backend, Chain, PodRules, Rule, Ruleset, Table
from pytest_istio_sidecar.netfilter.relations import KEYS, Interfaces, Relation, Unmodelled
from pytest_istio_sidecar.netfilter.targets import Extended, Goto, Jump, Statement, Target, Verdict
from pytest_istio_sidecar.netfilter.text.nft_statements import NOT_PRINTED
from pytest_istio_sidecar.netfilter.text.nft_values import TCP_FLAGS

_XT_MATCH, _XT_TARGET = "xt match ", "xt target "
Known = tuple[str, tuple[Interval, ...] | tuple[str, ...], int | None, bool]
"""What a relation says, apart from its text."""


def beside(pod: PodRules, saved: Sequence[Ruleset]) -> PodRules:
    """Nft's rules beside what iptables lists of the same namespace, each back end once.

    Args:
        pod: from `parse_nftables`.
        saved: of any family and back end; one that does not tell its back end and shows a table that nft
            shows, too, is nf_tables'.

    Raises:
        ParseError: iptables shows rules in a table that nft's listing lacks, which claims to be whole.
    """
    of_nf_tables = [each for each in saved if _is_of_nf_tables(each, pod)]
    for listing in of_nf_tables:
        native = next(ruleset for ruleset in pod.rulesets if ruleset.family == listing.family)
        lacking = [] if native.unread else _only_in(listing, native)
        if lacking:
            raise ParseError(messages.NFT_LACKS(family=listing.family, table=lacking[0].name))
    both = joined_with(pod, of_nf_tables)
    others = [each for each in saved if not any(each is one for one in of_nf_tables)]
    return replace(both, rulesets=(*others, *both.rulesets))


def _is_of_nf_tables(listing: Ruleset, pod: PodRules) -> bool:
    if listing.backend is not None:
        return listing.backend is Backend.NF_TABLES
    return any(table.name in ruleset for table in listing.tables for ruleset in pod.of_family(listing.family))


def _only_in(saved: Ruleset, native: Ruleset) -> list[Table]:
    """The tables with a say that iptables shows and nft does not."""
    return [
        table
        for table in saved.tables
        if table.name not in native
        and any(chain.rules or chain.policy not in (None, "ACCEPT") for chain in table.chains)
    ]


def joined_with(pod: PodRules, saved: Sequence[Ruleset]) -> PodRules:
    """Nft's rules, those of iptables-nft as iptables writes them where both show the same.

    Args:
        pod: from `parse_nftables`.
        saved: from iptables-nft-save and ip6tables-nft-save, of the same namespace.

    A table all of whose rules are the same in both becomes iptables' own; in others, rule by rule. Where the
    two differ, nft's rule stays, and `PodRules.notes` says so; also where nft shows no such table, unless it
    was asked for some tables only: then the others are as iptables shows them.
    """
    notes: list[str] = []
    rulesets = []
    for ruleset in pod.rulesets:
        own = next((each for each in saved if each.family == ruleset.family), None)
        rulesets.append(ruleset if own is None else _ruleset(ruleset, own, notes))
    return replace(pod, rulesets=tuple(rulesets), notes=(*pod.notes, *dict.fromkeys(notes)))


def _ruleset(native: Ruleset, saved: Ruleset, notes: list[str]) -> Ruleset:
    tables = tuple(_table(table, saved, notes) for table in native.tables)
    places = tuple(filter(None, dict.fromkeys((native.source, saved.source))))
    if native.unread:
        tables += tuple(table for table in saved.tables if table.name not in native)
    else:
        notes += [
            f"iptables-nft-save shows rules in table {table.name} of IPv{native.family}, nft no such table: "
            "they are not judged"
            for table in _only_in(saved, native)
        ]
    return replace(
        native,
        tables=tables,
        writer=saved.writer,
        pod=saved.pod,
        parts=places if len(places) > 1 else (),
        unread=native.unread & saved.unread,
        beside_legacy=native.beside_legacy or saved.beside_legacy,
    )


def _table(table: Table, saved: Ruleset, notes: list[str]) -> Table:
    if table.name not in TABLES or table.name not in saved or table.nft_family not in ("ip", "ip6"):
        return table
    own = saved.table(table.name)
    before = len(notes)
    chains = tuple(_chain(table, chain, own, notes) for chain in table.chains)
    whole = len(notes) == before and not any(rule.nft is not None for chain in chains for rule in chain)
    return own if whole and _hangs_as(table, own, saved) else replace(table, chains=chains)


def _hangs_as(table: Table, own: Table, saved: Ruleset) -> bool:
    """Whether the table has iptables' chains and no others, registered as iptables registers them."""
    standard = {base.name: base for base in base_chains(replace(saved, tables=(own,)))}
    if (
        table.dormant is not False
        or table.declarations
        or {c.name for c in table.chains} - {c.name for c in own.chains}
    ):
        return False
    for chain in table.chains:
        there = own.chain(chain.name)
        base = standard.get(chain.name)
        if chain.registered is None:
            if base is not None:
                return False
        elif (
            base is None
            or chain.registered[:3] != (base.hook, base.priority, base.type)
            or chain.policy != there.policy
        ):
            return False
    return all(chain.name in table or not chain.rules for chain in own.chains)


def _chain(table: Table, chain: Chain, own: Table, notes: list[str]) -> Chain:
    if chain.name not in own:
        return chain
    there = own.chain(chain.name)
    if len(there.rules) != len(chain.rules):
        notes.append(
            f"iptables-nft-save shows {len(there.rules)} rules of chain {chain.name} of table {table.name}, "
            f"nft {len(chain.rules)}: nft's are judged"
        )
        return chain
    rules = []
    for native, saved in zip(chain.rules, there.rules, strict=True):
        if says_the_same(native, saved):
            rules.append(replace(saved, packets=native.packets, bytes=native.bytes, handle=native.handle))
            continue
        rules.append(native)
        notes.append(
            f"iptables-nft-save shows rule {native.number} of chain {chain.name} of table {table.name} as "
            f"`{saved.text}`, nft as `{native.text}`: nft's is judged"
        )
    return replace(chain, rules=tuple(rules))


def says_the_same(native: Rule, saved: Rule) -> bool:
    """Whether all that nft shows of a rule is what iptables shows, and iptables shows nothing else."""
    shown = [_known(match) for match in native.matches if not isinstance(match, Unmodelled)]
    by_name = [match.text for match in native.matches if isinstance(match, Unmodelled)]
    if None in shown or not _same_target(native.target, saved.target):
        return False
    left = _without_implied([each for each in shown if each is not None])
    asked = [each for match in saved.matches for each in _of(match)]
    implied = set(asked) - set(_without_implied(asked))
    for match in saved.matches:
        stored = [each for each in _of(match) if each not in implied]
        if isinstance(match, Owner) and _xt_of(match) not in by_name:
            stored = _translated(match)
        if (stored or not isinstance(match, Owner)) and all(each in left for each in stored):
            for each in stored:
                left.remove(each)
        elif _xt_of(match) in by_name:
            by_name.remove(_xt_of(match))
            continue
        else:
            return False
        if not stored and _xt_of(match) in by_name:
            by_name.remove(_xt_of(match))
        elif not stored and not _may_be_silent(match) and not _of(match):
            return False
    return not left and not by_name


def _translated(match: Owner) -> list[Known]:
    """How nft's text, not its JSON, shows a user or group that iptables-nft stores in iptables' own form."""
    asked = (("meta skuid", match.uid), ("meta skgid", match.gid))
    return [(key, ((ids.low, ids.high),), None, ids.negated) for key, ids in asked if ids is not None]


def _may_be_silent(match: Match) -> bool:
    """Whether nft may show nothing of a condition: it is none, or nft takes it for a comment."""
    return isinstance(match, Transport) or (isinstance(match, Extension) and match.module == "comment")


def _known(match: Match) -> Known | None:
    if isinstance(match, Relation):
        # iptables-nft stores a protocol in either form, by its release; in a packet of IPv4 they are one.
        key = "meta l4proto" if match.key == "ip protocol" else match.key
        return key, match.intervals, match.mask, match.negated
    if isinstance(match, Interfaces):
        return f"{match.direction}ifname", match.names, None, match.negated
    return None


def _without_implied(known: Iterable[Known]) -> list[Known]:
    """Without the protocol, where something of its header is asked: nft shows one of them."""
    each_of = list(known)
    protocols = {KEYS[key].protocol for key, *_ in each_of if key in KEYS} - {0}
    implied = {("meta l4proto", ((number, number),), None, False) for number in protocols}
    return [each for each in each_of if each not in implied]


def _of(match: Match) -> list[Known]:
    """What nft shows of a condition that iptables-nft stores in nf_tables' own form."""
    if isinstance(match, Protocol):
        return [("meta l4proto", ((match.number, match.number),), None, match.negated)]
    if isinstance(match, Address):
        return [_address(match)]
    if isinstance(match, Interface):
        name = f"{match.name[:-1]}*" if match.name.endswith("+") else match.name
        return [(f"{match.direction}ifname", (name,), None, match.negated)]
    if isinstance(match, Mark) and match.module == "mark":
        mask = None if match.mask == FULL_MASK else match.mask
        return [("meta mark", ((match.value, match.value),), mask, match.negated)]
    return list(_transport(match)) if isinstance(match, Transport) else []


def _address(match: Address) -> Known:
    bits = 32 if match.family == 4 else 128
    inverse = match.mask ^ ((1 << bits) - 1)
    side = "saddr" if match.side == "source" else "daddr"
    key = f"{'ip' if match.family == 4 else 'ip6'} {side}"
    if inverse & (inverse + 1):
        return key, ((match.network, match.network),), match.mask, match.negated
    return key, ((match.network, match.network | inverse),), None, match.negated


def _transport(match: Transport) -> Iterator[Known]:
    for name, ports in (("sport", match.source), ("dport", match.destination)):
        if isinstance(ports, Range):
            yield f"{match.module} {name}", ((ports.low, ports.high),), None, ports.negated
    if match.flags is not None:
        mask = sum(TCP_FLAGS[name.lower()] for name in match.flags.mask)
        value = sum(TCP_FLAGS[name.lower()] for name in match.flags.set)
        yield "tcp flags", ((value, value),), mask, match.flags.negated


def _xt_of(match: Match) -> str:
    """How nft shows a condition that iptables-nft stores in iptables' own form."""
    if isinstance(match, Owner):
        name = "owner"
    elif isinstance(match, Multiport):
        name = "multiport"
    elif isinstance(match, Fragment):
        name = ""
    else:
        name = getattr(match, "module", "")
    return f'{_XT_MATCH}"{name}"'


def _same_target(native: Target | None, saved: Target | None) -> bool:
    if isinstance(native, Statement) and native.text == f'{_XT_TARGET}"{NOT_PRINTED}"':
        return not isinstance(saved, Verdict | Jump | Goto)
    if isinstance(native, Verdict | Jump | Goto) or native is None or saved is None:
        logged = isinstance(saved, Extended) and saved.name in ("LOG", "NFLOG")
        return native == saved or (native is None and logged)
    if isinstance(native, Statement):
        name = getattr(saved, "name", "") or saved.verb.upper()
        return native.text == f'{_XT_TARGET}"{name}"'
    if isinstance(native, Extended) and isinstance(saved, Extended):
        return native.name == saved.name
    return native == saved
