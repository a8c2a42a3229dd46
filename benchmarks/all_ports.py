"""Where every TCP connection to the pod goes: all ports, by diagram, and by sending each packet for real.

Each of 65,536 ports of the pod's address, from a neighbour and from processes of the pod with three
uids. The kernel is asked by one packet for each, in chunks that its connection table holds, and answers
by that table; loading the rules and parsing them is not counted on either side. All packets are sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory

from kernel_testbed import HOST, Kernel, key_of
from measure import Row, median, milliseconds

from pytest_istio_sidecar import Ruleset, expected_ruleset, parse_iptables_save, render_save
from pytest_istio_sidecar.netfilter.diagram.diagram import Box
from pytest_istio_sidecar.netfilter.diagram.paths import paths_within
from pytest_istio_sidecar.netfilter.packet import Fate, Packet
from pytest_istio_sidecar.netfilter.space.nat import OWN, Outcome
from pytest_istio_sidecar.netfilter.space.space import Space
from pytest_istio_sidecar.selftest.first_packets import connections

PORTS = 1 << 16
CHUNK = 4096
FIRST_SOURCE_PORT = 20_000
POD, NEIGHBOUR = ip_address("192.0.2.10"), ip_address("192.0.2.20")
UIDS = (0, 1000, 1337)
SENDERS = (None, *UIDS)
"""None: the neighbour."""
ROUNDS = 3

Place = tuple[str, int] | None
"""Where a connection goes; None: nowhere."""


def rows() -> Iterator[Row]:
    with TemporaryDirectory() as scratch, Kernel("legacy", 4, Path(scratch)) as kernel:
        loaded = kernel.load(render_save(expected_ruleset("1.8.3")))
        assert loaded.returncode == 0, loaded.stderr
        ruleset = parse_iptables_save(kernel.saved())
        ours = median(lambda: by_space(ruleset), rounds=ROUNDS)
        begin = time.process_time()
        asked = by_kernel(kernel)
        theirs = time.process_time() - begin
    outcomes = by_space(ruleset)
    work = f"where {PORTS:,} ports lead, from a neighbour and {len(UIDS)} uids"
    yield Row(
        work=work,
        measured=milliseconds(ours),
        against=f"the kernel, a packet for each, once: {milliseconds(theirs)}",
        ratio=theirs / ours,
        target="≥ 20 × as fast",
        holds=theirs / ours >= 20,
    )
    differing = sum(_place(outcomes[uid][port], port) != answer for (uid, port), answer in asked.items())
    yield Row(
        work=f"{work}: disagreements of {len(asked):,}",
        measured=str(differing),
        target="0",
        holds=differing == 0,
    )


def by_space(ruleset: Ruleset) -> dict[int | None, list[Outcome]]:
    """By sender the outcome of each port, from one diagram for each hook."""
    by_sender = {}
    for hook, senders in (("PREROUTING", (None,)), ("OUTPUT", UIDS)):
        space = Space([ruleset], hook, host=HOST, family=4)
        node = space.outcomes()
        level = space.fields["destination_port"].level
        for uid in senders:
            of_port: list[Outcome] = [Outcome(Fate.UNKNOWN)] * PORTS
            for box, answers in paths_within(node, _box(space, packet(uid, 0, 0))):
                (outcome,) = answers
                assert isinstance(outcome, Outcome)
                for low, high in box.get(level, ((0, PORTS - 1),)):
                    of_port[low : high + 1] = [outcome] * (high - low + 1)
            by_sender[uid] = of_port
    return by_sender


def by_kernel(kernel: Kernel) -> dict[tuple[int | None, int], Place]:
    """By sender and port, by sending a packet and looking its connection up."""
    places: dict[tuple[int | None, int], Place] = {}
    for uid in SENDERS:
        for first in range(0, PORTS, CHUNK):
            sent = [packet(uid, first + place, FIRST_SOURCE_PORT + place) for place in range(CHUNK)]
            kernel.forget_connections()
            for one in sent:
                kernel.send(one)
            answers = connections()
            for one in sent:
                answer = answers.get(key_of(one))
                places[uid, one.destination_port or 0] = None if answer is None else answer[:2]
    return places


def packet(uid: int | None, port: int, source_port: int) -> Packet:
    """A first packet to a port of the pod."""
    inbound = uid is None
    return Packet(
        hook="PREROUTING" if inbound else "OUTPUT",
        protocol=6,
        source=NEIGHBOUR if inbound else POD,
        destination=POD,
        source_port=source_port,
        destination_port=port,
        in_interface="eth0" if inbound else None,
        out_interface=None if inbound else "lo",
        uid=uid,
        gid=uid,
    )


def _box(space: Space, one: Packet) -> Box:
    """The packets that differ from this one by their ports alone."""
    fields = space.fields
    values = {
        "protocol": 6,
        "interface": fields.interfaces.index(one.in_interface or one.out_interface or ""),
        "uid": 0 if one.uid is None else one.uid + 1,
        "gid": 0 if one.gid is None else one.gid + 1,
        "mark": 0,
        "source": int(one.source),
        "destination": int(one.destination),
    }
    return {fields[name].level: ((value, value),) for name, value in values.items()}


def _place(outcome: Outcome, port: int) -> Place:
    if outcome.fate is Fate.DROPPED:
        return None
    assert outcome.fate is not Fate.UNKNOWN
    address = str(POD) if outcome.address == OWN else str(outcome.address)
    return address, port if outcome.port == OWN else int(outcome.port or 0)
