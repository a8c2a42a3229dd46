"""Where nat and TPROXY send all packets at once.

Knows how the kernel chooses address and port, as `trace/nat` does for one packet. Does not know tables.
Invariant: an outcome that is the packet's own address or port is `OWN`, so that equal outcomes are equal
values.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final, NamedTuple

from pytest_istio_sidecar.netfilter.diagram.diagram import Diagrams, Node
from pytest_istio_sidecar.netfilter.diagram.intervals import Interval
from pytest_istio_sidecar.netfilter.kernel.hooks import STANDS
from pytest_istio_sidecar.netfilter.matches import FULL_MASK, Extension
from pytest_istio_sidecar.netfilter.namespace.routing import LOOPBACK, Routing
from pytest_istio_sidecar.netfilter.packet import Fate, IPAddress
from pytest_istio_sidecar.netfilter.relations import Relation
from pytest_istio_sidecar.netfilter.space.fields import FieldName, Fields
from pytest_istio_sidecar.netfilter.space.packet_state import ENTERED, Skb
from pytest_istio_sidecar.netfilter.targets import Extended, Redirect, Tproxy, Translate
from pytest_istio_sidecar.netfilter.trace.nat import at_random

OWN: Final = "own"
"""The address or port of an outcome that is the packet's own."""


class Outcome(NamedTuple):
    """What becomes of a packet: its fate and where it goes. `OWN`: where it was going; None: not known."""

    fate: Fate
    address: IPAddress | str = OWN
    port: int | str | None = OWN


class Transit(NamedTuple):
    """A packet between two tables."""

    skb: Skb
    outcome: Outcome = Outcome(Fate.UNCHANGED)
    handed_over: bool = False
    """TPROXY has given it to a socket."""
    route: str = ENTERED
    """The interface by which it leaves after nat."""
    unread: bool = False
    """It has come to a chain that was not read and could have captured it."""

    def ending(self, outcome: Outcome) -> Outcome:
        """An outcome of the packet as far as it is known."""
        return Outcome(Fate.UNKNOWN) if self.unread and outcome.fate not in STANDS else outcome


Next = Callable[[Transit], Node]


