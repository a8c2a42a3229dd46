"""The command that repeats a trace from files.

Knows what `istio-sidecar trace` can be told. Does not know how a trace is made.
Invariant: the command decides as the trace did, or there is none.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pytest_istio_sidecar.checks.other_hosts import singles_pods_out
from pytest_istio_sidecar.netfilter.matches import PROTOCOL_NAMES
from pytest_istio_sidecar.netfilter.model import Backend, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.namespace.routing import Routing
from pytest_istio_sidecar.netfilter.packet import Endpoint, Host, Packet, inbound, outbound
from pytest_istio_sidecar.netfilter.trace.trace import Trace

_PREFIX = {Backend.LEGACY: "legacy:", Backend.NF_TABLES: "nft:", None: ""}


def replay_command(trace: Trace) -> str:
    """The command line; "" where no file holds the rules, or the options cannot describe the packet."""
    files = files_of_rules(trace)
    flow = _flow(trace.packet, trace.host)
    if not files or not flow:
        return ""
    named = specifications(trace, {file: file for file in files})
    return shlex.join(["istio-sidecar", "trace", *named, *flow, *surroundings_of(trace)])


def files_of_rules(trace: Trace) -> list[str]:
    """The files that hold all rules which took part; none where some are in no file, or are not as there."""
    listings = _listings(trace)
    host = trace.host
    addresses = host.interfaces[host.external()]  # by their addresses
    told = not host.localnet and trace.packet.family not in host.policies
    if not told or not addresses or len(_completions(listings)) > 1 or not all(map(_is_repeatable, listings)):
        return []
    return [file for listing in listings for file in _files(listing)]


def specifications(trace: Trace, names: Mapping[str, str]) -> Iterator[str]:
    """The rules as the command line names them: with the back end where there are several.

    Args:
        names: of `files_of_rules`, each as it is called where the command runs.
    """
    listings = _listings(trace)
    texts = Counter(file for ruleset in _rulesets(trace) for file in _files(ruleset))
    named = set()
    for listing in listings:
        family = "ip6:" if listing.family == 6 else ""
        prefix = family + (_PREFIX[listing.backend] if len(listings) > 1 else "")
        for file in _files(listing):
            name = names[file]
            # Not to be taken for a prefix or an option.
            plain = re.match(r"-|ip6:|legacy:|nft:|native:", name) is None
            # A text with several listings says itself which is of what.
            given = ("" if texts[file] > 1 else prefix) + (name if plain else f"./{name}")
            if given not in named:
                yield given
            named.add(given)


def surroundings_of(trace: Trace) -> Iterator[str]:
    """The options that describe its host, and what a listing was completed from."""
    if trace.host != Host() or singles_pods_out(trace):
        yield from _interfaces(trace.host)
    for completion in _completions(_listings(trace)):
        yield from completion


def _interfaces(host: Host) -> Iterator[str]:
    usual_lo = Host().interfaces["lo"]
    for name, addresses in host.interfaces.items():
        if name == "lo" != host.external() and addresses == usual_lo:
            continue
        for address in addresses:
            yield from ("--interface", f"{name}={address}")


def _listings(trace: Trace) -> Sequence[Ruleset]:
    """The rulesets that had a say, or might have one that was not read; of none, all that list so."""
    rulesets = rulesets_of(trace.rules, trace.packet.family)
    beside_legacy = any(ruleset.beside_legacy for ruleset in rulesets)
    taking_part = [
        ruleset
        for ruleset in rulesets
        if ruleset.has_a_say or ruleset.unread or (beside_legacy and ruleset.backend is Backend.LEGACY)
    ]
    return taking_part or [ruleset for ruleset in rulesets if ruleset.tables]


def _rulesets(trace: Trace) -> Sequence[Ruleset]:
    """All rulesets of the pod, of either family."""
    return [ruleset for family in (4, 6) for ruleset in rulesets_of(trace.rules, family)]


def _files(listing: Ruleset) -> tuple[str, ...]:
    return listing.parts or (listing.source or "",)


def _is_repeatable(listing: Ruleset) -> bool:
    read = not listing.origin and all(file and not file.startswith("<") for file in _files(listing))
    placed = all(rule.location for rule in listing.rules())
    return read and placed and (not listing.assumptions or bool(listing.completed_from))


def _completions(listings: Sequence[Ruleset]) -> set[tuple[str, ...]]:
    return {listing.completed_from for listing in listings if listing.completed_from}


def _flow(packet: Packet, host: Host) -> list[str]:
    """The options that describe a packet; none where they cannot."""
    if packet.protocol not in PROTOCOL_NAMES or packet.destination_port is None:
        return []
    protocol = PROTOCOL_NAMES[int(packet.protocol)]
    arriving = packet.hook == "PREROUTING"
    words, described = (_inbound if arriving else _outbound)(packet, protocol, host)
    return words if described == _on_its_way(packet, host) else []


def _on_its_way(packet: Packet, host: Host) -> Packet:
    """The packet without the interface that it takes anyway."""
    routing = Routing(host)
    if packet.hook == "PREROUTING":
        interface = routing.into(packet.source, packet.destination)  # type: ignore[arg-type]
        return replace(packet, in_interface=packet.in_interface or interface)
    usual = packet.out_interface == routing.out(packet.destination)  # type: ignore[arg-type]
    return replace(packet, out_interface=None) if usual else packet


def _inbound(packet: Packet, protocol: str, host: Host) -> tuple[list[str], Packet | None]:
    """Words, and the packet that `trace` makes of them."""
    interface = host.external()
    own = host.primary(interface, packet.family)
    if own is None:
        return [], None
    usual = inbound(
        packet.destination_port,  # type: ignore[arg-type]
        protocol=protocol,
        family=packet.family,
        destination=own,
        in_interface=interface,
    )
    words = ["--inbound", f"{protocol}/{packet.destination_port}"]
    words += ["--family", "6"] if packet.family == 6 else []
    words += [] if packet.source == usual.source else ["--source", str(packet.source)]
    return words, replace(usual, source=packet.source)


def _outbound(packet: Packet, protocol: str, host: Host) -> tuple[list[str], Packet | None]:
    """Words, and the packet that `trace` makes of them."""
    if (packet.uid is None) != (packet.gid is None):
        return [], None
    destination = Endpoint(packet.destination, packet.destination_port)  # type: ignore[arg-type]
    words = ["--outbound", str(destination) if protocol == "tcp" else f"{protocol}/{destination}"]
    words += ["--uid", "none"] if packet.uid is None else ["--uid", str(packet.uid), "--gid", str(packet.gid)]
    loopback = destination.address.is_loopback
    usual = destination.address if loopback else host.primary(host.external(), packet.family)
    words += [] if packet.source == usual else ["--source", str(packet.source)]
    described = outbound(
        packet.destination,
        packet.destination_port,  # type: ignore[arg-type]
        uid=packet.uid,
        gid=packet.gid,
        protocol=protocol,
        source=packet.source,
    )
    return words, described
