"""`iptables -L`, in every form, to a ruleset.

Knows the lines and columns of the listing. Does not know the texts of matches and
targets (`listing_fragments`, `listing_targets`) nor what a hidden field might be
(`complete`). Invariant: what a form does not show becomes `Hidden`, never "any", and
text that is no listing raises `ParseError`, never another exception.

A listing can lie: a comment may hold a line end, and then whole forged lines. Only
iptables-save tells them apart; here only those are found that break the columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from typing import Literal

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.netfilter.listing_fragments import parse_fragments
from pytest_istio_sidecar.netfilter.listing_targets import TARGETS, VERDICTS, parse_target
from pytest_istio_sidecar.netfilter.matches import (
    PROTOCOLS,
    Address,
    Extension,
    Fragment,
    Hidden,
    Interface,
    Match,
    Option,
    Protocol,
    Side,
)
from pytest_istio_sidecar.netfilter.model import (
    HOOKS,
    TABLES,
    Backend,
    Chain,
    Family,
    Rule,
    Ruleset,
    Table,
)
from pytest_istio_sidecar.netfilter.targets import Goto, Jump, Target

_MAX_TEXT = 64 * 1024 * 1024
"""Longest listing read, in characters; 200,000 rules are about 20 million."""
_MAX_LINE = 64 * 1024
"""Longest line read, in characters; a comment is at most 255 of them."""

_CHAIN = re.compile(
    r"Chain (?P<name>\S.*) \((?:policy (?P<policy>[A-Z]+)"
    r"(?: (?P<packets>\d{1,20}[KMGT]?) packets, (?P<bytes>\d{1,20}[KMGT]?) bytes)?"
    r"|(?P<references>\d{1,10}) references)\) *"
)
_COLUMNS = re.compile(
    r" *(?P<num>num +)?(?P<counters>pkts +bytes +)?target +prot +opt +(?P<interfaces>in +out +)?source +destination *"
)
_COUNTERS = re.compile(r" *(\d{1,20}[KMGT]?) +(\d{1,20}[KMGT]?) ")
_WARNING = re.compile(r"# Warning: ip6?tables-legacy tables present, use ip6?tables-legacy to see them *")
_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

_PROTOCOL_ALIASES = {"icmpv6": 58, "ipv6-mh": 135}

# Tables whose rules alone can have these targets (iptables-extensions(8)).
_TABLE_OF_TARGET = {
    **dict.fromkeys(("REDIRECT", "DNAT", "SNAT", "MASQUERADE", "NETMAP"), "nat"),
    "TPROXY": "mangle",
    "CT": "raw",
    "NOTRACK": "raw",
    "REJECT": "filter",
}


@dataclass(slots=True)
class _Chain:
    """A chain being read, and the columns that its second line announced."""

    name: str
    policy: str | None
    packets: int | None
    bytes: int | None
    columns: re.Match[str] | None = None
    rules: list[Rule] = field(default_factory=list)


class _Listing:
    """One text being read; holds where it is, for the errors."""

    def __init__(self, text: str, family: Family, source: str | None) -> None:
        self.family = family
        self.source = source
        self.backend: Backend | None = None
        self.chains: list[_Chain] = []
        self.number = 0
        self.line = ""
        self.lines = self._lines(text)

    def _lines(self, text: str) -> Iterator[str]:
        # Not splitlines(): a comment or a chain's name may hold the other line ends it knows.
        for number, line in enumerate(text.split("\n"), 1):
            self.number, self.line = number, line.removesuffix("\r")
            if len(line) > _MAX_LINE:
                raise self.error(f"a line of {len(line)} characters is no line of iptables -L")
            if self.line.strip():
                yield self.line

    def error(self, reason: str) -> ParseError:
        return ParseError(reason, source=self.source, line=self.number, text=self.line)

    def read(self) -> Ruleset:
        for line in self.lines:
            header = _CHAIN.fullmatch(line)
            if header is not None:
                self._open_chain(header)
            elif _WARNING.fullmatch(line):
                self.backend = Backend.NF_TABLES
            elif not self.chains:
                raise self.error(
                    "this is no listing of iptables -L: it starts with no line `Chain NAME (...)`"
                )
            elif (columns := self.chains[-1].columns) is None:
                self.chains[-1].columns = _COLUMNS.fullmatch(line)
                if self.chains[-1].columns is None:
                    raise self.error(
                        "after the line of a chain iptables -L names its columns; here it does not"
                    )
            else:
                self.chains[-1].rules.append(self._rule(self.chains[-1], columns, line))
        self.line, self.number = "", 0
        self._check_complete()
        table = Table(name=self._table_name(), chains=tuple(self._chains()))
        return Ruleset(tables=(table,), family=self.family, backend=self.backend, source=self.source)

    def _open_chain(self, header: re.Match[str]) -> None:
        name = header["name"]
        if any(chain.name == name for chain in self.chains):
            raise self.error(
                f"chain {name} is listed twice: this is more than one table or more than one listing; "
                "give each on its own"
            )
        if self.chains and self.chains[-1].columns is None:
            raise self.error(f"chain {self.chains[-1].name} has no line that names its columns")
        self.chains.append(
            _Chain(
                name=name,
                policy=header["policy"],
                packets=_count(header["packets"]),
                bytes=_count(header["bytes"]),
            )
        )

    def _check_complete(self) -> None:
        """Refuse a text that breaks off where iptables would not have."""
        if not self.chains:
            raise self.error("the text is empty; a listing names at least one chain, even without rules")
        if self.chains[-1].columns is None:
            raise self.error(f"the text breaks off after the first line of chain {self.chains[-1].name}")
        if len(self.chains) == 1:
            return  # `iptables -L CHAIN` shows one chain, not those it jumps to
        names = {chain.name for chain in self.chains}
        for rule in self._rules():
            if isinstance(rule.target, Jump | Goto) and rule.target.chain not in names:
                raise self.error(
                    f"rule {rule.number} of chain {rule.chain} jumps to {rule.target.chain}, which is not in "
                    "the text: it is cut, or parts of it are missing"
                )

    def _rules(self) -> Iterator[Rule]:
        for chain in self.chains:
            yield from chain.rules

    def _chains(self) -> Iterator[Chain]:
        for chain in self.chains:
            yield Chain(
                name=chain.name,
                rules=tuple(chain.rules),
                policy=chain.policy,
                packets=chain.packets,
                bytes=chain.bytes,
            )

    def _table_name(self) -> str:
        """Infer the table, which the listing does not name.

        The built-in chains tell where they can: a table with exactly these chains (nat also without INPUT, which
        kernels before 2.6.36 lack there), else one that has them all. Where that leaves several (one chain listed
        alone), targets that only one table allows decide; else the first of filter, which is the command's own
        default, nat, mangle and raw that has the chains.
        """
        shown = {chain.name for chain in self.chains} & set(HOOKS)
        names = ("filter", "nat", "mangle", "raw")
        if shown == set(TABLES["nat"]) - {"INPUT"}:
            return "nat"
        exact = [name for name in names if shown == set(TABLES[name])]
        possible = exact or [name for name in names if shown <= set(TABLES[name])]
        for rule in self._rules():
            name = _TABLE_OF_TARGET.get(getattr(rule.target, "name", _target_name(rule.target)))
            if name in possible:
                return name
        return possible[0]

    def _rule(self, chain: _Chain, columns: re.Match[str], line: str) -> Rule:
        rest = line
        number = len(chain.rules) + 1
        if columns["num"]:
            rest = self._after_number(line, number)
        packets = octets = None
        if columns["counters"]:
            counters = _COUNTERS.match(rest)
            if counters is None:
                raise self.error("a rule of this listing starts with its counters; here they are missing")
            packets, octets = _count(counters[1]), _count(counters[2])
            rest = rest[counters.end() :]
        target, rest = self._target_column(rest)
        row = _row(self.family, verbose=bool(columns["interfaces"])).fullmatch(_unglue(rest))
        if row is None:
            raise self.error(
                "this is no rule of iptables -L: its columns do not fit those that are announced"
            )
        matches: list[Match] = [
            *self._address("source", row["source"]),
            *self._address("destination", row["destination"]),
            *self._interfaces(chain, row),
            *_protocol(row["protocol"]),
        ]
        if row["option"] in ("-f", "!f"):
            matches.append(Fragment(negated=row["option"] == "!f"))
        more, does = self._tail(target, row["tail"].strip(" "))
        return Rule(
            chain=chain.name,
            matches=(*matches, *more),
            target=does,
            number=number,
            packets=packets,
            bytes=octets,
            location=f"{self.source or '<text>'}:{self.number}",
        )

    def _after_number(self, line: str, expected: int) -> str:
        found = re.match(r"(\d{1,9})( +)", line)
        if found is None:
            raise self.error("a rule of this listing starts with its number; here it is missing")
        if int(found[1]) != expected:
            raise self.error(f"rule {expected} should stand here, the listing numbers it {found[1]}")
        width = max(4, len(found[1])) + 1  # printf("%-4u "); further blanks are the next column's
        return line[width:] if not line[len(found[1]) : width].strip() else line[found.end() :]

    def _target_column(self, rest: str) -> tuple[str, str]:
        """A rule without target leaves its column blank."""
        if rest.startswith(" "):
            return "", rest.lstrip(" ")
        for chain in self.chains:
            if " " in chain.name and rest.startswith(
                f"{chain.name} "
            ):  # iptables-nft 1.8.4 to 1.8.7 allow it
                return chain.name, rest[len(chain.name) :].lstrip(" ")
        target, _, rest = rest.partition(" ")
        return target, rest.lstrip(" ")

    def _address(self, side: Side, text: str) -> tuple[Match, ...]:
        negated = text.startswith("!")
        shown = text.removeprefix("!")
        option = "-s" if side == "source" else "-d"
        if shown in ("anywhere", "0.0.0.0/0", "::/0") and not negated:
            return ()
        name, _, mask = shown.partition("/")
        bits = 32 if self.family == 4 else 128
        try:
            host = ip_address(name)
        except ValueError:
            return (Hidden(field=option, shown=shown, negated=negated),)
        if host.version != self.family:
            raise self.error(
                f"{name} is an IPv{host.version} address; the listing was given as IPv{self.family}"
            )
        full = (1 << bits) - 1
        if re.fullmatch(r"\d{1,3}", mask) and int(mask) <= bits:
            number = full ^ (full >> int(mask))
        elif mask:
            try:
                number = int(type(host)(mask))
            except ValueError:
                raise self.error(f"{mask} is no mask of IPv{self.family}") from None
        else:
            number = full
        return (
            Address(side=side, family=self.family, network=int(host) & number, mask=number, negated=negated),
        )

    def _interfaces(self, chain: _Chain, row: re.Match[str]) -> Iterator[Match]:
        if "in" in row.re.groupindex:
            yield from _interface("in", row["in"])
            yield from _interface("out", row["out"])
            return
        # iptables refuses -o in PREROUTING and INPUT, and -i in OUTPUT and POSTROUTING.
        if chain.name not in ("OUTPUT", "POSTROUTING"):
            yield Hidden(field="-i")
        if chain.name not in ("PREROUTING", "INPUT"):
            yield Hidden(field="-o")

    def _tail(self, name: str, text: str) -> tuple[list[Match], Target | None]:
        """Read what stands after the destination: `[goto]`, the matches' texts, the target's own."""
        goto = text == "[goto]" or text.startswith("[goto] ")
        matches, rest = self._matches(text.removeprefix("[goto]").strip(" ") if goto else text)
        target: Target | None = None
        if goto:
            target = Goto(name)
        elif name in VERDICTS or name in TARGETS:
            target, rest = parse_target(name, rest)
        elif name:
            target = Jump(name)
        if rest:
            matches.append(Hidden(field="-m", shown=rest))
        return matches, target

    def _matches(self, text: str) -> tuple[list[Match], str]:
        """Read the matches' texts, comments apart.

        A comment is printed as it is, so one that holds `*/ tcp dpt:22 /*` lists byte for byte like a real port
        between two comments. Text before the first `/*` and after the last `*/` is no comment's, and with one of
        each there is one comment between them; with more, all that lies between is unknown.
        """
        start, end = text.find("/*"), text.rfind("*/")
        if start < 0:
            return parse_fragments(text)
        if end < start + 2:
            raise self.error(
                "the comment of this rule does not end on its line, so further lines may be its text"
            )
        matches, unread = parse_fragments(text[:start].strip(" "))
        if unread:
            matches.append(Hidden(field="-m", shown=unread))
        if text.count("/*") == text.count("*/") == 1:
            comment = text[start + 3 : end - 1]
            matches.append(
                Extension(module="comment", options=(Option(name="--comment", values=(comment,)),))
            )
        else:
            matches.append(Hidden(field="-m", shown=text[start : end + 2]))
        more, rest = parse_fragments(text[end + 2 :].strip(" "))
        return [*matches, *more], rest


def parse_iptables_list(text: str, *, family: Family = 4, source: str | None = None) -> Ruleset:
    """Read the output of `iptables -L` or `ip6tables -L`, with any of `-n -v -x --line-numbers`.

    One table, or one chain of it. The listing does not name the table: it is inferred from the built-in chains
    and, where they leave a choice, from targets that only one table allows; a user chain listed alone that has
    no such target is taken to be of filter, the command's own default.

    Args:
        text: the whole output; a line about legacy tables that iptables-nft adds may stand in it.
        family: 4, or 6 for ip6tables; the text does not always tell.
        source: the file it came from, for locations and errors.

    Returns:
        A ruleset of one table. A field that the form does not show, or shows by a name, is `Hidden`. Counters
        shown as 123K are 123000.

    Raises:
        ParseError: any text that is not one such listing, the empty one included.
    """
    if len(text) > _MAX_TEXT:
        raise ParseError(f"{len(text)} characters are more than any listing has", source=source)
    return _Listing(text.removeprefix("\ufeff"), family, source).read()


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    return int(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else int(text)


def _target_name(target: Target | None) -> str:
    return {"Redirect": "REDIRECT", "Tproxy": "TPROXY"}.get(type(target).__name__, "")


@cache
def _row(family: Family, *, verbose: bool) -> re.Pattern[str]:
    option = r"(?P<option>--|-f|!f) +"
    if family == 6:  # blank up to ip6tables 1.8.7
        option = f"(?:{option})?+"
    interfaces = r"(?P<in>\S++) +(?P<out>\S++) +" if verbose else ""
    return re.compile(
        rf"(?P<protocol>\S++) +{option}{interfaces}(?P<source>\S++) +(?P<destination>\S++)(?P<tail>(?: .*)?)",
        re.DOTALL,
    )


def _unglue(rest: str) -> str:
    """Set apart a protocol that fills its column and the option column: `udplite--`."""
    return re.sub(r"^(!?[A-Za-z][^ ]{3,}?)(--|-f|!f) ", r"\1 \2 ", rest, count=1)


def _protocol(text: str) -> tuple[Match, ...]:
    negated = text.startswith("!")
    shown = text.removeprefix("!")
    if shown in ("all", "0") and not negated:
        return ()
    number = _PROTOCOL_ALIASES.get(shown, PROTOCOLS.get(shown))
    if number is None and re.fullmatch(r"\d{1,3}", shown):
        number = int(shown)
    if number is None or number > 255:
        return (Hidden(field="-p", shown=shown, negated=negated),)
    return (Protocol(number=number, negated=negated),)


def _interface(direction: Literal["in", "out"], text: str) -> tuple[Match, ...]:
    """Any interface is `*`, with names `any`, and `+` where the rule was written so."""
    if text in ("*", "any", "+"):
        return ()
    return (Interface(direction=direction, name=text.removeprefix("!"), negated=text.startswith("!")),)
