"""One packet's traversal of the hooks, from where it enters to where it leaves.

Knows what the kernel does with a packet between tables: tracking, routing, coming back in through lo; the
order is `netfilter/kernel/hooks`'. Does not know what to do about answers that are not known (`trace`).
Invariant: an instance is used once.

Semantics: docs/semantics.md, 2 and 3.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_istio_sidecar.netfilter.kernel.actions import Action, is_about_tracking
from pytest_istio_sidecar.netfilter.kernel.hooks import (
    AT_DEVICES,
    FIRST,
    STANDS,
    BaseChain,
    Leg,
    Legs,
    Moment,
    UnreadChain,
)
from pytest_istio_sidecar.netfilter.model import Rule
from pytest_istio_sidecar.netfilter.namespace.routing import Routing
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate, IPAddress, Packet
from pytest_istio_sidecar.netfilter.routes import LO, NOT_TOLD, NOWHERE, RoutingPolicy
from pytest_istio_sidecar.netfilter.targets import Tproxy
from pytest_istio_sidecar.netfilter.trace import nat
from pytest_istio_sidecar.netfilter.trace.nat import Unforeseeable
from pytest_istio_sidecar.netfilter.trace.packet_state import Skb
from pytest_istio_sidecar.netfilter.trace.route import Flow, Taken, look_up
from pytest_istio_sidecar.netfilter.trace.table import CompiledChain, Oracle, Step, traverse


class Traversal:
    """What happens to one packet; `fate`, `destination`, `mark`, `deciding` and `steps` are the results."""

    def __init__(
        self, packet: Packet, routing: Routing, legs: Legs[CompiledChain | UnreadChain], oracle: Oracle
    ) -> None:
        self.packet = packet
        self.routing = routing
        self.oracle = oracle
        self.skb = Skb(packet, routing)
        self.fate = Fate.UNCHANGED
        self.deciding: Rule | None = None
        self.steps: list[Step] = []
        self.could_capture: list[UnreadChain] = []
        """Chains on its way that were not read, where it has another fate than a capture."""
        self._legs = legs
        self._route = ""
        self._lost = ""
        """The route by which nobody gets a packet of IPv6: one by lo to what is not local."""
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
        skb, packet = self.skb, self.packet
        address = skb.destination_address
        if packet.hook == "OUTPUT":
            skb.outgoing = self._route = packet.out_interface or self._first_route(address)
        else:
            skb.incoming = packet.in_interface or self.routing.into(packet.source, address)  # type: ignore[arg-type]
        self._take(FIRST[packet.hook])
        if self.fate in STANDS:
            self.could_capture.clear()

    def _take(self, leg: Leg) -> None:
        """Take the packet along a leg and those that follow it, as far as it comes."""
        for step in self._legs[leg]:
            goes_on = _MOMENTS[step](self) if isinstance(step, Moment) else self._ask(step)
            if not goes_on:
                return

    def track(self) -> bool:
        """Conntrack looks the packet up, unless raw told it not to."""
        skb = self.skb
        if skb.state == "UNTRACKED":
            self.deciding = next((step.rule for step in reversed(self.steps) if _untracks(step)), None)
        else:
            skb.state = self.packet.state
            skb.template = False
            skb.tracked = skb.state not in ("INVALID", "UNTRACKED")
        return True

    def reroute(self) -> bool:
        """Chains still see the route from before nat (net/netfilter/nf_nat_proto.c: ip_route_me_harder)."""
        if self.fate is Fate.UNCHANGED:
            return True
        skb = self.skb
        if self.routing.policy(skb.family) is not None:
            return skb.destination_address == self.packet.destination or self._route_again()
        self._route = self.routing.out(skb.destination_address)
        return self._has_route_from_loopback()

    def _has_route_from_loopback(self) -> bool:
        skb = self.skb
        local = self.routing.takes_loopback(self._route)
        if not local and skb.family == 4 and skb.source is not None and skb.source >> 24 == 127:
            return self._drop(
                f"no route from a loopback address to {skb.destination_address} by {self._route}"
            )
        return True

    def _first_route(self, address: IPAddress) -> str:
        """The interface by which a process's packet leaves; where no route leads, as if one did."""
        policy = self.routing.policy(self.skb.family)
        if policy is not None:
            taken = look_up(policy, Flow.of(self.skb, uid=self.packet.uid))
            if taken.hop != NOWHERE:
                return self._taken(taken)
        return self.routing.out(address)

    def _route_again(self) -> bool:
        """After mangle has changed its mark, or nat its destination; False where no route leads.

        Of IPv4 the kernel does not ask for the socket's user again (ip_route_me_harder).
        """
        policy = self.routing.policy(self.skb.family)
        if policy is None:
            return True
        uid = self.packet.uid if self.skb.family == 6 else 0
        taken = look_up(policy, Flow.of(self.skb, uid=uid))
        if taken.hop == NOWHERE:
            return self._drop(f"{taken.why} to {self.skb.destination_address}")
        self._route = self._taken(taken)
        return self._has_route_from_loopback()

    def _is_at_home(self) -> bool:
        """Whether what nat sent to this host also comes there: rules and routes may lead it elsewhere."""
        if self.routing.policy(self.skb.family) is None:
            return True
        to_itself = self.fate is Fate.TRANSLATED and self.routing.is_local(self.skb.destination_address)
        if self.fate is Fate.REDIRECTED or to_itself:
            verb = "translated" if to_itself else "redirected"
            return self._drop(f"{verb} to {self.destination}, but routed by {self._route}")
        return True

    def _taken(self, taken: Taken) -> str:
        """The interface that a lookup tells."""
        if taken.hop == NOT_TOLD:
            raise Unforeseeable(f"where it is routed is not told by what is modelled ({taken.why})")
        by_lo = taken.hop == (LO, "sent")
        self._lost = taken.why if by_lo and self.skb.family == 6 else ""
        if not taken.usual or by_lo:
            hook = "OUTPUT" if self.packet.hook == "OUTPUT" else "PREROUTING"
            self.steps.append(Step("routing", hook, None, True, f"by {taken.hop.device}: {taken.why}"))
        return taken.hop.device

    def leave(self) -> bool:
        self.skb.outgoing = self._route
        return True

    def loop_back(self) -> bool:
        skb = self.skb
        if skb.outgoing == "lo":
            skb.incoming, skb.outgoing = "lo", ""
            skb.has_socket = False
            if self._lost:
                return self._discarded()
            self._take(Leg.LOOP)
            return True
        return self._is_at_home()

    def _discarded(self) -> bool:
        """It comes in by lo with the route it left by, which takes nothing in (net/ipv6/route.c).

        Of IPv4 every route by lo takes in what comes back (net/ipv4/route.c, __mkroute_output: RTCF_LOCAL).
        """
        passed = len(self.could_capture)
        for step in self._legs[Leg.LOOP]:
            if not isinstance(step, Moment) and step[0][0].hook == "PREROUTING" and not self._ask(step):
                return False
        del self.could_capture[passed:]  # whatever they do, nobody gets it
        return self._drop(f"what leaves by lo comes to nobody where it is not local ({self._lost})")

    def deliver_or_forward(self) -> bool:
        skb = self.skb
        address = skb.destination_address
        if address.is_loopback and (skb.family == 6 or not self.routing.takes_loopback(skb.incoming)):
            # Martian, unless an interface has route_localnet (net/ipv4/route.c): off by default, IPv4 only.
            return self._drop(f"{address} is no destination for what comes in by {skb.incoming}")
        policy = self.routing.policy(skb.family)
        if policy is not None and (self._socket is None or "DNAT" in skb.translations):
            return self._deliver_or_forward_by(policy)
        if self.routing.is_local(address) or (self._socket is not None and "DNAT" not in skb.translations):
            # TPROXY comes with a route that makes what it marks local, whatever its destination.
            self._take(Leg.DELIVER)
        elif self._socket is not None:
            return self._drop(f"nat sends it to {address}, and what TPROXY gave a socket is not forwarded")
        else:
            return self._forward(self.routing.out(address))
        return True

    def _deliver_or_forward_by(self, policy: RoutingPolicy) -> bool:
        """Where somebody added rules or routes."""
        skb = self.skb
        taken = look_up(policy, Flow.of(skb, uid=0, incoming=skb.incoming))
        if taken.hop == NOWHERE:
            return self._drop(f"{taken.why} to {skb.destination_address}")
        device = self._taken(taken)
        if taken.hop.kind == "local":
            self._take(Leg.DELIVER)
            return True
        if self._socket is not None:
            return self._drop(f"what TPROXY gave a socket is not forwarded ({taken.why})")
        if device == LO:
            return self._drop(f"what came in is sent to nobody by lo ({taken.why})")
        return self._forward(device)

    def _forward(self, device: str) -> bool:
        skb = self.skb
        if not self.routing.forwards_from(skb.incoming):
            return self._drop(f"{skb.incoming} forwards nothing (sysctl forwarding), also not by {device}")
        skb.outgoing = self._route = device
        self._take(Leg.FORWARD)
        return self.fate is Fate.DROPPED or self._is_at_home()

    def _ask(self, chains: tuple[tuple[BaseChain, CompiledChain | UnreadChain], ...]) -> bool:
        """Take the packet through base chains of one place; False when it is dropped there."""
        for base, chain in chains:
            if base.type == "nat" and self.skb.state != "NEW":
                continue
            if isinstance(chain, UnreadChain):
                self.could_capture.append(chain)
                continue
            if base.hook in AT_DEVICES and not self._passes(base):
                continue
            mark = self.skb.mark
            action, rule = traverse(base.table, chain, self.skb, base.hook, self.steps, self.oracle)
            if action is Action.DROP:
                self.fate, self.deciding = Fate.DROPPED, rule
                return False
            changed = self.skb.mark is None or self.skb.mark != mark
            if changed and base.type == "route" and not self._route_again():
                return False
            enters = base.hook in FIRST
            if self.skb.socket is not None:
                self._socket, self.skb.socket = self.skb.socket, None
                self.fate, self.deciding = Fate.TPROXIED, self.skb.socket_rule
            if action is Action.TPROXY:
                self._hand_over(rule)
            elif action is Action.NAT:
                # No other nat chain is asked any more: the connection has its binding for this side.
                if enters and self._socket is None:
                    self.fate = Fate.REDIRECTED if self.skb.redirected else Fate.TRANSLATED
                    self.deciding = rule
                return True
            elif chain.captures and enters and self.fate is Fate.UNCHANGED:
                # What lets it by: nat's word counts more than what a TPROXY table said before or after.
                self.deciding = (rule or self.deciding) if base.type == "nat" else (self.deciding or rule)
        return True

    def _passes(self, base: BaseChain) -> bool:
        """Whether the packet passes a device at which the chain hangs.

        Raises:
            Unforeseeable: the listing does not show the chain's devices.
        """
        if not base.devices:
            raise Unforeseeable(f"at which device chain {base.name} of table {base.table} hangs was not read")
        return (self.skb.incoming if base.hook == "INGRESS" else self.skb.outgoing) in base.devices

    def _hand_over(self, rule: Rule | None) -> None:
        if rule is not None and isinstance(rule.target, Tproxy):
            self._socket = nat.hand_over(rule.target, self.skb)
            self.fate, self.deciding = Fate.TPROXIED, rule

    def _drop(self, why: str) -> bool:
        """Routing drops the packet; the rule that sent it there stays the one that decided."""
        self.fate = Fate.DROPPED
        self.steps.append(Step("routing", self.packet.hook, None, True, f"dropped: {why}"))
        return False


_MOMENTS: dict[Moment, Callable[[Traversal], bool]] = {
    Moment.TRACK: Traversal.track,
    Moment.REROUTE: Traversal.reroute,
    Moment.ROUTE: Traversal.deliver_or_forward,
    Moment.LEAVE: Traversal.leave,
    Moment.LOOP_BACK: Traversal.loop_back,
}


def _untracks(step: Step) -> bool:
    return step.rule is not None and step.matched is not False and is_about_tracking(step.rule.target)
