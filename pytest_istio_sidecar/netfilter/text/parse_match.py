"""The options of one match, as a value.

Knows the options of iptables(8) and iptables-extensions(8) that are typed. Does not know
how they are told apart in a rule (`parse_rule`). Invariant: a value that a type cannot
hold unchanged leaves its match an `Extension`, whose text survives.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal

from pytest_istio_sidecar.netfilter.matches import (
    FULL_MASK,
    PROTOCOLS,
    Address,
    Extension,
    Fragment,
    Hidden,
    Interface,
    Mark,
    Match,
    Multiport,
    Option,
    Owner,
    Protocol,
    Range,
    Side,
    TcpFlags,
    Transport,
)
from pytest_istio_sidecar.netfilter.model import Family

RawOption = tuple[str, tuple[str, ...], bool]
"""An option's name, values and whether it is inverted."""

_REMEMBERED = 4096
"""Values are immutable and most rules repeat them: parsing each once is faster, and they share memory."""

_OTHER_PROTOCOLS = {
    "all": 0, "ip": 0, "hopopt": 0, "ggp": 3, "st": 5, "egp": 8, "igp": 9, "pup": 12, "hmp": 20,
    "xns-idp": 22, "rdp": 27, "iso-tp4": 29, "dccp": 33, "xtp": 36, "ddp": 37, "idpr-cmtp": 38,
    "ipv6-route": 43, "ipv6-frag": 44, "idrp": 45, "rsvp": 46, "skip": 57, "icmpv6": 58, "ipv6-nonxt": 59,
    "ipv6-opts": 60, "rspf": 73, "vmtp": 81, "eigrp": 88, "ospf": 89, "ax.25": 93, "ipip": 94,
    "etherip": 97, "encap": 98, "pim": 103, "ipcomp": 108, "vrrp": 112, "l2tp": 115, "isis": 124, "fc": 133,
    "ipv6-mh": 135, "mobility-header": 135, "mpls-in-ip": 137, "manet": 138, "hip": 139, "shim6": 140,
    "wesp": 141, "rohc": 142, "ethernet": 143, "mptcp": 262,
}  # fmt: skip
"""Names of /etc/protocols (Debian's netbase) that iptables up to 1.8.10 may print."""

_MARK = re.compile(r"(0x[0-9a-fA-F]{1,8}|0|[1-9][0-9]{0,9})(?:/(0x[0-9a-fA-F]{1,8}|0|[1-9][0-9]{0,9}))?")
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")
_PORTS = frozenset(("--sport", "--dport"))

_OCTETS = {str(number): number for number in range(256)}
_MASKS = {
    family: {str(length): (1 << size) - (1 << size - length) for length in range(size + 1)}
    for family, size in ((4, 32), (6, 128))
}
"""Masks of a family by the length of their prefix, as iptables writes it."""

OPTIONS: Mapping[str, frozenset[str]] = {
    "tcp": _PORTS | {"--tcp-flags", "--syn", "--tcp-option"},
    "udp": _PORTS,
    "udplite": _PORTS,
    "sctp": _PORTS | {"--chunk-types"},
    "dccp": _PORTS | {"--dccp-types", "--dccp-option"},
    "icmp": frozenset(("--icmp-type",)),
    "icmp6": frozenset(("--icmpv6-type",)),
    "multiport": frozenset(("--sports", "--dports", "--ports")),
    "owner": frozenset(("--uid-owner", "--gid-owner", "--socket-exists", "--suppl-groups")),
    "mark": frozenset(("--mark",)),
    "connmark": frozenset(("--mark",)),
    "comment": frozenset(("--comment",)),
    "state": frozenset(("--state",)),
    "conntrack": frozenset((
        "--ctstate", "--ctproto", "--ctorigsrc", "--ctorigdst", "--ctreplsrc", "--ctrepldst",
        "--ctorigsrcport", "--ctorigdstport", "--ctreplsrcport", "--ctrepldstport", "--ctstatus",
        "--ctexpire", "--ctdir",
    )),
    "addrtype": frozenset(("--src-type", "--dst-type", "--limit-iface-in", "--limit-iface-out")),
}  # fmt: skip
"""The options of the modules whose options are known; every other module takes what follows it."""


