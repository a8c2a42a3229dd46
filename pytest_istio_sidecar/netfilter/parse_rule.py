"""The words of one rule, turned into its matches and target.

Knows the options of iptables(8) and iptables-extensions(8) that are typed.
Does not know files, tables or chains. Invariant: no word is lost; an option
that is not typed stays an `Option` of its extension.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from pytest_istio_sidecar.netfilter.matches import (
    PROTOCOLS,
    Address,
    Extension,
    Fragment,
    Interface,
    Mark,
    Match,
    Multiport,
    Option,
    Owner,
    Protocol,
    Range,
    TcpFlags,
    Transport,
)
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.netfilter.targets import (
    Extended,
    Goto,
    Redirect,
    SetMark,
    Target,
    Tproxy,
    Translate,
    Verdict,
)

_SHORT = {
    "--source": "-s", "--src": "-s", "--destination": "-d", "--dst": "-d", "--in-interface": "-i",
    "--out-interface": "-o", "--protocol": "-p", "--proto": "-p", "--fragment": "-f", "--match": "-m",
    "--jump": "-j", "--goto": "-g", "--set-counters": "-c", "--source-port": "--sport",
    "--destination-port": "--dport", "--source-ports": "--sports", "--destination-ports": "--dports",
    "--to-port": "--to-ports",
}  # fmt: skip
_ORDER = {"-s": 0, "-d": 1, "-i": 2, "-o": 3, "-p": 4, "-f": 5}
_ONE_STRING = {"--comment", "--log-prefix", "--nflog-prefix", "--string", "--hex-string", "--ulog-prefix"}
_VERDICTS = {"ACCEPT", "DROP", "RETURN", "QUEUE"}
_TRANSPORTS = {"tcp", "udp", "udplite", "sctp", "dccp"}


def parse_rule(
    given: Sequence[str], family: Family
) -> tuple[tuple[Match, ...], Target | None, tuple[int, int] | None]:
    """Turn the words after `-A CHAIN` into matches, target and the counters of `-c`.

    Raises:
        ValueError: words that no rule has; the message says which.
    """
    core: dict[str, Match] = {}
    extensions: list[Match] = []
    target: Target | None = None
    counters: tuple[int, int] | None = None
    position = 0
    implied = ""
    while position < len(given):
        negated = given[position] == "!"
        position += negated
        if position == len(given):
            raise ValueError("it ends with !")
        name = _SHORT.get(given[position], given[position])
        if name in _ORDER:
            value = "" if name == "-f" else _word(given, position + 1, name)
            position += 1 if name == "-f" else 2
            match = _CORE[name](value, family, negated)
            if name in core:
                raise ValueError(f"{name} stands twice")
            if match is not None:
                core[name] = match
            if name == "-p" and not negated:
                implied = value
        elif name == "-c":
            counters = int(_word(given, position + 1, name)), int(_word(given, position + 2, name))
            position += 3
        elif name in ("-j", "-g"):
            chosen = _word(given, position + 1, name)
            options, position = _options(given, position + 2)
            if target is not None:
                raise ValueError("it has two targets")
            target = Goto(chosen) if name == "-g" else _target(chosen, options, family)
        elif name == "-m" or name.startswith("--"):
            module = _word(given, position + 1, name) if name == "-m" else implied
            if not module:
                raise ValueError(f"{name} belongs to no match")
            start = position + 2 if name == "-m" else position - negated
            options, position = _options(given, start)
            extensions.append(_match(module, options))
        else:
            raise ValueError(f"unexpected word {given[position]!r}")
    ordered = [core[name] for name in sorted(core, key=_ORDER.__getitem__)]
    return (*ordered, *extensions), target, counters


def _word(given: Sequence[str], position: int, name: str) -> str:
    if position >= len(given):
        raise ValueError(f"{name} lacks its value")
    return given[position]


def _options(given: Sequence[str], position: int) -> tuple[tuple[Option, ...], int]:
    """Options from a position to the next match, target or end."""
    options = []
    while position < len(given):
        negated = given[position] == "!"
        start = position + negated
        name = _SHORT.get(given[start], given[start]) if start < len(given) else ""
        if not name.startswith("--"):
            break
        values = []
        position = start + 1
        if name in _ONE_STRING:
            values.append(_word(given, position, name))
            position += 1
        while position < len(given) and given[position] != "!" and not _is_option(given[position]):
            values.append(given[position])
            position += 1
        options.append(Option(name=name, values=tuple(values), negated=negated))
    return tuple(options), position


def _is_option(word: str) -> bool:
    return word.startswith("--") or word in ("-m", "-j", "-g", "-c", *_ORDER)


def _protocol(text: str, family: Family, negated: bool) -> Match | None:
    number = int(text) if text.isdecimal() else {"all": 0, "icmpv6": 58, "ipip": 4}.get(text, PROTOCOLS.get(text))
    if number is None or number > 255:
        raise ValueError(f"protocol {text!r} is not known")
    return Protocol(number=number, negated=negated) if number else None


def _address(side: str) -> Callable[[str, Family, bool], Match | None]:
    def parse(text: str, family: Family, negated: bool) -> Match | None:
        bits = 32 if family == 4 else 128
        kind = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
        host, separator, mask_text = text.partition("/")
        if not separator:
            mask = (1 << bits) - 1
        elif mask_text.isdecimal():
            length = int(mask_text)
            if length > bits:
                raise ValueError(f"prefix length /{mask_text} is longer than {bits}")
            mask = ((1 << length) - 1) << (bits - length)
        else:
            mask = int(kind(mask_text))
        if not mask and not negated:
            int(kind(host))
            return None
        return Address(
            side="source" if side == "source" else "destination",
            family=family,
            network=int(kind(host)) & mask,
            mask=mask,
            negated=negated,
        )

    return parse


def _interface(direction: str) -> Callable[[str, Family, bool], Match | None]:
    def parse(text: str, family: Family, negated: bool) -> Match | None:
        if text == "+" and not negated:
            return None
        return Interface(direction="in" if direction == "in" else "out", name=text, negated=negated)

    return parse


_CORE: dict[str, Callable[[str, Family, bool], Match | None]] = {
    "-s": _address("source"),
    "-d": _address("destination"),
    "-i": _interface("in"),
    "-o": _interface("out"),
    "-p": _protocol,
    "-f": lambda text, family, negated: Fragment(negated=negated),
}


def _match(module: str, options: tuple[Option, ...]) -> Match:
    """The typed match, or the extension as it stands where some option is beyond the type."""
    if module in _TYPED and len({option.name for option in options}) == len(options):
        try:
            return _TYPED[module](module, {option.name: option for option in options})
        except (KeyError, ValueError, IndexError):
            pass
    return Extension(module=module, options=options)


def _only(options: dict[str, Option], *known: str) -> None:
    if options.keys() - set(known):
        raise KeyError("an option beyond the type")


def _value(option: Option) -> str:
    (value,) = option.values
    return value


def _range(option: Option, separator: str, highest: int) -> Range:
    low_text, found, high_text = _value(option).partition(separator)
    low = int(low_text or "0")
    high = (int(high_text) if high_text else highest) if found else low
    if not 0 <= low <= high <= highest:
        raise ValueError("not a range")
    return Range(low=low, high=high, negated=option.negated)


def _transport(module: str, options: dict[str, Option]) -> Match:
    _only(options, "--sport", "--dport", *(("--tcp-flags", "--syn", "--tcp-option") if module == "tcp" else ()))
    ports = {name: _range(options[name], ":", 0xFFFF) for name in ("--sport", "--dport") if name in options}
    flags = None
    if "--syn" in options:
        flags = TcpFlags(mask=("FIN", "SYN", "RST", "ACK"), set=("SYN",), negated=options["--syn"].negated)
    if "--tcp-flags" in options:
        mask, chosen = options["--tcp-flags"].values
        flags = TcpFlags(mask=_flags(mask), set=_flags(chosen), negated=options["--tcp-flags"].negated)
    return Transport(
        module=module,
        source=ports.get("--sport"),
        destination=ports.get("--dport"),
        flags=flags,
        tcp_option=_range(options["--tcp-option"], ":", 255) if "--tcp-option" in options else None,
    )


def _flags(text: str) -> tuple[str, ...]:
    order = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")
    named = {"ALL": set(order), "NONE": set[str]()}.get(text, set(text.split(",")))
    if named - set(order):
        raise ValueError("no such flag")
    return tuple(name for name in order if name in named)


def _multiport(module: str, options: dict[str, Option]) -> Match:
    ((name, option),) = options.items()
    sides = {"--sports": "source", "--dports": "destination", "--ports": "either"}
    ranges = []
    for part in _value(option).split(","):
        low, _, high = part.partition(":")
        ranges.append((int(low), int(high or low)))
    if not all(0 <= low <= high <= 0xFFFF for low, high in ranges):
        raise ValueError("not ports")
    return Multiport(side=sides[name], ranges=tuple(ranges), negated=option.negated)  # type: ignore[arg-type]


def _owner(module: str, options: dict[str, Option]) -> Match:
    _only(options, "--uid-owner", "--gid-owner", "--socket-exists", "--suppl-groups")
    ids = {
        name: _range(options[name], "-", 0xFFFFFFFF) for name in ("--uid-owner", "--gid-owner") if name in options
    }
    exists = options.get("--socket-exists")
    return Owner(
        uid=ids.get("--uid-owner"),
        gid=ids.get("--gid-owner"),
        supplementary_groups="--suppl-groups" in options,
        socket_exists=None if exists is None else not exists.negated,
    )


def _mark(module: str, options: dict[str, Option]) -> Match:
    ((name, option),) = options.items()
    if name != "--mark":
        raise KeyError(name)
    value, mask = _masked(_value(option))
    return Mark(module="mark" if module == "mark" else "connmark", value=value, mask=mask, negated=option.negated)


def _masked(text: str) -> tuple[int, int]:
    value, _, mask = text.partition("/")
    numbers = int(value, 0), int(mask, 0) if mask else 0xFFFFFFFF
    if not all(0 <= number <= 0xFFFFFFFF for number in numbers):
        raise ValueError("not 32 bits")
    return numbers


_TYPED: dict[str, Callable[[str, dict[str, Option]], Match]] = {
    **dict.fromkeys(_TRANSPORTS, _transport),
    "multiport": _multiport,
    "owner": _owner,
    "mark": _mark,
    "connmark": _mark,
}


def _target(name: str, options: tuple[Option, ...], family: Family) -> Target:
    if name in _VERDICTS and not options:
        return Verdict(name)
    try:
        return _TARGETS[name](name, {option.name: option for option in options}, family)
    except (KeyError, ValueError):
        return Extended(name=name, options=options)


def _flag_names(options: dict[str, Option], *values: str) -> tuple[str, ...]:
    flags = tuple(name for name in options if name not in values)
    if any(options[name].values for name in flags):
        raise KeyError("an option beyond the type")
    return flags


def _ports(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    ports = int(low), int(high or low)
    if not 0 <= ports[0] <= ports[1] <= 0xFFFF:
        raise ValueError("not ports")
    return ports


def _redirect(name: str, options: dict[str, Option], family: Family) -> Target:
    ports = _ports(_value(options["--to-ports"])) if "--to-ports" in options else None
    return Redirect(ports=ports, flags=_flag_names(options, "--to-ports"))


def _translate(name: str, options: dict[str, Option], family: Family) -> Target:
    option = "--to-destination" if name == "DNAT" else "--to-source"
    text = _value(options[option])
    ports = None
    if family == 4 or text.startswith("[") or text.startswith(":"):
        text, found, port_text = text.rpartition(":") if ":" in text.rpartition("]")[2] else (text, "", "")
        ports = _ports(port_text) if found else None
    low, _, high = text.strip("[]").partition("-")
    addresses = (_to_ip(low, family), _to_ip(high or low, family)) if low else None
    return Translate(
        name="DNAT" if name == "DNAT" else "SNAT",
        addresses=addresses,
        ports=ports,
        flags=_flag_names(options, option),
    )


def _to_ip(text: str, family: Family) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.IPv4Address(text) if family == 4 else ipaddress.IPv6Address(text)


def _tproxy(name: str, options: dict[str, Option], family: Family) -> Target:
    if options.keys() - {"--on-port", "--on-ip", "--tproxy-mark"}:
        raise KeyError("an option beyond the type")
    address = _value(options["--on-ip"]) if "--on-ip" in options else ("0.0.0.0" if family == 4 else "::")  # noqa: S104
    value, mask = _masked(_value(options["--tproxy-mark"])) if "--tproxy-mark" in options else (0, 0)
    (port, _) = _ports(_value(options["--on-port"]))
    return Tproxy(port=port, address=_to_ip(address, family), mark=value, mask=mask)


def _set_mark(name: str, options: dict[str, Option], family: Family) -> Target:
    ((option, held),) = options.items()
    value, mask = _masked(_value(held))
    if option == "--set-mark":
        return SetMark(value=value, mask=value | mask)
    if option == "--or-mark":
        return SetMark(value=value, mask=value)
    if option == "--and-mark":
        return SetMark(value=0, mask=value ^ 0xFFFFFFFF)
    if option == "--xor-mark":
        return SetMark(value=value, mask=0)
    if option != "--set-xmark":
        raise KeyError(option)
    return SetMark(value=value, mask=mask)


_TARGETS: dict[str, Callable[[str, dict[str, Option], Family], Target]] = {
    "REDIRECT": _redirect,
    "DNAT": _translate,
    "SNAT": _translate,
    "TPROXY": _tproxy,
    "MARK": _set_mark,
}
