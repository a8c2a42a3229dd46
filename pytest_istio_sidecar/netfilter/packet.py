"""A packet, the host it meets, and where it can end.

Knows what a rule can ask about the first packet of a connection. Does not know
rules. Invariant: a `Packet` is consistent in itself (one family, known
protocol, ports within range), so that nothing downstream has to check again.
Semantics: docs/semantics.md, 1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Literal, Self

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval
from pytest_istio_sidecar.netfilter.matches import FULL_MASK, PROTOCOLS
from pytest_istio_sidecar.netfilter.routes import RoutingPolicy

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Hook = Literal["PREROUTING", "OUTPUT"]
STATES = ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED")


class Fate(StrEnum):
    """What becomes of a packet."""

    UNCHANGED = "unchanged"
    REDIRECTED = "redirected"
    TRANSLATED = "translated"
    TPROXIED = "tproxied"
    DROPPED = "dropped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port; the port is None where the protocol has none or it is not known."""

    address: IPAddress
    port: int | None = None

    def __str__(self) -> str:
        if self.port is None:
            return str(self.address)
        if self.address.version == 6:
            return f"[{self.address}]:{self.port}"
        return f"{self.address}:{self.port}"


DEFAULT_INTERFACES: Mapping[str, Sequence[str]] = MappingProxyType(
    {"lo": ("127.0.0.1/8", "::1/128"), "eth0": ("192.0.2.10/24", "2001:db8::10/64")}
)


@dataclass(frozen=True)
class Host:
    """The interfaces of the namespace, each with its addresses in the kernel's order (first is primary).

    Args:
        interfaces: name to addresses in CIDR form, e.g. `{"eth0": ["192.0.2.10/24"]}`.
            `lo` with 127.0.0.1/8 and ::1/128 is always there.
        routes: the policy rules and routes of each family that was read; of another, and where nobody added
            any, packets go where the addresses tell.
        localnet: interfaces that take 127.0.0.0/8 for a destination as any other (sysctl route_localnet).
        forwards: interfaces that forward what comes in (sysctl forwarding); None: not known, and taken to.

    Raises:
        UsageProblem: an address that is none.
    """

    interfaces: Mapping[str, Sequence[str]] = field(default_factory=lambda: DEFAULT_INTERFACES)
    routes: tuple[RoutingPolicy, ...] = ()
    localnet: frozenset[str] = frozenset()
    forwards: frozenset[str] | None = None

    def __post_init__(self) -> None:
        given = {"lo": DEFAULT_INTERFACES["lo"], **self.interfaces}
        object.__setattr__(self, "interfaces", MappingProxyType({n: tuple(a) for n, a in given.items()}))
        self.addresses  # noqa: B018 - reports a bad address now, not at first use

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """The host with these interfaces, each as "eth0=192.0.2.10/24"; none: the default one.

        Raises:
            UsageProblem: one of another form.
        """
        addresses: dict[str, list[str]] = {}
        for text in texts:
            name, separator, address = text.partition("=")
            if not separator or not name:
                raise UsageProblem(messages.NO_INTERFACE_FORM(text=text))
            addresses.setdefault(name, []).append(address)
        return cls(interfaces=addresses) if addresses else cls()

    def __hash__(self) -> int:
        return hash((tuple(self.interfaces.items()), self.routes, self.localnet, self.forwards))

    @cached_property
    def policies(self) -> Mapping[int, RoutingPolicy]:
        """Of each family the rules and routes that lead packets elsewhere than addresses tell; else none."""
        return {each.family: each for each in self.routes if not each.is_plain(self.own_ranges(each.family))}

    @cached_property
    def meant(self) -> Host:
        """The same host as its addresses alone describe it."""
        return Host(interfaces=self.interfaces)

    def own_ranges(self, family: int) -> list[Interval]:
        """The addresses that are the host's own, as numbers."""
        return [
            (int(interface.network.network_address), int(interface.network.broadcast_address))
            if name == "lo"
            else (int(interface.ip), int(interface.ip))
            for name, interfaces in self.addresses.items()
            for interface in interfaces
            if interface.version == family
        ]

    @cached_property
    def addresses(self) -> Mapping[str, tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]]:
        """The addresses of each interface, typed."""
        try:
            return {
                name: tuple(ipaddress.ip_interface(text) for text in texts)
                for name, texts in self.interfaces.items()
            }
        except ValueError as problem:
            raise UsageProblem(messages.NO_INTERFACE_ADDRESS(problem=problem)) from None

    def is_local(self, address: IPAddress) -> bool:
        """Whether the host itself answers to the address. All of 127.0.0.0/8 is, when lo has it."""
        for name, interfaces in self.addresses.items():
            for interface in interfaces:
                if interface.version != address.version:
                    continue
                if address == interface.ip or (name == "lo" and address in interface.network):
                    return True
        return False

    def primary(self, interface: str, family: int) -> IPAddress | None:
        """The first address of an interface in a family, or None when it has none."""
        for address in self.addresses.get(interface, ()):
            if address.version == family:
                return address.ip
        return None

    def external(self) -> str:
        """The first interface that is not lo: where a route to elsewhere goes."""
        for name in self.interfaces:
            if name != "lo":
                return name
        return "lo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """The first packet of a connection, as it enters PREROUTING or OUTPUT.

    Args:
        hook: where it enters.
        protocol: a name known to iptables, or an IANA number; held as the number.
        source, destination: addresses as text or `ipaddress` objects, of one family.
        source_port, destination_port: 0 to 65535; None: unknown, or the protocol has none.
        in_interface, out_interface: names; None: derived from the `Host`.
        uid, gid: of the process that created the socket; None: no socket.
        mark: the packet's mark, 32 bits.
        state: conntrack's state; only NEW consults the nat table.

    Raises:
        UsageProblem: a field outside these.
    """

    hook: Hook
    protocol: int | str
    source: IPAddress | str
    destination: IPAddress | str
    source_port: int | None = None
    destination_port: int | None = None
    in_interface: str | None = None
    out_interface: str | None = None
    uid: int | None = None
    gid: int | None = None
    mark: int = 0
    state: str = "NEW"

    def __post_init__(self) -> None:
        assign = object.__setattr__
        if self.hook not in ("PREROUTING", "OUTPUT"):
            raise UsageProblem(messages.NO_HOOK(hook=self.hook))
        assign(self, "protocol", _protocol_number(self.protocol))
        for name in ("source", "destination"):
            assign(self, name, _address(name, getattr(self, name)))
        if self.source.version != self.destination.version:  # type: ignore[union-attr]
            raise UsageProblem(messages.FAMILIES_DIFFER(source=self.source, destination=self.destination))
        for name, highest in (
            ("source_port", 0xFFFF),
            ("destination_port", 0xFFFF),
            ("uid", 0xFFFFFFFE),
            ("gid", 0xFFFFFFFE),
            ("mark", FULL_MASK),
        ):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and 0 <= value <= highest):
                raise UsageProblem(messages.NO_NUMBER(field=name, value=value, highest=highest))
        if self.state not in STATES:
            raise UsageProblem(messages.NO_STATE(state=self.state, known=", ".join(STATES)))

    @property
    def family(self) -> Literal[4, 6]:
        return 4 if self.destination.version == 4 else 6  # type: ignore[union-attr]


def inbound(port: int, *, protocol: str | int = "tcp", family: int = 4, **fields: object) -> Packet:
    """A packet from a neighbour to this port of the default host; `fields` are `Packet`'s."""
    pod, peer = ("192.0.2.10", "192.0.2.20") if family == 4 else ("2001:db8::10", "2001:db8::20")
    return Packet(
        **{  # type: ignore[arg-type]
            "hook": "PREROUTING",
            "protocol": protocol,
            "source": peer,
            "destination": pod,
            "source_port": 40000,
            "destination_port": port,
            **fields,
        }
    )


