"""What has become of a packet by the time it meets a hook, in terms of how it entered.

Knows which fields rules change. Does not know rules. Invariant: an skb speaks for every packet that
came by the same rules; `ENTERED` is a value that nothing has changed, None one that is not known.
"""

from __future__ import annotations

from typing import NamedTuple

from pytest_istio_sidecar.netfilter.matches import FULL_MASK
from pytest_istio_sidecar.netfilter.targets import Tproxy

ENTERED = "as it entered"
"""The value of an skb's field that nothing has changed."""


class Bits(NamedTuple):
    """A mark as the packet entered with it, some bits cleared and some flipped: `(mark & keep) ^ flip`."""

    keep: int = FULL_MASK
    flip: int = 0

    def __and__(self, mask: int) -> Bits:
        return Bits(self.keep & mask, self.flip & mask)

    def __xor__(self, other: int | Bits) -> Bits:
        if isinstance(other, Bits):
            return Bits(self.keep ^ other.keep, self.flip ^ other.flip)
        return Bits(self.keep, self.flip ^ other)


class Skb(NamedTuple):
    """A packet at a hook, in terms of how it entered. `ENTERED`: unchanged; None: not known."""

    state: str = "INVALID"
    tracked: bool = False
    first: bool = True
    has_socket: bool = False
    incoming: str = ""
    outgoing: str = ""
    source: int | str | None = ENTERED
    source_port: int | str | None = ENTERED
    destination: int | str = ENTERED
    destination_port: int | str | None = ENTERED
    mark: Bits | None = Bits()
    connmark: Bits | None = Bits(0, 0)
    translations: tuple[str, ...] = ()
    template: bool = False
    zone: int | None = 0
    owner_known: bool = True
    """Not of a packet that was handed to a socket: its user is another."""
    socket: Tproxy | None = None
    """By which of nft's statements it was handed to a socket, in the chain that it is in."""


class Changed:
    """A packet that an effect changes (`actions.Changing`)."""

    def __init__(self, skb: Skb) -> None:
        self._skb = skb
        self.mark: Bits | int | None = skb.mark
        self.connmark: Bits | int | None = skb.connmark
        self.tracked = skb.tracked
        self.template = skb.template
        self.zone = skb.zone
        self.state = skb.state

    def skb(self) -> Skb:
        """The packet as it is by now."""
        return self._skb._replace(
            mark=_bits(self.mark),
            connmark=_bits(self.connmark),
            state=self.state,
            template=self.template,
            zone=self.zone,
        )


def _bits(mark: Bits | int | None) -> Bits | None:
    return Bits(0, mark) if isinstance(mark, int) else mark
