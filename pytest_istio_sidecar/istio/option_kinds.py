"""What an option of istio-iptables may hold: each kind reads a value, as Istio writes it or as Python does.

Knows the words of each kind, and what istio-iptables or iptables-restore would refuse. Does not know which
options there are. Invariant: what a kind returns is text as Istio writes it, or a truth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from pytest_istio_sidecar.errors import UsageProblem

Network = IPv4Network | IPv6Network
Kind = Callable[[str, object], str | bool | None]
"""Takes an option's name and what it is given, and raises UsageProblem where Istio would."""
_Check = Callable[[str, str], None]
"""The same of a text, or of a member of a list."""

ALL = "*"
_MOST_GROUPS = 64
"""Owner groups that istio-iptables includes at most (tools/common/config/validation.go)."""
_NUMBERS = {
    "root": 0, "daemon": 1, "bin": 2, "sys": 3, "adm": 4, "tty": 5, "disk": 6, "lp": 7, "mail": 8,
    "news": 9, "uucp": 10, "man": 12, "proxy": 13, "kmem": 15, "dialout": 20, "fax": 21, "voice": 22,
    "cdrom": 24, "floppy": 25, "tape": 26, "sudo": 27, "audio": 29, "dip": 30, "www-data": 33,
    "backup": 34, "operator": 37, "list": 38, "irc": 39, "src": 40, "shadow": 42, "utmp": 43,
    "video": 44, "sasl": 45, "plugdev": 46, "staff": 50, "games": 60, "users": 100,
    "nogroup": 65534, "istio-proxy": 1337,
}  # fmt: skip
"""Groups that the proxy image knows by name: those of Debian and Ubuntu (package base-passwd,
group.master), and its own. iptables-restore looks names up in there."""
_RANGE = re.compile(r"(\d{1,5})(?::(\d{1,5}))?")


def truth(name: str, value: object) -> bool | None:
    """True or False; None where it is left to the release, or to who installs the rules."""
    if not isinstance(value, bool | None):
        raise UsageProblem(f"{name} is True or False, not {value!r}")
    return value


def _text(check: _Check, *, several: bool = False, or_all: bool = False) -> Kind:
    """Text as Istio writes it, or a number or a list of Python's, which becomes that text.

    Args:
        several: it is a list, of which every member is checked.
        or_all: "*" is taken too.
    """

    def read(name: str, value: object) -> str:
        if isinstance(value, str):
            text = value.strip()
        elif isinstance(value, int) and not isinstance(value, bool):
            text = str(value)
        elif isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
            text = ",".join(str(part) for part in (sorted(value) if isinstance(value, set) else value))
        else:
            raise UsageProblem(
                f'{name} is text as Istio writes it ("80,8080"), a number or a list, not {value!r}'
            )
        if not (or_all and text == ALL):
            for part in split(text) if several else (text,):
                check(name, part)
        return text

    return read


def one_of(*words: str) -> Kind:
    """One of these words."""

    def check(name: str, text: str) -> None:
        if text not in words:
            listed = (" or " if len(words) == 2 else ", ").join(words)
            raise UsageProblem(f"{name} is {listed}, not {text!r}")

    return _text(check)


def _is(what: str, fits: Callable[[str], object], /) -> _Check:
    """A check by a test, which may raise ValueError; `what` says what a text is that does not pass it."""

    def check(name: str, text: str) -> None:
        try:
            passed = fits(text)
        except ValueError:
            passed = False
        if not passed:
            raise UsageProblem(f"{name}: {text!r} is {what}")

    return check


def _number(most: int) -> _Check:
    return _is(f"no number up to {most}", lambda text: 0 <= int(text, 0) <= most)


def _address(version: int) -> _Check:
    return _is(f"no IPv{version} address", lambda text: ip_address(text).version == version)


def _port(name: str, text: str) -> None:
    match = _RANGE.fullmatch(text)
    if match is None or any(int(part) > 65535 for part in match.groups() if part):
        raise UsageProblem(f"{name}: {text!r} is no port")
    if match[2] and int(match[1]) > int(match[2]):
        raise UsageProblem(
            f"{name}: {text!r} ends before it begins; iptables-restore refuses every rule then"
        )


def _loopback_range(name: str, text: str) -> None:
    network = cidr(text)
    if network is None or network.version != 4 or not network.is_loopback or network.prefixlen < 8:
        raise UsageProblem(f"{name} is a range of IPv4 loopback addresses of /8 to /32, not {text!r}")


def _not_all(name: str, text: str) -> None:
    if text == ALL:
        raise UsageProblem(f'{name} cannot be *: Istio refuses it ("invalid value for {name.upper()}")')


def _owner_groups(name: str, text: str) -> None:
    group_ids(text, option=name)


def _captured_groups(name: str, text: str) -> None:
    if len(split(text)) > _MOST_GROUPS:
        raise UsageProblem(f"{name} has {len(split(text))} groups; Istio takes {_MOST_GROUPS}")
    _owner_groups(name, text)


def split(text: str) -> tuple[str, ...]:
    """The members of a list as Istio writes it; empty ones do not count (config.Split)."""
    return tuple(part for part in text.split(",") if part)


def cidr(text: str) -> Network | None:
    """A range in CIDR, without the host's bits; None where it is none ("10.0.0.1" is not)."""
    if not re.fullmatch(r"[^/]+/\d+", text):
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def unmapped(network: Network) -> Network:
    """An IPv4 range in the notation of IPv6 (RFC 4291, 2.5.5.2) in its own; any other unchanged."""
    address = network.network_address
    if isinstance(address, IPv6Address) and address.ipv4_mapped and network.prefixlen >= 96:
        return IPv4Network((address.ipv4_mapped, network.prefixlen - 96))
    return network


def is_loopback(text: str) -> bool:
    """Whether the address of a range in CIDR is a loopback one."""
    address = ip_address(text.partition("/")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def group_ids(text: str, *, option: str = "owner groups") -> tuple[str, ...]:
    """Groups as numbers, as iptables-save writes them.

    Raises:
        UsageProblem: a name that the proxy's image does not know.
    """
    numbers = []
    for group in split(text):
        if group in _NUMBERS:
            numbers.append(str(_NUMBERS[group]))
        elif re.fullmatch(r"\d{1,10}", group) and int(group) < 2**32 - 1:
            numbers.append(str(int(group)))
        else:
            raise UsageProblem(
                f"{option}: the proxy's image has no group {group}; iptables-restore refuses every rule "
                f'then (Bad value for "--gid-owner" option: "{group}")'
            )
    return tuple(numbers)


port = _text(_port)
"""A port, or a range of them: 80:90."""
ports = _text(_port, several=True)
ports_or_all = _text(_port, several=True, or_all=True)
ranges = _text(_not_all)
"""Ranges in CIDR. What becomes of one that is none is a matter of the release (`rules`)."""
ranges_or_all = _text(lambda _name, _text: None)
loopback_range = _text(_loopback_range)
interfaces = _text(
    _is("no interface's name", lambda text: len(text) <= 15 and re.fullmatch(r"[^\s/]+", text)), several=True
)
mark = _text(_number(2**32 - 1))
routing_table = _text(_number(2**32 - 1))
users = _text(_number(2**32 - 2), several=True)
"""By number; the kernel takes the last one for nobody."""
groups = _text(_number(2**32 - 2), several=True)
owner_groups = _text(_owner_groups, or_all=True)
"""By number or name."""
captured_groups = _text(_captured_groups, or_all=True)
ipv4_addresses = _text(_address(4), several=True)
ipv6_addresses = _text(_address(6), several=True)
