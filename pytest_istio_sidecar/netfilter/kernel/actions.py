"""What a target does to a packet's traversal of its chain.

Knows each target's action, and what MARK, CONNMARK and CT change. Does not know what the marks are for, nor
where nat sends a packet (`trace/nat`, `space/nat`). Invariant: a target that is not known here is UNKNOWN,
and a mark that cannot be told becomes None.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Protocol

from pytest_istio_sidecar.netfilter.matches import FULL_MASK
from pytest_istio_sidecar.netfilter.model import Rule
from pytest_istio_sidecar.netfilter.targets import (
    Assign,
    Block,
    Extended,
    Goto,
    Jump,
    Redirect,
    SetMark,
    Target,
    Tproxy,
    Translate,
    Verdict,
    Zone,
)


class Action(IntEnum):
    """What a rule's target does to the traversal, or how that ended."""

    CONTINUE = 0
    """To the next rule; nothing changed that a rule can ask for."""
    EFFECT = 1
    """To the next rule, after `effect_of` the target."""
    JUMP = 2
    GOTO = 3
    RETURN = 4
    ACCEPT = 5
    DROP = 6
    NAT = 7
    TPROXY = 8
    UNKNOWN = 9
    HAND_OVER = 10
    """As TPROXY, and to the next rule."""
    BLOCK = 11
    """Into the rules within the rule."""


class Changing(Protocol):
    """What an effect sees of a packet, or of all packets at once; a mark is an int, or calculates as one."""

    mark: Any
    connmark: Any
    tracked: bool
    template: bool
    zone: int | None
    state: str


Effect = Callable[[Changing], None]

_OF_VERDICT = {"ACCEPT": Action.ACCEPT, "DROP": Action.DROP, "RETURN": Action.RETURN}
# fmt: off
_OF_EXTENDED = {
    **dict.fromkeys((
        "AUDIT", "CHECKSUM", "CLASSIFY", "CONNSECMARK", "DSCP", "ECN", "HL", "IDLETIMER", "LED", "LOG",
        "NFLOG", "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL", "ULOG",
    ), Action.CONTINUE),
    "REJECT": Action.DROP,
    "MASQUERADE": Action.NAT,
}
# fmt: on
_OF_TYPE: dict[type[Target | None], Action] = {
    type(None): Action.CONTINUE,
    Jump: Action.JUMP,
    Goto: Action.GOTO,
    Redirect: Action.NAT,
    Translate: Action.NAT,
    SetMark: Action.EFFECT,
    Assign: Action.EFFECT,
    Zone: Action.EFFECT,
    Block: Action.BLOCK,
}


def action_of(target: Target | None) -> Action:
    """Classify a target; None, which only counts, lets the packet go on."""
    action = _OF_TYPE.get(type(target))
    if action is not None:
        return action
    if isinstance(target, Tproxy):
        return Action.HAND_OVER if target.goes_on else Action.TPROXY
    if isinstance(target, Extended):
        if target.name in _OF_EXTENDED:
            return _OF_EXTENDED[target.name]
        return Action.UNKNOWN if effect_of(target) is None else Action.EFFECT
    return _OF_VERDICT.get(target.name, Action.UNKNOWN) if isinstance(target, Verdict) else Action.UNKNOWN


def takes_every_packet(rule: Rule) -> bool:
    """Whether no packet comes to what is behind the rule: even circles do no harm there."""
    return not rule.matches and isinstance(rule.target, Verdict | Goto)


def is_about_tracking(target: Target | None) -> bool:
    """Whether a target changes what conntrack will make of a packet."""
    return isinstance(target, Zone) or (isinstance(target, Extended) and target.name in ("CT", "NOTRACK"))


