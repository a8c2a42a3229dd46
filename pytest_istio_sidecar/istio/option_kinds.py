"""What an option of istio-iptables may hold: each kind reads a value, as Istio writes it or as Python does.

Knows the words of each kind, and what istio-iptables, iptables-restore or the webhook would refuse. Does not
know which options there are. Invariant: what a kind returns is text as Istio writes it, or a truth, and no
member of a list is lost.

Blanks around the members of a list are nothing to iptables-restore, so that they come off; but for ranges,
where a blank makes a member none (net.ParseCIDR, netip.ParsePrefix), in every release.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.istio import messages

Network = IPv4Network | IPv6Network
Kind = Callable[[str, object], str | bool | None]
"""Takes an option's name and what it is given, and raises UsageProblem where Istio would."""
_Check = Callable[[str, str], None]
"""The same of a text, or of a member of a list."""

ALL = "*"
BESIDE = "+"
"""What stands before members that are added to those of the release's template."""


class Argument(str):
    """Ranges that a program was started with: they stand, whatever the webhook would have said of them."""

    __slots__ = ()


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
_PORT = r"(0|[1-9][0-9]{0,4})"
_RANGE = re.compile(f"{_PORT}(?::{_PORT})?")
"""Without a zero in front: iptables takes that for octal."""
_NUMBER = re.compile(r"\+?(0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)")
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
"""What Go takes for either (strconv.ParseBool)."""


def truth(name: str, value: object) -> bool | None:
    """True or False, or as Go writes it; None: left to the release, or to who installs the rules."""
    if isinstance(value, str) and is_truth(value):
        return is_true(value)
    if not isinstance(value, bool | None):
        raise UsageProblem(messages.NOT_A_TRUTH(option=name, value=value))
    return value


def go_truth(name: str, text: str) -> bool:
    """What Go reads of a text.

    Raises:
        UsageProblem: it is neither true nor false.
    """
    if not is_truth(text):
        raise UsageProblem(messages.TRUTH_UNKNOWN(name=name, value=text))
    return text in _TRUE


def is_truth(text: str) -> bool:
    """Whether Go takes a text for true or false."""
    return text in (*_TRUE, *_FALSE)


def is_true(text: str) -> bool:
    """As a variable is read: what is neither true nor false is false."""
    return text in _TRUE


def _text(
    check: _Check,
    *,
    several: bool = False,
    whole: bool = False,
    or_all: bool = False,
    written: Callable[[str], str] | None = None,
) -> Kind:
    """Text as Istio writes it, or a number or a list of Python's, which becomes that text.

    Args:
        several: it is a list, of which every member is checked.
        whole: it is a list that is checked as one text.
        or_all: "*" is taken too.
        written: how iptables-save writes a member; None: as it is given.
    """

    def read(name: str, value: object) -> str:
        text = _listed(name, value)
        if or_all and text == ALL:
            return text
        if not (several or whole):
            text = text.strip()
        elif text:
            # A blank alone is a member, which iptables-restore refuses; an empty one is not.
            text = ",".join(part.strip() or part for part in text.split(","))
        for part in split(text) if several else (text,):
            check(name, part)
        if written is not None:
            text = ",".join(written(part) if part else part for part in text.split(","))
        return text

    return read


