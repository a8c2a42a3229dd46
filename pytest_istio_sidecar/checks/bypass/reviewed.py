"""What is open beside Envoy in a pod, and whether somebody has reviewed it.

Knows the form of a project's list of reviewed bypasses, for which pods, families and days an entry holds,
and what is said of what is open. Does not know how it became so (`openings`). Invariant: packets count as
reviewed only where entries that hold have them.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.bypass.bypass import Bypass
from pytest_istio_sidecar.checks.bypass.bypasses import BypassReport, by_design
from pytest_istio_sidecar.checks.bypass.envoy_ports import EnvoyPorts
from pytest_istio_sidecar.checks.bypass.found_bypass import FoundBypass, Standing
from pytest_istio_sidecar.checks.bypass.openings import (
    Pod,
    Review,
    Reviews,
    open_classes,
    opened_elsewhere,
    standing_beside,
)
from pytest_istio_sidecar.checks.finding import Finding, Kind, Severity, violations
from pytest_istio_sidecar.checks.tracing import not_stated, of_pod
from pytest_istio_sidecar.errors import Undecided, UsageProblem
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.istio.messages import RANGE_PASSED_OVER
from pytest_istio_sidecar.istio.option_kinds import cidr, split
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.pod_options import PodUsers
from pytest_istio_sidecar.istio.ports import INBOUND, OUTBOUND
from pytest_istio_sidecar.istio.rules import expected_ruleset, passed_over
from pytest_istio_sidecar.netfilter.model import Family, PodRules, Rules, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedBypass:
    """A bypass that somebody has looked at.

    Attributes:
        what: its packets.
        why: why it may be.
        until: the last day on which that holds.
        pod: the pods for which it holds, as a shell pattern over `namespace/name`; "": all.
        family: 4 or 6; None: what `what` is of.
    """

    what: Bypass
    why: str
    until: date
    pod: str = ""
    family: Family | None = None

    def holds(self, *, pod: str, today: date) -> bool:
        """Whether it holds for a pod on a day."""
        return today <= self.until and self._is_of(pod)

    def _is_of(self, pod: str) -> bool:
        """Whether it is for a pod."""
        return not self.pod or fnmatch.fnmatchcase(pod, self.pod)

    @property
    def packets(self) -> Bypass:
        """What it is for, of the family that it is for."""
        return self.what if self.family is None else replace(self.what, family=self.family)

    def class_of(self, family: Family) -> Bypass | None:
        """The packets of a family that it is for; None: it is for the other."""
        return self.packets if self.packets.family in (None, family) else None

    def why_not(self, family: Family, *, pod: str, today: date) -> str:
        """Why it does not hold for packets of a family that are in it, in a sentence."""
        reasons = []
        if today > self.until:
            reasons.append(f"ended on {self.until}")
        if not self._is_of(pod):
            reasons.append(f"is for pods {self.pod}, and this is {pod or 'a pod whose name is not known'}")
        if self.class_of(family) is None:
            reasons.append(f"is for IPv{self.packets.family}, and this is IPv{family}")
        return f"the review of {self.what} {' and '.join(reasons)}: {self.why}"


def parse_reviewed_bypasses(text: str, *, source: str = "<text>") -> tuple[ReviewedBypass, ...]:
    """Read a project's list: TOML with a table `[[bypass]]` for each, of what, why, until, pod and family.

    Nothing is reviewed where there is none: `bypass = []`, an empty file, or only comments.

    Raises:
        UsageProblem: it is not of that form; the message has the source and the form.
    """
    try:
        document = tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as problem:
        raise UsageProblem(messages.LIST_NOT_READ(place=source, problem=problem)) from None
    entries = document.pop("bypass", [])
    if not isinstance(entries, list) or document:
        raise UsageProblem(messages.NO_LIST(source=source))
    return tuple(_entry(entry, f"{source}, bypass {number}") for number, entry in enumerate(entries, 1))


_WANTED = {"what": str, "why": str, "until": date}
_MORE = {"pod": str, "family": int}


def _entry(entry: object, where: str) -> ReviewedBypass:
    if not isinstance(entry, dict) or not _WANTED.keys() <= set(entry) <= {*_WANTED, *_MORE}:
        raise UsageProblem(messages.NO_ENTRY(place=where))
    for name, value in entry.items():
        fits = type(value) is int and value in (4, 6) if name == "family" else bool(value)
        if not isinstance(value, {**_WANTED, **_MORE}[name]) or not fits:
            raise UsageProblem(messages.ENTRY_VALUE(place=where, key=name, value=value))
    until = entry["until"]
    try:
        what = Bypass.parse(entry["what"])
    except UsageProblem as problem:
        raise UsageProblem(messages.LIST_NOT_READ(place=where, problem=problem)) from None
    family = entry.get("family")
    if None is not what.family != family is not None:
        raise UsageProblem(messages.ENTRY_VALUE(place=where, key="family", value=family))
    return ReviewedBypass(
        what=what,
        why=entry["why"],
        until=until.date() if isinstance(until, datetime) else until,
        pod=entry.get("pod", ""),
        family=family,
    )


def judged_bypasses(
    rules: Rules,
    version: str,
    options: IstioOptions,
    *,
    reviewed: Sequence[ReviewedBypass] = (),
    accepted: Collection[str] = (),
    pod: str = "",
    today: date,
    host: Host | None = None,
    users: PodUsers | None = None,
) -> BypassReport:
    """Everything that gets by in a pod's rules, with its standing, and the options of the pod that open it.

    Args:
        options: what the pod's istio-init was told.
        accepted: fields of options that the project accepts whatever they open.
        pod: `namespace/name`, or what stands for it.
        users: as whom its containers run; None: not known.

    Raises:
        UsageProblem: as `expected_ruleset`.
    """
    reviews = _reviews(reviewed, pod=pod, today=today)
    return open_classes(rules, Pod(version, options, accepted, users or PodUsers()), reviews, host=host)


def reviewed_beside(
    rules: Rules,
    expected: Rules | None,
    reviewed: Sequence[ReviewedBypass],
    *,
    envoy_ports: Collection[int] = (OUTBOUND, INBOUND),
    pod: str = "",
    today: date,
    host: Host | None = None,
) -> BypassReport:
    """As `bypasses`, with what reviews say of what is not by design."""
    beside = [expected] if expected is not None else []
    return standing_beside(
        rules,
        lambda family: [(side, by_design) for side in beside if rulesets_of(side, family)],
        _reviews(reviewed, pod=pod, today=today),
        envoy_ports=EnvoyPorts.of(envoy_ports),
        host=host,
    )


def _reviews(reviewed: Sequence[ReviewedBypass], *, pod: str, today: date) -> Reviews:
    """What each entry says of the packets of a family."""

    def of_family(family: Family) -> Iterator[Review]:
        for number, entry in enumerate(reviewed):
            what = entry.class_of(family)
            holds = what is not None and entry.holds(pod=pod, today=today)
            if what is None and not {"source", "destination"} & dict(entry.what.where).keys():
                what = replace(entry.what, family=None)
            if what is not None:
                yield Review(what, number, holds)

    return lambda family: list(of_family(family))


def check_reviewed_bypasses(
    version: str,
    options: IstioOptions,
    reviewed: Sequence[ReviewedBypass] | None,
    *,
    today: date,
    host: Host | None = None,
    rules: Rules | None = None,
    accepted: Collection[str] = (),
    pod: str = "",
    users: PodUsers | None = None,
) -> list[Finding]:
    """What is open in a pod beyond what the release's template opens.

    A violation each: what the pod's options open without a review that holds, unless the option is
    accepted; and what is open otherwise, where there is a review of it that does not hold. A notice each:
    what is reviewed or accepted, or gets by as a user or group that an option names for Envoy's.

    Args:
        reviewed: the project's list; None: it keeps none, so that nothing is reviewed.
        today: a review counts up to its last day.
        rules: what was read from the pod; None: what the release makes with these options.
        accepted: fields of options that the project accepts whatever they open.
        pod: `namespace/name`, or what stands for it.
        users: as whom its containers run; None: not known.

    Raises:
        Undecided: the rules do not tell of packets that the options let by whether they get by, or it
            depends on what nobody stated of the pod; or nobody said whether IPv6 is to be captured, where
            it was read and is not.
        UsageProblem: as `expected_ruleset`.
    """
    listed = reviewed or ()
    asked_of = Pod(version, options, accepted, users or PodUsers())
    if rules is None:
        families = asked_of.families(None)
        rules = PodRules(
            rulesets=tuple(expected_ruleset(version, family=family, options=options) for family in families)
        )
    report = open_classes(rules, asked_of, _reviews(listed, pod=pod, today=today), host=host)
    findings = [*_remarks(asked_of, rules, host), *_identities(asked_of)]
    refuse_untold(report, rules)
    for each in report.conditional:
        if each.opened_by and each.standing is Standing.OPEN:
            raise Undecided(
                messages.BYPASS_NOT_TOLD(
                    packet=each.text,
                    pod=of_pod(rules),
                    facts=[("because", "\n".join(each.conditions[:3]))],
                )
            )
    for each in (*report.inbound, *report.outbound):
        entries = [listed[number] for number in each.reviews]
        words = " and ".join(each.asked)
        if each.standing is Standing.ACCEPTED:
            findings.append(
                _notice(messages.ASKED_FOR(packet=each.packets, port=each.passed_port, options=words))
            )
        elif each.standing is Standing.REVIEWED:
            asked = f", as the pod asks for it ({words})" if words else ""
            (entry,) = entries
            findings.append(
                _notice(
                    messages.REVIEWED(
                        packet=each.packets,
                        port=each.passed_port,
                        asked=asked,
                        until=entry.until,
                        why=entry.why,
                    )
                )
            )
        elif each.standing is Standing.OPEN and (each.opened_by or entries):
            near = [entry.why_not(each.family, pod=pod, today=today) for entry in entries]
            findings.append(_not_reviewed(each, words, near, rules))
    if not violations(findings):
        rule = opened_elsewhere(rules, asked_of, _reviews(listed, pod=pod, today=today), host)
        if rule is not None:
            raise not_stated(rules, rule)
    return findings


def _remarks(pod: Pod, rules: Rules, host: Host | None) -> Iterator[Finding]:
    """What an option of the pod does not do, though it seems to."""
    version, options = pod.version, pod.options
    for name, text in passed_over(version, options):
        yield _notice(RANGE_PASSED_OVER(option=name, text=text, release=version))
    if 6 in pod.families(rules):
        return
    if pod.leaves_ipv6_alone(rules, host):
        yield _notice(messages.IPV6_LEFT_ALONE(pod=of_pod(rules)))
    for name in ("outbound_ip_ranges_include", "outbound_ip_ranges_exclude"):
        for text in split(getattr(options, name)):
            network = cidr(text)
            if network is not None and network.version == 6:
                yield _notice(messages.NO_IPV6_RULES(option=name, text=text))


def refuse_untold(report: BypassReport, rules: Rules) -> None:
    """Give no answer where nobody said whether packets that get by may, and no review has them.

    Raises:
        Undecided: there are some.
    """
    if any(each.in_doubt and each.standing is Standing.OPEN for each in report.conditional):
        raise Undecided(messages.IPV6_UNTOLD(pod=of_pod(rules)))


_WHO = {"proxy_uid": "user", "proxy_gid": "group"}


def _identities(pod: Pod) -> Iterator[Finding]:
    """Whom an option of the pod has taken for Envoy."""
    for name, text in pod.moved.items():
        if name not in pod.accepted:
            yield _notice(
                messages.TAKEN_FOR_ENVOY(
                    who=_WHO[name], id=text, template=getattr(pod.template, name), option=name
                )
            )


def _notice(failure: Failure) -> Finding:
    return Finding(severity=Severity.NOTICE, kind=Kind.BYPASS, failure=failure)


def _not_reviewed(each: FoundBypass, words: str, near: Sequence[str], rules: Rules) -> Finding:
    opened = f"{words} {'opens' if len(each.asked) == 1 else 'open'} it" if words else "a rule opens it"
    accept = f"--istio-accept-options={','.join(each.opened_by)}" if words else ""
    fix = [
        "take it away; or review the bypass, and put it on the project's list (--istio-reviewed-bypasses):",
        "[[bypass]]",
        f'what = "{each.bypass}"',
        'why = "…"',
        "until = YYYY-MM-DD",
        *([f"or accept whatever the option opens: {accept}"] if accept else []),
    ]
    return Finding(
        kind=Kind.BYPASS,
        failure=messages.NOT_REVIEWED(
            packet=each.packets,
            port=each.passed_port,
            options=f" ({words})" if words else "",
            pod=of_pod(rules),
        ),
        wanted="what is open beyond the release's template is reviewed, or its option accepted",
        got=opened,
        trace=each.trace,
        facts=(("fix", "\n".join(fix)),),
        cause="; ".join(near),
    )
