"""What becomes of all packets in a random nat table, told without the code under test.

Knows rules as plain values, their written form, and two ways to judge them: by cutting the space into
disjoint cubes, and as a formula. Does not know diagrams. Invariant: nothing is imported from the project.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from random import Random

FIELDS = ("protocol", "interface", "uid", "gid", "source", "destination", "destination_port", "source_port")
PROTOCOLS = {"tcp": 6, "udp": 17}
PORTS = ((22, 22), (80, 443), (0, 1023), (1024, 65535), (15001, 15001), (8080, 15008))
IDS = ((0, 0), (1337, 1337), (1337, 1338), (1, 999), (0, 65535))
NETWORKS = {
    4: ("192.0.2.0/25", "192.0.2.10/32", "127.0.0.0/8", "127.0.0.1/32", "0.0.0.0/1", "198.51.100.0/24"),
    6: ("2001:db8::/32", "2001:db8::10/128", "::1/128", "2001:db8:0:1::/64", "8000::/1"),
}
NAMES = ("eth0", "eth1", "lo", "eth+", "e+", "other")


@dataclass
class Rule:
    """Conditions as a field, closed intervals (of an interface: names) and whether they are inverted."""

    words: list[str] = field(default_factory=list)
    asked: list[tuple[str, object, bool]] = field(default_factory=list)
    target: tuple[str, str] | None = None

    def text(self) -> str:
        flag = {"REDIRECT": "-j REDIRECT --to-ports", "jump": "-j", "goto": "-g", "verdict": "-j"}
        told = [] if self.target is None else [f"{flag[self.target[0]]} {self.target[1]}"]
        return " ".join([*self.words, *told])


@dataclass
class RandomTable:
    hook: str
    policy: str
    chains: dict[str, list[Rule]]

    def text(self) -> str:
        lines = ["*nat", f":{self.hook} {self.policy} [0:0]"]
        lines += [f":{name} - [0:0]" for name in self.chains if name != self.hook]
        lines += [f"-A {name} {rule.text()}" for name, rules in self.chains.items() for rule in rules]
        return "\n".join([*lines, "COMMIT", ""])


def random_table(random: Random, hook: str, family: int) -> RandomTable:
    users = [f"USER{number}" for number in range(random.randint(1, 4))]
    names = [hook, *users]
    chains = {
        name: [_rule(random, hook, family, names[place + 1 :]) for _ in range(random.randint(2, 5))]
        for place, name in enumerate(names)
    }
    return RandomTable(hook, random.choice(("ACCEPT", "ACCEPT", "DROP")), chains)


def _rule(random: Random, hook: str, family: int, below: list[str]) -> Rule:
    rule = Rule()

    def ask(name: str, flag: str, text: str, value: object) -> None:
        negated = random.random() < 0.3
        rule.words.append(f"{'! ' if negated else ''}{flag} {text}")
        rule.asked.append((name, value, negated))

    for name, flag in (("source", "-s"), ("destination", "-d")):
        if random.random() < 0.3:
            network = ipaddress.ip_network(random.choice(NETWORKS[family]))
            ask(name, flag, str(network), [(int(network[0]), int(network[-1]))])
    if random.random() < 0.3:
        held = random.choice(NAMES)
        ask("interface", "-o" if hook == "OUTPUT" else "-i", held, held)
    if random.random() < 0.7:
        protocol = random.choice(tuple(PROTOCOLS))
        rule.words.append(f"-p {protocol} -m {protocol}")
        rule.asked.append(("protocol", [(PROTOCOLS[protocol],) * 2], False))
        for name, flag in (("destination_port", "--dport"), ("source_port", "--sport")):
            if random.random() < 0.4:
                low, high = random.choice(PORTS)
                ask(name, flag, f"{low}:{high}", [(low, high)])
        rule.target = ("REDIRECT", str(random.choice((15001, 15006, 9000))))
    if hook == "OUTPUT" and random.random() < 0.4:
        rule.words.append("-m owner")
        for name in random.sample(("uid", "gid"), random.randint(1, 2)):
            low, high = random.choice(IDS)
            # 0 stands for no socket, an id for its number plus one.
            ask(name, f"--{name}-owner", f"{low}-{high}", [(low + 1, high + 1)])
    others = [("verdict", "RETURN"), ("verdict", "ACCEPT"), None]
    others += [(kind, name) for name in below for kind in ("jump", "jump", "goto")]
    if rule.target is None or random.random() < 0.6:
        rule.target = random.choice(others)
    return rule


class Domain:
    """The values of each field, and what a condition allows of them."""

    def __init__(self, interfaces: tuple[str, ...], family: int) -> None:
        self.interfaces = interfaces
        top = (1 << (32 if family == 4 else 128)) - 1
        self.tops = (255, len(interfaces) - 1, 0xFFFFFFFF, 0xFFFFFFFF, top, top, 65535, 65535)

    def allowed(self, asked: tuple[str, object, bool]) -> tuple[int, list[tuple[int, int]]]:
        """A field's place, and the closed intervals that the condition leaves it, inversion included."""
        name, value, negated = asked
        place = FIELDS.index(name)
        if isinstance(value, str):
            same = [
                i
                for i, held in enumerate(self.interfaces)
                if (held.startswith(value[:-1]) if value.endswith("+") else held == value)
            ]
            return place, [(i, i) for i in range(len(self.interfaces)) if (i in same) is not negated]
        if not negated:
            return place, value  # type: ignore[return-value]
        ((low, high),) = value  # type: ignore[misc]
        top = self.tops[place]
        return place, [(a, b) for a, b in ((0, low - 1), (high + 1, top)) if a <= b]


