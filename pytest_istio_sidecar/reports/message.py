"""A finding or a trace, worded for the person who has to act on it.

Knows layout: a first line that stands on its own, aligned facts, the deciding
rule marked, a line that replays it. Does not know how verdicts are reached.
Invariant: at most `failure.WIDTH` columns, except for a rule or path that is longer.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_istio_sidecar.checks.comparison.expectation import ComparisonFinding
from pytest_istio_sidecar.checks.finding import Finding
from pytest_istio_sidecar.checks.wording import describe
from pytest_istio_sidecar.failure import LABEL, fitted, lay_out, wrapped
from pytest_istio_sidecar.netfilter.matches import PROTOCOL_NAMES
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate, Packet
from pytest_istio_sidecar.netfilter.trace.nat import WITH_PORTS
from pytest_istio_sidecar.netfilter.trace.trace import Trace
from pytest_istio_sidecar.reports.colour import Paint, Style, plain
from pytest_istio_sidecar.reports.comparison import render_comparison
from pytest_istio_sidecar.reports.path import PathLine, path_of
from pytest_istio_sidecar.reports.replay import replay_command

_REASONS = 3
_ALIGNED = 72
"""Columns of a rule up to which outcomes stand in a column of their own; a longer one pushes its own."""
_NUMBERS = 8
"""Columns of the numbers of rules, with what separates them from chain and rule."""
_COLOURS: dict[Fate, Style] = {Fate.REDIRECTED: "green", Fate.TPROXIED: "green", Fate.DROPPED: "red"}


def render_findings(findings: Sequence[Finding]) -> str:
    """One message for several findings: the first in full, the others by their summaries."""
    first, *others = findings
    lines = [render_finding(first)]
    if others:
        lines.append("")
        lines += lay_out("also", "\n".join(other.summary for other in others))
    return "\n".join(lines)


def render_finding(finding: Finding) -> str:
    """The whole explanation of one finding."""
    lines = [finding.summary, ""]
    lines += lay_out("wanted", finding.wanted)
    lines += lay_out("got", finding.got)
    if isinstance(finding, ComparisonFinding):
        lines += render_comparison(finding.comparison)
    if finding.trace is not None:
        lines += ["", *render_way(finding.trace)]
    if finding.facts:
        lines.append("")
        for label, value in finding.facts:
            lines += lay_out(label, value)
    closing = [*lay_out("cause", finding.cause or _decides(finding.trace)), *_assumed(finding.assumptions)]
    closing += lay_out("fix", finding.failure.fix)
    if finding.trace is not None:
        closing += lay_out("replay", replay_command(finding.trace), whole=True)
    if closing:
        lines += ["", *closing]
    return "\n".join(lines).rstrip()


def render_way(trace: Trace, paint: Paint = plain, *, width: int | None = None) -> list[str]:
    """The packet and its path, rule by rule, with the deciding one marked.

    Args:
        width: columns of a terminal, which only a rule may pass; None: whatever it takes.
    """
    lines = _fitting(lay_out("packet", describe_fields(trace.packet), whole=True), width)
    path = path_of(trace)
    if not path:
        return [*lines, *lay_out("path", "no rule and no policy took part")]
    cells = [(line["where"], f"{line['numbers']:>4}  {line['text']}", _outcome(line)) for line in path]
    place = max(len(where) for where, _, _ in cells)
    longest = max(len(outcome) for _, _, outcome in cells)
    room = _ALIGNED if width is None else min(_ALIGNED, width - LABEL - place - longest - 6)
    rule = max((len(text) for _, text, _ in cells if len(text) <= room), default=0)
    shown = []
    for line, (where, text, outcome) in zip(path, cells, strict=True):
        row = f"{where:<{place}}  {text:<{rule}}  {outcome}".rstrip()
        rows = [row]
        if width is not None and outcome and len(row) > width - LABEL - 2:
            # What several rules have in common is broken between words, a rule stays whole.
            several = "-" in line["numbers"]
            first, *more = wrapped(text, width - LABEL - place - 4) if several else [text]
            rows = [f"{where:<{place}}  {first}"]
            rows += [f"{'':<{place + _NUMBERS}}{part}" for part in (*more, outcome)]
        shown += [paint(each, _style(line)) for each in rows]
    return [*lines, *lay_out("path", "\n".join(shown), whole=True)]


def _fitting(lines: list[str], width: int | None) -> list[str]:
    return lines if width is None else fitted("\n".join(lines), width)


def _outcome(line: PathLine) -> str:
    return "match  <- decides" if line["decides"] else line["outcome"]


def _style(line: PathLine) -> Style | None:
    if line["decides"]:
        return "bold"
    return "faint" if line["outcome"] == "no match" else None


def describe_fields(packet: Packet) -> str:
    """Everything rules may ask of a packet, in one line."""
    protocol = PROTOCOL_NAMES.get(int(packet.protocol), str(packet.protocol))
    ports = (packet.source_port, packet.destination_port) if packet.protocol in WITH_PORTS else (None, None)
    source = Endpoint(packet.source, ports[0])  # type: ignore[arg-type]
    destination = Endpoint(packet.destination, ports[1])  # type: ignore[arg-type]
    parts = [f"{protocol} {source} > {destination}"]
    if packet.in_interface:
        parts.append(f"in {packet.in_interface}")
    if packet.out_interface:
        parts.append(f"out {packet.out_interface}")
    if packet.uid is not None:
        parts.append(f"uid {packet.uid} gid {packet.gid}")
    parts.append("first of its connection" if packet.state == "NEW" else packet.state)
    return ", ".join(parts)


def _decides(trace: Trace | None) -> str:
    """Where the deciding rule stands, for a finding that knows no better cause."""
    if trace is None:
        return ""
    rule = trace.deciding_rule
    if rule is None:
        if not trace.steps:
            return "no table that the packet meets has a rule"
        return "no rule takes the packet; the policy lets it go on"
    where = f" ({rule.location})" if rule.location else ""
    return f"rule {rule.number} of {rule.chain}{where} decides"


def _assumed(assumptions: tuple[str, ...]) -> list[str]:
    return lay_out("assumed", "\n".join(assumptions)) if assumptions else []


def shorten(reasons: Sequence[str]) -> list[str]:
    """The first few of many reasons; one is enough to leave a packet undecided."""
    left = len(reasons) - _REASONS
    return [*reasons[:_REASONS], *([f"and {left} more of the kind"] if left > 0 else [])]


def render_trace(
    trace: Trace, paint: Paint = plain, *, remarks: Sequence[str] = (), width: int | None = None
) -> str:
    """A trace on its own, as `istio-sidecar trace` prints it.

    Args:
        remarks: what else is to be said of a fate that is known.
        width: as `render_way`.
    """
    first = f"{describe(trace.packet)}: {outcome_of(trace)}"
    lines = [paint(first, _COLOURS.get(trace.fate, "yellow")), "", *render_way(trace, paint, width=width)]
    if trace.reasons:
        lines += ["", *_fitting(lay_out("because", "\n".join(shorten(trace.reasons))), width)]
    notes = [*([] if trace.reasons else trace.notes), *shorten(remarks)]
    if notes:
        lines += ["", *_fitting(lay_out("note", "\n".join(notes)), width)]
    return "\n".join(lines)


def outcome_of(trace: Trace) -> str:
    """What becomes of the packet, in a few words."""
    if trace.fate in (Fate.UNCHANGED, Fate.DROPPED, Fate.UNKNOWN):
        return trace.outcome
    return f"{trace.fate} to {trace.destination}"
