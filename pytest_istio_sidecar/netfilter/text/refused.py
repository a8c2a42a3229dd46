"""Values of options that iptables itself refuses, so that no kernel holds such a rule.

Knows the bounds of numbers, and the words that some options choose from. Does not know what an option means
(`parse_match`, `parse_target`). Invariant: what is refused here is refused by iptables 1.4 to 1.8 with either
back end; what is merely unknown here is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

_Check: TypeAlias = Callable[[str], None]

_PORT = 0xFFFF
_ID = 0xFFFFFFFE  # libxt_owner: UINT32_MAX - 1
_MARK = 0xFFFFFFFF
_INTERFACE = 15  # IFNAMSIZ - 1
_MULTIPORT = 15  # XT_MULTI_PORTS; a range counts as two
_SHOWN = 60
_MARKS = (
    "--mark",
    "--set-mark",
    "--set-xmark",
    "--or-mark",
    "--and-mark",
    "--xor-mark",
    "--tproxy-mark",
    "--nfmask",
    "--ctmask",
)
_STATES = ("INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED")
_ADDRESS_TYPES = (
    "UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT",
    "THROW", "NAT", "XRESOLVE",
)  # fmt: skip
_NUMBER = re.compile(r"-?[0-9]+|0[xX][0-9a-fA-F]+")
_OCTET = r"(?:[0-9]{1,2}|1[0-9]{2}|2[0-4][0-9]|25[0-5])"
_ADDRESS = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_ENDPOINT = re.compile(r"(?P<addresses>[0-9.]+(?:-[0-9.]+)?)?(?::(?P<ports>[0-9]+(?:-[0-9]+)?))?")


def refuse(option: str, values: tuple[str, ...]) -> None:
    """Refuse what the option cannot have.

    Raises:
        ValueError: it cannot; the message says what it can have.
    """
    check = _CHECKS.get(option)
    if check is None:
        return
    for value in values:
        try:
            check(value)
        except ValueError as problem:
            raise ValueError(f"{option} {value[:_SHOWN]}: {problem}") from None


def _within(text: str, top: int) -> list[int]:
    """The number that it is, if it is one: the name of a service is not looked at."""
    if text.isdigit() and text.isascii():
        number = int(text)
    elif _NUMBER.fullmatch(text) is None:
        return []
    else:
        number = int(text, 16 if text[:2] in ("0x", "0X") else 10)
    if not 0 <= number <= top:
        raise ValueError(f"iptables takes 0 to {top}")
    return [number]


def _ascending(text: str, separator: str) -> None:
    if separator not in text:
        _within(text, _PORT)
        return
    numbers = [number for part in text.split(separator) for number in _within(part, _PORT)]
    if numbers != sorted(numbers):
        raise ValueError("the range ends before it begins")


def _ports(text: str) -> None:
    _ascending(text, ":")


def _target_ports(text: str) -> None:
    _ascending(text, "-")


def _many_ports(text: str) -> None:
    parts = text.split(",")
    for part in parts:
        _ports(part)
    if len(parts) + text.count(":") > _MULTIPORT:
        raise ValueError(f"iptables takes {_MULTIPORT} ports, of which a range is two")


def _each(separator: str, top: int) -> _Check:
    def check(text: str) -> None:
        for part in text.split(separator):
            _within(part, top)

    return check


def _words(*known: str) -> _Check:
    """Words, of which iptables takes beginnings too, in small letters or capitals."""

    def check(text: str) -> None:
        for word in text.split(","):
            if not any(each.startswith(word.upper()) for each in known):
                raise ValueError(f"{word[:_SHOWN]!r} is none of {', '.join(known)}")

    return check


def _interface(text: str) -> None:
    if len(text.encode()) > _INTERFACE:
        raise ValueError(f"no interface has a name of more than {_INTERFACE} characters")


def _endpoint(text: str) -> None:
    """Addresses of IPv4 and ports; those of IPv6 are not looked at."""
    written = _ENDPOINT.fullmatch(text)
    if written is None:
        return
    for address in filter(None, (written["addresses"] or "").split("-")):
        if _ADDRESS.fullmatch(address) is None:
            raise ValueError(f"{address} is no address")
    _target_ports(written["ports"] or "")


_CHECKS: Mapping[str, _Check] = {
    **dict.fromkeys(("--sport", "--dport"), _ports),
    **dict.fromkeys(("--sports", "--dports", "--ports"), _many_ports),
    **dict.fromkeys(("--to-ports", "--on-port"), _target_ports),
    **dict.fromkeys(("--to-destination", "--to-source"), _endpoint),
    # A range of ids that ends before it begins is taken, and never holds.
    **dict.fromkeys(("--uid-owner", "--gid-owner"), _each("-", _ID)),
    **dict.fromkeys(_MARKS, _each("/", _MARK)),
    **dict.fromkeys(("--icmp-type", "--icmpv6-type"), _each("/", 0xFF)),
    "--ctstate": _words(*_STATES, "SNAT", "DNAT"),
    "--state": _words(*_STATES),
    "--tcp-flags": _words("SYN", "ACK", "FIN", "RST", "URG", "PSH", "ALL", "NONE"),
    **dict.fromkeys(("--src-type", "--dst-type"), _words(*_ADDRESS_TYPES)),
    **dict.fromkeys(("-i", "-o"), _interface),
}
