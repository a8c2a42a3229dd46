"""All packets at once through the hooks, from where they enter to where they leave.

Knows the order in which the kernel asks tables at each hook, when it asks nat, and which packets come
back in through lo: the same order as `passage`, for every packet instead of one. Does not know what
the answers are for. Invariant: at each point the outcomes are those of `trace` for that packet, several
where a condition is in doubt.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import permutations
from typing import Final, NamedTuple

from pytest_istio_sidecar.netfilter.conditions import ENTERED, Bits, Conditions, View
from pytest_istio_sidecar.netfilter.diagram import Interval, Node
from pytest_istio_sidecar.netfilter.fields import FieldName, Fields
from pytest_istio_sidecar.netfilter.matches import Extension, Mark
from pytest_istio_sidecar.netfilter.model import Ruleset
from pytest_istio_sidecar.netfilter.packet import Fate, IPAddress
from pytest_istio_sidecar.netfilter.routing import LOOPBACK
from pytest_istio_sidecar.netfilter.symbolic import Chains, Kind, Way
from pytest_istio_sidecar.netfilter.targets import Extended, Redirect, Tproxy, Translate

OWN: Final = "own"
"""The address or port of an outcome that is the packet's own."""


class Outcome(NamedTuple):
    """What becomes of a packet: its fate and where it goes. `OWN`: where it was going; None: not known."""

    fate: Fate
    address: IPAddress | str = OWN
    port: int | str | None = OWN


class _Stand(NamedTuple):
    """A packet between two tables."""

    view: View
    outcome: Outcome = Outcome(Fate.UNCHANGED)
    handed_over: bool = False
    """TPROXY has given it to a socket."""
    route: str = ENTERED
    """The interface by which it leaves after nat."""


Table = tuple[str, str]

_OUT: tuple[Table, ...] = (("raw", "OUTPUT"),)
_OUT_TRACKED: tuple[Table, ...] = (("mangle", "OUTPUT"), ("nat", "OUTPUT"))
_OUT_ROUTED: tuple[Table, ...] = (("filter", "OUTPUT"), ("security", "OUTPUT"))
_LEAVE: tuple[Table, ...] = (("mangle", "POSTROUTING"), ("nat", "POSTROUTING"))
_LOOP: tuple[Table, ...] = (
    ("raw", "PREROUTING"),
    ("mangle", "PREROUTING"),
    ("mangle", "INPUT"),
    ("filter", "INPUT"),
    ("security", "INPUT"),
)
_IN: tuple[Table, ...] = (("raw", "PREROUTING"),)
_IN_TRACKED: tuple[Table, ...] = (("mangle", "PREROUTING"), ("nat", "PREROUTING"))
_DELIVER: tuple[Table, ...] = (
    ("mangle", "INPUT"),
    ("filter", "INPUT"),
    ("nat", "INPUT"),
    ("security", "INPUT"),
)
_FORWARD: tuple[Table, ...] = (("mangle", "FORWARD"), ("filter", "FORWARD"), ("security", "FORWARD"))
_AFTER_NAT = {
    "OUTPUT": (*_OUT_ROUTED, *_LEAVE, *_LOOP),
    "PREROUTING": (*_DELIVER, *_FORWARD, *_LEAVE),
}

Next = Callable[[_Stand], Node]


