"""First packets of connections, sent through the rules of a network namespace, and what became of them.

Runs as a program inside an embedded pod with the standard library alone: it loads one set of tables
after the other, sends the same packets through each, and tells what connection tracking says of them.
Knows the wire and the kernel; does not know what should have become of a packet. Invariant: no packet
is answered, because every transport checksum is wrong on purpose, and none leaves the namespaces.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TypedDict

NETLINK_NETFILTER = 12
CLONE_NEWNET = 0x40000000
_PATIENCE = 5.0
"""Seconds for packets to come over the wire, which takes microseconds."""

Answer = tuple[str, int, int] | None
"""Where the connection goes, address and port, and its mark; None: there is no connection."""

_libc = ctypes.CDLL(None, use_errno=True)


class FirstPacket(TypedDict):
    """One packet; an interface where it comes in from elsewhere, ids where a process sends it."""

    protocol: int
    source: str
    destination: str
    source_port: int
    destination_port: int
    interface: str | None
    uid: int
    gid: int
    mark: int


class Load(TypedDict):
    """An iptables-restore, and what it reads."""

    argv: Sequence[str]
    text: str


class Step(TypedDict):
    """Tables to load, packets to send through them by their place in the request, and how to read back."""

    loads: Sequence[Load]
    packets: Sequence[int]
    saves: Sequence[Sequence[str]]


class Request(TypedDict):
    """Everything the program is told, on its standard input."""

    outside: str
    packets: Sequence[FirstPacket]
    steps: Sequence[Step]


class Outcome(TypedDict):
    """What one step found: an answer for each packet, and the rules that the kernel held."""

    answers: Sequence[Answer]
    saved: Sequence[str]


def main() -> None:
    """Carry out the request of standard input; one line of JSON for each step."""
    request: Request = json.load(sys.stdin)
    with ExitStack() as closing:
        sender = Sender(closing, request["outside"])
        for step in request["steps"]:
            json.dump(_carry_out(step, request["packets"], sender), sys.stdout)
            sys.stdout.write("\n")


def _carry_out(step: Step, packets: Sequence[FirstPacket], sender: Sender) -> Outcome:
    for load in step["loads"]:
        subprocess.run(load["argv"], input=load["text"], text=True, timeout=30, check=True)
    sender.forget_connections()
    sent = [packets[number] for number in step["packets"]]
    from_outside = [packet for packet in sent if packet["interface"] is not None]
    before = _received()
    for packet in from_outside:
        sender.send(packet)
    deadline = time.monotonic() + _PATIENCE
    while _received() < before + len(from_outside):
        if time.monotonic() > deadline:
            raise TimeoutError("packets sent from outside did not come in")
        time.sleep(0.0005)
    # What a process sends is in conntrack, or is not, when the send has returned.
    for packet in sent:
        if packet["interface"] is None:
            sender.send(packet)
    tracked = connections()
    saved = [_printed(argv) for argv in step["saves"]]
    return {"answers": [tracked.get(key_of(packet)) for packet in sent], "saved": saved}


def _printed(argv: Sequence[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout


def _received() -> int:
    """Packets that have come to IP in this namespace.

    Each is counted before any rule is asked, and the next one only when the rules are done with it.
    Source: kernel ip_rcv_core and ip6_rcv_core (IPSTATS_MIB_IN), process_backlog.
    """
    counted = 0
    with open("/proc/thread-self/net/snmp", encoding="ascii") as file:  # noqa: PTH123
        names, values = (line.split() for line in file if line.startswith("Ip:"))
        counted += int(values[names.index("InReceives")])
    with suppress(FileNotFoundError), open("/proc/thread-self/net/snmp6", encoding="ascii") as file:  # noqa: PTH123
        counted += next(int(line.split()[1]) for line in file if line.startswith("Ip6InReceives"))
    return counted


class Sender:
    """Sockets into this namespace and from outside of it; every step uses the same."""

    def __init__(self, closing: ExitStack, outside: str) -> None:
        self._closing = closing
        self._outside = outside
        self._raw: dict[tuple[int, int, int], socket.socket] = {}
        self._wires: dict[tuple[str, int], tuple[socket.socket, bytes]] = {}
        with open("/proc/sys/net/netfilter/nf_conntrack_checksum", "w", encoding="ascii") as setting:  # noqa: PTH123
            setting.write("0")
        self._netlink = closing.enter_context(
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        )
        self._netlink.bind((0, 0))

    def forget_connections(self) -> None:
        forget_connections(self._netlink)

    def send(self, packet: FirstPacket) -> None:
        """Send a packet, by its wire or from a process with its ids."""
        content = bytes_of(packet)
        family = 6 if ":" in packet["source"] else 4
        interface = packet["interface"]
        if interface is not None:
            wire, addresses = self._wire(interface, family)
            wire.send(addresses + content)
            return
        made = self._process(packet["uid"], packet["gid"], family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, packet["mark"])
        send_from_process(made, content, packet["destination"])

    def _process(self, uid: int, gid: int, family: int) -> socket.socket:
        known = self._raw.get((uid, gid, family))
        if known is None:
            known = self._raw[uid, gid, family] = self._closing.enter_context(
                process_socket(uid, gid, family)
            )
        return known

    def _wire(self, interface: str, family: int) -> tuple[socket.socket, bytes]:
        """The other end of an interface, of the same name outside, and the start of a frame to here."""
        known = self._wires.get((interface, family))
        if known is None:
            with self._tap(interface) as inner:
                here = inner.getsockname()[4]
            with _within(self._outside):
                made = self._closing.enter_context(self._tap(interface))
            there = made.getsockname()[4]
            start = here + there + struct.pack("!H", 0x0800 if family == 4 else 0x86DD)
            known = self._wires[interface, family] = made, start
        return known

    @staticmethod
    def _tap(interface: str) -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.bind((interface, 0))
        return made


@contextmanager
def _within(namespace: str) -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(there)
        yield
    finally:
        enter(home)
        os.close(there)
        os.close(home)


def enter(namespace: int) -> None:
    """setns(2), which Python has since 3.12."""
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def process_socket(uid: int, gid: int, family: int) -> socket.socket:
    """A raw socket of some user's: the owner match asks for the fsuid that made it; capabilities stay."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    try:
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        return socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW)
    finally:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())


