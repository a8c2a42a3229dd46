"""Random rulesets and packets that meet at the edges of what rules can ask.

Knows how iptables-restore takes rules and which chains allow which conditions.
Does not know what the rules mean. Invariant: the same seed gives the same
rulesets and packets, and every ruleset makes conntrack keep each packet's last mark.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from kernel_testbed import TPROXY_PORTS

from pytest_istio_sidecar.netfilter.model import TABLES
from pytest_istio_sidecar.netfilter.packet import Packet

Place = tuple[str, str]
"""A table and a chain."""

PORTS = (22, 53, 79, 80, 81, 443, 1000, 1023, 1024, 8079, 8080, 15001, 15006, 15008, 15020, 15090, 65535)
# `! --dport 0:65535` is left out: no packet matches it, and iptables-save prints nothing for it.
PORT_RANGES = ("80:443", ":1023", "1024:", "8080:15008", "80", "443", "8080", "15020", "1000:1023")
IDS = (0, 1, 999, 1000, 1336, 1337, 1338, 1339)
ID_RANGES = ("1337", "1000", "0", "1337-1338", "999-1336", "1-999", "0-65535")
MARKS = ("0x0", "0x1", "0x1/0x1", "0x539", "0x539/0xfff", "0x10/0xf0", "0x0/0xff")
SETS = ("0x1/0x1", "0x539/0xffffffff", "0x10/0xf0", "0x0/0xffff0000", "0x2/0x0", "0xdead0000/0xffffffff")

OWN = {
    4: ("192.0.2.10", "192.0.2.11", "192.0.2.130"),
    6: ("2001:db8:0:1::10", "2001:db8:0:1::11", "2001:db8:0:2::10"),
}
LOOPBACK = {4: ("127.0.0.1", "127.0.0.6"), 6: ("::1",)}
AWAY = {
    4: ("192.0.2.20", "192.0.2.21", "192.0.2.140", "192.0.2.200"),
    6: ("2001:db8:0:1::20", "2001:db8:0:2::20", "2001:db8:0:9::9"),
}
NETWORKS = {
    4: ("192.0.2.0/25", "192.0.2.8/29", "127.0.0.0/8", "127.0.0.1/32", "127.0.0.6/32", "192.0.2.10/32",
        "192.0.2.128/26", "192.0.2.20/32", "192.0.2.200/32", "0.0.0.10/0.0.0.255", "192.0.2.0/24"),
    6: ("2001:db8:0:1::/64", "::1/128", "2001:db8:0:1::10/128", "2001:db8:0:2::/64", "2001:db8::/32",
        "2001:db8:0:1::8/125", "2001:db8:0:9::9/128"),
}  # fmt: skip


KEEP_MARK = {
    "nat": ("POSTROUTING -j CONNMARK --save-mark",),
    "security": ("INPUT -j CONNMARK --save-mark", "FORWARD -j CONNMARK --save-mark"),
}
"""Last of all hooks, so that the connection has the packet's last mark; these chains have no other rules."""


@dataclass
class Rules:
    """A ruleset as text in parts, so that rules can be taken out one by one."""

    family: int
    chains: dict[Place, list[str]] = field(default_factory=dict)
    policies: dict[Place, str] = field(default_factory=dict)

    def text(self) -> str:
        """For iptables-restore, every table named so that nothing of an earlier ruleset stays."""
        lines = []
        for table, builtins in TABLES.items():
            lines.append(f"*{table}")
            own = [chain for where, chain in self.chains if where == table]
            for chain in dict.fromkeys((*builtins, *own)):
                policy = self.policies.get((table, chain), "ACCEPT") if chain in builtins else "-"
                lines.append(f":{chain} {policy} [0:0]")
            if table == "raw":
                # The kernel's own errors, redirects and multicast reports are not what is tested.
                noise = "icmp" if self.family == 4 else "ipv6-icmp"
                lines += [f"-A {chain} -p {noise} -j DROP" for chain in ("PREROUTING", "OUTPUT")]
            lines += [f"-A {chain} {rule}".rstrip() for chain in own for rule in self.chains[table, chain]]
            lines += [f"-A {rule}" for rule in KEEP_MARK.get(table, ())]
            lines.append("COMMIT")
        return "\n".join(lines) + "\n"

    def places(self) -> list[tuple[Place, int]]:
        return [(place, index) for place, rules in self.chains.items() for index in range(len(rules))]

    def without(self, place: Place, index: int) -> Rules:
        chains = {key: list(rules) for key, rules in self.chains.items()}
        del chains[place][index]
        asked = {rule.split()[-1] for rules in chains.values() for rule in rules if rule}
        chains = {key: rules for key, rules in chains.items() if rules or key[1] in asked}
        return Rules(self.family, chains, dict(self.policies))

    def without_policy(self, place: Place) -> Rules:
        return Rules(self.family, self.chains, {k: v for k, v in self.policies.items() if k != place})


