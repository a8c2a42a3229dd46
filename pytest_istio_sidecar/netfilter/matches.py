"""The conditions of a rule, as values.

Knows what each condition says and how iptables-save writes it. Does not know
whether it holds for a packet: that is `trace/match`. Invariant: `str(match)` is
the text that iptables-save prints for it, and parses back to an equal match.

Conditions over ordered values (addresses, ports, ids, marks) are typed; every
other extension is an `Extension` with its options in order. `Hidden` stands
for what a lossy listing does not show.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from pytest_istio_sidecar.netfilter.relations import Interfaces, Relation, Unmodelled

Side = Literal["source", "destination"]

PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "ipencap": 4,
    "tcp": 6,
    "udp": 17,
    "ipv6": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "sctp": 132,
    "mh": 135,
    "udplite": 136,
}
"""Protocol names that iptables prints, to their IANA numbers."""

FULL_MASK = 0xFFFFFFFF
"""Every bit of a mark."""

PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}


def quote(text: str) -> str:
    """Write a string as xtables_save_string does (iptables libxtables/xtables.c)."""
    plain = all(character.isascii() and (character.isalnum() or character in "_-") for character in text)
    return text if plain and text else in_quotes(text)


def in_quotes(text: str) -> str:
    """Write a string in quotes, what ends them escaped."""
    escaped = "".join("\\" + character if character in "\"\\'" else character for character in text)
    return f'"{escaped}"'


def _not(negated: bool) -> str:
    return "! " if negated else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A closed interval of ports or ids, possibly inverted (`! --dport 1:5`)."""

    low: int
    high: int
    negated: bool = False

    def option(self, name: str, separator: str = ":") -> str:
        value = f"{self.low}" if self.low == self.high else f"{self.low}{separator}{self.high}"
        return f"{_not(self.negated)}{name} {value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """`-s` or `-d`. The mask need not be contiguous."""

    side: Side
    family: Literal[4, 6]
    network: int
    mask: int
    negated: bool = False

    def __str__(self) -> str:
        bits = 32 if self.family == 4 else 128
        kind = ipaddress.IPv4Address if self.family == 4 else ipaddress.IPv6Address
        inverse = self.mask ^ ((1 << bits) - 1)
        contiguous = inverse & (inverse + 1) == 0
        mask = str(bits - inverse.bit_length()) if contiguous else str(kind(self.mask))
        flag = "-s" if self.side == "source" else "-d"
        return f"{_not(self.negated)}{flag} {kind(self.network)}/{mask}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """`-i` or `-o`; a name ending in `+` matches every interface with that prefix."""

    direction: Literal["in", "out"]
    name: str
    negated: bool = False

    def __str__(self) -> str:
        return f"{_not(self.negated)}{'-i' if self.direction == 'in' else '-o'} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """`-p`, by IANA number."""

    number: int
    negated: bool = False

    def __str__(self) -> str:
        return f"{_not(self.negated)}-p {PROTOCOL_NAMES.get(self.number, self.number)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """`-f`: second and further IPv4 fragments."""

    negated: bool = False

    def __str__(self) -> str:
        return f"{_not(self.negated)}-f"


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpFlags:
    """`--tcp-flags MASK SET`; names in the order FIN SYN RST PSH ACK URG."""

    mask: tuple[str, ...]
    set: tuple[str, ...]
    negated: bool = False

    def __str__(self) -> str:
        mask, chosen = (",".join(names) or "NONE" for names in (self.mask, self.set))
        return f"{_not(self.negated)}--tcp-flags {mask} {chosen}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """`-m tcp`, `-m udp`, `-m sctp`, `-m udplite` or `-m dccp`, with its port and flag options."""

    module: str
    source: Range | None = None
    destination: Range | None = None
    flags: TcpFlags | None = None
    tcp_option: Range | None = None

    def __str__(self) -> str:
        parts = [f"-m {self.module}"]
        if self.source is not None:
            parts.append(self.source.option("--sport"))
        if self.destination is not None:
            parts.append(self.destination.option("--dport"))
        if self.tcp_option is not None:
            parts.append(self.tcp_option.option("--tcp-option"))
        if self.flags is not None:
            parts.append(str(self.flags))
        return " ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiport:
    """`-m multiport`: up to 15 ports or ranges, of the source, the destination or either."""

    side: Side | Literal["either"]
    ranges: tuple[tuple[int, int], ...]
    negated: bool = False

    def __str__(self) -> str:
        option = {"source": "--sports", "destination": "--dports", "either": "--ports"}[self.side]
        values = ",".join(str(low) if low == high else f"{low}:{high}" for low, high in self.ranges)
        return f"-m multiport {_not(self.negated)}{option} {values}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """`-m owner`: who created the socket. A packet without a socket satisfies only inverted options.

    Source: kernel net/netfilter/xt_owner.c.
    """

    uid: Range | None = None
    gid: Range | None = None
    supplementary_groups: bool = False
    socket_exists: bool | None = None
    """None: not asked for; False: asked for inverted."""

    def __str__(self) -> str:
        parts = ["-m owner"]
        if self.socket_exists is not None:
            parts.append(f"{_not(not self.socket_exists)}--socket-exists")
        if self.uid is not None:
            parts.append(self.uid.option("--uid-owner", "-"))
        if self.gid is not None:
            parts.append(self.gid.option("--gid-owner", "-"))
        if self.supplementary_groups:
            parts.append("--suppl-groups")
        return " ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """`-m mark` (the packet's) or `-m connmark` (the connection's): `(mark & mask) == value`."""

    module: Literal["mark", "connmark"]
    value: int
    mask: int = FULL_MASK
    negated: bool = False

    def __str__(self) -> str:
        mask = "" if self.mask == FULL_MASK else f"/{self.mask:#x}"
        return f"-m {self.module} {_not(self.negated)}--mark {self.value:#x}{mask}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of an extension: its name with dashes, and the words after it, unquoted."""

    name: str
    values: tuple[str, ...] = ()
    negated: bool = False

    def __str__(self) -> str:
        written = _WRITTEN.get(self.name, quote_word)
        return " ".join((f"{_not(self.negated)}{self.name}", *map(written, self.values)))


