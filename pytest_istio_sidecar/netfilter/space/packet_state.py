"""What has become of a packet by the time it meets a hook, in terms of how it entered.

Knows which fields rules change. Does not know rules. Invariant: a view speaks for every packet that
took the same way; `ENTERED` is a value that nothing has changed, None one that is not known.
"""

from __future__ import annotations

from typing import NamedTuple

ALL = 0xFFFFFFFF
ENTERED = "as it entered"
"""The value of a view's field that nothing has changed."""


class Bits(NamedTuple):
    """A mark as the packet entered with it, some bits cleared and some flipped: `(mark & keep) ^ flip`."""

    keep: int = ALL
    flip: int = 0

    def __and__(self, mask: int) -> Bits:
        return Bits(self.keep & mask, self.flip & mask)

    def __xor__(self, other: int | Bits) -> Bits:
        if isinstance(other, Bits):
            return Bits(self.keep ^ other.keep, self.flip ^ other.flip)
        return Bits(self.keep, self.flip ^ other)


class View(NamedTuple):
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


class Changing:
    """A view that `effects` can change as it changes a packet."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.mark: Bits | int | None = view.mark
        self.connmark: Bits | int | None = view.connmark
        self.tracked = view.tracked
        self.state = view.state

    def view(self) -> View:
        mark, connmark = (
            Bits(0, held) if isinstance(held, int) else held for held in (self.mark, self.connmark)
        )
        return self._view._replace(mark=mark, connmark=connmark, state=self.state)
