"""`iptables -L`, in every form, to a ruleset.

Knows the listing's lines, its chains and how its table is inferred. Does not know the
columns of a rule (`listing_rows`) nor what a hidden field might be (`complete`).
Invariant: what a form does not show becomes `Hidden`, never "any", and text that is no
listing raises `ParseError`, never another exception.

A listing can lie: a comment may hold a line end, and after it whole forged lines. Only
iptables-save tells them apart; here only those are found that break the columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.kernel.unread import not_shown
from pytest_istio_sidecar.netfilter.model import HOOKS, TABLES, Backend, Chain, Family, Rule, Ruleset, Table
from pytest_istio_sidecar.netfilter.targets import Goto, Jump
from pytest_istio_sidecar.netfilter.text.call_graph import first_circle
from pytest_istio_sidecar.netfilter.text.diagnosis import diagnose
from pytest_istio_sidecar.netfilter.text.infer_table import USUAL, infer_table
from pytest_istio_sidecar.netfilter.text.listing_rows import Columns, parse_columns, parse_count, parse_row

_MAX_TEXT = 32 * 2**20
"""Longest text read, in characters; some 300,000 rules."""
_MAX_LINE = 16 * 1024
"""Longest line read, in characters; a comment is at most 255 bytes."""

_CHAIN = re.compile(
    r"Chain (?P<name>\S.*) \((?:policy (?P<policy>[A-Z]+)"
    r"(?: (?P<packets>\d{1,20}[KMGT]?) packets, (?P<bytes>\d{1,20}[KMGT]?) bytes)?"
    r"|\d{1,10} references)\) *"
)
_WARNING = re.compile(
    r"# Warning: ip6?tables-legacy tables present, use ip6?tables-legacy(?:-save)? to see them *"
)


def parse_iptables_list(text: str, *, family: Family = 4, source: str | None = None) -> Ruleset:
    """Read the output of `iptables -L` or `ip6tables -L`, with any of `-n -v -x --line-numbers`.

    One table, or one chain of it. The listing does not name the table: it is inferred from targets that
    only one table allows, and from the built-in chains; where both leave a choice it is taken to be of
    filter, the command's own default, if that has such chains. What is not listed is `unread`.

    Args:
        text: the whole output; the warning about legacy tables that iptables-nft adds may stand in it.
        family: 4, or 6 for ip6tables; the text does not always tell.
        source: the file it came from, for locations and errors.

    Returns:
        A ruleset of one table. A field that the form does not show, or shows by a name, is `Hidden`.
        Counters shown as 123K are 123000.

    Raises:
        ParseError: any text that is not one such listing, the empty one included.
    """
    if len(text) > _MAX_TEXT:
        raise ParseError(messages.TEXT_TOO_LONG(length=len(text), limit=_MAX_TEXT), source=source)
    return _Listing(text.removeprefix("\ufeff"), family, source).read()


@dataclass(slots=True, kw_only=True)
class _Chain:
    """A chain being read."""

    name: str
    policy: str | None
    packets: int | None
    bytes: int | None
    columns: Columns | None = None
    rules: list[Rule] = field(default_factory=list)

    def whole(self) -> Chain:
        return Chain(
            name=self.name,
            rules=tuple(self.rules),
            policy=self.policy,
            packets=self.packets,
            bytes=self.bytes,
        )


class _Listing:
    """One text being read; holds where it is, for the errors."""

    def __init__(self, text: str, family: Family, source: str | None) -> None:
        self.family = family
        self.source = source
        self.number = 0
        self.line = ""
        self.chains: dict[str, _Chain] = {}
        # Not splitlines(): a comment or a chain's name may hold the other line ends that it knows.
        self.lines = [line.removesuffix("\r") for line in text.split("\n")]
        headers = (_CHAIN.fullmatch(line) for line in self.lines if line.startswith("Chain "))
        self.spaced = frozenset(header["name"] for header in headers if header and " " in header["name"])

    def error(self, failure: Failure) -> ParseError:
        failure = failure.advised(diagnose(self.line))
        return ParseError(failure, source=self.source, line=self.number, text=self.line)

    def error_at(self, rule: Rule, failure: Failure) -> ParseError:
        self.number = int(rule.location.rpartition(":")[2])
        self.line = self.lines[self.number - 1]
        return self.error(failure)

    def read(self) -> Ruleset:
        beside_legacy = False
        chain: _Chain | None = None
        for line in self._lines():
            if _WARNING.fullmatch(line):
                beside_legacy = True
            elif chain is not None and chain.columns is None:
                chain.columns = parse_columns(line)
                if chain.columns is None:
                    raise self.error(messages.COLUMNS_NOT_NAMED(chain=chain.name))
            elif header := _CHAIN.fullmatch(line):
                chain = self._open_chain(header)
            elif chain is None or chain.columns is None:
                raise self.error(messages.NO_LISTING())
            else:
                chain.rules.append(self._rule(chain, chain.columns, line))
        self.number, self.line = 0, ""
        if chain is None:
            raise ParseError(
                messages.LIST_EMPTY(),
                source=self.source,
            )
        if chain.columns is None:
            raise self.error(messages.BREAKS_OFF(chain=chain.name))
        chains = {name: read.whole() for name, read in self.chains.items()}
        self._check_jumps(chains)
        inferred = infer_table(chains)
        table = Table(name=inferred or _usual(chains), chains=tuple(chains.values()))
        return Ruleset(
            tables=(table,),
            family=self.family,
            backend=Backend.NF_TABLES if beside_legacy else None,
            source=self.source,
            unread=not_shown(table.name, chains, certain=inferred is not None),
            beside_legacy=beside_legacy,
        )

    def _lines(self) -> Iterator[str]:
        for number, line in enumerate(self.lines, 1):
            self.number, self.line = number, line
            if len(line) > _MAX_LINE:
                raise self.error(messages.LINE_TOO_LONG(length=len(line), program="iptables -L"))
            if line.strip():
                yield line

    def _open_chain(self, header: re.Match[str]) -> _Chain:
        name = header["name"]
        if name in self.chains:
            raise self.error(messages.LISTED_TWICE(chain=name))
        self.chains[name] = _Chain(
            name=name,
            policy=header["policy"],
            packets=parse_count(header["packets"]) if header["packets"] else None,
            bytes=parse_count(header["bytes"]) if header["bytes"] else None,
        )
        return self.chains[name]

    def _rule(self, chain: _Chain, columns: Columns, line: str) -> Rule:
        try:
            rule = parse_row(
                line,
                columns=columns,
                chain=chain.name,
                number=len(chain.rules) + 1,
                family=self.family,
                spaced=self.spaced,
            )
        except ValueError as problem:
            raise self.error(messages.RULE_NOT_READ(reason=problem)) from None
        return replace(rule, location=f"{self.source or '<text>'}:{self.number}")

    def _check_jumps(self, chains: Mapping[str, Chain]) -> None:
        """Refuse jumps that no kernel holds, and a text that lacks a chain it needs.

        A chain listed alone is without those it jumps to.
        """
        alone = len(chains) == 1
        for rule in (rule for chain in chains.values() for rule in chain):
            if not alone and isinstance(rule.target, Jump | Goto) and rule.target.chain not in chains:
                raise self.error_at(rule, messages.CHAIN_NOT_LISTED(chain=rule.target.chain))
        circle = first_circle(chains)
        if circle is not None:
            names, rule = circle
            raise self.error_at(rule, messages.CIRCLE_LISTED(chains=" -> ".join(names), start=names[0]))


def _usual(chains: Mapping[str, Chain]) -> str:
    """The usual table of those that have all built-in chains shown."""
    shown = chains.keys() & set(HOOKS)
    return next(name for name in USUAL if shown <= set(TABLES[name]))