Cube = tuple[tuple[int, int], ...]


def cube_volumes(table: RandomTable, domain: Domain) -> dict[str, int]:
    """How many packets have each fate: the space cut into disjoint cubes along the rules."""
    found: dict[str, int] = {}

    def end(fate: str, cubes: list[Cube]) -> None:
        for cube in cubes:
            size = 1
            for low, high in cube:
                size *= high - low + 1
            found[fate] = found.get(fate, 0) + size

    def walk(name: str, cubes: list[Cube]) -> list[Cube]:
        """The packets that come back out of the chain."""
        back: list[Cube] = []
        for rule in table.chains[name]:
            if rule.target is None:
                continue
            matched, cubes = _cut(cubes, [domain.allowed(asked) for asked in rule.asked])
            kind, value = rule.target
            if kind == "jump":
                cubes = cubes + walk(value, matched)
            elif kind == "goto":
                back += walk(value, matched)
            elif value == "RETURN":
                back += matched
            else:
                end(value, matched)
        return back + cubes

    end(table.policy, walk(table.hook, [tuple((0, top) for top in domain.tops)]))
    return found


def _cut(
    cubes: list[Cube], conditions: list[tuple[int, list[tuple[int, int]]]]
) -> tuple[list[Cube], list[Cube]]:
    """Pieces that meet all conditions, and the others."""
    rest: list[Cube] = []
    for place, intervals in conditions:
        inside: list[Cube] = []
        for cube in cubes:
            start, end = cube[place]
            for low, high in sorted(intervals):
                if high < start or low > end:
                    continue
                if start < low:
                    rest.append((*cube[:place], (start, low - 1), *cube[place + 1 :]))
                inside.append((*cube[:place], (max(start, low), min(end, high)), *cube[place + 1 :]))
                start = high + 1
            if start <= end:
                rest.append((*cube[:place], (start, end), *cube[place + 1 :]))
        cubes = inside
    return cubes, rest


def formula(z3, table: RandomTable, domain: Domain, variables, codes: dict[str, int]):
    """The code of a packet's fate as a term over z3's variables, one for each field."""

    def meets(rule: Rule):
        terms = []
        for asked in rule.asked:
            place, intervals = domain.allowed(asked)
            held = variables[place]
            terms.append(z3.Or([z3.And(held >= low, held <= high) for low, high in intervals]))
        return z3.And(terms)

    def fate(name: str, place: int, after):
        if place == len(table.chains[name]):
            return after
        rule = table.chains[name][place]
        rest = fate(name, place + 1, after)
        if rule.target is None:
            return rest
        kind, value = rule.target
        if kind in ("jump", "goto"):
            then = fate(value, 0, rest if kind == "jump" else after)
        else:
            then = after if value == "RETURN" else z3.IntVal(codes[value])
        return z3.If(meets(rule), then, rest)

    return fate(table.hook, 0, z3.IntVal(codes[table.policy]))
