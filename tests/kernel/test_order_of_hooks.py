"""The kernel asks iptables' chains in the order of `netfilter/kernel/hooks`, and a wrong order is noticed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from kernel_testbed import HOST, Kernel, key_of, why_impossible

from pytest_istio_sidecar import parse_iptables_save, trace
from pytest_istio_sidecar.netfilter.kernel import hooks
from pytest_istio_sidecar.netfilter.kernel.hooks import Leg, Moment, base_chains, legs
from pytest_istio_sidecar.netfilter.model import TABLES, Backend, Ruleset
from pytest_istio_sidecar.netfilter.packet import Fate, Packet
from pytest_istio_sidecar.netfilter.space.space import regions

_WHY = why_impossible()
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY)

CHAINS = [(table, hook) for table, names in TABLES.items() for hook in names]
BIT = {place: 1 << number for number, place in enumerate(CHAINS)}
PORT = 4242
ADDRESSES = {
    4: {"pod": "192.0.2.10", "peer": "192.0.2.20", "beyond": "192.0.2.140"},
    6: {"pod": "2001:db8:0:1::10", "peer": "2001:db8:0:1::20", "beyond": "2001:db8:0:2::20"},
}
COURSES = {
    "from a peer to the pod": ("peer", "pod", (Leg.RECEIVE, Leg.DELIVER)),
    "from a peer to another": ("peer", "beyond", (Leg.RECEIVE, Leg.FORWARD)),
    "from the pod to a peer": ("pod", "peer", (Leg.SEND,)),
    "from the pod to itself": ("pod", "pod", (Leg.SEND, Leg.LOOP)),
}
BACKENDS = {"legacy": Backend.LEGACY, "nft": Backend.NF_TABLES}


@pytest.fixture(params=["legacy", "nft"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def kernel(request: pytest.FixtureRequest, backend: str, tmp_path) -> Iterator[Kernel]:
    with Kernel(backend, request.param, tmp_path) as made:
        yield made


def telling_the_order() -> str:
    """Each chain counts by which of the others the packet has come, then sets a bit of its own."""
    lines = []
    for table, names in TABLES.items():
        lines += [f"*{table}", *(f":{hook} ACCEPT [0:0]" for hook in names)]
        for hook in names:
            ours = f"-A {hook} -p udp --dport {PORT}"
            lines += [f"{ours} -m mark --mark {bit:#x}/{bit:#x}" for bit in BIT.values()]
            lines.append(f"{ours} -j MARK --set-xmark {BIT[table, hook]:#x}/{BIT[table, hook]:#x}")
        if table == "nat":
            # What needs conntrack, without which the kernel does not ask nat at all.
            lines.append("-A PREROUTING -p tcp -j REDIRECT")
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def packet(family: int, source: str, destination: str) -> Packet:
    addresses = ADDRESSES[family]
    return Packet(
        hook="OUTPUT" if source == "pod" else "PREROUTING",
        protocol="udp",
        source=addresses[source],
        destination=addresses[destination],
        source_port=31000,
        destination_port=PORT,
        uid=1000 if source == "pod" else None,
        gid=1000 if source == "pod" else None,
    )


def order_in_kernel(kernel: Kernel, sent: Packet) -> list[tuple[str, str]]:
    """The chains that the kernel took the packet through, in order."""
    loaded = kernel.load(telling_the_order())
    assert loaded.returncode == 0, loaded.stderr
    kernel.forget_connections()
    kernel.send(sent)
    time.sleep(0.2)
    seen: dict[tuple[str, str], int] = {}
    table = ""
    for line in kernel.saved().splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif counted := re.match(r"\[(\d+):\d+\] -A (\S+) ", line):
            if "MARK" in line and int(counted[1]):
                assert int(counted[1]) == 1, line
                seen.setdefault((table, counted[2]), 0)
            elif int(counted[1]):
                seen[table, counted[2]] = seen.get((table, counted[2]), 0) + 1
    return sorted(seen, key=lambda place: seen[place])


def order_in_model(rules: Ruleset, course: tuple[Leg, ...]) -> list[tuple[str, str]]:
    made = legs((base, base) for base in base_chains(rules))
    return [
        (base.table, base.name)
        for leg in course
        for step in made[leg]
        if not isinstance(step, Moment)
        for base, _ in step
    ]


@pytest.mark.parametrize("course", COURSES)
def test_the_kernel_asks_the_tables_in_the_order_of_the_model(kernel: Kernel, course: str) -> None:
    source, destination, parts = COURSES[course]
    measured = order_in_kernel(kernel, packet(kernel.family, source, destination))
    rules = replace(parse_iptables_save(telling_the_order()), backend=BACKENDS[kernel.backend])
    assert measured == order_in_model(rules, parts)


def conntrack_first() -> dict[str, tuple[tuple[int, Moment], ...]]:
    return {
        hook: tuple((-400 if moment is Moment.TRACK else priority, moment) for priority, moment in moments)
        for hook, moments in hooks.MOMENTS.items()
    }


WRONG_ORDERS = {
    "mangle behind nat": (
        ("PRIORITIES", {**hooks.PRIORITIES, "mangle": -50}),
        (
            "*mangle\n-A PREROUTING -p udp -j MARK --set-xmark 0x1/0x1\nCOMMIT\n"
            "*nat\n-A PREROUTING -p udp -m mark --mark 0x1/0x1 -j REDIRECT --to-ports 999\nCOMMIT\n"
        ),
    ),
    "filter before nat": (
        ("PRIORITIES", {**hooks.PRIORITIES, "filter": -120}),
        (
            "*filter\n-A OUTPUT -p udp --dport 999 -j DROP\nCOMMIT\n"
            "*nat\n-A OUTPUT -p udp -j REDIRECT --to-ports 999\nCOMMIT\n"
        ),
    ),
    "conntrack before raw": (
        ("MOMENTS", conntrack_first()),
        (
            "*raw\n-A PREROUTING -p udp -j CT --notrack\nCOMMIT\n"
            "*nat\n-A PREROUTING -p udp -j REDIRECT --to-ports 999\nCOMMIT\n"
        ),
    ),
}


@pytest.mark.parametrize("error", WRONG_ORDERS)
def test_a_wrong_order_is_noticed_for_one_packet_and_for_all(kernel: Kernel, error: str, monkeypatch) -> None:
    wrong, rules = WRONG_ORDERS[error]
    empty = "".join(f"*{table}\nCOMMIT\n" for table in TABLES if f"*{table}\n" not in rules)
    loaded = kernel.load(rules + empty)
    assert loaded.returncode == 0, loaded.stderr
    sent = packet(
        kernel.family, "pod" if "OUTPUT" in rules else "peer", "peer" if "OUTPUT" in rules else "pod"
    )
    kernel.forget_connections()
    kernel.send(sent)
    time.sleep(0.2)
    connection = kernel.observe().connections.get(key_of(sent))
    redirected = connection is not None and connection[1] == 999

    def agree() -> tuple[bool, bool]:
        """Whether the trace, and the space, send the packet where the kernel did."""
        ruleset = parse_iptables_save(kernel.saved(), family=kernel.family)
        one = trace(ruleset, sent, host=HOST).fate
        every = {
            region.fate
            for region in regions(ruleset, sent.hook, host=HOST, family=kernel.family)
            if region.witness.protocol == 17
        }
        return (one is Fate.REDIRECTED) is redirected, (Fate.REDIRECTED in every) is redirected

    assert agree() == (True, True)
    monkeypatch.setattr(hooks, *wrong)
    assert agree() == (False, False)
