"""Is one packet redirected to Envoy, or let by, as wanted?

Knows how a fate compares with a wish. Does not know a chain from another.
Invariant: a packet whose fate is unknown raises `Undecided`; it is never a finding.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_istio_sidecar.checks.cause import cause_of
from pytest_istio_sidecar.checks.finding import Finding, Kind
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.istio.ports import PURPOSE
from pytest_istio_sidecar.netfilter.fields import FieldName
from pytest_istio_sidecar.netfilter.matches import PROTOCOL_NAMES, PROTOCOLS
from pytest_istio_sidecar.netfilter.model import Family, Rules, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate, Hook, Host, IPAddress, Packet
from pytest_istio_sidecar.netfilter.space import regions
from pytest_istio_sidecar.netfilter.trace import Trace, trace

FAMILIES: tuple[Family, ...] = (4, 6)
_HOOKS: tuple[Hook, ...] = ("PREROUTING", "OUTPUT")
CAPTURED = (Fate.REDIRECTED, Fate.TPROXIED, Fate.TRANSLATED)


def check_redirected(
    rules: Rules, packet: Packet, to: int = 15006, *, host: Host | None = None
) -> list[Finding]:
    """Whether the packet is sent to the local port `to`.

    Raises:
        Undecided: the rules do not show what becomes of it.
    """
    way = decided(rules, packet, host)
    port = way.destination.port
    if way.fate in CAPTURED and port == to:
        return []
    wrong_port = way.fate in CAPTURED
    what = f"is sent to :{port} instead of :{to}" if wrong_port else _reaches(way)
    return [
        Finding(
            kind=Kind.REDIRECT if wrong_port or way.fate is Fate.DROPPED else Kind.BYPASS,
            summary=f"{describe(packet)} {what}{of_pod(rules)}",
            wanted=f"REDIRECT to :{to}{_purpose(to)}",
            got=_got(way),
            trace=way,
            cause=cause_of(way, rules),
            assumptions=assumptions(rules, packet.family),
        )
    ]


def check_bypasses(rules: Rules, packet: Packet, *, host: Host | None = None) -> list[Finding]:
    """Whether the packet keeps its destination: it must meet no proxy.

    Raises:
        Undecided: the rules do not show what becomes of it.
    """
    way = decided(rules, packet, host)
    if way.fate is Fate.UNCHANGED:
        return []
    verb = "is dropped" if way.fate is Fate.DROPPED else f"is sent to :{way.destination.port}"
    return [
        Finding(
            kind=Kind.REDIRECT,
            summary=f"{describe(packet)} {verb}, but should pass untouched{of_pod(rules)}",
            wanted="destination unchanged",
            got=_got(way),
            trace=way,
            cause=cause_of(way, rules),
            assumptions=assumptions(rules, packet.family),
        )
    ]


def decided(rules: Rules, packet: Packet, host: Host | None) -> Trace:
    """Trace a packet whose fate must be known.

    Raises:
        Undecided: it is not, or nothing was read for the packet's family.
    """
    if not rulesets_of(rules, packet.family):
        raise Undecided(f"{describe(packet)}: no IPv{packet.family} rules were read{of_pod(rules)}")
    way = trace(rules, packet, host=host)
    if way.fate is Fate.UNKNOWN:
        reasons = "\n".join(f"  because  {reason}" for reason in way.reasons[:3])
        raise Undecided(
            f"{describe(packet)}: the rules read do not tell what becomes of it{of_pod(rules)}\n{reasons}"
        )
    return way


def captured(
    rules: Rules, host: Host, protocol: str, *, destination_port: int | None = None
) -> Iterator[Trace]:
    """The ways of packets that are captured: one of each class that the rules tell apart.

    Args:
        protocol: the name of theirs.
        destination_port: where they go; None: wherever.

    Raises:
        Undecided: what becomes of some packet is not known.
    """
    wanted: dict[FieldName, int] = {"protocol": PROTOCOLS[protocol]}
    if destination_port is not None:
        wanted["destination_port"] = destination_port
    for family in FAMILIES:
        if not _has_rules(rules, family):
            continue
        for hook in _HOOKS:
            for region in regions(rules, hook, host=host, family=family):
                if region.fate not in CAPTURED and region.fate is not Fate.UNKNOWN:
                    continue
                for cube in region.cubes:
                    packet = cube.packet(wanted)
                    if all(getattr(packet, name) == value for name, value in wanted.items()):
                        yield decided(rules, packet, host)


def addressed_families(rules: Rules, host: Host) -> Iterator[tuple[Family, IPAddress]]:
    """The families in which there are rules and neighbours reach the host, with its address."""
    for family in FAMILIES:
        own = host.primary(host.external(), family)
        if own is not None and _has_rules(rules, family):
            yield family, own


def _has_rules(rules: Rules, family: Family) -> bool:
    return any(any(ruleset.rules()) for ruleset in rulesets_of(rules, family))


def describe(packet: Packet) -> str:
    """A packet in a few words: "inbound tcp/8443", "outbound tcp to 192.0.2.20:443 from uid 1000"."""
    protocol = PROTOCOL_NAMES.get(int(packet.protocol), f"protocol {packet.protocol}")
    if packet.hook == "PREROUTING":
        port = "" if packet.destination_port is None else f"/{packet.destination_port}"
        return f"inbound {protocol}{port}"
    destination = Endpoint(packet.destination, packet.destination_port)  # type: ignore[arg-type]
    owner = "no socket" if packet.uid is None else f"uid {packet.uid}"
    if packet.gid is not None and packet.gid != packet.uid:
        owner += f" gid {packet.gid}"
    return f"outbound {protocol} to {destination} from {owner}"


def of_pod(rules: Rules) -> str:
    """The pod in brackets, where it is known."""
    pod = getattr(rules, "pod", "") or getattr(getattr(rules, "ruleset", None), "pod", "")
    return f" ({pod})" if pod else ""


def assumptions(rules: Rules, family: int) -> tuple[str, ...]:
    """What the rulesets of a family took from an expectation."""
    taken = rulesets_of(rules, 4 if family == 4 else 6)
    return tuple(assumption for ruleset in taken for assumption in ruleset.assumptions)


def _reaches(way: Trace) -> str:
    if way.fate is Fate.DROPPED:
        return "is dropped"
    if way.packet.hook == "PREROUTING":
        return "reaches the application without Envoy"
    return "leaves the application without Envoy"


def _got(way: Trace) -> str:
    if way.fate is Fate.UNCHANGED:
        return f"destination unchanged, {way.destination}"
    if way.fate is Fate.DROPPED:
        return "the kernel drops it"
    return f"{way.fate} to {way.destination}{_purpose(way.destination.port)}"


def _purpose(port: int | None) -> str:
    return f" ({PURPOSE[port]})" if port in PURPOSE else ""
