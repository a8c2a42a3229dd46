"""What `iptables -L` prints for a rule's target, as a target.

Knows the text that each target prints at the end of a line. Does not know matches.
Invariant: a target that always prints a text is made only from such a text; where it
cannot be read, the target is an `Extended` without options and the text is handed back.

Source: the `print` functions of iptables' extensions, as observed for 159 rules in
iptables 1.6.0 to 1.8.13.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Literal

from pytest_istio_sidecar.netfilter.matches import FULL_MASK, Option
from pytest_istio_sidecar.netfilter.packet import IPAddress
from pytest_istio_sidecar.netfilter.targets import (
    VERDICTS,
    Extended,
    Redirect,
    SetMark,
    Target,
    Tproxy,
    Translate,
    Verdict,
)
from pytest_istio_sidecar.netfilter.text.listing_fragments import options

_NAMES = """
    AUDIT CHECKSUM CLASSIFY CLUSTERIP CONNMARK CONNSECMARK CT DNAT DNPT DSCP ECN HL HMARK IDLETIMER LED LOG
    MARK MASQUERADE NETMAP NFLOG NFQUEUE NOTRACK RATEEST REDIRECT REJECT SECMARK SET SNAT SNPT SYNPROXY TCPMSS
    TCPOPTSTRIP TEE TOS TPROXY TRACE TTL ULOG
