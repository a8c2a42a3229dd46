"""Where a host sends packets.

Knows which addresses are local and by which interface others are reached: what is on no interface's network
goes to the first interface that is not lo. Where somebody added rules or routes that lead elsewhere, `policy`
has them. Invariant: answers never change.
"""

from __future__ import annotations

import ipaddress

from pytest_istio_sidecar.netfilter.packet import Host, IPAddress
from pytest_istio_sidecar.netfilter.routes import RoutingPolicy

LOOPBACK = {4: ipaddress.ip_address("127.0.0.1"), 6: ipaddress.ip_address("::1")}


class Routing:
    """A `Host`'s addresses, arranged for quick answers."""

    def __init__(self, host: Host) -> None:
        self._external = host.external()
        self._policies = host.policies
        self.localnet = host.localnet
        self.forwards = host.forwards
        self._own: dict[IPAddress, str] = {}
        self._networks: list[tuple[int, int, int, str]] = []
        self._loopback: list[tuple[int, int, int]] = []
        self._addresses: dict[tuple[str, int], list[IPAddress]] = {}
        for name, interfaces in host.addresses.items():
            for interface in interfaces:
                network = interface.network
                numbers = (network.version, int(network.network_address), int(network.netmask))
                if name == "lo":
                    self._loopback.append(numbers)
                else:
                    self._networks.append((*numbers, name))
                self._own.setdefault(interface.ip, name)
                self._addresses.setdefault((name, network.version), []).append(interface.ip)
        self._networks.sort(key=lambda network: -network[2])

    def policy(self, family: int) -> RoutingPolicy | None:
        """The rules and routes that lead packets elsewhere than addresses tell; None: there are none."""
        return self._policies.get(family)

    def takes_loopback(self, interface: str) -> bool:
        """Whether 127.0.0.0/8 is a destination of what comes in there (net/ipv4/route.c, route_localnet)."""
        return interface == "lo" or interface in self.localnet

    def forwards_from(self, interface: str) -> bool:
        """Whether what comes in there and is for others goes on."""
        return self.forwards is None or interface in self.forwards

    def interface_of(self, address: IPAddress) -> str | None:
        """The interface that holds a local address, or None; lo holds its whole networks."""
        name = self._own.get(address)
        if name is not None:
            return name
        number, family = int(address), address.version
        for version, network, mask in self._loopback:
            if version == family and number & mask == network:
                return "lo"
        return None

    def is_local(self, address: IPAddress) -> bool:
        return self.interface_of(address) is not None

    def out(self, destination: IPAddress) -> str:
        """The interface by which a packet leaves: lo to every local address."""
        return "lo" if self.is_local(destination) else self._on_link(destination) or self._external

    def into(self, source: IPAddress, destination: IPAddress) -> str:
        """The interface by which a packet comes: its source's network, else what holds its destination."""
        if self.is_local(source):
            return "lo"
        own = self.interface_of(destination)
        return self._on_link(source) or (own if own not in (None, "lo") else None) or self._external

    def primary(self, interface: str, family: int) -> IPAddress | None:
        addresses = self._addresses.get((interface, family))
        return addresses[0] if addresses else None

    def addresses(self, interface: str, family: int) -> list[IPAddress]:
        return self._addresses.get((interface, family), [])

    def is_broadcast(self, address: IPAddress) -> bool:
        """Of IPv4: 255.255.255.255, "this network", or the last address of a network of ours."""
        number = int(address)
        if number >> 24 == 0 or number == 0xFFFFFFFF:
            return True
        inverse = 0xFFFFFFFF
        return any(
            version == 4 and mask < 0xFFFFFFFE and number == network | (mask ^ inverse)
            for version, network, mask, _ in self._networks
        )

    def _on_link(self, address: IPAddress) -> str | None:
        number, family = int(address), address.version
        for version, network, mask, name in self._networks:
            if version == family and number & mask == network:
                return name
        return None
