"""Two network namespaces, "pod" and "peer", in which a kernel takes packets through rules.

Knows how to load rules, send first packets as any user and from the peer, and
read what conntrack and the rules' counters say of them. Does not know what
should have become of a packet. Invariant: the namespaces have no name and no
uplink; they are gone when the test, or its process, is.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import struct
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self

from pytest_istio_sidecar.netfilter.packet import Host, Packet
from pytest_istio_sidecar.selftest import first_packets
from pytest_istio_sidecar.selftest.first_packets import (
    CLONE_NEWNET,
    NETLINK_NETFILTER,
    Answer,
    bytes_of,
    connections,
    enter,
    forget_connections,
    process_socket,
    send_from_process,
)
from pytest_istio_sidecar.selftest.kernel import first_packet_of

IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75
TPROXY_PORTS = (15001, 15006)

HOST = Host(
    interfaces={
        "eth0": ["192.0.2.10/25", "192.0.2.11/25", "2001:db8:0:1::10/64", "2001:db8:0:1::11/64"],
        "eth1": ["192.0.2.130/26", "2001:db8:0:2::10/64"],
    }
)
NEIGHBOURS = {
    "eth0": ("192.0.2.20", "192.0.2.21", "2001:db8:0:1::20", "2001:db8:0:1::21"),
    "eth1": ("192.0.2.140", "2001:db8:0:2::20"),
}
MAC = {("pod", "eth0"): 0x10, ("pod", "eth1"): 0x11, ("peer", "eth0"): 0x20, ("peer", "eth1"): 0x21}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Observed:
    """What became of the packets: by 5-tuple the destination and mark, by rule the packets it counted."""

    connections: dict[tuple[object, ...], Answer]
    saved: str = field(repr=False)


def why_impossible() -> str:
    """Why no namespaces can be made here, or ""."""
    missing = [
        tool for tool in ("ip", *(f"iptables-{b}-restore" for b in ("legacy", "nft"))) if not which(tool)
    ]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: apt install iptables iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root: run as root, or under `unshare --map-root-user --map-auto -Urn`"
    answer = subprocess.run(
        ["unshare", "--net", "true"], capture_output=True, text=True, timeout=30, check=False
    )
    if answer.returncode != 0:
        return f"the kernel refuses new network namespaces: {answer.stderr.strip()}"
    return ""


@cache
def which(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Kernel:
    """The two namespaces and the sockets that send into them."""

    def __init__(self, backend: str, family: int, scratch: Path) -> None:
        self.backend = backend
        self.family = family
        self.tools = ("iptables" if family == 4 else "ip6tables") + (
            "-legacy" if backend == "legacy" else "-nft"
        )
        self._environment = {**os.environ, "LC_ALL": "C", "XTABLES_LOCKFILE": str(scratch / "xtables.lock")}
        self._closing = ExitStack()
        self._senders: dict[tuple[int, int], socket.socket] = {}

    def __enter__(self) -> Self:
        with ExitStack() as closing:
            home = _open_namespace(closing)
            closing.callback(enter, home)
            self._namespaces = {name: self._new_namespace(closing) for name in ("pod", "peer")}
            enter(self._namespaces["pod"])
            for name in ("eth0", "eth1"):
                self._link(name)
            self._settle()
            self._listen(closing)
            enter(self._namespaces["peer"])
            self._wire = {name: self._tap(closing, name) for name in ("eth0", "eth1")}
            enter(self._namespaces["pod"])
            self._netlink = closing.enter_context(
                socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
            )
            self._netlink.bind((0, 0))
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for sender in self._senders.values():
            sender.close()
        self._closing.close()

    def load(self, text: str) -> subprocess.CompletedProcess[str]:
        """Replace the rules; the caller judges the exit status."""
        return self._tool(f"{self.tools}-restore", text)

    def writer(self) -> str:
        """Version of iptables, such as 1.8.9."""
        return self._tool(self.tools, "", "-V").stdout.split()[1].lstrip("v")

    def saved(self) -> str:
        answer = self._tool(f"{self.tools}-save", "", "-c")
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def listed(self, options: str) -> str:
        """`iptables -t nat -L` with more options, such as `-nvx`."""
        answer = self._tool(self.tools, "", "-t", "nat", "-L", options)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def forget_connections(self) -> None:
        forget_connections(self._netlink)

    def send(self, packet: Packet) -> None:
        """Send a first packet, from a process of the pod or from the peer, as its hook says."""
        content = bytes_of(first_packet_of(packet))
        if packet.hook == "PREROUTING":
            name = packet.in_interface or "eth0"
            kind = 0x0800 if self.family == 4 else 0x86DD
            self._wire[name].send(_mac("pod", name) + _mac("peer", name) + struct.pack("!H", kind) + content)
            return
        sender = self._sender(packet.uid or 0, packet.gid or 0)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, packet.mark)
        send_from_process(sender, content, str(packet.destination))

    def ip(self, words: str) -> str:
        """What `ip` of this family prints in the pod."""
        answer = self._tool("ip", "", f"-{self.family}", *words.split())
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def route(self, lines: list[str]) -> None:
        """Add rules and routes; the kernel may refuse some."""
        self._tool("ip", "\n".join(lines), f"-{self.family}", "-force", "-batch", "-")

    def restore_routes(self) -> None:
        """As they were at first."""
        for line in self.ip("rule show").splitlines():
            priority = line.partition(":")[0]
            if priority not in ("0", "32766", "32767"):
                self._tool("ip", "", f"-{self.family}", "rule", "del", "pref", priority)
        if not self.ip("rule show").startswith("0:"):
            self.ip("rule add pref 0 lookup local")
        for table in ("100", "101", "102"):
            self._tool("ip", "", f"-{self.family}", "route", "flush", "table", table)
        for name, addresses in HOST.interfaces.items():
            for address in addresses:
                own = address.partition("/")[0]
                if name != "lo" and (":" in own) is (self.family == 6):
                    self._tool(
                        "ip",
                        "",
                        f"-{self.family}",
                        *f"route replace local {own} dev {name} table local".split(),
                    )

    def observe(self) -> Observed:
        """What conntrack and the counters say now."""
        return Observed(connections(), self.saved())

    def _sender(self, uid: int, gid: int) -> socket.socket:
        known = self._senders.get((uid, gid))
        if known is not None:
            return known
        made = process_socket(uid, gid, self.family)
        self._senders[uid, gid] = made
        return made

    def _new_namespace(self, closing: ExitStack) -> int:
        if _libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
        return _open_namespace(closing)

    def _link(self, name: str) -> None:
        """A veth pair, its other end in the peer, with addresses and permanent neighbours."""
        peer = self._namespaces["peer"]
        self._ip("link", "add", name, "address", _text("pod", name), "type", "veth", "peer", "name", name,
                 "address", _text("peer", name), "netns", f"/proc/{os.getpid()}/fd/{peer}")  # fmt: skip
        self._ip("link", "set", name, "addrgenmode", "none")
        self._ip("link", "set", name, "up")
        for address in HOST.interfaces[name]:
            # The kernel puts a new IPv6 address before the older ones of its scope, so add them in reverse.
            if ":" not in address:
                self._ip("address", "add", address, "dev", name)
        for address in reversed([a for a in HOST.interfaces[name] if ":" in a]):
            self._ip("address", "add", address, "dev", name, "nodad")
        for neighbour in NEIGHBOURS[name]:
            self._ip(
                "neigh", "add", neighbour, "lladdr", _text("peer", name), "dev", name, "nud", "permanent"
            )
        enter(peer)
        self._ip("link", "set", name, "addrgenmode", "none")
        self._ip("link", "set", name, "up")
        enter(self._namespaces["pod"])

    def _settle(self) -> None:
        self._ip("link", "set", "lo", "up")
        self._ip("route", "add", "default", "via", "192.0.2.20")
        self._ip("-6", "route", "add", "default", "via", "2001:db8:0:1::20")
        sysctls = {
            # Checksums are wrong on purpose: every hook sees the packet, and no stack answers it.
            "netfilter/nf_conntrack_checksum": "0",
            "ipv4/ip_forward": "1",
            "ipv6/conf/all/forwarding": "1",
            **{
                f"ipv4/conf/{name}/{key}": "0"
                for name in ("all", "default", "eth0", "eth1", "lo")
                for key in ("rp_filter", "send_redirects")
            },
        }
        for key, value in sysctls.items():
            Path("/proc/sys/net", key).write_text(value, encoding="ascii")

    def _listen(self, closing: ExitStack) -> None:
        """Sockets that TPROXY can hand packets to."""
        kind = socket.AF_INET if self.family == 4 else socket.AF_INET6
        for port in TPROXY_PORTS:
            for transport in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                made = closing.enter_context(socket.socket(kind, transport))
                if self.family == 4:
                    made.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
                else:
                    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
                made.bind(("", port))
                if transport is socket.SOCK_STREAM:
                    made.listen(1)

    def _tap(self, closing: ExitStack, name: str) -> socket.socket:
        made = closing.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        made.bind((name, 0))
        return made

    def _ip(self, *arguments: str) -> None:
        answer = self._tool("ip", "", *arguments)
        assert answer.returncode == 0, f"ip {' '.join(arguments)}: {answer.stderr}"

    def _tool(self, name: str, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [which(name) or name, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=self._environment,
            pass_fds=tuple(self._namespaces.values()) if name == "ip" else (),
        )


def _open_namespace(closing: ExitStack) -> int:
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    closing.callback(os.close, descriptor)
    return descriptor


def _mac(namespace: str, name: str) -> bytes:
    return bytes((0x02, 0, 0, 0, 0, MAC[namespace, name]))


def _text(namespace: str, name: str) -> str:
    return _mac(namespace, name).hex(":")


def key_of(packet: Packet) -> tuple[object, ...]:
    return first_packets.key_of(first_packet_of(packet))