def outbound(
    destination: IPAddress | str,
    port: int,
    *,
    uid: int | None = 1000,
    gid: int | None = 1000,
    protocol: str | int = "tcp",
    **fields: object,
) -> Packet:
    """A packet from a process of the default host; to itself when the destination is its own."""
    address = _address("destination", destination)
    pod = "192.0.2.10" if address.version == 4 else "2001:db8::10"
    source = str(address) if address.is_loopback else pod
    return Packet(
        **{  # type: ignore[arg-type]
            "hook": "OUTPUT",
            "protocol": protocol,
            "source": source,
            "destination": address,
            "source_port": 40000,
            "destination_port": port,
            "uid": uid,
            "gid": gid,
            **fields,
        }
    )


def _protocol_number(protocol: int | str) -> int:
    if isinstance(protocol, str):
        known = PROTOCOLS.get(protocol.lower(), int(protocol) if protocol.isdecimal() else None)
        if known is None:
            raise UsageProblem(messages.NO_PROTOCOL_NAME(protocol=protocol, known=", ".join(PROTOCOLS)))
        protocol = known
    if type(protocol) is not int or not 0 < protocol <= 255:
        raise UsageProblem(messages.NO_PROTOCOL_NUMBER(protocol=protocol))
    return protocol


def _address(name: str, value: object) -> IPAddress:
    if isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        return value
    if isinstance(value, str):
        try:
            return ipaddress.ip_address(value)
        except ValueError:
            pass
    raise UsageProblem(messages.NO_ADDRESS(field=name, value=value))
