"""What a pod's rules let by and what they capture, for the summary of a run and its reports.

Knows how to ask and how to word it. Does not print. Invariant: every line rests on all packets
(`bypasses`, `compare`) or on traced ones, and what the rules do not decide is said to be so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict

from pytest_istio_sidecar.checks.bypass.bypasses import BypassReport, bypasses, with_rules
from pytest_istio_sidecar.checks.bypass.found_bypass import Standing
from pytest_istio_sidecar.checks.bypass.reviewed import ReviewedBypass, judged_bypasses
from pytest_istio_sidecar.checks.comparison.comparison import compare
from pytest_istio_sidecar.checks.comparison.expectation import completed, expected_of
from pytest_istio_sidecar.errors import IstioSidecarError
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.pod_options import PodUsers
from pytest_istio_sidecar.istio.ports import PURPOSE
from pytest_istio_sidecar.netfilter.kernel.unread import is_unread, left_aside
from pytest_istio_sidecar.netfilter.model import PodRules, Rules
from pytest_istio_sidecar.netfilter.packet import Host, inbound, outbound
from pytest_istio_sidecar.netfilter.trace.trace import Trace, trace
from pytest_istio_sidecar.reports.comparison import comparison_fields, render_comparison
from pytest_istio_sidecar.reports.redirected import redirected
from pytest_istio_sidecar.reports.way import Way, way_of

_ELSEWHERE = {4: "198.51.100.7", 6: "2001:db8:1::7"}
"""Somebody outside the pod's networks (RFC 5737, RFC 3849)."""
_PORT = 80


class Section(TypedDict):
    """A heading and what stands below it."""

    heading: str
    entries: list[str]


class Capture(TypedDict):
    """What the rules of a pod come to; JSON all through.

    Attributes:
        release: whose rules were expected: "Istio 1.8.3".
        lines: labelled lines: what was read, what is redirected, what was assumed.
        bypasses: as `BypassReport.to_dict` has it, each class with all the rules that let packets of it
            by; by design is what the release's template lets by. None where it cannot be told.
        unseen: what rules cannot show, one sentence each.
        comparison: with the rules expected; None where it cannot be told.
        difference: the same as a table of lines.
        ways: of one ordinary packet of each direction.
        beside: lists to show beside a way.
        problems: why something above is None.
    """

    release: str
    lines: list[list[str]]
    bypasses: dict[str, list[dict[str, Any]]] | None
    unseen: list[str]
    comparison: dict[str, Any] | None
    difference: list[str]
    ways: list[Way]
    beside: list[Section]
    problems: list[str]


def capture_of(
    rules: PodRules,
    pod: str,
    host: Host,
    version: str,
    options: IstioOptions,
    *,
    reviewed: Sequence[ReviewedBypass] = (),
    accepted: Collection[str] = (),
    users: PodUsers | None = None,
) -> Capture:
    """What rules come to, beside those that a release installs with these options.

    Args:
        reviewed: what the project has reviewed.
        accepted: fields of options that it accepts whatever they open.
        users: as whom the pod's containers run; None: not known.
    """
    capture = Capture(
        release=f"Istio {version}",
        lines=[["rules", _rules_line(rules)]],
        bypasses=None,
        unseen=[],
        comparison=None,
        difference=[],
        ways=[],
        beside=[],
        problems=[],
    )
    try:
        expected = expected_of(rules, version, options)
        report = judged_bypasses(
            rules,
            version,
            options,
            reviewed=reviewed,
            accepted=accepted,
            pod=pod,
            today=datetime.now(tz=UTC).date(),
            host=host,
            users=users,
        )
        capture["bypasses"], capture["unseen"] = with_rules(report), list(report.unseen)
        capture["beside"] = _sections(report)
        capture["ways"] = [way_of(traced) for traced in _ordinary(rules, host)]
        capture["lines"] += [["redirected", line] for line in redirected(rules, host, options)]
        comparison = compare(completed(rules, expected), expected, host=host)
        capture["comparison"] = comparison_fields(comparison)
        capture["difference"] = render_comparison(comparison)
    except IstioSidecarError as problem:
        capture["problems"].append(str(problem).splitlines()[0])
    capture["lines"] += [["assumed", text] for ruleset in rules.rulesets for text in ruleset.assumptions]
    capture["lines"] += [["note", text] for text in (*rules.notes, *left_aside(rules))]
    return capture


def let_by(rules: Rules, host: Host) -> list[tuple[str, list[str]]]:
    """Lists of what gets by without Envoy, to show beside a way."""
    report = bypasses(rules, host=host)
    return [(section["heading"], section["entries"]) for section in _sections(report)]


def _sections(report: BypassReport) -> list[Section]:
    """What gets by, in lists for the eye: the inbound ports each with its purpose."""
    sections = []
    lists = {
        "inbound without Envoy": report.inbound,
        "outbound without Envoy": report.outbound,
        "cannot be told": report.conditional,
    }
    for heading, classes in lists.items():
        entries: dict[str, None] = {}
        for each in classes:
            meant = each.standing is not Standing.OPEN or not any(other.by_design for other in classes)
            ports = [span for span in each.where.get("destination_port", []) if isinstance(span, list)]
            if heading.startswith("inbound") and meant and any(span[0] in PURPOSE for span in ports):
                entries |= dict.fromkeys(_with_purpose(ports))
            else:
                entries[f"{'' if meant else '! '}{each.text.replace(f'{each.direction} ', '', 1)}"] = None
        if entries:
            sections.append(Section(heading=heading, entries=list(entries)))
    return sections


def _with_purpose(ports: Sequence[Sequence[Any]]) -> Iterable[str]:
    for low, high in ports:
        if high - low > len(PURPOSE):
            yield f"tcp {low}-{high}"
        else:
            yield from (f"tcp {port} {PURPOSE.get(port, '')}".rstrip() for port in range(low, high + 1))


def _ordinary(rules: PodRules, host: Host) -> Iterable[Trace]:
    """The ways of a neighbour's request to a service of the pod, and of the application's own request."""
    for family in (4, 6):
        own = host.primary(host.external(), family)
        if own is None or not any(
            any(ruleset.rules()) for ruleset in rules.rulesets if ruleset.family == family
        ):
            continue
        arriving = inbound(_PORT, family=family, destination=own, in_interface=host.external())
        yield trace(rules, arriving, host=host)
        yield trace(rules, outbound(_ELSEWHERE[family], _PORT, source=own), host=host)
        return


def _rules_line(rules: PodRules) -> str:
    parts = []
    for ruleset in rules.rulesets:
        count = "not read" if is_unread(ruleset) else sum(1 for _ in ruleset.rules()) or "none"
        backend = f" in {ruleset.backend}" if ruleset.backend else ""
        parts.append(f"{count}{backend} (IPv{ruleset.family})")
    return ", ".join(parts) or "none were read"
