"""Are broken rules noticed? Mutants of a release's rules, each with a verdict and with what a kernel does.

Knows which faults are made and how a score is kept. Does not know how rules come into a kernel.
Invariant: whether a mutant matters is for the kernel to say, by packets chosen beforehand; whether it is
caught is for the suite's checks to say, of the rules as the kernel held them. See docs/detection.md.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from pytest_istio_sidecar.checks.finding import Severity
from pytest_istio_sidecar.checks.tracing import decided
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.netfilter.model import Family, PodRules
from pytest_istio_sidecar.netfilter.packet import Fate, Host, Packet
from pytest_istio_sidecar.netfilter.targets import Verdict
from pytest_istio_sidecar.selftest.judge import judge
from pytest_istio_sidecar.selftest.mutants import Mutant, mutants
from pytest_istio_sidecar.selftest.probes import WITNESSES_FROM, random_packets, witnesses

BATCH = 40
"""Mutants that a kernel is asked about in one go, after the untouched rules."""

Answer = tuple[str, int, int] | None
"""Where a connection goes, address and port, and its mark; None: there is no connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of each packet under some rules, and the rules as the kernel held them, counters too."""

    answers: tuple[Answer, ...]
    rules: PodRules


Kernel = Callable[[Sequence[tuple[PodRules, Sequence[Packet]]]], Iterable[Answered]]
"""Loads rules, sends packets through them, and tells what became of them; for each pair in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A packet that the kernel treats in one way under the release's rules, and in another under a mutant."""

    packet: Packet
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One mutant.

    Attributes:
        change: what the kernel does otherwise with it; None: no packet sent showed anything.
        caught: what the suite says against it, "" where nothing.
        name: of a named fault, else "".
    """

    mutant: Mutant
    change: Change | None
    caught: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The mutants of one release's rules."""

    version: str
    original: PodRules
    judged: tuple[Judged, ...]

    @property
    def harmful(self) -> tuple[Judged, ...]:
        """Those that change the fate of some packet."""
        return tuple(each for each in self.judged if each.change is not None)

    @property
    def missed(self) -> tuple[Judged, ...]:
        """Those of them that are not caught."""
        return tuple(each for each in self.harmful if not each.caught)

    @property
    def false_alarms(self) -> tuple[Judged, ...]:
        """Those that are caught, and change nothing."""
        return tuple(each for each in self.judged if each.caught and each.change is None)

    @property
    def named(self) -> tuple[Judged, ...]:
        """The faults that people know by a name."""
        return tuple(each for each in self.judged if each.name)

    @property
    def perfect(self) -> bool:
        """Everything that matters is caught, nothing else is, and every named fault is among it."""
        named = {each.name for each in self.named if each.caught and each.change is not None}
        return not self.missed and not self.false_alarms and named == set(named_faults(self.version).values())


def named_faults(version: str) -> dict[str, str]:
    """Six ways of losing part of the capture that a probe of one packet passes: by the change, the name."""
    last = expected_ruleset(version).nat.chain("ISTIO_OUTPUT").rules[-1]
    first = "above rule 1 (table nat)"
    redirect = f"-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports {ports.INBOUND}"
    wrong = redirect.replace(str(ports.INBOUND), str(ports.OUTBOUND))
    return {
        "empties PREROUTING (table nat)": "PREROUTING emptied",
        f"deletes {last.text} (table nat)": "last rule of ISTIO_OUTPUT removed",
        f"puts -A ISTIO_INBOUND -p tcp -m tcp --dport 80 -j RETURN {first}": (
            "RETURN of port 80 first in ISTIO_INBOUND"
        ),
        f"puts -A ISTIO_OUTPUT -p tcp -m tcp --dport 443 -j RETURN {first}": (
            "RETURN of port 443 first in ISTIO_OUTPUT"
        ),
        f"makes {redirect} {wrong} (table nat)": "ISTIO_IN_REDIRECT to 15001",
        f"puts -A PREROUTING -p tcp -j ACCEPT {first}": "ACCEPT of tcp first in PREROUTING",
    }


def default_rules(version: str, options: IstioOptions) -> PodRules:
    """What a pod has that a release injected; IPv6 too where the options ask for it."""
    families: tuple[Family, ...] = (4, 6) if options.enable_ipv6 else (4,)
    return PodRules(
        rulesets=tuple(expected_ruleset(version, family=family, options=options) for family in families)
    )


