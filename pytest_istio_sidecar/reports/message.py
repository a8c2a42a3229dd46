"""A finding or a trace, worded for the person who has to act on it.

Knows layout: a first line that stands on its own, aligned facts, the deciding
rule marked, a line that replays it. Does not know how verdicts are reached.
Invariant: at most `WIDTH` columns, except for a rule or path that is longer.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from pytest_istio_sidecar.checks.comparison.expectation import ComparisonFinding
from pytest_istio_sidecar.checks.finding import Finding
from pytest_istio_sidecar.checks.wording import describe
from pytest_istio_sidecar.netfilter.matches import PROTOCOL_NAMES
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate, Packet
from pytest_istio_sidecar.netfilter.trace.trace import Trace
from pytest_istio_sidecar.reports.colour import Paint, Style, plain
from pytest_istio_sidecar.reports.comparison import render_comparison
from pytest_istio_sidecar.reports.path import WIDTH, PathLine, path_of
from pytest_istio_sidecar.reports.replay import replay_command

_LABEL = 9
_REASONS = 3
_COLOURS: dict[Fate, Style] = {Fate.REDIRECTED: "green", Fate.TPROXIED: "green", Fate.DROPPED: "red"}


def render_findings(findings: Sequence[Finding]) -> str:
    """One message for several findings: the first in full, the others by their summaries."""
    first, *others = findings
    lines = [render_finding(first)]
    if others:
        lines.append("")
        lines += _fact("also", "\n".join(other.summary for other in others))
    return "\n".join(lines)


def render_finding(finding: Finding) -> str:
    """The whole explanation of one finding."""
    lines = [finding.summary, ""]
    lines += _fact("wanted", finding.wanted)
    lines += _fact("got", finding.got)
    if isinstance(finding, ComparisonFinding):
        lines += render_comparison(finding.comparison)
    if finding.trace is not None:
        lines += ["", *render_way(finding.trace)]
    if finding.facts:
        lines.append("")
        for label, value in finding.facts:
            lines += _fact(label, value)
    closing = [*_fact("cause", finding.cause or _decides(finding.trace)), *_assumed(finding.assumptions)]
    if finding.trace is not None:
        closing += _fact("replay", replay_command(finding.trace), wrap=False)
    if closing:
        lines += ["", *closing]
    return "\n".join(lines).rstrip()


def render_way(way: Trace, paint: Paint = plain) -> list[str]:
    """The packet and its path, rule by rule, with the deciding one marked."""
    lines = _fact("packet", describe_fields(way.packet), wrap=False)
    path = path_of(way)
    if not path:
        return [*lines, *_fact("path", "no rule and no policy took part")]
    cells = [(line["where"], f"{line['numbers']:>4}  {line['text']}", _outcome(line)) for line in path]
    place = max(len(where) for where, _, _ in cells)
    rule = max(len(text) for _, text, _ in cells)
    shown = [
        paint(f"{where:<{place}}  {text:<{rule}}  {outcome}".rstrip(), _style(line))
        for line, (where, text, outcome) in zip(path, cells, strict=True)
    ]
    return [*lines, *_fact("path", "\n".join(shown), wrap=False)]


def _outcome(line: PathLine) -> str:
    return "match  <- decides" if line["decides"] else line["outcome"]


def _style(line: PathLine) -> Style | None:
    if line["decides"]:
        return "bold"
    return "faint" if line["outcome"] == "no match" else None


def describe_fields(packet: Packet) -> str:
    """Everything rules may ask of a packet, in one line."""
    protocol = PROTOCOL_NAMES.get(int(packet.protocol), str(packet.protocol))
    source = Endpoint(packet.source, packet.source_port)  # type: ignore[arg-type]
    destination = Endpoint(packet.destination, packet.destination_port)  # type: ignore[arg-type]
    parts = [f"{protocol} {source} > {destination}"]
    if packet.in_interface:
        parts.append(f"in {packet.in_interface}")
    if packet.out_interface:
        parts.append(f"out {packet.out_interface}")
    if packet.uid is not None:
        parts.append(f"uid {packet.uid} gid {packet.gid}")
    parts.append("first of its connection" if packet.state == "NEW" else packet.state)
    return ", ".join(parts)


def _decides(way: Trace | None) -> str:
    """Where the deciding rule stands, for a finding that knows no better cause."""
    if way is None:
        return ""
    rule = way.deciding_rule
    if rule is None:
        return "no rule takes the packet; the policy lets it go on"
    where = f" ({rule.location})" if rule.location else ""
    return f"rule {rule.number} of {rule.chain}{where} decides"


def _assumed(assumptions: tuple[str, ...]) -> list[str]:
    return _fact("assumed", "\n".join(assumptions)) if assumptions else []


def _fact(label: str, value: str, *, wrap: bool = True) -> list[str]:
    """Lines of `  label    value`, the value's further lines aligned under the first."""
    if not value:
        return []
    lines = []
    for line in value.splitlines():
        width = WIDTH - _LABEL - 2
        lines += (
            textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) if wrap else [line]
        )
    labels = [label, *[""] * (len(lines) - 1)]
    return [f"  {name:<{_LABEL}}{line}".rstrip() for name, line in zip(labels, lines, strict=True)]


def shorten(reasons: Sequence[str]) -> list[str]:
    """The first few of many reasons; one is enough to leave a packet undecided."""
    left = len(reasons) - _REASONS
    return [*reasons[:_REASONS], *([f"and {left} more of the kind"] if left > 0 else [])]


def render_trace(way: Trace, paint: Paint = plain) -> str:
    """A trace on its own, as `istio-sidecar trace` prints it."""
    first = f"{describe(way.packet)}: {outcome_of(way)}"
    lines = [paint(first, _COLOURS.get(way.fate, "yellow")), "", *render_way(way, paint)]
    if way.reasons:
        lines += ["", *_fact("because", "\n".join(shorten(way.reasons)))]
    return "\n".join(lines)


def outcome_of(way: Trace) -> str:
    """What becomes of the packet, in a few words."""
    if way.fate in (Fate.UNCHANGED, Fate.DROPPED, Fate.UNKNOWN):
        return str(way.fate)
    return f"{way.fate} to {way.destination}"
