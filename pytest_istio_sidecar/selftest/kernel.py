"""What a kernel does with packets under one set of rules after the other, in an embedded pod.

Knows how rules and packets are handed to the program in the pod (`first_packets`) and how its answers
are read. Does not know which answer is right. Invariant: every set of rules meets its packets in a
namespace that holds no rule of the set before.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pytest_istio_sidecar.environments.embedded.environment import RESTORE, EmbeddedEnvironment
from pytest_istio_sidecar.environments.embedded.namespaces import require_program
from pytest_istio_sidecar.netfilter.model import TABLES, Backend, Family, PodRules, Ruleset
from pytest_istio_sidecar.netfilter.packet import Packet
from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save
from pytest_istio_sidecar.netfilter.text.render import render_save
from pytest_istio_sidecar.selftest import first_packets
from pytest_istio_sidecar.selftest.first_packets import FirstPacket, Load, Step
from pytest_istio_sidecar.selftest.score import Answered

OUTSIDE = "/run/netns/client"
_SECONDS_A_STEP = 2.0

Place = tuple[Family, Backend]
"""Where rules can be."""


def can_be_sent(packet: Packet) -> bool:
    """Whether the packet can be made: a first packet of TCP or UDP, from a process where it is sent here."""
    ports = packet.source_port is not None and packet.destination_port is not None
    sent = packet.hook == "PREROUTING" or (packet.uid is not None and packet.gid is not None)
    return packet.protocol in (6, 17) and ports and sent and packet.state == "NEW"


def first_packet_of(packet: Packet) -> FirstPacket:
    """A packet as the program in the pod takes it."""
    return {
        "protocol": int(packet.protocol),
        "source": str(packet.source),
        "destination": str(packet.destination),
        "source_port": packet.source_port or 0,
        "destination_port": packet.destination_port or 0,
        "interface": packet.in_interface if packet.hook == "PREROUTING" else None,
        "uid": packet.uid or 0,
        "gid": packet.gid or 0,
        "mark": packet.mark,
    }


def ask_kernel(
    environment: EmbeddedEnvironment, asked: Sequence[tuple[PodRules, Sequence[Packet]]]
) -> Iterator[Answered]:
    """Load each set of rules in turn, send its packets, and tell what became of them.

    The pod may hold rules of the same tables before, and holds none after.

    Raises:
        EnvironmentProblem: the kernel refused rules, or the program in the pod failed.
    """
    packets = list(dict.fromkeys(packet for _, sent in asked for packet in sent))
    numbers = {packet: number for number, packet in enumerate(packets)}
    tables = sorted(
        {table.name for rules, _ in asked for ruleset in rules.rulesets for table in ruleset.tables}
    )
    families = {ruleset.family for rules, _ in asked for ruleset in rules.rulesets}
    steps: list[Step] = []
    places: list[list[Place]] = []
    before = {(family, backend) for family in families for backend in Backend}
    for rules, sent in asked:
        loaded = {_place(ruleset) for ruleset in rules.rulesets}
        places.append(sorted(before | loaded))
        loads = [_empty(place, tables) for place in sorted(before)] + list(map(_load, rules.rulesets))
        saves = [[require_program(RESTORE[b, f].replace("restore", "save")), "-c"] for f, b in places[-1]]
        steps.append({"loads": loads, "packets": [numbers[packet] for packet in sent], "saves": saves})
        before = loaded
    steps.append({"loads": [_empty(place, tables) for place in sorted(before)], "packets": [], "saves": []})
    answered = environment.run_program(
        [sys.executable, "-I", "-S", first_packets.__file__],
        text=json.dumps({"outside": OUTSIDE, "packets": list(map(first_packet_of, packets)), "steps": steps}),
        timeout=_SECONDS_A_STEP * len(steps) + 30,
    )
    for (rules, _), read, line in zip(asked, places, answered.splitlines()[: len(asked)], strict=True):
        outcome = json.loads(line)
        rulesets = map(_as_held, read, outcome["saved"])
        yield Answered(
            answers=tuple(None if answer is None else tuple(answer) for answer in outcome["answers"]),
            rules=PodRules(rulesets=tuple(rulesets), pod=rules.pod),
        )


def _place(ruleset: Ruleset) -> Place:
    return ruleset.family, ruleset.backend or Backend.LEGACY


def _as_held(place: Place, text: str) -> Ruleset:
    family, backend = place
    if not text.strip():
        return Ruleset(family=family, backend=backend)
    return replace(parse_iptables_save(text, family=family, source="the kernel"), backend=backend)


def _empty(place: Place, tables: Sequence[str]) -> Load:
    """What empties a back end of all that a step may have loaded."""
    family, backend = place
    text = "".join(
        f"*{table}\n" + "".join(f":{hook} ACCEPT [0:0]\n" for hook in TABLES[table]) + "COMMIT\n"
        for table in tables
    )
    return {"argv": [require_program(RESTORE[backend, family])], "text": text}


def _load(ruleset: Ruleset) -> Load:
    family, backend = _place(ruleset)
    return {"argv": [require_program(RESTORE[backend, family])], "text": render_save(ruleset)}
