"""A packet on its way through the kernel: the one thing here that changes.

Knows what a hook can see of the packet at that moment, NAT and marks included.
Does not know rules. Invariant: what is not known is None, and `source` and
`destination` are the addresses' numbers, because conditions compare numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_istio_sidecar.netfilter.model import Rule
from pytest_istio_sidecar.netfilter.namespace.routing import Routing
from pytest_istio_sidecar.netfilter.packet import Endpoint, IPAddress, Packet

Truth = bool | None
"""Whether a condition holds; None: it cannot be told."""


class Skb:
    """The kernel's view of a packet (its `sk_buff`) at one hook."""

    __slots__ = (
        "connmark",
        "destination",
        "destination_address",
        "destination_port",
        "family",
        "first",
        "gid",
        "has_socket",
        "incoming",
        "mark",
        "outgoing",
        "packet",
        "protocol",
        "redirected",
        "routing",
        "socket",
        "socket_rule",
        "source",
        "source_port",
        "state",
        "template",
        "tracked",
        "translations",
        "uid",
        "zone",
    )

    def __init__(self, packet: Packet, routing: Routing) -> None:
        self.packet = packet
        self.routing = routing
        self.family = packet.family
        self.protocol: int = packet.protocol  # type: ignore[assignment]
        self.source: int | None = int(packet.source)
        self.destination_address: IPAddress = packet.destination  # type: ignore[assignment]
        self.destination = int(self.destination_address)
        self.source_port = packet.source_port
        self.destination_port = packet.destination_port
        self.uid = packet.uid
        self.gid = packet.gid
        self.has_socket = packet.hook == "OUTPUT" and not (packet.uid is None and packet.gid is None)
        self.mark: int | None = packet.mark
        self.connmark: int | None = 0 if packet.state == "NEW" else None
        self.incoming = ""
        self.outgoing = ""
        self.first = packet.state == "NEW"
        self.state = "INVALID"
        """What conntrack says of it; before conntrack has seen it the kernel takes it for INVALID."""
        self.tracked = False
        self.template = False
        """Whether raw gave it a zone, which is kept in what looks like a connection until conntrack comes."""
        self.zone: int | None = 0
        self.redirected = False
        """Whether what last sent it elsewhere was a REDIRECT."""
        self.socket: Endpoint | None = None
        """Where nft's tproxy has handed it to, in the chain that it is in."""
        self.socket_rule: Rule | None = None
        self.translations: tuple[str, ...] = ()
        """SNAT, DNAT: what was done to the connection so far."""


Test = Callable[[Skb], Truth]


def both(one: Truth, other: Truth) -> Truth:
    """Three-valued and."""
    if one is False or other is False:
        return False
    return None if one is None or other is None else True
