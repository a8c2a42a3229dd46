"""Rules that tell more packets apart than can be followed leave the answer open, within seconds."""

from __future__ import annotations

import random
import sys

import pytest

from pytest_istio_sidecar import Undecided, bypasses, inbound, parse_iptables_save, trace
from pytest_istio_sidecar.netfilter.diagram import diagram, memory
from pytest_istio_sidecar.netfilter.space import space

JUMPS = 300
"""The kernel takes so many."""


def table(name: str, *lines: str) -> str:
    return "\n".join([f"*{name}", ":PREROUTING ACCEPT [0:0]", *lines, "COMMIT", ""])


def setting_bits(number: int) -> str:
    """Rules each of which sets a bit of the mark, and others that ask for one."""
    bits = [f"{1 << bit:#x}/{1 << bit:#x}" for bit in range(number)]
    setting = [
        f"-A PREROUTING -s 10.0.{bit}.0/24 -j MARK --set-xmark {mask}" for bit, mask in enumerate(bits)
    ]
    asking = [f"-A PREROUTING -p tcp -m mark --mark {mask} -j REDIRECT --to-ports 15006" for mask in bits]
    return table("mangle", *setting) + table("nat", *asking)


def dotted(number: int) -> str:
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def scattered(number: int) -> str:
    """Conditions on parts of addresses that have nothing to do with each other."""
    draw = random.Random(7)
    masks = [draw.getrandbits(32) for _ in range(number)]
    conditions = [f"{dotted(draw.getrandbits(32) & mask)}/{dotted(mask)}" for mask in masks]
    return table("nat", *(f"-A PREROUTING -s {each} -p tcp -j REDIRECT" for each in conditions))


def nested(number: int) -> str:
    declared = [f":C{chain} - [0:0]" for chain in range(number)]
    jumps = [f"-A C{chain} -j C{chain + 1}" for chain in range(number - 1)]
    last = f"-A C{number - 1} -p tcp -j REDIRECT --to-ports 15006"
    return table("nat", *declared, "-A PREROUTING -p tcp -j C0", *jumps, last)


def test_where_diagrams_become_too_many_the_rule_is_named(monkeypatch) -> None:
    monkeypatch.setattr(diagram, "MOST", 2_000)
    rules = parse_iptables_save(setting_bits(10), source="pod.rules")
    with pytest.raises(Undecided, match=r"it ends at rule \d+ of PREROUTING \(pod.rules:\d+\)") as raised:
        bypasses(rules)
    assert "istio-sidecar trace" in str(raised.value)


def test_where_classes_become_too_many_no_rule_is_blamed(monkeypatch) -> None:
    monkeypatch.setattr(space, "CLASSES", 50)
    with pytest.raises(Undecided, match="it ends at all of them together"):
        bypasses(parse_iptables_save(scattered(20)))


def test_a_packet_is_followed_where_all_of_them_cannot_be() -> None:
    assert trace(parse_iptables_save(setting_bits(32)), inbound(80)).fate == "unchanged"


@pytest.mark.parametrize("number", [JUMPS, 10 * JUMPS])
def test_chains_nest_as_deep_as_the_kernel_takes_them(number: int) -> None:
    limit = sys.getrecursionlimit()
    rules = parse_iptables_save(nested(number))
    assert [each.text for each in bypasses(rules).inbound] == ["inbound not tcp"]
    assert trace(rules, inbound(80)).fate == "redirected"
    assert sys.getrecursionlimit() == limit


def test_chains_that_nest_deeper_than_can_be_followed_leave_the_answer_open(monkeypatch) -> None:
    monkeypatch.setattr(memory, "_CALLS", 0)
    with pytest.raises(Undecided, match="more packets apart than can be followed"):
        bypasses(parse_iptables_save(nested(10 * JUMPS)))