"""
TARGETS = frozenset(_NAMES.split())
"""Targets of iptables-extensions(8); no chain can have one of these names."""

_MARKS = r"xset 0x[0-9a-f]{1,8}/0x[0-9a-f]{1,8}|(?:set|or|and|xor) 0x[0-9a-f]{1,8}"
_LOG_LEVELS = ("emerg", "alert", "crit", "error", "warning", "notice", "info", "debug")
_LOG_FLAGS = ("tcp-sequence", "tcp-options", "ip-options", "uid", "nflog", "macdecode")

Reader = Callable[[str, str], tuple[Target | None, str]]


def parse_target(name: str, text: str) -> tuple[Target, str]:
    """Read the text of an extension target or a verdict off the end of a listing line.

    Returns:
        The target, and the text before its own: what no match claimed.
    """
    if name in VERDICTS:
        return Verdict(name), text
    reader = _READERS.get(name)
    if reader is None:
        return Extended(name=name), text
    target, rest = reader(name, text)
    return (target, rest) if target is not None else (Extended(name=name), text)


def _suffix(pattern: str, text: str) -> tuple[re.Match[str] | None, str]:
    shown = re.search(rf"(?:^|(?<= ))(?:{pattern})$", text)
    return shown, text[: shown.start()].strip(" ") if shown else text


def _without_flags(text: str) -> tuple[str, tuple[str, ...]]:
    shown, rest = _suffix(r"(?:(?:random|random-fully|persistent)(?: |$))+", text)
    return (rest, tuple(f"--{word}" for word in shown[0].split())) if shown else (text, ())


def _ports(low: str | None, high: str | None) -> tuple[int, int] | None:
    if low is None:
        return None
    first = int(low)
    last = int(high) if high else first
    if not first <= last <= 0xFFFF:
        raise ValueError("no interval of ports")
    return first, last


def _redirect(_name: str, text: str) -> tuple[Target | None, str]:
    rest, flags = _without_flags(text)
    shown, before = _suffix(r"redir ports (\d{1,5})(?:-(\d{1,5}))?", rest)
    if shown is None:
        return (None if "redir " in rest else Redirect(flags=flags)), rest
    try:
        return Redirect(ports=_ports(shown[1], shown[2]), flags=flags), before
    except ValueError:
        return None, ""


def _translate(name: str, text: str) -> tuple[Target | None, str]:
    rest, flags = _without_flags(text)
    shown, before = _suffix(r"to:(\S+)", rest)
    if shown is None:
        return None, ""
    kind: Literal["DNAT", "SNAT"] = "DNAT" if name == "DNAT" else "SNAT"
    try:
        addresses, ports = _destination(shown[1])
    except ValueError:
        option = "--to-destination" if kind == "DNAT" else "--to-source"
        words = (Option(name=option, values=(shown[1],)), *(Option(name=flag) for flag in flags))
        return Extended(name=name, options=words), before
    return Translate(name=kind, addresses=addresses, ports=ports, flags=flags), before


def _destination(text: str) -> tuple[tuple[IPAddress, IPAddress] | None, tuple[int, int] | None]:
    """`ADDRESS[-ADDRESS][:PORT[-PORT]]`; an IPv6 address with ports stands in brackets."""
    address, ports = text, ""
    if text.startswith("["):
        address, _, ports = text[1:].partition("]")
    elif text.count(":") == 1:
        address, _, ports = text.partition(":")
        ports = f":{ports}"
    if not ports:
        return _addresses(address), None
    shown = re.fullmatch(r":(\d{1,5})(?:-(\d{1,5}))?", ports)
    if shown is None:
        raise ValueError("no ports")
    return _addresses(address), _ports(shown[1], shown[2])


def _addresses(text: str | None) -> tuple[IPAddress, IPAddress] | None:
    if not text:
        return None
    low, _, high = text.partition("-")
    first = ip_address(low)
    return first, ip_address(high) if high else first


def _set_mark(_name: str, text: str) -> tuple[Target | None, str]:
    shown, before = _suffix(rf"MARK ({_MARKS})", text)
    if shown is None:
        return None, ""
    value, mask = _xmark(shown[1])
    return SetMark(value=value, mask=mask), before


def _xmark(text: str) -> tuple[int, int]:
    """Value and mask of `--set-xmark` for what MARK and CONNMARK print (extensions/libxt_MARK.c)."""
    verb, _, numbers = text.partition(" ")
    first, _, second = numbers.partition("/")
    value = int(first, 16)
    return {
        "set": (value, FULL_MASK),
        "xset": (value, int(second or "0", 16)),
        "or": (value, value),
        "and": (0, FULL_MASK & ~value),
        "xor": (value, 0),
    }[verb]


def _tproxy(_name: str, text: str) -> tuple[Target | None, str]:
    shown, before = _suffix(r"TPROXY redirect (\S+):(\d{1,5}) mark (0x[0-9a-f]{1,8})/(0x[0-9a-f]{1,8})", text)
    if shown is None:
        return None, ""
    try:
        address = ip_address(shown[1].strip("[]"))
    except ValueError:
        return None, ""
    return Tproxy(port=int(shown[2]), address=address, mark=int(shown[3], 16), mask=int(shown[4], 16)), before


def _masquerade(name: str, text: str) -> tuple[Target | None, str]:
    rest, flags = _without_flags(text)
    shown, before = _suffix(r"masq ports: (\S+)", rest)
    ports = f"--to-ports {shown[1]} " if shown else ""
    return Extended(name=name, options=options(ports + " ".join(flags))), before


def _connmark(name: str, text: str) -> tuple[Target | None, str]:
    shown, before = _suffix(
        r"CONNMARK (?:(?P<verb>save|restore)(?: mask (?P<both>0x[0-9a-f]{1,8}))?"
        rf"|(?P<marks>{_MARKS}))",
        text,
    )
    if shown is None:
        return None, ""
    if shown["verb"]:
        mask = shown["both"] or f"{FULL_MASK:#x}"
        words = f"--{shown['verb']}-mark --nfmask {mask} --ctmask {mask}"
    else:
        value, number = _xmark(shown["marks"])
        words = f"--set-xmark {value:#x}/{number:#x}"
    return Extended(name=name, options=options(words)), before


def _ct(name: str, text: str) -> tuple[Target | None, str]:
    """Old rules of the NOTRACK target are listed under the name CT, and saved as NOTRACK."""
    shown, before = _suffix("NOTRACK", text)
    if shown is not None:
        return Extended(name="NOTRACK"), before
    names = "zone-orig|zone-reply|zone|helper|timeout|ctevents|expevents"
    shown, before = _suffix(rf"CT ((?:notrack|(?:{names}) \S+)(?: |$))+", text)
    if shown is None:
        return None, ""
    words = re.sub(rf"(?<= )(notrack|{names})(?= |$)", r"--\1", shown[0][2:])
    return Extended(name=name, options=options(words)), before


def _log(name: str, text: str) -> tuple[Target | None, str]:
    shown = re.search(
        r"(?:^|(?<= ))LOG(?: flags (\d{1,3}))? level (\w+)"
        rf'((?: (?:{"|".join(_LOG_FLAGS)}))*)(?: prefix "(.*)")?$',
        text,
    )
    if shown is None:
        return None, ""
    level = {"warn": "warning", "panic": "emerg", "err": "error"}.get(shown[2], shown[2])
    number = _LOG_LEVELS.index(level) if level in _LOG_LEVELS else level
    flags = shown[3].split()
    if shown[1]:
        flags = [flag for bit, flag in enumerate(_LOG_FLAGS) if int(shown[1]) >> bit & 1]
    read = [Option(name="--log-prefix", values=(shown[4],))] if shown[4] else []
    if str(number) != "4":
        read.append(Option(name="--log-level", values=(str(number),)))
    read += [Option(name=f"--log-{flag}") for flag in flags]
    return Extended(name=name, options=tuple(read)), text[: shown.start()].strip(" ")


def _words(pattern: str, template: str) -> Reader:
    """A target whose text holds its options' words one by one."""

    def read(name: str, text: str) -> tuple[Target | None, str]:
        shown, before = _suffix(pattern, text)
        if shown is None:
            return None, ""
        return Extended(name=name, options=options(shown.expand(template))), before

    return read


_READERS: dict[str, Reader] = {
    "REDIRECT": _redirect,
    "DNAT": _translate,
    "SNAT": _translate,
    "MARK": _set_mark,
    "TPROXY": _tproxy,
    "MASQUERADE": _masquerade,
    "CONNMARK": _connmark,
    "CT": _ct,
    "LOG": _log,
    "REJECT": _words(r"reject-with (\S+)", r"--reject-with \1"),
    "CHECKSUM": _words(r"CHECKSUM fill", "--checksum-fill"),
    "TCPMSS": _words(r"TCPMSS clamp to PMTU", "--clamp-mss-to-pmtu"),
    "NFLOG": _words(r"nflog-prefix +(\S+) nflog-group (\d+)", r"--nflog-prefix \1 --nflog-group \2"),
}
