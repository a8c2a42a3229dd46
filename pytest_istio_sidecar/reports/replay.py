"""The command that repeats a trace from files.

Knows what `istio-sidecar trace` can be told. Does not know how a trace is made.
Invariant: the command decides as the trace did, or there is none.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from pytest_istio_sidecar.netfilter.matches import PROTOCOL_NAMES
from pytest_istio_sidecar.netfilter.model import Backend, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Endpoint, Host, Packet, inbound, outbound
from pytest_istio_sidecar.netfilter.trace.trace import Trace

_PREFIX = {Backend.LEGACY: "legacy:", Backend.NF_TABLES: "nft:", None: ""}


def replay_command(trace: Trace) -> str:
    """The command line; "" where no file holds the rules, or the options cannot describe the packet."""
    listings = listings_of(trace)
    flow = _flow(trace.packet, trace.host)
    if not listings or not flow:
        return ""
    named = specifications(listings, [listing.source or "" for listing in listings])
    return shlex.join(["istio-sidecar", "trace", *named, *flow, *surroundings_of(trace)])


def listings_of(trace: Trace) -> list[Ruleset]:
    """What of the rules was read from somewhere: an expectation's have no place in a file."""
    return [
        ruleset
        for ruleset in rulesets_of(trace.rules, trace.packet.family)
        if ruleset.source and any(rule.location for rule in ruleset.rules())
    ]


def specifications(listings: Sequence[Ruleset], files: Sequence[str]) -> Iterator[str]:
    """Listings of one family as the command line names them: with the back end where there are several."""
    for ruleset, file in zip(listings, files, strict=True):
        yield _specification(ruleset, file, backend=len(listings) > 1)


def _specification(ruleset: Ruleset, file: str, *, backend: bool) -> str:
    family = "ip6:" if ruleset.family == 6 else ""
    return f"{family}{_PREFIX[ruleset.backend] if backend else ''}{file}"


def _flow(packet: Packet, host: Host) -> list[str]:
    if packet.protocol not in PROTOCOL_NAMES or packet.destination_port is None:
        return []
    if packet.mark or packet.state != "NEW" or packet.source_port != inbound(80).source_port:
        return []
    protocol = PROTOCOL_NAMES[int(packet.protocol)]
    return _inbound(packet, protocol, host) if packet.hook == "PREROUTING" else _outbound(packet, protocol)


def _inbound(packet: Packet, protocol: str, host: Host) -> list[str]:
    interface = host.external()
    own = host.primary(interface, packet.family)
    if packet.destination != own or packet.in_interface not in (None, interface):
        return []
    words = ["--inbound", f"{protocol}/{packet.destination_port}"]
    if packet.family == 6:
        words += ["--family", "6"]
    if packet.source != inbound(80, family=packet.family).source:
        words += ["--source", str(packet.source)]
    return words


def _outbound(packet: Packet, protocol: str) -> list[str]:
    if (packet.uid is None) != (packet.gid is None):
        return []
    destination = Endpoint(packet.destination, packet.destination_port)  # type: ignore[arg-type]
    words = ["--outbound", str(destination) if protocol == "tcp" else f"{protocol}/{destination}"]
    words += ["--uid", "none"] if packet.uid is None else ["--uid", str(packet.uid), "--gid", str(packet.gid)]
    usual = outbound(packet.destination, 80).source
    if packet.source != usual:
        words += ["--source", str(packet.source)]
    return words


def surroundings_of(trace: Trace) -> Iterator[str]:
    """The options that describe its host, and from which release's rules a listing was completed."""
    for name, addresses in trace.host.interfaces.items():
        if trace.host != Host() and name != "lo":
            for address in addresses:
                yield from ("--interface", f"{name}={address}")
    completed = next((each.completed_from for each in listings_of(trace) if each.completed_from), "")
    if completed:
        yield from ("--istio-version", completed.removeprefix("Istio ").partition(",")[0])