class Journey:
    """The outcomes of every packet that enters at a hook, for rulesets in one order of back ends."""

    def __init__(self, rulesets: Sequence[Ruleset], fields: Fields, state: str) -> None:
        self._fields = fields
        self._diagrams = fields.diagrams
        self._conditions = Conditions(fields)
        self._routing = self._conditions.routing
        self._state = state
        marks = any(isinstance(match, Mark) for match in fields.matches)
        self._order = [Chains(held, self._conditions, marks_matter=marks) for held in rulesets]
        self._translations_matter = any(_asks_for_translations(match) for match in fields.matches)
        self._keeps = any(_keeps_a_part(target) for target in fields.targets)
        decided = [table for table in _AFTER_NAT[fields.hook] if self._decides(table)]
        self._settled = not (decided or self._keeps or self._translations_matter)
        """Whether what nat redirects meets nothing after it that could change its outcome."""
        self._known: dict[tuple[tuple[Table, ...], int, str, _Stand], Node] = {}

    def outcomes(self) -> Node:
        """A diagram whose answers are `Outcome`s."""
        first = self._state == "NEW"
        view = View(first=first, connmark=Bits(0, 0) if first else None)
        if self._fields.hook == "OUTPUT":
            stand = _Stand(view._replace(outgoing=ENTERED, has_socket=True))
            return self._ask(_OUT, stand, self._tracked(self._send))
        stand = _Stand(view._replace(incoming=ENTERED))
        return self._ask(_IN, stand, self._tracked(self._receive))

    def _tracked(self, then: Next) -> Next:
        """Conntrack looks the packet up, unless raw told it not to."""

        def track(stand: _Stand) -> Node:
            view = stand.view
            if view.state != "UNTRACKED":
                tracked = self._state not in ("INVALID", "UNTRACKED")
                view = view._replace(state=self._state, tracked=tracked)
            return then(stand._replace(view=view))

        return track

    def _send(self, stand: _Stand) -> Node:
        return self._ask(_OUT_TRACKED, stand, self._rerouted)

    def _rerouted(self, stand: _Stand) -> Node:
        view = stand.view
        if isinstance(view.destination, str):
            return self._ask(_OUT_ROUTED, stand, self._leaving)
        route = self._routing.out(self._address(view.destination))
        stand = stand._replace(route=route)
        onward = self._ask(_OUT_ROUTED, stand, self._leaving)
        if route == "lo" or self._fields.family == 6:
            return onward
        # No route from a loopback address to elsewhere.
        loopback = self._among("source", view.source, [(127 << 24, (128 << 24) - 1)])
        return self._split(loopback, self._dropped(), onward)

    def _leaving(self, stand: _Stand) -> Node:
        if stand.route != ENTERED:
            stand = stand._replace(view=stand.view._replace(outgoing=stand.route))
        return self._ask(_LEAVE, stand, self._looped)

    def _looped(self, stand: _Stand) -> Node:
        """Through lo the packet comes in with its connection: nat is not asked again."""
        if not any(self._decides(table) for table in _LOOP):
            return self._diagrams.leaf(stand.outcome)
        view = stand.view
        back = view._replace(incoming="lo", outgoing="", has_socket=False)
        if view.outgoing != ENTERED:
            if view.outgoing != "lo":
                return self._diagrams.leaf(stand.outcome)
            return self._ask(_LOOP, stand._replace(view=back), self._done)
        field = self._fields["interface"]
        place = self._fields.interfaces.index("lo")
        by_lo = field.intervals(self._diagrams, [(place, place)])
        inside = self._ask(_LOOP, stand._replace(view=back), self._done)
        return self._split(by_lo, inside, self._diagrams.leaf(stand.outcome))

    def _receive(self, stand: _Stand) -> Node:
        return self._ask(_IN_TRACKED, stand, self._routed)

    def _routed(self, stand: _Stand) -> Node:
        view = stand.view
        if isinstance(view.destination, str):
            return self._delivered_or_forwarded(stand)
        address = self._address(view.destination)
        if address.is_loopback:
            return self._dropped()
        if self._routing.is_local(address) or (stand.handed_over and "DNAT" not in view.translations):
            return self._ask(_DELIVER, stand, self._done)
        if stand.handed_over:
            return self._dropped()
        return self._forwarded(stand, self._routing.out(address))

    def _delivered_or_forwarded(self, stand: _Stand) -> Node:
        """A packet whose destination nothing changed: `space` asks about those for this host."""
        if not any(self._decides(table) for table in (*_DELIVER, *_FORWARD, *_LEAVE)):
            return self._diagrams.leaf(stand.outcome)
        return self._ask(_DELIVER, stand, self._done)

    def _forwarded(self, stand: _Stand, route: str) -> Node:
        def leave(held: _Stand) -> Node:
            return self._ask(_LEAVE, held._replace(view=held.view._replace(incoming="")), self._done)

        return self._ask(_FORWARD, stand._replace(view=stand.view._replace(outgoing=route)), leave)

    def _done(self, stand: _Stand) -> Node:
        return self._diagrams.leaf(stand.outcome)

    def _dropped(self) -> Node:
        return self._diagrams.leaf(Outcome(Fate.DROPPED))

    def _decides(self, table: Table) -> bool:
        return any(chains.decides(*table) for chains in self._order)

    def _ask(self, tables: tuple[Table, ...], stand: _Stand, then: Next, back_end: int = 0) -> Node:
        """Take packets through tables in turn, each in every back end, and then on."""
        while tables:
            table = tables[0]
            asked = table[0] != "nat" or stand.view.state == "NEW"
            while asked and back_end < len(self._order):
                if self._order[back_end].decides(*table):
                    key = (tables, back_end, then.__qualname__, stand)
                    if key not in self._known:
                        self._known[key] = self._ask_one(tables, stand, then, back_end)
                    return self._known[key]
                back_end += 1
            tables, back_end = tables[1:], 0
        return then(stand)

    def _ask_one(self, tables: tuple[Table, ...], stand: _Stand, then: Next, back_end: int) -> Node:
        table, hook = tables[0]

        def follow(answer: Hashable) -> Node:
            assert isinstance(answer, Way)  # noqa: S101 - `builtin` says so
            after = stand._replace(view=answer.view)
            match answer.kind:
                case Kind.DROP:
                    return self._dropped()
                case Kind.UNKNOWN:
                    return self._diagrams.leaf(Outcome(Fate.UNKNOWN))
                case Kind.TPROXY:
                    assert isinstance(answer.target, Tproxy)  # noqa: S101
                    return self._hand_over(
                        answer.target, after, lambda held: self._ask(tables, held, then, back_end + 1)
                    )
                case Kind.NAT:
                    return self._translate(
                        answer.target, hook, after, lambda held: self._ask(tables[1:], held, then)
                    )
            return self._ask(tables, after, then, back_end + 1)

        return self._diagrams.bind(self._order[back_end].builtin(table, hook, stand.view), follow)

    def _hand_over(self, target: Tproxy, stand: _Stand, then: Next) -> Node:
        """To the socket that listens there (net/netfilter/xt_TPROXY.c), which is taken to exist."""
        mark = stand.view.mark
        if mark is not None:
            mark = (mark & (target.mask ^ 0xFFFFFFFF)) ^ target.mark
        port: int | str | None = target.port or _own(stand.view.destination_port)

        def handed(address: IPAddress | str) -> Node:
            return then(
                stand._replace(
                    view=stand.view._replace(mark=mark),
                    outcome=Outcome(Fate.TPROXIED, address, port),
                    handed_over=True,
                )
            )

        if int(target.address):
            return handed(target.address)
        return self._per_interface(
            stand.view,
            lambda name: handed(
                self._routing.primary(name, self._fields.family) or self._own_address(stand.view)
            ),
        )

    def _own_address(self, view: View) -> IPAddress | str:
        return OWN if isinstance(view.destination, str) else self._address(view.destination)

    def _translate(self, target: object, hook: str, stand: _Stand, then: Next) -> Node:
        if isinstance(target, Redirect):
            return self._redirect(target, hook, stand, then)
        if isinstance(target, Translate) and target.name == "DNAT":
            if target.addresses is None:
                return self._send_to(None, target, stand, Fate.TRANSLATED, then)
            first, last = target.addresses
            if first != last:
                return self._diagrams.leaf(Outcome(Fate.UNKNOWN))
            return self._send_to(first, target, stand, Fate.TRANSLATED, then)
        view = stand.view
        if isinstance(target, Translate):
            source = view.source
            if target.addresses is not None:
                first, last = target.addresses
                source = int(first) if first == last else None
            port: int | str | None = view.source_port
            if target.ports is not None:
                port = target.ports[0] if target.ports[0] == target.ports[1] else None
            elif any(flag.startswith("--random") for flag in target.flags):
                port = None
        else:
            # Nothing asks for the source of what leaves by another interface than lo after this.
            source = None
            port = None if isinstance(target, Extended) and target.options else view.source_port
        changed = view._replace(source=source, source_port=port, translations=(*view.translations, "SNAT"))
        if hook in ("PREROUTING", "OUTPUT") and not stand.handed_over:
            stand = stand._replace(outcome=stand.outcome._replace(fate=Fate.TRANSLATED))
        return then(stand._replace(view=changed))

    def _redirect(self, target: Redirect, hook: str, stand: _Stand, then: Next) -> Node:
        """net/netfilter/nf_nat_redirect.c."""
        family = self._fields.family
        if hook == "OUTPUT":
            return self._send_to(LOOPBACK[family], target, stand, Fate.REDIRECTED, then)

        def sent(address: IPAddress | None) -> Node:
            if address is None:
                return self._dropped()
            return self._send_to(address, target, stand, Fate.REDIRECTED, then)

        def by(name: str) -> Node:
            held = self._routing.addresses(name, family)
            if family == 4:
                return sent(held[0] if held else None)
            link_local = next((address for address in held if address.is_link_local), None)
            other = next((address for address in held if not address.is_link_local), None)
            kept = self._send_to(None, target, stand, Fate.REDIRECTED, then)
            near = sent(link_local) if link_local is not None else kept
            low = 0xFE80 << 112
            asked = self._among("destination", stand.view.destination, [(low, low | (1 << 118) - 1)])
            return self._split(asked, near, sent(other))

        return self._per_interface(stand.view, by)

    def _send_to(
        self, address: IPAddress | None, target: Redirect | Translate, stand: _Stand, fate: Fate, then: Next
    ) -> Node:
        """A new destination; `address` None: it keeps its own."""
        view = stand.view
        kept = view.destination_port
        random = any(flag.startswith("--random") for flag in target.flags)

        def sent(port: int | str | None) -> Node:
            if self._settled and fate is Fate.REDIRECTED and not stand.handed_over:
                return self._diagrams.leaf(Outcome(fate, address or self._own_address(view), _own(port)))
            destination = view.destination if address is None else int(address)
            changed = view._replace(destination=destination, destination_port=port)
            outcome = stand.outcome
            if not stand.handed_over:
                told = self._own_address(view) if address is None else address
                outcome = Outcome(fate, told, _own(port))
            translated = stand._replace(
                view=changed._replace(translations=(*view.translations, "DNAT")), outcome=outcome
            )
            if not (self._translations_matter or self._keeps):
                return then(translated)
            # A translation to what the packet has already is none (net/netfilter/nf_nat_core.c).
            same = self._is(address, port, view)
            plain = outcome if stand.handed_over else Outcome(fate)
            untouched = stand._replace(view=view, outcome=plain)
            return self._split(same, then(untouched), self._partly(address, port, view, translated, then))

        if target.ports is None:
            return sent(None if random else kept)
        low, high = target.ports
        if low == high:
            return sent(low)
        if kept is None or random:
            return sent(None)
        inside = self._among("destination_port", kept, [(low, high)])
        return self._split(inside, sent(kept), sent(low))

    def _is(self, address: IPAddress | None, port: int | str | None, view: View) -> Node:
        """Where the packet goes to this address and port already."""
        held = self._diagrams.holds
        if address is not None:
            held = self._among("destination", view.destination, [(int(address), int(address))])
        if isinstance(port, str):
            return held
        if port is None:
            return self._diagrams.fall
        return self._diagrams.when(
            held, self._among("destination_port", view.destination_port, [(port, port)])
        )

    def _partly(
        self, address: IPAddress | None, port: int | str | None, view: View, translated: _Stand, then: Next
    ) -> Node:
        """An outcome that names the packet's own address or port as such, so that equal ones are equal."""
        if translated.handed_over or not self._keeps:
            return then(translated)
        own_address = translated._replace(outcome=translated.outcome._replace(address=OWN))
        own_port = translated._replace(outcome=translated.outcome._replace(port=OWN))
        result = then(translated)
        if isinstance(port, int) and isinstance(view.destination_port, str):
            result = self._split(
                self._among("destination_port", ENTERED, [(port, port)]), then(own_port), result
            )
        if address is not None and isinstance(view.destination, str):
            at = self._among("destination", ENTERED, [(int(address), int(address))])
            result = self._split(at, then(own_address), result)
        return result

    def _per_interface(self, view: View, then: Callable[[str], Node]) -> Node:
        """What becomes of packets by the interface they came in by."""
        if view.incoming != ENTERED:
            return then(view.incoming)
        kids = [then(name) for name in self._fields.interfaces]
        if all(kid is kids[0] for kid in kids):
            return kids[0]
        level = self._fields["interface"].level
        return self._diagrams.branch(level, range(len(kids)), kids)

    def _among(self, name: FieldName, held: int | str | None, intervals: list[Interval]) -> Node:
        """Whether a field, as it is by now, is in these intervals."""
        if held is None:
            return self._diagrams.maybe
        if isinstance(held, str):
            return self._fields[name].intervals(self._diagrams, intervals)
        inside = any(low <= held <= high for low, high in intervals)
        return self._diagrams.holds if inside else self._diagrams.fall

    def _split(self, condition: Node, then: Node, otherwise: Node) -> Node:
        """Outcomes never fall, so the first of the two answers."""
        return self._diagrams.first(self._diagrams.when(condition, then), otherwise)

    def _address(self, number: int) -> IPAddress:
        return ipaddress.IPv4Address(number) if self._fields.family == 4 else ipaddress.IPv6Address(number)


def outcomes(rulesets: Sequence[Ruleset], fields: Fields, *, order_known: bool, state: str = "NEW") -> Node:
    """The outcomes of every packet, for every order in which the kernel may ask the back ends."""
    orders: Iterable[Sequence[Ruleset]] = [rulesets]
    if len(rulesets) > 1 and not order_known:
        orders = permutations(rulesets)
    result: Node | None = None
    for order in orders:
        node = Journey(order, fields, state).outcomes()
        result = node if result is None else fields.diagrams.union(result, node)
    return result if result is not None else fields.diagrams.leaf(Outcome(Fate.UNCHANGED))


def _own(port: int | str | None) -> int | str | None:
    return OWN if isinstance(port, str) else port


def _asks_for_translations(match: object) -> bool:
    words = " ".join(str(option) for option in match.options) if isinstance(match, Extension) else ""
    return "DNAT" in words or "SNAT" in words


def _keeps_a_part(target: object) -> bool:
    """Whether a translation can leave the packet's address or port as it was."""
    if isinstance(target, Redirect):
        return target.ports is None or target.ports[0] != target.ports[1]
    return isinstance(target, Translate) and target.name == "DNAT"
