"""Where nat and TPROXY send a packet.

Knows how the kernel chooses address and port for REDIRECT, DNAT, SNAT and
MASQUERADE, and to which socket TPROXY hands over. Does not know tables or
rules. Invariant: a choice that the kernel makes by a hash or by chance is
`Unforeseeable`, or None, never a guess.
Semantics: docs/semantics.md, 5.
"""

from __future__ import annotations

from pytest_istio_sidecar.netfilter.matches import FULL_MASK, PROTOCOLS
from pytest_istio_sidecar.netfilter.namespace.routing import LOOPBACK
from pytest_istio_sidecar.netfilter.packet import Endpoint, IPAddress
from pytest_istio_sidecar.netfilter.targets import Extended, Redirect, Tproxy, Translate
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb

WITH_PORTS = frozenset({PROTOCOLS["tcp"], PROTOCOLS["udp"], PROTOCOLS["udplite"], PROTOCOLS["sctp"], 33})


class Unforeseeable(Exception):
    """The rules alone do not tell what happens next; the message says why."""


def translate(target: Redirect | Translate | Extended, skb: Skb, hook: str) -> bool:
    """Apply a target of nat; False where the kernel drops the packet.

    Raises:
        Unforeseeable: the kernel picks one of several addresses or ports.
    """
    if isinstance(target, Redirect):
        return _redirect(target, skb, hook)
    if isinstance(target, Extended):
        _masquerade(target, skb)
    elif target.name == "DNAT":
        _destination(target, skb)
    else:
        _source(target, skb)
    return True


def hand_over(target: Tproxy, skb: Skb) -> Endpoint:
    """To the socket that listens there (net/netfilter/xt_TPROXY.c), which is taken to exist."""
    if skb.mark is not None:
        skb.mark = (skb.mark & ~target.mask & FULL_MASK) ^ target.mark
    # Of what belongs to a socket, that is the user, who is not known here.
    skb.has_socket, skb.uid, skb.gid = True, None, None
    address = target.address
    if int(address) == 0:
        address = skb.routing.primary(skb.incoming, skb.family) or skb.destination_address
    return Endpoint(address, target.port or skb.destination_port)


def _redirect(target: Redirect, skb: Skb, hook: str) -> bool:
    """To this host; False where the incoming interface has no address (net/netfilter/nf_nat_redirect.c)."""
    address = LOOPBACK[skb.family] if hook == "OUTPUT" else _of_incoming_interface(skb)
    if address is None:
        return False
    _send_to(skb, address, _destination_port(skb, target))
    return True


def _of_incoming_interface(skb: Skb) -> IPAddress | None:
    """The interface's first address; for IPv6 the first of the destination's scope."""
    addresses = skb.routing.addresses(skb.incoming, skb.family)
    if skb.family == 4:
        return addresses[0] if addresses else None
    destination = skb.destination_address
    for address in addresses:
        if address.is_link_local == destination.is_link_local:
            return address
    # Every interface has a link-local address, whether or not the description of the host lists it.
    return destination if destination.is_link_local else None


def _destination(target: Translate, skb: Skb) -> None:
    """DNAT."""
    address = skb.destination_address
    if target.addresses is not None:
        address, last = target.addresses
        if address != last:
            raise Unforeseeable(f"the kernel picks one of {target.to} by a hash")
    _send_to(skb, address, _destination_port(skb, target))


def _source(target: Translate, skb: Skb) -> None:
    """SNAT."""
    address = skb.source
    if target.addresses is not None:
        first, last = target.addresses
        address = int(first) if first == last else None
    _come_from(skb, address, _source_port(skb, target))


def _masquerade(target: Extended, skb: Skb) -> None:
    """MASQUERADE: the outgoing interface's address; any option is about the port."""
    address = None if skb.outgoing == "lo" else skb.routing.primary(skb.outgoing, skb.family)
    port = None if target.options else skb.source_port
    _come_from(skb, None if address is None else int(address), port)


def _come_from(skb: Skb, address: int | None, port: int | None) -> None:
    if (address, port) != (skb.source, skb.source_port):
        skb.translations = (*skb.translations, "SNAT")
    skb.source, skb.source_port = address, port


def _send_to(skb: Skb, address: IPAddress, port: int | None) -> None:
    # A translation to what the packet has already is none for conntrack (net/netfilter/nf_nat_core.c).
    if (address, port) != (skb.destination_address, skb.destination_port):
        skb.translations = (*skb.translations, "DNAT")
    skb.destination_address = address
    skb.destination = int(address)
    skb.destination_port = port


def at_random(target: Redirect | Translate) -> bool:
    """Whether the kernel takes any port of the target's range, wherever the packet was going."""
    return any(flag.startswith("--random") for flag in target.flags)


def _destination_port(skb: Skb, target: Redirect | Translate) -> int | None:
    """Kept without a range, whatever the flags, and in it; else its first (net/netfilter/nf_nat_core.c)."""
    port = skb.destination_port
    if target.ports is None or skb.protocol not in WITH_PORTS:
        return port
    low, high = target.ports
    if low < high and at_random(target):
        raise Unforeseeable(f"the kernel picks one of the ports {low}-{high} at random")
    return port if port is None or low <= port <= high else low


def _source_port(skb: Skb, target: Translate) -> int | None:
    """Kept in the range, and without one; None where the kernel picks one."""
    port = skb.source_port
    if target.ports is None or skb.protocol not in WITH_PORTS:
        return None if at_random(target) else port
    low, high = target.ports
    if low == high:
        return low
    return port if port is not None and low <= port <= high and not at_random(target) else None