class Nat:
    """Applies targets that send packets elsewhere; each method goes on with `then`."""

    def __init__(self, fields: Fields, diagrams: Diagrams, routing: Routing, *, settled: bool) -> None:
        self._fields = fields
        self._diagrams = diagrams
        self._routing = routing
        self._translations_matter = any(_asks_for_translations(match) for match in fields.matches)
        self._keeps = any(_keeps_a_part(target) for target in fields.targets)
        self._settled = settled and not (self._keeps or self._translations_matter)
        """Whether what nat redirects meets nothing after it that could change its outcome."""

    def hand_over(self, target: Tproxy, transit: Transit, then: Next) -> Node:
        """To the socket that listens there (net/netfilter/xt_TPROXY.c), which is taken to exist."""
        mark = transit.skb.mark
        if mark is not None:
            mark = (mark & ~target.mask & FULL_MASK) ^ target.mark
        port: int | str | None = target.port or _own(transit.skb.destination_port)

        def handed(address: IPAddress | str) -> Node:
            return then(
                transit._replace(
                    skb=transit.skb._replace(mark=mark, has_socket=True, owner_known=False),
                    outcome=Outcome(Fate.TPROXIED, address, port),
                    handed_over=True,
                )
            )

        if int(target.address):
            return handed(target.address)
        return self.per_interface(
            transit.skb,
            lambda name: handed(
                self._routing.primary(name, self._fields.family) or self._own_address(transit.skb)
            ),
        )

    def _own_address(self, skb: Skb) -> IPAddress | str:
        return OWN if isinstance(skb.destination, str) else self.address(skb.destination)

    def translate(self, target: object, hook: str, transit: Transit, then: Next) -> Node:
        """Apply a target of nat."""
        if isinstance(target, Redirect):
            return self._redirect(target, hook, transit, then)
        if isinstance(target, Translate) and target.name == "DNAT":
            if target.addresses is None:
                return self._send_to(None, target, transit, Fate.TRANSLATED, then)
            first, last = target.addresses
            if first != last:
                return self._diagrams.leaf(Outcome(Fate.UNKNOWN))
            return self._send_to(first, target, transit, Fate.TRANSLATED, then)
        skb = transit.skb
        if isinstance(target, Translate):
            source = skb.source
            if target.addresses is not None:
                first, last = target.addresses
                source = int(first) if first == last else None
            port: int | str | None = skb.source_port
            if target.ports is not None:
                port = target.ports[0] if target.ports[0] == target.ports[1] else None
            elif at_random(target):
                port = None
        else:
            # Nothing asks for the source of what leaves by another interface than lo after this.
            source = None
            port = None if isinstance(target, Extended) and target.options else skb.source_port
        changed = skb._replace(source=source, source_port=port, translations=(*skb.translations, "SNAT"))
        if hook in ("PREROUTING", "OUTPUT") and not transit.handed_over:
            transit = transit._replace(outcome=transit.outcome._replace(fate=Fate.TRANSLATED))
        return then(transit._replace(skb=changed))

    def _redirect(self, target: Redirect, hook: str, transit: Transit, then: Next) -> Node:
        """net/netfilter/nf_nat_redirect.c."""
        family = self._fields.family
        if hook == "OUTPUT":
            return self._send_to(LOOPBACK[family], target, transit, Fate.REDIRECTED, then)

        def sent(address: IPAddress | None) -> Node:
            if address is None:
                return self._diagrams.leaf(transit.ending(Outcome(Fate.DROPPED)))
            return self._send_to(address, target, transit, Fate.REDIRECTED, then)

        def by(name: str) -> Node:
            addresses = self._routing.addresses(name, family)
            if family == 4:
                return sent(addresses[0] if addresses else None)
            link_local = next((address for address in addresses if address.is_link_local), None)
            other = next((address for address in addresses if not address.is_link_local), None)
            kept = self._send_to(None, target, transit, Fate.REDIRECTED, then)
            near = sent(link_local) if link_local is not None else kept
            low = 0xFE80 << 112
            asked = self.among("destination", transit.skb.destination, [(low, low | (1 << 118) - 1)])
            return self.split(asked, near, sent(other))

        return self.per_interface(transit.skb, by)

    def _send_to(
        self,
        address: IPAddress | None,
        target: Redirect | Translate,
        transit: Transit,
        fate: Fate,
        then: Next,
    ) -> Node:
        """A new destination; `address` None: it keeps its own."""
        skb = transit.skb
        kept = skb.destination_port

        def sent(port: int | str | None) -> Node:
            if self._settled and fate is Fate.REDIRECTED and not transit.handed_over:
                return self._diagrams.leaf(Outcome(fate, address or self._own_address(skb), _own(port)))
            destination = skb.destination if address is None else int(address)
            changed = skb._replace(destination=destination, destination_port=port)
            outcome = transit.outcome
            if not transit.handed_over:
                outcome = Outcome(fate, address or self._own_address(skb), _own(port))
            translated = transit._replace(
                skb=changed._replace(translations=(*skb.translations, "DNAT")), outcome=outcome
            )
            if not (self._translations_matter or self._keeps):
                return then(translated)
            # A translation to what the packet has already is none (net/netfilter/nf_nat_core.c).
            same = self._is(address, port, skb)
            plain = outcome if transit.handed_over else Outcome(fate)
            untouched = transit._replace(skb=skb, outcome=plain)
            return self.split(same, then(untouched), self._partly(address, port, skb, translated, then))

        if target.ports is None:
            return sent(kept)
        low, high = target.ports
        if low == high:
            return sent(low)
        if at_random(target):
            return self._diagrams.leaf(Outcome(Fate.UNKNOWN))
        inside = self.among("destination_port", kept, [(low, high)])
        return self.split(inside, sent(kept), sent(low))

    def _is(self, address: IPAddress | None, port: int | str | None, skb: Skb) -> Node:
        """Where the packet goes to this address and port already."""
        there = self._diagrams.holds
        if address is not None:
            there = self.among("destination", skb.destination, [(int(address), int(address))])
        if isinstance(port, str):
            return there
        if port is None:
            return self._diagrams.fall
        return self._diagrams.when(
            there, self.among("destination_port", skb.destination_port, [(port, port)])
        )

    def _partly(
        self, address: IPAddress | None, port: int | str | None, skb: Skb, translated: Transit, then: Next
    ) -> Node:
        """An outcome that names the packet's own address or port as such, so that equal ones are equal."""
        if translated.handed_over or not self._keeps:
            return then(translated)
        own_address = translated._replace(outcome=translated.outcome._replace(address=OWN))
        own_port = translated._replace(outcome=translated.outcome._replace(port=OWN))
        result = then(translated)
        if isinstance(port, int) and isinstance(skb.destination_port, str):
            result = self.split(
                self.among("destination_port", ENTERED, [(port, port)]), then(own_port), result
            )
        if address is not None and isinstance(skb.destination, str):
            at = self.among("destination", ENTERED, [(int(address), int(address))])
            result = self.split(at, then(own_address), result)
        return result

    def per_interface(self, skb: Skb, then: Callable[[str], Node]) -> Node:
        """What becomes of packets by the interface they came in by."""
        if skb.incoming != ENTERED:
            return then(skb.incoming)
        # Nothing comes in by an interface that the host does not have: whatever is said of it is not asked.
        host = self._fields.host
        kids = [
            then(name if name in host.interfaces else host.external()) for name in self._fields.interfaces
        ]
        if all(kid is kids[0] for kid in kids):
            return kids[0]
        level = self._fields["interface"].level
        return self._diagrams.branch(level, range(len(kids)), kids)

    def with_mark(self, value: int, mask: int) -> Node:
        """Where packets entered with these bits of the mark."""
        return self._diagrams.box(self._fields["mark"].masked(value, mask), self._diagrams.holds)

    def among(self, name: FieldName, value: int | str | None, intervals: list[Interval]) -> Node:
        """Whether a field, with the value it has by now, is in these intervals."""
        if value is None:
            return self._diagrams.maybe
        if isinstance(value, str):
            return self._fields[name].intervals(self._diagrams, intervals)
        inside = any(low <= value <= high for low, high in intervals)
        return self._diagrams.holds if inside else self._diagrams.fall

    def split(self, condition: Node, then: Node, otherwise: Node) -> Node:
        """Outcomes never fall, so the first of the two answers."""
        return self._diagrams.first(self._diagrams.when(condition, then), otherwise)

    def address(self, number: int) -> IPAddress:
        return ipaddress.IPv4Address(number) if self._fields.family == 4 else ipaddress.IPv6Address(number)


def _own(port: int | str | None) -> int | str | None:
    return OWN if isinstance(port, str) else port


def _asks_for_translations(match: object) -> bool:
    if isinstance(match, Relation):
        return match.key == "ct status"
    if not isinstance(match, Extension) or match.module == "comment":
        return False
    return any("NAT" in value for option in match.options for value in option.values)


def _keeps_a_part(target: object) -> bool:
    """Whether a translation can leave the packet's address or port as it was."""
    if isinstance(target, Redirect):
        return target.ports is None or target.ports[0] != target.ports[1]
    return isinstance(target, Translate) and target.name == "DNAT"
