"""What a pod's options open beside Envoy, and whether somebody has reviewed it.

Knows the form of a project's list of reviewed bypasses, and that a review ends. Does not know what
the rules of the pod are: that they are the expected ones is another check. Invariant: a class of
packets counts as reviewed only where entries that still hold have all of it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from pytest_istio_sidecar.checks.bypass.bypass import Bypass
from pytest_istio_sidecar.checks.bypass.bypasses import bypasses, check_only_bypasses
from pytest_istio_sidecar.checks.finding import Finding, Kind, Severity
from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.option_wording import as_a_pod_asks
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.release import in_effect
from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.istio.versions import number_of
from pytest_istio_sidecar.netfilter.packet import Host

_FORM = """[[bypass]]
what = "inbound tcp 8443"
why = "scraped in clear text by the platform's monitoring"
until = 2027-01-31"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedBypass:
    """A bypass that somebody has looked at.

    Attributes:
        what: its packets.
        why: why it may be.
        until: the last day on which that holds.
    """

    what: Bypass
    why: str
    until: date


def parse_reviewed_bypasses(text: str, *, source: str = "<text>") -> tuple[ReviewedBypass, ...]:
    """Read a project's list: TOML with a table `[[bypass]]` for each, of what, why and until.

    Raises:
        UsageProblem: it is not of that form; the message has the source and the form.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise UsageProblem(f"{source}: {problem}") from None
    entries = document.get("bypass")
    if not isinstance(entries, list) or set(document) != {"bypass"}:
        raise UsageProblem(f"{source} is no list of reviewed bypasses; write each as\n{_FORM}")
    return tuple(_entry(entry, f"{source}, bypass {number}") for number, entry in enumerate(entries, 1))


def _entry(entry: object, where: str) -> ReviewedBypass:
    wanted = {"what": str, "why": str, "until": date}
    if not isinstance(entry, dict) or set(entry) != set(wanted):
        raise UsageProblem(f"{where} needs what, why and until, and nothing else; write it as\n{_FORM}")
    for name, kind in wanted.items():
        if not isinstance(entry[name], kind) or not entry[name]:
            raise UsageProblem(f"{where}: {name} is {entry[name]!r}; write it as\n{_FORM}")
    until = entry["until"]
    try:
        what = Bypass.parse(entry["what"])
    except UsageProblem as problem:
        raise UsageProblem(f"{where}: {problem}") from None
    return ReviewedBypass(
        what=what, why=entry["why"], until=until.date() if isinstance(until, datetime) else until
    )


def check_reviewed_bypasses(
    version: str,
    options: IstioOptions,
    reviewed: Sequence[ReviewedBypass] | None,
    *,
    today: date,
    host: Host | None = None,
) -> list[Finding]:
    """What these options open beyond the template's: a notice each, a violation where it lacks a review.

    Args:
        reviewed: the project's list; None: it keeps none, and nothing is a violation.
        today: a review counts up to its last day.

    Raises:
        UsageProblem: as `expected_ruleset`.
    """
    plain = IstioOptions(
        mode=options.mode,
        proxy_port=options.proxy_port,
        inbound_capture_port=options.inbound_capture_port,
        proxy_uid=options.proxy_uid,
        proxy_gid=options.proxy_gid,
    )
    proxy = (int(options.proxy_port), int(options.inbound_capture_port), *ports.DNS)
    opened = expected_ruleset(version, options=options)
    template = expected_ruleset(version, options=plain)
    number = number_of(version)
    asked = " and ".join(as_a_pod_asks(in_effect(number, plain), in_effect(number, options)))
    opened_classes = bypasses(opened, envoy_ports=proxy, expected=template, host=host).unexpected
    notices = [
        Finding(
            severity=Severity.NOTICE,
            kind=Kind.BYPASS,
            summary=f"{each.text} gets by without Envoy, as the pod asks for it ({asked})",
        )
        for each in opened_classes
    ]
    if reviewed is None:
        return notices
    held_still = [entry for entry in reviewed if entry.until >= today]

    def beside(entries: Sequence[ReviewedBypass]) -> list[Finding]:
        allowed = [entry.what for entry in entries]
        return check_only_bypasses(opened, allowed, envoy_ports=proxy, expected=template, host=host)

    left, over = beside(held_still), beside(reviewed)
    ended = [entry for entry in reviewed if entry.until < today] if len(over) < len(left) else []
    return [
        *notices,
        *(
            Finding(
                kind=Kind.BYPASS,
                summary=f"{finding.got.removeprefix('also ')} gets by without Envoy, and is not reviewed",
                wanted="every bypass that the pod's options open is on the project's list, and in date",
                got=asked,
                trace=finding.trace,
                cause="; ".join(
                    f"the review of {entry.what} ended on {entry.until}: {entry.why}" for entry in ended
                ),
            )
            for finding in left
        ),
    ]