def quote_word(word: str) -> str:
    """Quote a word only where it would otherwise read as several words, as none, or as an option."""
    bare = word.isprintable() and not any(character in " \"'\\" for character in word)
    looks_like_option = word[:1] in ("-", "!", "<") and not word[1:2].isdigit()
    return word if word and bare and not looks_like_option else in_quotes(word)


_WRITTEN = {
    **dict.fromkeys(("--comment", "--log-prefix", "--nflog-prefix", "--ulog-prefix"), quote),
    **dict.fromkeys(("--string", "--hex-string", "--u32"), in_quotes),
}
"""How iptables writes the options that are one text; it prints the values of others as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """`-m MODULE` with options in the order written; which are modelled, `trace/match_extensions` says."""

    module: str
    options: tuple[Option, ...] = ()

    def __str__(self) -> str:
        if self.module == "comment" and len(self.options) == 1:
            return f"-m comment --comment {quote(' '.join(self.options[0].values))}"
        return " ".join((f"-m {self.module}", *map(str, self.options)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """A field that the listing does not show, or shows only by a name.

    It may hold or not: unknown, never "any". `field` is the option it may
    hide (`-i`, `-o`, `-s`, `-d`, `--dport`, `--uid-owner` …), `shown` what the
    listing prints in its place, or "".
    """

    field: str
    shown: str = ""
    negated: bool = False

    def __str__(self) -> str:
        return f"{_not(self.negated)}{self.field} <{self.shown or 'not shown'}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """All conditions of one of these hold; inverted, of none."""

    alternatives: tuple[tuple[Match, ...], ...]
    negated: bool = False
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.text or " or ".join(" ".join(map(str, each)) for each in self.alternatives)


Match = (
    Address
    | Interface
    | Protocol
    | Fragment
    | Transport
    | Multiport
    | Owner
    | Mark
    | Extension
    | Hidden
    | Relation
    | Interfaces
    | AnyOf
    | Unmodelled
)
"""Of iptables; from `Relation` on, of nf_tables."""


def parts_of(matches: Iterable[Match]) -> Iterator[Match]:
    """The conditions, and those that one of several of is made of."""
    for match in matches:
        yield match
        if isinstance(match, AnyOf):
            for alternative in match.alternatives:
                yield from parts_of(alternative)


def asks_for_marks(match: Match) -> bool:
    """Whether a condition is about the mark of a packet or a connection."""
    return isinstance(match, Mark) or (isinstance(match, Relation) and match.key in ("meta mark", "ct mark"))
