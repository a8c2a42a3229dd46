"""One rule line of `iptables -L`: its columns, to a rule.

Knows the columns in every form and what each form hides. Does not know chains or tables
(`parse_list`), nor the texts of matches and targets (`listing_fragments`, `listing_targets`).
Invariant: values are split at blanks, for long ones overflow their column; a line that
does not fit raises `ValueError` with the reason.

Source: iptables/iptables.c, print_firewall and print_header, and 159 rules listed by 1.6.0 to 1.8.13.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from typing import Literal

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
from pytest_istio_sidecar.netfilter.model import Family, Rule
from pytest_istio_sidecar.netfilter.targets import VERDICTS, Goto, Jump, Target
from pytest_istio_sidecar.netfilter.text.listing_fragments import parse_fragments
from pytest_istio_sidecar.netfilter.text.listing_targets import TARGETS, parse_target

_COLUMNS = re.compile(
    r" *(?P<num>num +)?(?P<counters>pkts +bytes +)?target +prot +opt +(?P<interfaces>in +out +)?"
    r"source +destination *"
)
_COUNTERS = re.compile(r" *(\d{1,20}[KMGT]?) +(\d{1,20}[KMGT]?) ")
_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_PROTOCOL_ALIASES = {"icmpv6": 58, "ipv6-mh": 135}
_LONGEST_CHAIN_NAME = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the second line of a chain announces."""

    numbers: bool
    counters: bool
    interfaces: bool


def parse_columns(line: str) -> Columns | None:
    """Read the line that names the columns; None if it is another line."""
    shown = _COLUMNS.fullmatch(line)
    if shown is None:
        return None
    return Columns(
        numbers=bool(shown["num"]), counters=bool(shown["counters"]), interfaces=bool(shown["interfaces"])
    )


