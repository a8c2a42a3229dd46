"""What a rule does, as values.

Knows what each target says and how iptables-save writes it. Does not know what
becomes of a packet: that is `actions`. Invariant: `str(target)` is the text that
iptables-save prints for it, and parses back to an equal target; `verb` is what
it does in a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from pytest_istio_sidecar.netfilter.matches import FULL_MASK, Match, Option, parts_of
from pytest_istio_sidecar.netfilter.packet import IPAddress

VERDICTS = ("ACCEPT", "DROP", "RETURN", "QUEUE")
TARGETS = frozenset((
    *VERDICTS, "AUDIT", "CHECKSUM", "CLASSIFY", "CLUSTERIP", "CONNMARK", "CONNSECMARK", "CT", "DNAT", "DNPT",
    "DSCP", "ECN", "HL", "HMARK", "IDLETIMER", "LED", "LOG", "MARK", "MASQUERADE", "MIRROR", "NETMAP",
    "NFLOG", "NFQUEUE", "NOTRACK", "RATEEST", "REDIRECT", "REJECT", "SAME", "SECMARK", "SET", "SNAT", "SNPT",
    "SYNPROXY", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TPROXY", "TRACE", "TTL", "ULOG",
    "ACCOUNT", "CHAOS", "DELUDE", "DHCPMAC", "DNETMAP", "ECHO", "IPMARK", "LOGMARK", "PROTO", "RAWDNAT",
    "RAWSNAT", "STEAL", "SYSRQ", "TARPIT",
))  # fmt: skip
"""What is no chain behind -j: targets of iptables-extensions(8) and xtables-addons(8)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`-j ACCEPT`, `DROP`, `RETURN` or `QUEUE`."""

    name: str

    @property
    def verb(self) -> str:
        return self.name.lower()

    def __str__(self) -> str:
        return f"-j {self.name}"


@dataclass(frozen=True, slots=True)
class Jump:
    """`-j CHAIN`: comes back after this rule."""

    verb: ClassVar = "jump"
    chain: str

    def __str__(self) -> str:
        return f"-j {self.chain}"


@dataclass(frozen=True, slots=True)
class Goto:
    """`-g CHAIN`: comes back where this chain's caller goes on (ip-tables(8))."""

    verb: ClassVar = "goto"
    chain: str

    def __str__(self) -> str:
        return f"-g {self.chain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """`-j REDIRECT`: to this host; without ports the port stays."""

    verb: ClassVar = "redirect"
    ports: tuple[int, int] | None = None
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = ["-j REDIRECT"]
        if self.ports is not None:
            parts.append(f"--to-ports {_ports(self.ports)}")
        return " ".join((*parts, *self.flags))


@dataclass(frozen=True, slots=True, kw_only=True)
class Translate:
    """`-j DNAT` or `-j SNAT`: to an address, a range of them, ports, or both.

    `text` keeps the destination as written where it is more than one range.
    """

    name: Literal["DNAT", "SNAT"]
    addresses: tuple[IPAddress, IPAddress] | None = None
    ports: tuple[int, int] | None = None
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        option = "--to-destination" if self.name == "DNAT" else "--to-source"
        return " ".join((f"-j {self.name} {option} {self.to}", *self.flags))

    @property
    def verb(self) -> str:
        return self.name

    @property
    def to(self) -> str:
        """The value of `--to-destination` or `--to-source`."""
        text = ""
        if self.addresses is not None:
            low, high = self.addresses
            text = str(low) if low == high else f"{low}-{high}"
            if low.version == 6 and self.ports is not None:
                text = f"[{text}]"
        return text if self.ports is None else f"{text}:{_ports(self.ports)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tproxy:
    """`-j TPROXY`: hand the packet to a local socket and mark it; address and port of the packet stay.

    nft's `tproxy` marks nothing, and the rule goes on behind it (net/netfilter/nft_tproxy.c).
    """

    verb: ClassVar = "TPROXY"
    port: int
    address: IPAddress
    mark: int = 0
    mask: int = 0
    goes_on: bool = False

    def __str__(self) -> str:
        return (
            f"-j TPROXY --on-port {self.port} --on-ip {self.address} "
            f"--tproxy-mark {self.mark:#x}/{self.mask:#x}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMark:
    """`-j MARK --set-xmark VALUE/MASK`: `mark = (mark & ~mask) ^ value`."""

    verb: ClassVar = "mark"
    value: int
    mask: int = FULL_MASK

    def __str__(self) -> str:
        return f"-j MARK --set-xmark {self.value:#x}/{self.mask:#x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """Every other `-j NAME` with its options in the order written (LOG, REJECT, CT, CONNMARK …)."""

    name: str
    options: tuple[Option, ...] = ()

    @property
    def verb(self) -> str:
        return self.name

    def __str__(self) -> str:
        return " ".join((f"-j {self.name}", *map(str, self.options)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """nft's `meta mark set` and `ct mark set`: `mark = (of & keep) ^ flip`.

    `of` names the mark that is taken; "nothing": a constant, "unknown": what is not modelled.
    """

    to: Literal["mark", "connmark"]
    of: Literal["mark", "connmark", "nothing", "unknown"]
    keep: int = 0
    flip: int = 0

    @property
    def verb(self) -> str:
        return "mark" if self.to == "mark" else "ct mark"


@dataclass(frozen=True, slots=True)
class Zone:
    """nft's `ct zone set`, before conntrack; None: what is not modelled."""

    verb: ClassVar = "ct zone"
    number: int | None


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of nft that is not modelled, in nft's words."""

    text: str

    @property
    def verb(self) -> str:
        return self.text.partition(" ")[0]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """A rule within a rule of nft."""

    matches: tuple[Match, ...] = ()
    target: Target | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Rules within a rule of nft: what follows a statement, or the elements of a map.

    RETURN in them is that of the chain. `exclusive`: the first that matches is the last.
    """

    verb: ClassVar = "match"
    rules: tuple[Inner, ...]
    exclusive: bool = False


Target = (
    Verdict
    | Jump
    | Goto
    | Redirect
    | Translate
    | Tproxy
    | SetMark
    | Extended
    | Assign
    | Zone
    | Statement
    | Block
)
"""Of iptables and nf_tables; from `Assign` on, of the latter alone."""


def targets_in(target: Target | None) -> Iterator[Target | None]:
    """The target, or those of the rules within it."""
    if isinstance(target, Block):
        for rule in target.rules:
            yield from targets_in(rule.target)
    else:
        yield target


def conditions_of(matches: tuple[Match, ...], target: Target | None) -> Iterator[Match]:
    """Every condition of a rule, those of rules within it too."""
    yield from parts_of(matches)
    if isinstance(target, Block):
        for rule in target.rules:
            yield from conditions_of(rule.matches, rule.target)


def called_by(target: Target | None) -> Iterator[str]:
    """The chains that a target jumps or goes to."""
    for each in targets_in(target):
        if isinstance(each, Jump | Goto):
            yield each.chain


def _ports(ports: tuple[int, int]) -> str:
    low, high = ports
    return str(low) if low == high else f"{low}-{high}"