def mutants_of(version: str, options: IstioOptions, at_most: int | None = None) -> tuple[Mutant, ...]:
    """The mutants of a release's rules.

    Args:
        at_most: that many, always the same ones, with the named faults among them; None: all.
    """
    made = tuple(mutants(default_rules(version, options)))
    if at_most is None or at_most >= len(made):
        return made
    named = named_faults(version)
    order = list(range(len(made)))
    random.Random(version).shuffle(order)  # noqa: S311 - nothing secret
    order.sort(key=lambda place: made[place].change not in named)
    return tuple(made[place] for place in sorted(order[:at_most]))


def judge_mutants(
    version: str,
    made: Sequence[Mutant],
    ask: Kernel,
    *,
    options: IstioOptions,
    host: Host,
    can_be_sent: Callable[[Packet], bool],
    seed: str = "1",
) -> Iterator[Judged]:
    """Judge mutants of a release's rules beside what the kernel does with each.

    Args:
        made: of `mutants_of` this release with these options.
        ask: the kernel.
        host: interfaces and addresses of the namespace whose kernel is asked.
        can_be_sent: whether `ask` can send a packet.
        seed: of the random packets.
    """
    original = default_rules(version, options)
    names = named_faults(version)
    common = {family: random_packets(family, host, seed) for family in _families(original)}
    for begin in range(0, len(made), BATCH):
        batch = made[begin : begin + BATCH]
        numbers = count(WITNESSES_FROM)
        sent = []
        for mutant in batch:
            packets: list[Packet] = []
            for family in _changed_families(original, mutant.rules):
                shown = witnesses(original, mutant.rules, family, host, numbers)
                packets += [*common[family], *filter(can_be_sent, shown)]
            sent.append(packets)
        yield from _judge_batch(version, original, batch, sent, ask, options, host, names)


def _judge_batch(
    version: str,
    original: PodRules,
    batch: Sequence[Mutant],
    sent: Sequence[Sequence[Packet]],
    ask: Kernel,
    options: IstioOptions,
    host: Host,
    names: dict[str, str],
) -> Iterator[Judged]:
    everything = tuple(dict.fromkeys(packet for packets in sent for packet in packets))
    rules = (mutant.rules for mutant in batch)
    answers = iter(ask([(original, everything), *zip(rules, sent, strict=True)]))
    fates = dict(zip(everything, next(answers).answers, strict=True))
    for mutant, packets, answered in zip(batch, sent, answers, strict=True):
        yield Judged(
            mutant=mutant,
            change=next(_changes(packets, fates, answered, host), None),
            caught=_said_against(answered.rules, version, options, host),
            name=names.get(mutant.change, ""),
        )


def _families(rules: PodRules) -> tuple[Family, ...]:
    return tuple(dict.fromkeys(ruleset.family for ruleset in rules.rulesets))


def _changed_families(original: PodRules, changed: PodRules) -> tuple[Family, ...]:
    """The families whose rules are not the same: the kernel holds tables by family."""
    return tuple(
        family for family in _families(original) if original.of_family(family) != changed.of_family(family)
    )


def _changes(
    sent: Sequence[Packet], fates: dict[Packet, Answer], answered: Answered, host: Host
) -> Iterator[Change]:
    for packet, answer in zip(sent, answered.answers, strict=True):
        if answer != fates[packet]:
            yield Change(packet=packet, before=_in_words(fates[packet]), after=_in_words(answer))
    if _counted_as_dropped(answered.rules):
        for packet in sent:
            if decided(answered.rules, packet, host).fate is Fate.DROPPED:
                yield Change(
                    packet=packet, before=_in_words(fates[packet]), after="counted by a rule that drops"
                )


def _counted_as_dropped(rules: PodRules) -> bool:
    """Whether a rule dropped packets; conntrack keeps a connection that was dropped behind lo."""
    return any(
        rule.packets and rule.target == Verdict("DROP")
        for ruleset in rules.rulesets
        for rule in ruleset.rules()
    )


def _in_words(answer: Answer) -> str:
    if answer is None:
        return "no connection"
    address, port, mark = answer
    return f"{address} port {port}" + (f", mark {mark:#x}" if mark else "")


def _said_against(rules: PodRules, version: str, options: IstioOptions, host: Host) -> str:
    """The first thing that the suite says against rules, or ""; no verdict is none against them."""
    try:
        findings = judge(rules, version, options=options, host=host)
        against = (finding for finding in findings if finding.severity is Severity.VIOLATION)
        return next((finding.summary for finding in against), "")
    except Undecided:
        return ""
