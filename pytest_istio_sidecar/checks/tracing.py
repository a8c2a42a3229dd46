"""What becomes of packets where that must be known.

Knows single packets, and how all packets are parted by what a caller means to become of them. Does not know
what should become of a packet. Invariant: a packet whose fate is unknown raises `Undecided`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.wording import DIRECTIONS, PacketClass, describe, of_direction
from pytest_istio_sidecar.errors import Undecided, UsageProblem
from pytest_istio_sidecar.failure import Fact
from pytest_istio_sidecar.netfilter.kernel.hooks import CAPTURES, unread_chains
from pytest_istio_sidecar.netfilter.kernel.unread import program_of, with_unread_legacy
from pytest_istio_sidecar.netfilter.matches import PROTOCOLS
from pytest_istio_sidecar.netfilter.model import Family, Rule, Rules, Table, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Fate, Hook, Host, IPAddress, Packet
from pytest_istio_sidecar.netfilter.space.queries import Fates, FieldName, Outcome, Part, fates, regions
from pytest_istio_sidecar.netfilter.targets import Translate
from pytest_istio_sidecar.netfilter.trace.trace import Trace, trace

CAPTURED = (Fate.REDIRECTED, Fate.TPROXIED, Fate.TRANSLATED)
_ALLOWED = "not meant, and allowed"
_OF_THIS_HOST = (Fate.REDIRECTED, Fate.TPROXIED)
_FAMILIES: tuple[Family, ...] = (4, 6)
_HOOKS: tuple[Hook, ...] = ("PREROUTING", "OUTPUT")


def decided(rules: Rules, packet: Packet, host: Host | None) -> Trace:
    """Trace a packet whose fate must be known.

    Raises:
        Undecided: it is not, or nothing was read for the packet's family.
        UsageProblem: these are no rules, or no packet.
    """
    if not isinstance(packet, Packet):
        raise UsageProblem(messages.NO_PACKET_GIVEN(value=packet))
    if not rulesets_of(rules, packet.family):
        raise Undecided(
            messages.NO_RULES_READ(packet=describe(packet), family=packet.family, pod=of_pod(rules))
        )
    traced = trace(rules, packet, host=host)
    if traced.fate is Fate.UNKNOWN:
        raise Undecided(
            messages.NOT_TOLD(
                packet=describe(packet), pod=of_pod(rules), facts=[("because", "\n".join(traced.reasons[:3]))]
            )
        )
    return traced


def captured(
    rules: Rules, host: Host, protocol: str, *, destination_port: int | None = None
) -> Iterator[Trace]:
    """Traces of packets that are captured: one of each class that the rules tell apart.

    Args:
        protocol: the name of theirs.
        destination_port: where they go; None: wherever.

    Raises:
        Undecided: what becomes of some packet is not known.
    """
    wanted: dict[FieldName, int] = {"protocol": PROTOCOLS[protocol]}
    if destination_port is not None:
        wanted["destination_port"] = destination_port
    for family in _FAMILIES:
        if not _may_capture(rules, family):
            continue
        for hook in _HOOKS:
            for region in regions(rules, hook, host=host, family=family):
                if region.fate not in CAPTURED and region.fate is not Fate.UNKNOWN:
                    continue
                for cube in region.cubes:
                    packet = cube.packet(wanted)
                    if all(getattr(packet, name) == value for name, value in wanted.items()):
                        yield decided(rules, packet, host)


def parted(
    rules: Rules,
    hook: Hook,
    family: Family,
    protocol: str,
    host: Host | None,
    meant: Callable[[Outcome, bool], bool],
    *,
    ports: Collection[int] = (),
    source: Rules | None = None,
    known_in: Rules | None = None,
    allowed: Iterable[PacketClass] = (),
) -> tuple[list[Part], list[Part]]:
    """The possible packets of a protocol with a meant outcome, and those with another that may not have it.

    Args:
        meant: asked of an outcome, and whether it comes to one of `ports` of this host.
        source: the rules that were read, where `rules` are made of them; None: `rules` were.
        known_in: other rules, in which what becomes of packets with a meant outcome has to be known.
        allowed: packets that may have another.

    Raises:
        Undecided: of some packets it cannot be told which.
    """
    number = PROTOCOLS[protocol]
    outcomes, *others = fates(
        [rules] if known_in is None else [rules, known_in], hook, host=host, family=family
    )
    judged = _by_meaning(outcomes, meant, ports, to_assumed_address(rules, family, host)).judged(_judged)
    for other in others:
        doubtful = _by_meaning(other, is_undecided, ports).judged(
            lambda answers: _judged(answers) is not False
        )
        judged = judged.beside(doubtful, lambda verdict, doubt: None if verdict is doubt is True else verdict)
    partition = judged.partition().relabelled(
        of_direction(allowed, DIRECTIONS[hook], family),
        lambda answer: _ALLOWED if answer is False else answer,
    )
    parts = partition.only({"protocol": ((number, number),)}).parts()
    if None in parts:
        read = rules if source is None else source
        (packet, *_) = parts[None][0].witnesses
        refuse_assumed(decided(read, packet, host), read)
        raise Undecided(messages.NOT_TOLD(packet=describe(packet), pod=of_pod(read)))
    return parts.get(True, []), parts.get(False, [])


def _by_meaning(
    outcomes: Fates,
    meant: Callable[[Outcome, bool], bool],
    ports: Collection[int],
    to_assumed: Collection[Rule] = (),
) -> Fates:
    """Of each outcome whether it is meant, and whether it is unknown; both where its address is assumed."""

    def meanings(outcome: Outcome, there: bool) -> list[tuple[bool, bool]]:
        maybe = (True, False) if there and comes_by_assumption(outcome, to_assumed) else (there,)
        return [(meant(outcome, each), outcome.fate is Fate.UNKNOWN) for each in maybe]

    return outcomes.labelled(meanings, ports=ports)


def to_assumed_address(rules: Rules, family: Family, host: Host | None) -> list[Rule]:
    """The rules that send to the address that counts as the pod's for want of its own."""
    if host not in (None, Host()):
        return []
    every = (rule for ruleset in rulesets_of(rules, family) for rule in ruleset.rules())
    return [rule for rule in every if _sends_to_assumed(rule)]


