"""One packet's passage through the hooks, from where it enters to where it leaves.

Knows the order in which the kernel asks tables at each hook, when it asks nat,
and when a packet comes back in through lo. Does not know what to do about
answers that are not known (`trace`). Invariant: an instance is used once.

Order: hook priorities in include/uapi/linux/netfilter_ipv4.h; nat before
security at INPUT is iptables-nft's own.
Semantics: docs/semantics.md, 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_istio_sidecar.netfilter.model import Rule
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate, Packet
from pytest_istio_sidecar.netfilter.routing import Routing
from pytest_istio_sidecar.netfilter.targets import Extended, Redirect, Tproxy
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb
from pytest_istio_sidecar.netfilter.trace.table import CompiledRuleset, End, Entry, Oracle, walk

_ALL = 0xFFFFFFFF


class Passage:
    """What happens to one packet; `fate`, `destination`, `mark`, `deciding` and `journal` are the results."""

    def __init__(
        self, packet: Packet, routing: Routing, order: Sequence[CompiledRuleset], oracle: Oracle
    ) -> None:
        self.packet = packet
        self.routing = routing
        self.order = order
        self.oracle = oracle
        self.skb = Skb(packet, routing)
        self.fate = Fate.UNCHANGED
        self.deciding: Rule | None = None
        self.journal: list[Entry] = []
        self._socket: Endpoint | None = None

    @property
    def mark(self) -> int | None:
        return self.skb.mark

    @property
    def destination(self) -> Endpoint:
        """Where it goes; of a dropped packet, where it was sent."""
        if self.fate is Fate.DROPPED:
            return Endpoint(self.packet.destination, self.packet.destination_port)  # type: ignore[arg-type]
        if self._socket is not None:
            return self._socket
        return Endpoint(self.skb.destination_address, self.skb.destination_port)

    def run(self) -> None:
        """Take the packet all the way.

        Raises:
            Unforeseeable: the rules alone do not tell.
        """
        if self.packet.hook == "OUTPUT":
            self._send()
        else:
            self._receive()

    def _send(self) -> None:
        skb, packet = self.skb, self.packet
        skb.outgoing = packet.out_interface or self.routing.out(skb.destination_address)
        if not self._ask("raw", "OUTPUT"):
            return
        self._track()
        if not (self._ask("mangle", "OUTPUT") and self._ask("nat", "OUTPUT")):
            return
        route = skb.outgoing
        if self.fate is not Fate.UNCHANGED:
            route = self.routing.out(skb.destination_address)
            if route != "lo" and skb.family == 4 and self._from_loopback():
                self._drop(f"no route from a loopback address to {skb.destination_address} by {route}")
                return
        # Filter still sees the route from before NAT (net/netfilter/nf_nat_proto.c: ip_route_me_harder).
        if not (self._ask("filter", "OUTPUT") and self._ask("security", "OUTPUT")):
            return
        skb.outgoing = route
        if self._left() and skb.outgoing == "lo":
            self._loop_back()

    def _loop_back(self) -> None:
        """Through lo the packet comes in with its connection: nat is not asked again."""
        skb = self.skb
        skb.incoming, skb.outgoing = "lo", ""
        skb.has_socket = False
        if self._ask("raw", "PREROUTING") and self._ask("mangle", "PREROUTING"):
            self._deliver(nat=False)

    def _receive(self) -> None:
        skb, packet = self.skb, self.packet
        address = skb.destination_address
        skb.incoming = packet.in_interface or self.routing.into(packet.source, address)  # type: ignore[arg-type]
        if not self._ask("raw", "PREROUTING"):
            return
        self._track()
        if not (self._ask("mangle", "PREROUTING") and self._ask("nat", "PREROUTING")):
            return
        address = skb.destination_address
        if address.is_loopback and skb.incoming != "lo":
            # Martian, unless an interface has route_localnet (net/ipv4/route.c): off by default, IPv4 only.
            self._drop(f"{address} is no destination for what comes in by {skb.incoming}")
        elif self.routing.is_local(address) or (self._socket is not None and "DNAT" not in skb.translations):
            # TPROXY comes with a route that makes what it marks local, whatever its destination.
            self._deliver(nat=True)
        elif self._socket is not None:
            self._drop(f"nat sends it to {address}, and what TPROXY gave a socket is not forwarded")
        else:
            self._forward()

    def _deliver(self, *, nat: bool) -> None:
        if self._ask("mangle", "INPUT") and self._ask("filter", "INPUT") and nat:
            self._ask("nat", "INPUT")
        if self.fate is not Fate.DROPPED:
            self._ask("security", "INPUT")

    def _forward(self) -> None:
        skb = self.skb
        skb.outgoing = self.routing.out(skb.destination_address)
        if all(self._ask(table, "FORWARD") for table in ("mangle", "filter", "security")):
            skb.incoming = ""
            self._left()

    def _left(self) -> bool:
        """POSTROUTING; False when the packet is dropped there."""
        return self._ask("mangle", "POSTROUTING") and self._ask("nat", "POSTROUTING")

    def _track(self) -> None:
        """Conntrack looks the packet up, unless raw told it not to."""
        skb = self.skb
        if skb.state == "UNTRACKED":
            self.deciding = next((entry.rule for entry in reversed(self.journal) if _untracks(entry)), None)
            return
        skb.state = self.packet.state
        skb.tracked = skb.state not in ("INVALID", "UNTRACKED")

    def _ask(self, table: str, hook: str) -> bool:
        """Take the packet through a table of every back end; False when it is dropped there."""
        if table == "nat" and self.skb.state != "NEW":
            return True
        for compiled in self.order:
            chain = compiled.get((table, hook))
            if chain is None:
                continue
            end, rule = walk(table, chain, self.skb, hook, self.journal, self.oracle)
            if end is End.DROPPED:
                self.fate, self.deciding = Fate.DROPPED, rule
                return False
            if end is End.TPROXIED:
                self._hand_over(rule)
            elif end is End.TRANSLATED:
                # The other back end is not asked any more: the connection has its binding for this side.
                if hook in ("PREROUTING", "OUTPUT") and self._socket is None:
                    redirected = rule is not None and isinstance(rule.target, Redirect)
                    self.fate = Fate.REDIRECTED if redirected else Fate.TRANSLATED
                    self.deciding = rule
                return True
            elif chain.captures and hook in ("PREROUTING", "OUTPUT") and self.fate is Fate.UNCHANGED:
                # What lets it by: nat's word counts more than what a TPROXY table said before or after.
                self.deciding = (rule or self.deciding) if table == "nat" else (self.deciding or rule)
        return True

    def _hand_over(self, rule: Rule | None) -> None:
        """To the socket that listens there (net/netfilter/xt_TPROXY.c), which is taken to exist."""
        if rule is None or not isinstance(rule.target, Tproxy):
            return
        skb, target = self.skb, rule.target
        address = target.address
        if int(address) == 0:
            address = self.routing.primary(skb.incoming, skb.family) or skb.destination_address
        self._socket = Endpoint(address, target.port or skb.destination_port)
        self.fate, self.deciding = Fate.TPROXIED, rule
        if skb.mark is not None:
            skb.mark = (skb.mark & ~target.mask & _ALL) ^ target.mark

    def _from_loopback(self) -> bool:
        return self.skb.source is not None and self.skb.source >> 24 == 127

    def _drop(self, why: str) -> None:
        """Routing drops the packet; the rule that sent it there stays the one that decided."""
        self.fate = Fate.DROPPED
        self.journal.append(Entry("routing", self.packet.hook, None, True, f"dropped: {why}"))


def _untracks(entry: Entry) -> bool:
    target = entry.rule.target if entry.rule is not None and entry.matched is not False else None
    return isinstance(target, Extended) and target.name in ("CT", "NOTRACK")
