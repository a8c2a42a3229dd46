"""Random policy rules and routes for the namespace "pod", as lines of `ip -batch`.

Knows which of them the test bed's packets can show. Does not know where they lead. Invariant: the same seed
gives the same lines; a rule that takes a local destination to another host is for packets of processes
only, as the kernel refuses what comes from an address that it would call its own.
"""

from __future__ import annotations

from random import Random

from kernel_generator import AWAY, NETWORKS, OWN
from kernel_testbed import NEIGHBOURS

TABLES = ("100", "101", "102")
MARKS = ("0x1", "0x1/0x1", "0x539", "0x10/0xf0", "0x13", "0x2/0x2", "0xdead0000/0xffff0000")
USERS = ("1000-1000", "0-0", "1-999", "1337-1338", "0-65535")


def routing_lines(seed: str, family: int) -> list[str]:
    """Rules and routes; those that the kernel refuses are to be left out by who loads them."""
    random = Random(seed)
    lines = [
        f"route add {_route(random, family)} table {table}"
        for table in TABLES
        for _ in range(random.randint(0, 4))
    ]
    priorities = sorted(random.sample(range(1, 400), random.randint(1, 6)))
    for priority in priorities:
        later = [other for other in priorities if other > priority]
        lines.append(f"rule add pref {priority} {_selector(random, family)} {_action(random, later)}")
    if random.random() < 0.25:
        own = random.choice(OWN[family])
        lines.append(f"route del local {own} table local")
    if random.random() < 0.2:
        lines += ["rule add pref 500 lookup local", "rule del pref 0"]
    return lines


def _destination(random: Random, family: int) -> str:
    plain = [
        network for network in NETWORKS[family] if network.count(".") < 4 and not network.startswith("0")
    ]
    host = 32 if family == 4 else 128
    return random.choice(("default", "default", *plain, *(f"{away}/{host}" for away in AWAY[family])))


def _route(random: Random, family: int) -> str:
    destination = _destination(random, family)
    kind = random.choices(("sent", "lo", "local", "nowhere", "throw"), (5, 3, 2, 1, 1))[0]
    if kind == "sent":
        device = random.choice(("eth0", "eth1"))
        near = next(address for address in NEIGHBOURS[device] if (":" in address) is (family == 6))
        return f"{destination} via {near} dev {device} onlink"
    if kind == "lo" and family == 4:  # of IPv6 such a packet goes round until its hop limit
        return f"{destination} dev lo"
    if kind == "local":
        return f"local {destination} dev lo"
    if kind == "throw":
        return f"throw {destination}"
    return f"{random.choice(('blackhole', 'unreachable', 'prohibit'))} {destination}"


def _selector(random: Random, family: int) -> str:
    parts = []
    if random.random() < 0.45:
        parts.append(f"fwmark {random.choice(MARKS)}")
    if random.random() < 0.3:
        parts.append(f"uidrange {random.choice(USERS)}")
    if random.random() < 0.3:
        parts.append(f"to {_prefix(random, family)}")
    if random.random() < 0.15:
        parts.append(f"iif {random.choice(('eth0', 'eth1', 'lo'))}")
    inverted = "not " if parts and random.random() < 0.2 else ""
    return inverted + " ".join(parts)


def _prefix(random: Random, family: int) -> str:
    destination = _destination(random, family)
    return ("0.0.0.0/0" if family == 4 else "::/0") if destination == "default" else destination


def _action(random: Random, later: list[int]) -> str:
    chosen = random.random()
    if chosen < 0.07 and later:
        return f"goto {random.choice(later)}"
    if chosen < 0.12:
        return random.choice(("blackhole", "unreachable", "prohibit"))
    if chosen < 0.2:
        return "lookup main suppress_prefixlength 0"
    return f"lookup {random.choice(TABLES)}"
