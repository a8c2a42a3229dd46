"""Targets that change a packet or its connection and let it go on.

Knows MARK, CONNMARK and CT. Does not know what the marks are for. Invariant: a
mark that cannot be told becomes None.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_istio_sidecar.netfilter.targets import Extended, SetMark
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb

Effect = Callable[[Skb], None]

# fmt: off
PASSING = frozenset({
    "AUDIT", "CHECKSUM", "CLASSIFY", "CONNSECMARK", "DSCP", "ECN", "HL", "IDLETIMER", "LED", "LOG", "NFLOG",
    "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL", "ULOG",
})
# fmt: on
"""Targets after which the packet goes on to the next rule, with nothing changed that a rule here asks for."""

ALL = 0xFFFFFFFF


def compile_effect(target: SetMark | Extended) -> Effect | None:
    """What the target does to the packet; None where it is not modelled."""
    if isinstance(target, SetMark):
        value, mask = target.value, target.mask

        def set_mark(skb: Skb) -> None:
            if skb.mark is not None:
                skb.mark = (skb.mark & ~mask & ALL) ^ value
            elif mask == ALL:
                skb.mark = value

        return set_mark
    if target.name == "NOTRACK":
        return _do_not_track
    if target.name == "CT" and target.options:
        return _do_not_track if any(option.name == "--notrack" for option in target.options) else _nothing
    if target.name == "CONNMARK":
        return _connmark(target)
    return None


def _nothing(skb: Skb) -> None:
    pass


def _do_not_track(skb: Skb) -> None:
    """net/netfilter/xt_CT.c leaves a packet alone that already has a connection."""
    if not skb.tracked:
        skb.state = "UNTRACKED"


def _connmark(target: Extended) -> Effect | None:
    """net/netfilter/xt_connmark.c."""
    options = {option.name: option.values for option in target.options}
    try:
        nfmask = int(options.get("--nfmask", (str(ALL),))[0], 0)
        ctmask = int(options.get("--ctmask", (str(ALL),))[0], 0)
        if "--mask" in options:
            nfmask = ctmask = int(options["--mask"][0], 0)
        if "--save-mark" in options:
            return _save(nfmask, ctmask)
        if "--restore-mark" in options:
            return _restore(nfmask, ctmask)
        for name in ("--set-xmark", "--set-mark"):
            if name in options:
                value, _, mask = options[name][0].partition("/")
                return _set(int(value, 0), int(mask, 0) if mask else ALL, name)
    except (ValueError, IndexError):
        return None
    return None


def _set(value: int, mask: int, name: str) -> Effect:
    cleared = mask if name == "--set-xmark" else mask | value

    def set_connmark(skb: Skb) -> None:
        if not skb.tracked:
            return
        if skb.connmark is not None:
            skb.connmark = (skb.connmark & ~cleared & ALL) ^ value
        elif cleared == ALL:
            skb.connmark = value

    return set_connmark


def _save(nfmask: int, ctmask: int) -> Effect:
    def save(skb: Skb) -> None:
        if not skb.tracked:
            return
        if skb.connmark is None or skb.mark is None:
            skb.connmark = skb.mark if nfmask == ctmask == ALL else None
        else:
            skb.connmark = (skb.connmark & ~ctmask & ALL) ^ (skb.mark & nfmask)

    return save


def _restore(nfmask: int, ctmask: int) -> Effect:
    def restore(skb: Skb) -> None:
        if not skb.tracked:
            return
        if skb.connmark is None or skb.mark is None:
            skb.mark = skb.connmark if nfmask == ctmask == ALL else None
        else:
            skb.mark = (skb.mark & ~nfmask & ALL) ^ (skb.connmark & ctmask)

    return restore