def strict_number(text: str, digits: int = 10) -> int:
    """A decimal number as iptables writes it: int() would take `1_000`, ` 5` and other scripts' digits.

    Raises:
        ValueError: it is none, or has more digits.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= digits):
        raise ValueError(f"{text[:30]!r} is no number")
    return int(text)


def masked(text: str) -> tuple[int, int | None]:
    """`VALUE[/MASK]`, each of 32 bits, decimal or hexadecimal.

    Raises:
        ValueError: it is none.
    """
    written = _MARK.fullmatch(text)
    if written is None:
        raise ValueError("no mark")
    value, mask = int(written[1], 0), None if written[2] is None else int(written[2], 0)
    if value > FULL_MASK or (mask or 0) > FULL_MASK:
        raise ValueError("not 32 bits")
    return value, mask


@lru_cache(_REMEMBERED)
def parse_address(option: str, text: str, family: Family, negated: bool) -> Match | None:
    """`-s` or `-d`; None for one that every packet has.

    Raises:
        ValueError: no address of that family.
    """
    bits = 32 if family == 4 else 128
    host, separator, length = text.partition("/")
    if not separator:
        length = str(bits)
    mask = _MASKS[family].get(length)
    if mask is None:
        if length.isascii() and length.isdigit():
            raise ValueError(
                _wrong_family(text, family, f"prefix length /{length[:9]} is longer than {bits}")
            )
        mask = _ip(length, family)
    network = _ip(host, family) & mask
    if not mask and not negated:
        return None
    side: Side = "source" if option == "-s" else "destination"
    return Address(side=side, family=family, network=network, mask=mask, negated=negated)


def _ip(text: str, family: Family) -> int:
    try:
        if family == 4:
            first, second, third, fourth = text.split(".")
            return _OCTETS[first] << 24 | _OCTETS[second] << 16 | _OCTETS[third] << 8 | _OCTETS[fourth]
        address = ipaddress.IPv6Address(text)
    except (KeyError, ValueError):
        raise ValueError(_wrong_family(text, family, f"{text!r} is no address")) from None
    if address.scope_id is not None:
        raise ValueError(f"{text!r} names an interface, which no rule's address does")
    return int(address)


def _wrong_family(text: str, family: Family, otherwise: str) -> str:
    if family == 4 and ":" in text:
        return (
            f"{text!r} is an IPv6 address, but this was to be read as iptables (family 4): "
            "give it as ip6:FILE, or family=6"
        )
    if family == 6 and ":" not in text and "." in text:
        return f"{text!r} is an IPv4 address, but this was to be read as ip6tables (family 6)"
    return otherwise


@lru_cache(_REMEMBERED)
def parse_interface(option: str, text: str, family: Family, negated: bool) -> Match | None:  # noqa: ARG001 - as all
    """`-i` or `-o`; None for one that every packet has."""
    if text == "+" and not negated:
        return None
    return Interface(direction="in" if option == "-i" else "out", name=text, negated=negated)


@lru_cache(_REMEMBERED)
def parse_protocol(option: str, text: str, family: Family, negated: bool) -> Match | None:  # noqa: ARG001 - as all
    """`-p`; None for every protocol. A name that is not known here is hidden: the writer knew its number."""
    number = PROTOCOLS.get(text, _OTHER_PROTOCOLS.get(text))
    if number is None:
        if not text[:1].isdigit():
            return Hidden(field="-p", shown=text, negated=negated)
        number = strict_number(text)
        if number > 0xFF and number not in _OTHER_PROTOCOLS.values():
            raise ValueError(f"there is no protocol {text}")
    return Protocol(number=number, negated=negated) if number or negated else None


def parse_fragment(option: str, text: str, family: Family, negated: bool) -> Match | None:  # noqa: ARG001 - as all
    """`-f`."""
    return Fragment(negated=negated)


def parse_match(module: str, options: tuple[RawOption, ...]) -> Match:
    """The typed match, or the extension as it stands where some option is beyond the type."""
    typed = _typed_match(module, options) if module in _TYPED else None
    return typed or Extension(module=module, options=as_options(options))


@lru_cache(_REMEMBERED)
def _typed_match(module: str, options: tuple[RawOption, ...]) -> Match | None:
    by_name = {name: (values, negated) for name, values, negated in options}
    if len(by_name) == len(options):
        try:
            return _TYPED[module](module, by_name)
        except (KeyError, ValueError):
            pass
    return None


def as_options(options: tuple[RawOption, ...]) -> tuple[Option, ...]:
    """The same options as values of the model."""
    return tuple(
        [
            Option(name=name, values=tuple([str(word) for word in values]), negated=no)
            for name, values, no in options
        ]
    )


_Options = dict[str, tuple[tuple[str, ...], bool]]


def _only(options: _Options, known: frozenset[str] | set[str]) -> None:
    if options.keys() - known:
        raise KeyError("an option beyond the type")


def _one(values: tuple[str, ...]) -> str:
    (value,) = values
    return value


def _range(options: _Options, name: str, separator: str, highest: int) -> Range | None:
    if name not in options:
        return None
    values, negated = options[name]
    low_text, colon, high_text = _one(values).partition(separator)
    low = strict_number(low_text or "0") if colon else strict_number(low_text)
    high = (strict_number(high_text) if high_text else highest) if colon else low
    if not low <= high <= highest:
        raise ValueError("not a range")
    return Range(low=low, high=high, negated=negated)


def _ports(options: _Options, name: str) -> Range | None:
    """iptables-save drops a range that holds every port."""
    ports = _range(options, name, ":", 0xFFFF)
    whole = ports is not None and ports.high - ports.low == 0xFFFF and not ports.negated
    return None if whole else ports


def _transport(module: str, options: _Options) -> Match:
    _only(options, OPTIONS["tcp"] if module == "tcp" else _PORTS)
    flags = None
    if "--syn" in options:
        values, negated = options["--syn"]
        if values or "--tcp-flags" in options:
            raise ValueError("--syn has no value and stands alone")
        flags = TcpFlags(mask=("FIN", "SYN", "RST", "ACK"), set=("SYN",), negated=negated)
    if "--tcp-flags" in options:
        (mask, chosen), negated = options["--tcp-flags"]
        flags = TcpFlags(mask=_flags(mask), set=_flags(chosen), negated=negated)
    return Transport(
        module=module,
        source=_ports(options, "--sport"),
        destination=_ports(options, "--dport"),
        flags=flags,
        tcp_option=_tcp_option(options),
    )


def _tcp_option(options: _Options) -> Range | None:
    if "--tcp-option" not in options:
        return None
    values, negated = options["--tcp-option"]
    number = strict_number(_one(values))
    if not 0 < number < 256:
        raise ValueError("no option of TCP")
    return Range(low=number, high=number, negated=negated)


def _flags(text: str) -> tuple[str, ...]:
    named = {"ALL": set(_FLAGS), "NONE": set[str]()}.get(text) or set(text.split(",")) - {"NONE"}
    if named - set(_FLAGS):
        raise ValueError("no such flag")
    return tuple(name for name in _FLAGS if name in named)


_SIDES: dict[str, Literal["source", "destination", "either"]] = {
    "--sports": "source",
    "--dports": "destination",
    "--ports": "either",
}


def _multiport(module: str, options: _Options) -> Match:  # noqa: ARG001 - as all
    ((name, (values, negated)),) = options.items()
    ranges = []
    for part in _one(values).split(","):
        low_text, colon, high_text = part.partition(":")
        low = strict_number(low_text)
        high = strict_number(high_text) if colon else low
        if not low <= high <= 0xFFFF:
            raise ValueError("not ports")
        ranges.append((low, high))
    return Multiport(side=_SIDES[name], ranges=tuple(ranges), negated=negated)


def _owner(module: str, options: _Options) -> Match:  # noqa: ARG001 - as all
    _only(options, OPTIONS["owner"])
    exists = options.get("--socket-exists")
    groups = options.get("--suppl-groups")
    if (exists and exists[0]) or (groups and any(groups)):
        raise ValueError("neither takes a value, nor can --suppl-groups be inverted")
    return Owner(
        uid=_range(options, "--uid-owner", "-", 0xFFFFFFFF),
        gid=_range(options, "--gid-owner", "-", 0xFFFFFFFF),
        supplementary_groups=groups is not None,
        socket_exists=None if exists is None else not exists[1],
    )


def _mark(module: str, options: _Options) -> Match:
    ((name, (values, negated)),) = options.items()
    if name != "--mark":
        raise KeyError(name)
    value, mask = masked(_one(values))
    return Mark(
        module="mark" if module == "mark" else "connmark",
        value=value,
        mask=FULL_MASK if mask is None else mask,
        negated=negated,
    )


_TYPED: dict[str, Callable[[str, _Options], Match]] = {
    **dict.fromkeys(("tcp", "udp", "udplite", "sctp", "dccp"), _transport),
    "multiport": _multiport,
    "owner": _owner,
    "mark": _mark,
    "connmark": _mark,
}
