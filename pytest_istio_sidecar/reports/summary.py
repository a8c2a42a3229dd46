"""What a pod's rules let by and what they capture, in a few lines.

Knows how to ask and how to word it. Does not print. Invariant: every line
rests on traced packets, and says so where the rules do not decide.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytest_istio_sidecar.checks.packets import CAPTURED
from pytest_istio_sidecar.errors import IstioSidecarError
from pytest_istio_sidecar.istio.ports import PROXY_ID
from pytest_istio_sidecar.netfilter.diagram import Interval
from pytest_istio_sidecar.netfilter.matches import PROTOCOLS
from pytest_istio_sidecar.netfilter.model import PodRules
from pytest_istio_sidecar.netfilter.packet import Fate, Host, outbound
from pytest_istio_sidecar.netfilter.space import regions
from pytest_istio_sidecar.netfilter.trace import Trace, trace

_ELSEWHERE = "198.51.100.7"


def describe_capture(rules: PodRules, host: Host) -> list[tuple[str, str]]:
    """Labelled lines: what was read, what is redirected, what is not, what was assumed."""
    lines = [("rules", _held(rules))]
    try:
        lines += _inbound(rules, host) + _outbound(rules, host)
    except IstioSidecarError as problem:
        lines.append(("rules", str(problem).splitlines()[0]))
    lines += [("assumed", text) for ruleset in rules.rulesets for text in ruleset.assumptions]
    lines += [("note", text) for text in rules.notes]
    return lines


def _held(rules: PodRules) -> str:
    parts = []
    for ruleset in rules.rulesets:
        count = sum(1 for _ in ruleset.rules())
        backend = f" in {ruleset.backend}" if ruleset.backend else ""
        parts.append(f"{count or 'none'}{backend} (IPv{ruleset.family})")
    return ", ".join(parts) or "none were read"


def _inbound(rules: PodRules, host: Host) -> list[tuple[str, str]]:
    fates: dict[str, dict[Interval, None]] = {}
    for region in regions(rules, "PREROUTING", host=host):
        for cube in region.cubes:
            packet = cube.packet({"protocol": PROTOCOLS["tcp"]})
            if packet.protocol == PROTOCOLS["tcp"]:
                fate = _fate(trace(rules, packet, host=host))
                for ports in cube.fields["destination_port"].values_in(cube.box):
                    fates.setdefault(fate, {})[ports] = None
    return [
        (_label(fate), f"inbound tcp {_ports(ports)}{_arrow(fate)}")
        for fate, ports in sorted(fates.items(), key=lambda item: item[0] == "")
    ]


def _outbound(rules: PodRules, host: Host) -> list[tuple[str, str]]:
    own = host.primary(host.external(), 4)
    if own is None:
        return []
    senders = {
        "the application (uid 1000)": (1000, 1000, _ELSEWHERE),
        "the proxy's user (uid 1337)": (PROXY_ID, 1000, _ELSEWHERE),
        "the proxy's group (gid 1337)": (1000, PROXY_ID, _ELSEWHERE),
        "the application to its own pod": (1000, 1000, str(own)),
        "the proxy to its own pod": (PROXY_ID, PROXY_ID, str(own)),
    }
    fates: dict[str, list[str]] = {}
    for name, (uid, gid, destination) in senders.items():
        way = trace(rules, outbound(destination, 80, uid=uid, gid=gid, source=own), host=host)
        fates.setdefault(_fate(way), []).append(name)
    return [
        (_label(fate), f"outbound tcp from {', '.join(names)}{_arrow(fate)}")
        for fate, names in sorted(fates.items(), key=lambda item: item[0] == "")
    ]


def _fate(way: Trace) -> str:
    if way.fate in CAPTURED:
        return f":{way.destination.port}"
    return "" if way.fate is Fate.UNCHANGED else str(way.fate)


def _label(fate: str) -> str:
    if fate.startswith(":"):
        return "redirected"
    return {"": "not redirected"}.get(fate, fate)


def _arrow(fate: str) -> str:
    return f" -> {fate}" if fate.startswith(":") else ""


def _ports(intervals: Iterable[Interval]) -> str:
    held = sorted(intervals)
    if len(held) > 4 and held[0][0] == 0 and held[-1][1] == 0xFFFF:
        return "to every other port"
    return "to " + ", ".join(
        f"{low}-{high}" if high > low + 1 else ", ".join(map(str, range(low, high + 1))) for low, high in held
    )
