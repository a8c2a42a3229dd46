"""What becomes of packets where that must be known.

Knows whole classes of packets that are captured, and single ones. Does not know what should become of a
packet. Invariant: a packet whose fate is unknown raises `Undecided`.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.wording import describe
from pytest_istio_sidecar.errors import Undecided, UsageProblem
from pytest_istio_sidecar.failure import Fact
from pytest_istio_sidecar.netfilter.kernel.hooks import unread_chains
from pytest_istio_sidecar.netfilter.kernel.unread import with_unread_legacy
from pytest_istio_sidecar.netfilter.matches import PROTOCOLS
from pytest_istio_sidecar.netfilter.model import Family, PodRules, Rules, Ruleset, Table, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Fate, Hook, Host, IPAddress, Packet
from pytest_istio_sidecar.netfilter.space.queries import FieldName, regions
from pytest_istio_sidecar.netfilter.trace.trace import Trace, trace

CAPTURED = (Fate.REDIRECTED, Fate.TPROXIED, Fate.TRANSLATED)
_OF_THIS_HOST = (Fate.REDIRECTED, Fate.TPROXIED)
_FAMILIES: tuple[Family, ...] = (4, 6)
_HOOKS: tuple[Hook, ...] = ("PREROUTING", "OUTPUT")


def decided(rules: Rules, packet: Packet, host: Host | None) -> Trace:
    """Trace a packet whose fate must be known.

    Raises:
        Undecided: it is not, or nothing was read for the packet's family.
        UsageProblem: these are no rules, or no packet.
    """
    if not isinstance(rules, PodRules | Ruleset | Table):
        raise UsageProblem(messages.NO_RULES_GIVEN(kind=type(rules).__name__))
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


def addressed_families(rules: Rules, host: Host) -> Iterator[tuple[Family, IPAddress]]:
    """The families in which there are rules, or may be, and neighbours reach the host, with its address."""
    for family in _FAMILIES:
        own = host.primary(host.external(), family)
        if own is not None and _may_capture(rules, family):
            yield family, own


def _may_capture(rules: Rules, family: Family) -> bool:
    """Whether there are rules, or chains that were not read and could capture."""
    rulesets = with_unread_legacy(rulesets_of(rules, family))
    return any(any(ruleset.rules()) for ruleset in rulesets) or bool(unread_chains(rulesets))


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
    program = "iptables" if table.ruleset.family == 4 else "ip6tables"
    return Undecided(
        messages.TABLE_NOT_READ(question=question, table=table.name, program=program, pod=of_pod(table))
    )


def stays(traced: Trace) -> bool:
    """Whether a packet is sent to a port of its own host: DNAT may send it to anybody's, of any number."""
    if traced.fate in _OF_THIS_HOST:
        return True
    return traced.fate is Fate.TRANSLATED and traced.host.is_local(traced.destination.address)
