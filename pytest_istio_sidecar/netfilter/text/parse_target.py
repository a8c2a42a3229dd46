"""A target and its options, as a value.

Knows the targets of iptables-extensions(8) that are typed, and what iptables-save writes for
the older spellings of MARK and CONNMARK. Invariant: as in `parse_match`, a value that a type
cannot hold unchanged leaves its target an `Extended`, whose text survives.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from functools import lru_cache

from pytest_istio_sidecar.netfilter.matches import FULL_MASK, Option
from pytest_istio_sidecar.netfilter.model import Family
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
from pytest_istio_sidecar.netfilter.text.parse_match import RawOption, as_options, masked, strict_number

TARGET_OPTIONS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(VERDICTS, frozenset()),
    "REDIRECT": frozenset(("--to-ports", "--random")),
    "DNAT": frozenset(("--to-destination", "--random", "--persistent")),
    "SNAT": frozenset(("--to-source", "--random", "--random-fully", "--persistent")),
    "MASQUERADE": frozenset(("--to-ports", "--random", "--random-fully")),
    "TPROXY": frozenset(("--on-port", "--on-ip", "--tproxy-mark")),
    "MARK": frozenset(("--set-mark", "--set-xmark", "--or-mark", "--and-mark", "--xor-mark")),
    "CONNMARK": frozenset((
        "--set-mark", "--set-xmark", "--or-mark", "--and-mark", "--xor-mark", "--save-mark", "--restore-mark",
        "--nfmask", "--ctmask", "--mask",
    )),
}  # fmt: skip
"""The options of the targets whose options are known; every other target takes what follows it."""


@lru_cache(4096)
def parse_target(name: str, options: tuple[RawOption, ...], family: Family) -> Target:
    """The typed target, or the extension as it stands where some option is beyond the type."""
    typed = _TYPED.get(name)
    by_name = {option: values for option, values, negated in options if not negated}
    if typed is not None and len(by_name) == len(options):
        try:
            return typed(name, by_name, family)
        except (KeyError, ValueError):
            pass
    return Extended(name=name, options=as_options(options))


_Options = dict[str, tuple[str, ...]]


def _one(values: tuple[str, ...]) -> str:
    (value,) = values
    return value


def _flags(name: str, options: _Options, value: str) -> tuple[str, ...]:
    """The options without a value, in the order written."""
    flags = tuple(option for option in options if option != value)
    if any(options[option] for option in flags) or set(flags) - TARGET_OPTIONS[name]:
        raise KeyError("an option beyond the type")
    return flags


def _ports(text: str) -> tuple[int, int]:
    low_text, dash, high_text = text.partition("-")
    low = strict_number(low_text)
    high = strict_number(high_text) if dash else low
    if not low <= high <= 0xFFFF:
        raise ValueError("not ports")
    return low, high


def _verdict(name: str, options: _Options, family: Family) -> Target:  # noqa: ARG001 - as all
    if options:
        raise KeyError("an option beyond the type")
    return Verdict(name)


def _redirect(name: str, options: _Options, family: Family) -> Target:  # noqa: ARG001 - as all
    ports = _ports(_one(options["--to-ports"])) if "--to-ports" in options else None
    return Redirect(ports=ports, flags=_flags(name, options, "--to-ports"))


def _translate(name: str, options: _Options, family: Family) -> Target:
    option = "--to-destination" if name == "DNAT" else "--to-source"
    text = _one(options[option])
    ports = None
    if family == 4 or text[:1] == "[" or (text[:1] == ":" and text[:2] != "::"):
        host, colon, port_text = text.rpartition(":")
        if colon and not host.count("[") > host.count("]"):
            text, ports = host, _ports(port_text)
    if text[:1] == "[" and text[-1:] == "]":
        text = text[1:-1]
    low, dash, high = text.partition("-")
    addresses = (_ip(low, family), _ip(high if dash else low, family)) if low else None
    if addresses is None and ports is None:
        raise ValueError("neither address nor port")
    return Translate(
        name="DNAT" if name == "DNAT" else "SNAT",
        addresses=addresses,
        ports=ports,
        flags=_flags(name, options, option),
    )


def _ip(text: str, family: Family) -> IPAddress:
    if family == 4:
        return ipaddress.IPv4Address(text)
    address = ipaddress.IPv6Address(text)
    if address.scope_id is not None:
        raise ValueError("no address of a rule")
    return address


def _tproxy(name: str, options: _Options, family: Family) -> Target:
    if options.keys() - TARGET_OPTIONS[name]:
        raise KeyError("an option beyond the type")
    anywhere = "0.0.0.0" if family == 4 else "::"  # noqa: S104 - it binds nothing
    value, mask = masked(_one(options.get("--tproxy-mark", ("0/0",))))
    return Tproxy(
        port=strict_number(_one(options["--on-port"])),
        address=_ip(_one(options.get("--on-ip", (anywhere,))), family),
        mark=value,
        mask=FULL_MASK if mask is None else mask,
    )


def _set_mark(name: str, options: _Options, family: Family) -> Target:  # noqa: ARG001 - as all
    return SetMark(**_xmark(options))


def _xmark(options: _Options) -> dict[str, int]:
    """`(mark & ~mask) ^ value`, to which iptables reduces the other spellings (extensions/libxt_MARK.c)."""
    ((option, values),) = options.items()
    value, mask = masked(_one(values))
    if option in ("--set-mark", "--set-xmark"):
        mask = FULL_MASK if mask is None else mask
        return {"value": value, "mask": mask if option == "--set-xmark" else value | mask}
    if mask is not None:
        raise ValueError("no mask here")
    if option == "--or-mark":
        return {"value": value, "mask": value}
    if option == "--and-mark":
        return {"value": 0, "mask": value ^ FULL_MASK}
    if option == "--xor-mark":
        return {"value": value, "mask": 0}
    raise KeyError(option)


def _connmark(name: str, options: _Options, family: Family) -> Target:  # noqa: ARG001 - as all
    for option in ("--save-mark", "--restore-mark"):
        if option in options:
            masks = {"--nfmask": (f"{FULL_MASK:#x}",), "--ctmask": (f"{FULL_MASK:#x}",)} | options
            if masks.pop(option) or len(masks) != 2:
                raise KeyError("an option beyond these")
            written = (Option(name=mask, values=masks[mask]) for mask in ("--nfmask", "--ctmask"))
            return Extended(name=name, options=(Option(name=option), *written))
    mark = _xmark(options)
    value = f"{mark['value']:#x}/{mark['mask']:#x}"
    return Extended(name=name, options=(Option(name="--set-xmark", values=(value,)),))


_TYPED: dict[str, Callable[[str, _Options, Family], Target]] = {
    **dict.fromkeys(VERDICTS, _verdict),
    "REDIRECT": _redirect,
    "DNAT": _translate,
    "SNAT": _translate,
    "TPROXY": _tproxy,
    "MARK": _set_mark,
    "CONNMARK": _connmark,
}
