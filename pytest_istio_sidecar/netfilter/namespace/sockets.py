"""The sockets that listen in a network namespace, as the kernel lists them.

Knows /proc/net/tcp and its kin (proc(5); net/ipv4/tcp_ipv4.c, get_tcp4_sock; net/ipv6/tcp_ipv6.c,
get_tcp6_sock; net/ipv4/udp.c, net/ipv6/udp.c). Does not know whose it should be. Invariant: every line of a
listing is a socket or is refused. Addresses are read as a little-endian machine writes them: every one that
Istio publishes images for is one (amd64, arm64).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.packet import Endpoint, IPAddress

TransportName = Literal["tcp", "udp"]

_LINE: Final = re.compile(
    r"\s*\d+: ((?:[0-9A-F]{8}){1,4}):([0-9A-F]{4}) (?:[0-9A-F]{8}){1,4}:([0-9A-F]{4}) ([0-9A-F]{2})"
    r"(?: \S+ \S+ \S+ +(\d+) +\d+ (\d+))? .*"
)
_WAITING: Final = {"tcp": "0A", "udp": "07"}
"""TCP_LISTEN, and for udp TCP_CLOSE: not connected (include/net/tcp_states.h)."""


class Process(NamedTuple):
    """A process, by its number where it was seen and its name (proc(5), comm)."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """A socket that takes connections, or datagrams from anyone.

    Attributes:
        uid: of who made it; None: not told.
        inode: by which processes that hold it are found; None: not told.
        processes: those that hold it; empty: none that can be seen. None: not told.
    """

    protocol: TransportName
    address: IPAddress
    port: int
    uid: int | None = field(default=None, compare=False)
    inode: int | None = field(default=None, compare=False)
    processes: tuple[Process, ...] | None = field(default=None, compare=False)

    def takes(self, protocol: str, destination: Endpoint) -> bool:
        """Whether what is sent there by this protocol comes to it."""
        return protocol == self.protocol and takes(Endpoint(self.address, self.port), destination)


def takes(bound: Endpoint, destination: Endpoint) -> bool:
    """Whether what is sent to a destination comes to a socket that is bound there.

    One on :: takes IPv4 too, unless it was told not to (ipv6(7), IPV6_V6ONLY), which no listing shows.
    """
    if bound.port != destination.port:
        return False
    if bound.address.is_unspecified:
        return bound.address.version in (6, destination.address.version)
    mapped = getattr(bound.address, "ipv4_mapped", None)
    return destination.address in (bound.address, mapped)


def foreign_taker(sockets: Iterable[Socket], destination: Endpoint, ports: Collection[int]) -> Socket | None:
    """A socket that may take a connection to one of a server's ports, and is not the server's.

    The kernel asks the most specific address, and shares among sockets of one (net/ipv4/inet_hashtables.c).
    The server is the process that holds the most sockets on its ports. Where processes were not seen, its
    sockets are those on every address.

    Args:
        destination: where the connection was delivered.
        ports: the server's.
    """
    ours = [socket for socket in sockets if socket.protocol == "tcp" and socket.port in ports]
    pids = [process.pid for socket in ours for process in socket.processes or ()]
    server = max(pids, key=pids.count, default=None)
    takers = [socket for socket in ours if socket.takes("tcp", destination)]
    nearest = [socket for socket in takers if not socket.address.is_unspecified] or takers
    for socket in nearest:
        holders = socket.processes
        if server not in [holder.pid for holder in holders] if holders is not None else nearest is not takers:
            return socket
    return None


def parse_sockets(protocol: TransportName, listing: str) -> tuple[Socket, ...]:
    """Read what /proc/net/tcp, tcp6, udp or udp6 prints: the sockets that wait for anyone.

    Raises:
        ParseError: the heading is missing, or a line is no socket.
    """
    heading, *lines = listing.splitlines() or [""]
    if "local_address" not in heading:
        raise ParseError(messages.NO_SOCKETS(protocol=protocol, heading=heading))
    sockets = []
    for line in lines:
        written = _LINE.fullmatch(line)
        if written is None:
            raise ParseError(messages.NO_SOCKET(protocol=protocol, line=line))
        address, port, _, state, uid, inode = written.groups()
        if state == _WAITING[protocol]:
            sockets.append(
                Socket(
                    protocol=protocol,
                    address=_address(address),
                    port=int(port, 16),
                    uid=None if uid is None else int(uid),
                    inode=None if inode is None else int(inode),
                )
            )
    return tuple(sockets)


def _address(digits: str) -> IPAddress:
    """Words of four bytes, each with its lowest byte last."""
    words = [bytes.fromhex(digits[start : start + 8])[::-1] for start in range(0, len(digits), 8)]
    return ipaddress.ip_address(b"".join(words))