def send_from_process(sender: socket.socket, content: bytes, destination: str) -> None:
    """Send, whatever the rules make of it: the sender is told of one dropped or without a route."""
    try:
        sender.sendto(content, (destination, 0))
    except OSError as problem:
        if problem.errno not in (errno.EPERM, errno.EINVAL):
            raise


def forget_connections(netlink: socket.socket) -> None:
    """`conntrack -F`, as one message: IPCTNL_MSG_CT_DELETE without a tuple."""
    netlink.send(struct.pack("=IHHIIBBH", 20, (1 << 8) | 2, 5, 1, 0, 0, 0, 0))
    (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    if error:
        raise OSError(-error, f"connections could not be forgotten: {os.strerror(-error)}")


def connections() -> dict[tuple[object, ...], Answer]:
    """What conntrack says, by the packet that began each connection of TCP or UDP."""
    with open("/proc/thread-self/net/nf_conntrack", encoding="ascii") as file:  # noqa: PTH123
        return dict(filter(None, map(_connection, file)))


def key_of(packet: FirstPacket) -> tuple[object, ...]:
    """What a packet's connection is found by."""
    return (
        packet["protocol"],
        packet["source"],
        packet["destination"],
        packet["source_port"],
        packet["destination_port"],
    )


def _connection(line: str) -> tuple[tuple[object, ...], Answer] | None:
    """The original tuple; and where the reply would come from, with the mark."""
    words = line.split()
    if words[3] not in ("6", "17"):
        return None
    values: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            values.setdefault(name, []).append(value)
    source, destination = (_compressed(values[name][0]) for name in ("src", "dst"))
    key = (int(words[3]), source, destination, int(values["sport"][0]), int(values["dport"][0]))
    return key, (_compressed(values["src"][1]), int(values["sport"][1]), int(values["mark"][0]))


def _compressed(address: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_ntop(family, socket.inet_pton(family, address))


def bytes_of(packet: FirstPacket) -> bytes:
    """The packet from its IP header on; its transport checksum is wrong, also where 0 would mean none."""
    family = socket.AF_INET6 if ":" in packet["source"] else socket.AF_INET
    addresses = socket.inet_pton(family, packet["source"]) + socket.inet_pton(family, packet["destination"])
    ports = struct.pack("!HH", packet["source_port"], packet["destination_port"])
    protocol = packet["protocol"]
    if protocol == 6:
        head, tail = ports + struct.pack("!IIBBH", 1, 0, 5 << 4, 0x02, 64240), bytes(2)
    else:
        head, tail = ports + struct.pack("!H", 8), b""
    size = len(head) + 2 + len(tail)
    wrong = _checksum(addresses + struct.pack("!HH", protocol, size) + head + tail) ^ 0x5555
    content = head + struct.pack("!H", wrong or 1) + tail
    if family == socket.AF_INET6:
        return struct.pack("!IHBB", 6 << 28, size, protocol, 64) + addresses + content
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + size, 1, 0, 64, protocol)
    return start + struct.pack("!H", _checksum(start + addresses)) + addresses + content


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


if __name__ == "__main__":
    main()