def effect_of(target: SetMark | Extended | Assign | Zone) -> Effect | None:
    """What the target does to the packet; None where it is not modelled."""
    if isinstance(target, Assign):
        return _assign(target)
    if isinstance(target, Zone):
        return _zone(target.number)
    if isinstance(target, SetMark):
        value, mask = target.value, target.mask

        def set_mark(skb: Changing) -> None:
            if skb.mark is not None:
                skb.mark = (skb.mark & ~mask & FULL_MASK) ^ value
            elif mask == FULL_MASK:
                skb.mark = value

        return set_mark
    if target.name == "NOTRACK":
        return _do_not_track
    if target.name == "CT" and target.options:
        return _do_not_track if any(option.name == "--notrack" for option in target.options) else _zone_of_ct
    if target.name == "CONNMARK":
        return _connmark(target)
    return None


def _do_not_track(skb: Changing) -> None:
    """net/netfilter/xt_CT.c and nft_ct.c let be what has a connection already, or a template."""
    if not (skb.tracked or skb.template):
        skb.state = "UNTRACKED"


def _zone_of_ct(skb: Changing) -> None:
    """net/netfilter/xt_CT.c: a template is a new connection to what asks before conntrack has come."""
    if not skb.tracked and skb.state != "UNTRACKED":
        skb.state, skb.template, skb.zone = "NEW", True, None


def _zone(number: int | None) -> Effect:
    """net/netfilter/nft_ct.c: even what is not to be tracked gets a template, and is tracked then."""

    def zone(skb: Changing) -> None:
        if not (skb.tracked or skb.template):
            skb.state, skb.template, skb.zone = "NEW", True, number

    return zone


def _assign(target: Assign) -> Effect:
    """Nft's `meta mark set`, `ct mark set` (net/netfilter/nft_meta.c, nft_ct.c)."""
    keep, flip = target.keep, target.flip

    def assign(skb: Changing) -> None:
        value: Any = None
        if target.of == "nothing":
            value = flip
        elif target.of != "unknown":
            value = skb.mark if target.of == "mark" else skb.connmark
            if value is not None:
                value = (value & keep) ^ flip
        if target.to == "mark":
            skb.mark = value
        elif skb.tracked:
            skb.connmark = value

    return assign


def _connmark(target: Extended) -> Effect | None:
    """net/netfilter/xt_connmark.c."""
    options = {option.name: option.values for option in target.options}
    try:
        nfmask = int(options.get("--nfmask", (str(FULL_MASK),))[0], 0)
        ctmask = int(options.get("--ctmask", (str(FULL_MASK),))[0], 0)
        if "--mask" in options:
            nfmask = ctmask = int(options["--mask"][0], 0)
        if "--save-mark" in options:
            return _save(nfmask, ctmask)
        if "--restore-mark" in options:
            return _restore(nfmask, ctmask)
        for name in ("--set-xmark", "--set-mark"):
            if name in options:
                value, _, mask = options[name][0].partition("/")
                return _set(int(value, 0), int(mask, 0) if mask else FULL_MASK, name)
    except (ValueError, IndexError):
        return None
    return None


def _set(value: int, mask: int, name: str) -> Effect:
    cleared = mask if name == "--set-xmark" else mask | value

    def set_connmark(skb: Changing) -> None:
        if not skb.tracked:
            return
        if skb.connmark is not None:
            skb.connmark = (skb.connmark & ~cleared & FULL_MASK) ^ value
        elif cleared == FULL_MASK:
            skb.connmark = value

    return set_connmark


def _save(nfmask: int, ctmask: int) -> Effect:
    def save(skb: Changing) -> None:
        if not skb.tracked:
            return
        if skb.connmark is None or skb.mark is None:
            skb.connmark = skb.mark if nfmask == ctmask == FULL_MASK else None
        else:
            skb.connmark = (skb.connmark & ~ctmask & FULL_MASK) ^ (skb.mark & nfmask)

    return save


def _restore(nfmask: int, ctmask: int) -> Effect:
    def restore(skb: Changing) -> None:
        if not skb.tracked:
            return
        if skb.connmark is None or skb.mark is None:
            skb.mark = skb.connmark if nfmask == ctmask == FULL_MASK else None
        else:
            skb.mark = (skb.mark & ~nfmask & FULL_MASK) ^ (skb.connmark & ctmask)

    return restore