class Generator:
    def __init__(self, seed: str, family: int, *, inverted_pairs: bool) -> None:
        self.random = Random(seed)
        self.family = family
        self.inverted_pairs = inverted_pairs
        """Whether one rule may invert two single ports (iptables-nft 1.8.8 to 1.8.10 stores them wrong)."""
        self._ids = 0

    def rules(self) -> Rules:
        rules = Rules(self.family)
        busy = self.random.choice(
            (("nat",), ("nat", "mangle"), ("nat", "mangle", "filter", "raw"), ("nat", "filter"))
        )
        for table in busy:
            for side, hooks in (("O", ("OUTPUT", "POSTROUTING")), ("P", ("PREROUTING", "INPUT", "FORWARD"))):
                used = [
                    h
                    for h in hooks
                    if h in TABLES[table] and (table != "nat" or h in ("OUTPUT", "PREROUTING"))
                ]
                users = [f"{table[0].upper()}{side}{n}" for n in range(self.random.randint(0, 4))]
                for hook in used:
                    rules.chains[table, hook] = [
                        self._rule(table, hook, hook, users if hook == used[0] or table != "mangle" else [])
                        for _ in range(self.random.randint(0, 5))
                    ]
                    if self.random.random() < 0.08:
                        rules.policies[table, hook] = "DROP"
                for position, user in enumerate(users):
                    rules.chains[table, user] = [
                        self._rule(table, user, used[0], users[position + 1 :])
                        for _ in range(self.random.randint(0, 4))
                    ]
        return rules

    def packets(self, count: int) -> list[Packet]:
        ports = self.random.sample([p for p in range(2, 65536) if p not in TPROXY_PORTS], count)
        return [self._packet(port) for port in ports]

    def _packet(self, source_port: int) -> Packet:
        pick, family = self.random.choice, self.family
        fields: dict[str, object] = {
            "protocol": pick(("tcp", "tcp", "tcp", "udp")),
            "source_port": source_port,
            "destination_port": pick(PORTS),
        }
        if self.random.random() < 0.4:
            interface = pick(("eth0", "eth0", "eth1"))
            near = "192.0.2.20 192.0.2.21" if interface == "eth0" else "192.0.2.140"
            if family == 6:
                near = "2001:db8:0:1::20 2001:db8:0:1::21" if interface == "eth0" else "2001:db8:0:2::20"
            away = [a for a in AWAY[family] if a not in near]
            return Packet(
                hook="PREROUTING",
                in_interface=interface,
                source=pick(near.split()),
                destination=pick((*OWN[family], *OWN[family], *away)),
                **fields,
            )
        destination = pick((*OWN[family], *LOOPBACK[family], *AWAY[family], *AWAY[family]))
        local = destination in (*OWN[family], *LOOPBACK[family])
        return Packet(
            hook="OUTPUT",
            source=pick((*OWN[family], *LOOPBACK[family]) if local else OWN[family]),
            destination=destination,
            uid=pick(IDS),
            gid=pick(IDS),
            mark=pick((0, 0, 1, 0x539, 0x13)),
            **fields,
        )

    def _rule(self, table: str, chain: str, hook: str, users: list[str]) -> str:
        conditions, protocol = self._conditions(chain, hook)
        return " ".join((*conditions, self._target(table, hook, users, protocol))).strip()

    def _conditions(self, chain: str, hook: str) -> tuple[list[str], str]:
        chance, pick = self.random.random, self.random.choice
        found = [
            f"{self._no()}{flag} {pick(NETWORKS[self.family])}" for flag in ("-s", "-d") if chance() < 0.2
        ]
        into, out = hook in ("PREROUTING", "INPUT", "FORWARD"), hook in ("OUTPUT", "POSTROUTING", "FORWARD")
        user = chain != hook
        if (into or user) and chance() < 0.2:
            found.append(f"{self._no()}-i {pick(('eth0', 'eth1', 'lo', 'eth+', 'et', 'l+'))}")
        if (out or user) and chance() < 0.25:
            found.append(f"{self._no()}-o {pick(('eth0', 'eth1', 'lo', 'lo', 'eth+', 'et'))}")
        protocol = pick(("tcp", "tcp", "tcp", "udp", "", "", "! tcp", "! udp"))
        if protocol.startswith("!"):
            found.append(f"! -p {protocol[2:]}")
            protocol = ""
        elif protocol:
            found.append(f"-p {protocol}")
            found += self._ports(protocol)
        makers = (self._owner,) if hook in ("OUTPUT", "POSTROUTING") else ()
        for maker in (*makers, *makers, self._mark, self._state, self._addrtype, self._iprange):
            if chance() < 0.13:
                found.append(maker())
        return found, protocol

    def _ports(self, protocol: str) -> list[str]:
        chance, pick = self.random.random, self.random.choice
        kind = chance()
        if kind < 0.35:
            return [f"-m {protocol} {self._no()}--dport {pick(PORT_RANGES)}"]
        if kind < 0.45:
            first, second = self._no(), self._no()
            if first and second and not self.inverted_pairs:
                second = ""
            return [f"-m {protocol} {first}--sport {pick(PORT_RANGES)} {second}--dport {pick(PORT_RANGES)}"]
        if kind < 0.6:
            ports = ",".join(map(str, self.random.sample(PORTS, 3))) + pick(("", ",2000:9000"))
            return [f"-m multiport {self._no()}{pick(('--dports', '--sports', '--ports'))} {ports}"]
        if protocol == "tcp" and kind < 0.7:
            flags = pick(("FIN,SYN,RST,ACK SYN", "SYN,ACK SYN,ACK", "RST RST", "SYN SYN"))
            return [f"-m tcp {self._no()}--tcp-flags {flags}"]
        return []

    def _owner(self) -> str:
        which = self.random.choice((("uid",), ("uid",), ("gid",), ("uid", "gid")))
        options = (f"{self._no()}--{name}-owner {self.random.choice(ID_RANGES)}" for name in which)
        return f"-m owner {' '.join(options)}"

    def _mark(self) -> str:
        module = self.random.choice(("mark", "mark", "connmark"))
        return f"-m {module} {self._no()}--mark {self.random.choice(MARKS)}"

    def _state(self) -> str:
        states = self.random.choice(
            ("NEW", "RELATED,ESTABLISHED", "INVALID", "NEW,DNAT", "DNAT", "UNTRACKED", "SNAT")
        )
        return f"-m conntrack {self._no()}--ctstate {states}"

    def _addrtype(self) -> str:
        kind = self.random.choice(("LOCAL", "UNICAST", "LOCAL", "MULTICAST") if self.family == 6 else
                                  ("LOCAL", "UNICAST", "BROADCAST", "UNICAST,LOCAL"))  # fmt: skip
        return f"-m addrtype {self._no()}{self.random.choice(('--dst-type', '--src-type'))} {kind}"

    def _iprange(self) -> str:
        ends = "192.0.2.10-192.0.2.20" if self.family == 4 else "2001:db8:0:1::10-2001:db8:0:1::20"
        return f"-m iprange {self._no()}{self.random.choice(('--dst-range', '--src-range'))} {ends}"

    def _no(self) -> str:
        return "! " if self.random.random() < 0.3 else ""

    def _target(self, table: str, hook: str, users: list[str], protocol: str) -> str:
        pick = self.random.choice
        choices = ["", "-j RETURN", "-j RETURN", "-j ACCEPT", f"-j MARK --set-xmark {pick(SETS)}"]
        choices.append(
            pick(("-j CONNMARK --set-xmark 0x1/0x1", "-j CONNMARK --save-mark", "-j CONNMARK --restore-mark"))
        )
        choices += [f"-{pick('jjg')} {user}" for user in users]
        if table in ("filter", "mangle", "raw"):
            choices.append("-j DROP")
        if table == "raw":
            choices.append("-j CT --notrack")
        if table == "mangle" and hook == "PREROUTING" and protocol:
            mark = pick(("0x539/0xffffffff", "0x0/0x0", "0x1/0x1"))
            choices += [
                f"-m addrtype --dst-type LOCAL -j TPROXY --on-port {pick(TPROXY_PORTS)} --tproxy-mark {mark}"
            ]
        if table == "nat":
            choices += [self._nat(hook, protocol) for _ in range(4)]
        return pick(choices)

    def _nat(self, hook: str, protocol: str) -> str:
        self._ids += 1
        port = 20000 + self._ids % 20000
        if not protocol:
            return "-j REDIRECT"
        choices = [f"-j REDIRECT --to-ports {port}"] * 5 + [
            f"-j REDIRECT --to-ports {port}-{port + 9}",
            "-j REDIRECT",
            "-j REDIRECT --random",
            f"-j REDIRECT --to-ports {port} --random",
        ]
        choices += ["-j REDIRECT --to-ports 8000-15010"] * 3
        addresses = (*OWN[self.family], *AWAY[self.family], *LOOPBACK[self.family])
        if self.family == 6 and hook == "PREROUTING":
            # What comes in for ::1 is not delivered; whether it is dropped or sent on is up to the routes.
            addresses = (*OWN[6], *AWAY[6])
        address = self.random.choice(addresses)
        shown = f"[{address}]" if self.family == 6 else address
        choices += [f"-j DNAT --to-destination {shown}:{port}", f"-j DNAT --to-destination {address}"]
        choices.append(f"-j DNAT --to-destination :{port}")
        return self.random.choice(choices)