def parse_count(text: str) -> int:
    """A counter; `123K` is 123000 (without -x iptables rounds from 100,000 on)."""
    return int(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else int(text)


def parse_row(
    line: str,
    *,
    columns: Columns,
    chain: str,
    number: int,
    family: Family,
    spaced: frozenset[str] = frozenset(),
) -> Rule:
    """Read one rule.

    Args:
        line: the line as printed; leading blanks count.
        columns: what the chain's listing shows.
        chain: the chain it is listed under.
        number: its place there, from 1.
        family: 4 or 6.
        spaced: names of chains that hold a blank, which iptables-nft 1.8.4 to 1.8.7 allow.

    Raises:
        ValueError: the line is no such rule; the message says why, in one sentence.
    """
    rest = line
    if columns.numbers:
        rest = _after_number(line, number)
    packets = octets = None
    if columns.counters:
        counters = _COUNTERS.match(rest)
        if counters is None:
            raise ValueError("a rule of this listing starts with its counters; here they are missing")
        packets, octets = parse_count(counters[1]), parse_count(counters[2])
        rest = rest[counters.end() :]
    name, rest = _target_column(rest, spaced)
    row = _row(family, interfaces=columns.interfaces).fullmatch(_unglued(rest))
    if row is None or name.startswith(("-", "!")):
        raise ValueError("this is no rule of iptables -L: it does not fit the columns named above it")
    interfaces = (row["in"], row["out"]) if columns.interfaces else None
    matches, target = _tail(name, row["tail"].strip(" "))
    return Rule(
        chain=chain,
        matches=(
            *_address("source", row["source"], family),
            *_address("destination", row["destination"], family),
            *_interfaces(chain, interfaces),
            *_protocol(row["protocol"]),
            *([Fragment(negated=row["option"] == "!f")] if row["option"] in ("-f", "!f") else []),
            *matches,
        ),
        target=target,
        number=number,
        packets=packets,
        bytes=octets,
    )


def _after_number(line: str, expected: int) -> str:
    shown = re.match(r"(\d{1,9})( +)", line)
    if shown is None:
        raise ValueError("a rule of this listing starts with its number; here it is missing")
    if int(shown[1]) != expected:
        raise ValueError(f"rule {expected} should stand here, but the listing numbers it {shown[1]}")
    width = max(4, len(shown[1])) + 1  # printf("%-4u "); further blanks are the next column's
    return line[width:] if not line[len(shown[1]) : width].strip() else line[shown.end() :]


def _target_column(rest: str, spaced: frozenset[str]) -> tuple[str, str]:
    """The target's name and what follows; "" where a rule without one leaves its column blank."""
    ends = [end for end in range(len(rest[: _LONGEST_CHAIN_NAME + 1])) if rest[end] == " "]
    end = next((end for end in reversed(ends) if rest[:end] in spaced), rest.find(" "))
    return (rest[:end], rest[end:].lstrip(" ")) if end >= 0 else (rest, "")


@cache
def _row(family: Family, *, interfaces: bool) -> re.Pattern[str]:
    option = r" +(?P<option>--|-f|!f) +"
    if family == 6:  # blank up to ip6tables 1.8.7
        option = f"(?:{option}|  +)"
    between = r"(?P<in>\S++) +(?P<out>\S++) +" if interfaces else ""
    return re.compile(
        rf"(?P<protocol>!?[a-z0-9][a-z0-9./+-]*+){option}{between}"
        r"(?P<source>\S++) +(?P<destination>\S++)(?P<tail>(?: .*)?)",
        re.DOTALL,
    )


def _unglued(rest: str) -> str:
    """Set apart a protocol that fills its column and the option column: `udplite--`."""
    return re.sub(r"^(!?[A-Za-z][^ ]{3,}?)(--|-f|!f) ", r"\1 \2 ", rest, count=1)


def _address(side: Side, text: str, family: Family) -> tuple[Match, ...]:
    negated = text.startswith("!")
    shown = text.removeprefix("!")
    # ip6tables prints every network of address :: as "anywhere", also ::/1 (seen with 1.8.9): unknown.
    if not negated and shown in ("0.0.0.0/0", "::/0", "anywhere" if family == 4 else ""):
        return ()
    name, _, mask = shown.partition("/")
    try:
        host = ip_address(name)
    except ValueError:
        return (Hidden(field="-s" if side == "source" else "-d", shown=shown, negated=negated),)
    if host.version != family:
        raise ValueError(f"{name} is an IPv{host.version} address, but this was given as IPv{family} rules")
    full = (1 << host.max_prefixlen) - 1
    if not mask:
        bits = full
    elif re.fullmatch(r"[0-9]{1,3}", mask) and int(mask) <= host.max_prefixlen:
        bits = full ^ (full >> int(mask))
    else:
        try:
            bits = int(type(host)(mask))
        except ValueError:
            raise ValueError(f"{mask} is no mask of an IPv{family} address") from None
    return (Address(side=side, family=family, network=int(host) & bits, mask=bits, negated=negated),)


def _interfaces(chain: str, shown: tuple[str, str] | None) -> Iterator[Match]:
    """The interfaces, or that they are hidden where iptables would have accepted them.

    It refuses -o in PREROUTING and INPUT, and -i in OUTPUT and POSTROUTING (iptables/xshared.c).
    """
    if shown is not None:
        yield from _interface("in", shown[0])
        yield from _interface("out", shown[1])
        return
    if chain not in ("OUTPUT", "POSTROUTING"):
        yield Hidden(field="-i")
    if chain not in ("PREROUTING", "INPUT"):
        yield Hidden(field="-o")


def _interface(direction: Literal["in", "out"], text: str) -> tuple[Match, ...]:
    """Any interface is `*`, with names `any`, and `+` where the rule was written so."""
    if text in ("*", "any", "+"):
        return ()
    return (Interface(direction=direction, name=text.removeprefix("!"), negated=text.startswith("!")),)


def _protocol(text: str) -> tuple[Match, ...]:
    negated = text.startswith("!")
    shown = text.removeprefix("!")
    if shown in ("all", "0") and not negated:
        return ()
    number = _PROTOCOL_ALIASES.get(shown, PROTOCOLS.get(shown))
    if number is None and re.fullmatch(r"[0-9]{1,3}", shown):
        number = int(shown)
    if number is None or number > 255:
        return (Hidden(field="-p", shown=shown, negated=negated),)
    return (Protocol(number=number, negated=negated),)


def _tail(name: str, text: str) -> tuple[list[Match], Target | None]:
    """Read what stands after the destination: `[goto]`, the matches' texts, the target's own."""
    goto = text == "[goto]" or text.startswith("[goto] ")
    matches, rest = _matches(text.removeprefix("[goto]").strip(" ") if goto else text)
    target: Target | None = None
    if goto:
        if not name:
            raise ValueError("a goto without a chain to go to")
        target = Goto(name)
    elif name in VERDICTS or name in TARGETS:
        target, rest = parse_target(name, rest)
    elif name:
        target = Jump(name)
    if rest:
        matches.append(Hidden(field="-m", shown=rest))
    return matches, target


def _matches(text: str) -> tuple[list[Match], str]:
    """Read the matches' texts, comments apart; also gives the text that no match claims.

    A comment is printed as it is, so one that holds `*/ tcp dpt:22 /*` lists byte for byte like a real
    port between two comments. Text before the first `/*` and after the last `*/` is no comment's, and
    with one of each there is one comment between them; with more, all that lies between is unknown.
    """
    start, end = text.find("/*"), text.rfind("*/")
    if start < 0:
        return parse_fragments(text)
    if end < start + 2:
        raise ValueError("the comment of this rule does not end on its line; the next lines may be its text")
    matches, unread = parse_fragments(text[:start].strip(" "))
    if unread:
        matches.append(Hidden(field="-m", shown=unread))
    if text.count("/*") == text.count("*/") == 1:
        comment = text[start + 3 : end - 1]
        matches.append(Extension(module="comment", options=(Option(name="--comment", values=(comment,)),)))
    else:
        matches.append(Hidden(field="-m", shown=text[start : end + 2]))
    more, rest = parse_fragments(text[end + 2 :].strip(" "))
    return [*matches, *more], rest
