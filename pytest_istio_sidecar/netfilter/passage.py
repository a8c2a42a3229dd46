"""One packet's passage through the hooks, from where it enters to where it leaves.

Knows the order in which the kernel asks tables at each hook, when it asks nat,
and when a packet comes back in through lo. Does not know what to do about
answers that are not known (`trace`). Invariant: an instance is used once.

Order: hook priorities in include/uapi/linux/netfilter_ipv4.h; nat before
security at INPUT is iptables-nft's own.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_istio_sidecar.netfilter.model import Rule
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate, Packet
from pytest_istio_sidecar.netfilter.routing import Routing
from pytest_istio_sidecar.netfilter.skb import Skb
from pytest_istio_sidecar.netfilter.targets import Redirect, Tproxy
from pytest_istio_sidecar.netfilter.traversal import CompiledRuleset, End, Entry, Oracle, walk

_ALL = 0xFFFFFFFF


class Passage:
    """What happens to one packet; the results stand in `fate`, `destination`, `mark`, `deciding`, `journal`."""

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
        if not self._filtered("raw", "OUTPUT"):
            return
        self._track()
        if not (self._filtered("mangle", "OUTPUT") and self._translated("OUTPUT")):
            return
        if not (self._filtered("filter", "OUTPUT") and self._filtered("security", "OUTPUT")):
            return
        # Filter still saw the route before NAT (netfilter: ip_route_me_harder comes after the hook).
        if self.fate is not Fate.UNCHANGED:
            skb.outgoing = self.routing.out(skb.destination_address)
        if self._left() and skb.outgoing == "lo":
            self._loop_back()

    def _loop_back(self) -> None:
        """Through lo the packet comes in with its connection: nat is not asked again."""
        skb = self.skb
        skb.incoming, skb.outgoing = "lo", ""
        skb.has_socket = False
        if self._filtered("raw", "PREROUTING") and self._filtered("mangle", "PREROUTING"):
            self._deliver(nat=False)

    def _receive(self) -> None:
        skb, packet = self.skb, self.packet
        address = skb.destination_address
        skb.incoming = packet.in_interface or self.routing.into(packet.source, address)  # type: ignore[arg-type]
        if not self._filtered("raw", "PREROUTING"):
            return
        self._track()
        if not (self._filtered("mangle", "PREROUTING") and self._translated("PREROUTING")):
            return
        address = skb.destination_address
        if address.version == 4 and address.is_loopback and skb.incoming != "lo":
            # Martian unless the interface has route_localnet (net/ipv4/route.c), which is off by default.
            self.fate = Fate.DROPPED
            self._note(f"dropped: {address} came in by {skb.incoming}, and route_localnet is off")
        elif self._socket is not None or self.routing.is_local(address):
            self._deliver(nat=True)
        else:
            self._forward()

    def _deliver(self, *, nat: bool) -> None:
        if self._filtered("mangle", "INPUT") and self._filtered("filter", "INPUT") and nat:
            self._source_translated("INPUT")
        if self.fate is not Fate.DROPPED:
            self._filtered("security", "INPUT")

    def _forward(self) -> None:
        skb = self.skb
        skb.outgoing = self.routing.out(skb.destination_address)
        if all(self._filtered(table, "FORWARD") for table in ("mangle", "filter", "security")):
            skb.incoming = ""
            self._left()

    def _left(self) -> bool:
        """POSTROUTING; False when the packet is dropped there."""
        return self._filtered("mangle", "POSTROUTING") and self._source_translated("POSTROUTING")

    def _track(self) -> None:
        """Conntrack looks the packet up, unless raw told it not to."""
        skb = self.skb
        if skb.state != "UNTRACKED":
            skb.state = self.packet.state
            skb.tracked = skb.state not in ("INVALID", "UNTRACKED")

    def _filtered(self, table: str, hook: str) -> bool:
        """Ask a table that is not nat; False when it drops the packet."""
        for compiled in self.order:
            chain = compiled.get((table, hook))
            if chain is None or (not chain.rules and chain.policy != "DROP"):
                continue
            end, rule = walk(table, chain, self.skb, hook, self.journal, self.oracle)
            if end is End.DROPPED:
                self.fate, self.deciding = Fate.DROPPED, rule
                return False
            if end is End.TPROXIED and rule is not None and isinstance(rule.target, Tproxy):
                self._hand_over(rule, rule.target)
            elif rule is not None and table != "filter" and self.fate is Fate.UNCHANGED:
                self.deciding = rule
        return True

    def _hand_over(self, rule: Rule, target: Tproxy) -> None:
        """To the socket that listens there (net/netfilter/xt_TPROXY.c), which is taken to exist."""
        skb = self.skb
        address = target.address
        if int(address) == 0:
            address = self.routing.primary(skb.incoming, skb.family) or skb.destination_address
        self._socket = Endpoint(address, target.port or skb.destination_port)
        self.fate, self.deciding = Fate.TPROXIED, rule
        if skb.mark is not None:
            skb.mark = (skb.mark & ~target.mask & _ALL) ^ target.mark

    def _translated(self, hook: str) -> bool:
        """Ask nat for a destination; False when the packet is dropped."""
        if self.skb.state != "NEW":
            return True
        for compiled in self.order:
            chain = compiled.get(("nat", hook))
            if chain is None:
                continue
            end, rule = walk("nat", chain, self.skb, hook, self.journal, self.oracle)
            if end is End.DROPPED:
                self.fate, self.deciding = Fate.DROPPED, rule
                return False
            if end is End.TRANSLATED:
                if self._socket is None and rule is not None:
                    self.fate = Fate.REDIRECTED if isinstance(rule.target, Redirect) else Fate.TRANSLATED
                    self.deciding = rule
                return True
            if rule is not None and self.fate is Fate.UNCHANGED:
                self.deciding = rule
        return True

    def _source_translated(self, hook: str) -> bool:
        """Ask nat for a source; False when the packet is dropped."""
        if self.skb.state != "NEW":
            return True
        for compiled in self.order:
            chain = compiled.get(("nat", hook))
            if chain is None or (not chain.rules and chain.policy != "DROP"):
                continue
            end, rule = walk("nat", chain, self.skb, hook, self.journal, self.oracle)
            if end is End.DROPPED:
                self.fate, self.deciding = Fate.DROPPED, rule
                return False
            if end is End.TRANSLATED:
                return True
        return True

    def _note(self, text: str) -> None:
        self.journal.append(Entry("routing", "PREROUTING", None, True, text))