def _sends_to_assumed(rule: Rule) -> bool:
    return next(assumed_targets(rule), None) is not None


def assumed_targets(rule: Rule) -> Iterator[IPAddress]:
    """The addresses to which a rule sends packets, and that count as the pod's for want of its own."""
    for target in rule.targets():
        if isinstance(target, Translate) and target.name == "DNAT":
            for address in target.addresses or ():
                if not address.is_loopback and Host().is_local(address):
                    yield address


def comes_by_assumption(outcome: Outcome, to_assumed: Collection[Rule]) -> bool:
    """Whether packets that come to this host by an outcome do so only if it has the address that is assumed.

    Args:
        to_assumed: the rules that send there. Of what goes to that address already no outcome tells it.
    """
    address = outcome.address
    elsewhere = isinstance(address, str) or not address.is_loopback
    return bool(to_assumed) and outcome.fate is Fate.TRANSLATED and elsewhere


def is_undecided(outcome: Outcome, _: bool) -> bool:
    """Whether what becomes of packets is not known."""
    return outcome.fate is Fate.UNKNOWN


def _judged(answers: Collection[Hashable]) -> bool | None:
    """Whether all outcomes are meant, of which each is told with whether it is unknown; None: in doubt."""
    outcomes = [answer for answer in answers if isinstance(answer, tuple)]
    verdicts = {meant for meant, _ in outcomes}
    if len(verdicts) > 1 or (any(unknown for _, unknown in outcomes) and verdicts != {True}):
        return None
    return bool(verdicts.pop())


def addressed_families(rules: Rules, host: Host) -> Iterator[tuple[Family, IPAddress]]:
    """The families in which there are rules, or may be, and neighbours reach the host, with its address."""
    for family in _FAMILIES:
        own = host.primary(host.external(), family)
        if own is not None and _may_capture(rules, family):
            yield family, own


def _may_capture(rules: Rules, family: Family) -> bool:
    """Whether there are rules that could, or chains that were not read: those of filter drop at most."""
    rulesets = with_unread_legacy(rulesets_of(rules, family))
    tables = [table for ruleset in rulesets for table in ruleset.tables if table.name in CAPTURES]
    return any(any(table.rules()) for table in tables) or bool(unread_chains(rulesets))


def of_pod(rules: Rules) -> str:
    """The pod in brackets, where it is known."""
    pod = getattr(rules, "pod", "") or getattr(getattr(rules, "ruleset", None), "pod", "")
    return f" ({pod})" if pod else ""


def assumptions(rules: Rules, family: int) -> tuple[str, ...]:
    """What the rulesets of a family took from an expectation."""
    taken = rulesets_of(rules, 4 if family == 4 else 6)
    return tuple(assumption for ruleset in taken for assumption in ruleset.assumptions)


def routing_facts(host: Host | None) -> list[Fact]:
    """What somebody added to the namespace's routing, where it leads packets elsewhere than meant."""
    policies = [] if host is None else host.policies.values()
    added = [line for policy in policies for line in policy.added]
    return [("routing", "\n".join(added))] if added else []


def not_read(table: Table, question: str) -> Undecided:
    """The error where a question is about what was not read of a table."""
    program = program_of(table.ruleset.family)
    return Undecided(
        messages.TABLE_NOT_READ(question=question, table=table.name, program=program, pod=of_pod(table))
    )


def not_stated(rules: Rules, rule: Rule) -> Undecided:
    """The error where an answer depends on what the pod has, which nobody said."""
    return Undecided(
        messages.HOST_NOT_STATED(
            rule=rule.text, place=f" ({rule.location})" if rule.location else "", pod=of_pod(rules)
        )
    )


def stays(traced: Trace) -> bool:
    """Whether a packet is sent to a port of its own host: DNAT may send it to anybody's, of any number.

    Not where the host's address is but assumed.
    """
    if traced.fate in _OF_THIS_HOST:
        return True
    own = traced.host.is_local(traced.destination.address) and not stays_by_assumption(traced)
    return traced.fate is Fate.TRANSLATED and own


def stays_by_assumption(traced: Trace) -> bool:
    """Whether a packet is sent to its own host only if that has the address that is assumed."""
    if traced.fate is not Fate.TRANSLATED or traced.host != Host():
        return False
    address = traced.destination.address
    met = (step.rule for step in traced.steps if step.matched and step.rule is not None)
    return not address.is_loopback and traced.host.is_local(address) and any(map(_sends_to_assumed, met))


def refuse_assumed(traced: Trace, rules: Rules) -> None:
    """Give no answer of a packet that comes to its own host only if the assumed address is the host's.

    Raises:
        Undecided: it is such a packet.
    """
    if stays_by_assumption(traced) and traced.deciding_rule is not None:
        raise not_stated(rules, traced.deciding_rule)
