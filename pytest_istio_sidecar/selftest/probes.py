"""Packets that tell changed rules from the ones they were made of.

Knows what Istio's rules ask about, and how a class of packets is made into one. Does not know what becomes
of a packet. Invariant: no two random packets, and no two witnesses of one numbering, are of one 5-tuple:
packets of one 5-tuple are of one connection, whoever sends them.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator

from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.netfilter.model import Family, PodRules
from pytest_istio_sidecar.netfilter.packet import Hook, Host, Packet
from pytest_istio_sidecar.netfilter.space.queries import differing

RANDOM_PACKETS = 400
"""Of each family, half of them inbound; every mutant meets the same ones."""

_PORTS = (
    *(22, 53, 80, 443, 8080),
    *(ports.ADMIN, ports.OUTBOUND, ports.INBOUND, ports.TUNNEL, ports.AGENT, ports.READINESS),
    ports.TELEMETRY,
)
_IDS = (0, 1000, ports.PROXY_ID)
_RANDOM_FROM, WITNESSES_FROM = 20000, 30000
"""Source ports of random packets, and of witnesses where their class allows any."""
_FAR = {4: ("203.0.113.9", "198.51.100.7"), 6: ("2001:db8:ffff::9", "2001:db8:1::7")}
"""Not in the pod's networks; the first is in the one that narrowed rules ask for (`netfilter.mutants`)."""
_LOOPBACK = {4: ("127.0.0.1", "127.0.0.2"), 6: ("::1",)}
_ENVOY = {4: "127.0.0.6", 6: "::6"}
"""What Envoy sends from to the application, where the pod has that address (`istio.rules`)."""


def witnesses(
    original: PodRules, changed: PodRules, family: Family, host: Host, numbers: Iterator[int]
) -> Iterator[Packet]:
    """A packet of every part of each class whose fate differs, over all first packets of a family.

    Args:
        numbers: source ports, from `WITNESSES_FROM` on, the same iterator for all that meet one kernel.
    """
    hooks: tuple[Hook, ...] = ("PREROUTING", "OUTPUT")
    for hook in hooks:
        for difference in differing(changed, original, hook, host=host, family=family):
            for cube in difference.cubes:
                yield cube.packet({"source_port": next(numbers)})


def random_packets(family: Family, host: Host, seed: str) -> list[Packet]:
    """First packets that a pod sees, around what Istio's rules ask about."""
    chance = random.Random(f"{seed} IPv{family}")  # noqa: S311 - nothing secret
    return [_random(place, family, host, chance) for place in range(RANDOM_PACKETS)]


def _random(place: int, family: Family, host: Host, chance: random.Random) -> Packet:
    interface = host.external()
    addresses = [address for address in host.addresses[interface] if address.version == family]
    addresses = [address for address in addresses if not address.ip.is_link_local]
    own = tuple(str(address.ip) for address in addresses)
    peers = (str(addresses[0].network[20]), *_FAR[family])
    likely = chance.random() < 0.9
    port = chance.choice(_PORTS) + chance.choice((0, 0, 0, 1)) if likely else chance.randrange(1, 65536)
    given = {
        "protocol": chance.choice(("tcp", "tcp", "tcp", "udp")),
        "source_port": _RANDOM_FROM + place,
        "destination_port": port,
    }
    if place % 2:
        return Packet(
            hook="PREROUTING",
            source=chance.choice(peers),
            destination=chance.choice(own),
            in_interface=interface,
            **given,  # type: ignore[arg-type]
        )
    destination = chance.choice((*own, *_LOOPBACK[family], *peers))
    near = () if destination in peers else (*_LOOPBACK[family], _ENVOY[family])
    near = tuple(address for address in near if host.is_local(ipaddress.ip_address(address)))
    return Packet(
        hook="OUTPUT",
        source=chance.choice((*own, *near)),
        destination=destination,
        uid=chance.choice(_IDS),
        gid=chance.choice(_IDS),
        **given,  # type: ignore[arg-type]
    )