def _listed(name: str, value: object) -> str:
    """Text, a number or a sequence as Istio writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return ",".join(str(part) for part in (sorted(value) if isinstance(value, set) else value))
    raise UsageProblem(messages.NO_OPTION_TEXT(option=name, value=value))


def one_of(*words: str) -> Kind:
    """One of these words."""

    def check(name: str, text: str) -> None:
        if text not in words:
            listed = (" or " if len(words) == 2 else ", ").join(words)
            raise UsageProblem(messages.NO_SUCH_WORD(option=name, known=listed, text=text))

    return _text(check)


def _is(failing: Callable[[str, str], Failure], fits: Callable[[str], object], /) -> _Check:
    """A check by a test, which may raise ValueError; `failing` makes the message of an option and a text."""

    def check(name: str, text: str) -> None:
        try:
            passed = fits(text)
        except ValueError:
            passed = False
        if not passed:
            failure = failing(name, text)
            raise UsageProblem(failure)

    return check


def _number(most: int) -> _Check:
    return _is(
        lambda option, text: messages.NO_OPTION_NUMBER(option=option, text=text, most=most),
        lambda text: _NUMBER.fullmatch(text) and int(text, 0) <= most,
    )


def _address(version: int) -> _Check:
    return _is(
        lambda option, text: messages.NO_SERVER(option=option, server=text, family=version),
        lambda text: ip_address(text).version == version,
    )


def _one_port(name: str, text: str) -> None:
    _port(name, text)
    if ":" in text or not int(text):
        raise UsageProblem(messages.NO_ENVOY_PORT(option=name, text=text))


def _ids(name: str, value: object) -> str:
    text = _decimal_ids(name, value)
    assert isinstance(text, str)  # noqa: S101 - as `_text` has it
    if text and not split(text):
        raise UsageProblem(messages.NOBODY_NAMED(option=name, text=text))
    return text


def _decimal(text: str) -> str:
    return str(int(text, 0))


def _span(text: str) -> str:
    """A range of one port as that port."""
    low, _, high = text.partition(":")
    return low if low == high else text


def _port(name: str, text: str) -> None:
    match = _RANGE.fullmatch(text)
    if match is None or any(int(part) > 65535 for part in match.groups() if part):
        raise UsageProblem(messages.NO_PORT(option=name, text=text))
    if match[2] and int(match[1]) > int(match[2]):
        raise UsageProblem(messages.PORTS_REVERSED(option=name, text=text))


def _loopback_range(name: str, text: str) -> None:
    network = cidr(text)
    if network is None or network.version != 4 or not network.is_loopback or network.prefixlen < 8:
        raise UsageProblem(messages.NO_LOOPBACK(option=name, text=text))


def _owner_groups(name: str, text: str) -> None:
    group_ids(text, option=name)


def _captured_groups(name: str, text: str) -> None:
    if len(split(text)) > _MOST_GROUPS:
        raise UsageProblem(messages.TOO_MANY_GROUPS(option=name, count=len(split(text)), most=_MOST_GROUPS))
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


def is_malformed(text: str) -> bool:
    """Whether a member of a list of ranges is meant for one, and is neither a range nor an address."""
    if re.search(r"\s", text):
        return True
    if cidr(text) is not None or not ("/" in text or text[:1].isdigit()):
        return False
    try:
        ip_address(text)
    except ValueError:
        return True
    return False


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
        elif re.fullmatch(r"0|[1-9][0-9]{0,9}", group) and int(group) < 2**32 - 1:
            numbers.append(str(int(group)))
        else:
            raise UsageProblem(messages.NO_GROUP(option=option, group=group))
    return tuple(numbers)


def _ranges(*, or_all: bool) -> Kind:
    """Ranges in CIDR. What becomes of an address without its prefix is a matter of the release (`rules`)."""

    def read(name: str, value: object) -> str:
        text = _listed(name, value)
        if text == ALL and not or_all:
            raise UsageProblem(messages.EXCLUDES_ALL(option=name, variable=name.upper()))
        if not isinstance(value, Argument) and re.search(r"\s", text):
            right = ",".join(filter(None, re.split(r"[\s,]+", text)))
            right = right or f"an empty list: {name}="
            raise UsageProblem(messages.BLANK_IN_RANGES(option=name, text=text, right=right))
        for part in split(text) if text != ALL and not isinstance(value, Argument) else ():
            if is_malformed(part):
                raise UsageProblem(messages.NO_ADDRESSES(option=name, text=part))
        return text

    return read


envoy_port = _text(_one_port)
"""A port that something can listen on."""
port = _text(_port, written=_span)
"""A port, or a range of them: 80:90."""
ports = _text(_port, several=True, written=_span)


def ports_beside(name: str, value: object) -> str | bool | None:
    """Ports, or behind `BESIDE` those that are added to the template's."""
    if isinstance(value, str) and value.startswith(BESIDE):
        return f"{BESIDE}{ports(name, value.removeprefix(BESIDE))}"
    return ports(name, value)


ports_or_all = _text(_port, several=True, or_all=True, written=_span)
ranges = _ranges(or_all=False)
ranges_or_all = _ranges(or_all=True)
loopback_range = _text(_loopback_range)
interfaces = _text(
    _is(
        lambda option, text: messages.NO_INTERFACE(option=option, text=text),
        lambda text: len(text) <= 15 and re.fullmatch(r"[^\s/]+", text),
    ),
    several=True,
)
mark = _text(_number(2**32 - 1), written=_decimal)
routing_table = _text(_number(2**32 - 1), written=_decimal)
_decimal_ids = _text(_number(2**32 - 2), several=True, written=_decimal)
users = groups = _ids
"""By number; the kernel takes the last one for nobody."""
owner_groups = _text(_owner_groups, whole=True, or_all=True)
"""By number or name."""
captured_groups = _text(_captured_groups, whole=True, or_all=True)
ipv4_addresses = _text(_address(4), several=True)
ipv6_addresses = _text(_address(6), several=True)
