"""Random rulesets of nf_tables, and packets that meet at the edges of what their rules can ask.

Knows the grammar of nft, and which chains take which statements. Does not know what rules mean. Invariant:
the same seed gives the same rulesets and packets; of every rule the counter stands behind its leading
conditions, and every ruleset makes conntrack keep each packet's last mark.
"""

from __future__ import annotations

from collections.abc import Callable

from kernel_generator import AWAY, IDS, LOOPBACK, OWN, PORTS, Generator
from kernel_testbed import TPROXY_PORTS
from nft_ruleset import Chain, NftRules, Table

from pytest_istio_sidecar.netfilter.kernel.hooks import base_chains
from pytest_istio_sidecar.netfilter.model import TABLES, Backend, Ruleset
from pytest_istio_sidecar.netfilter.model import Chain as RuleChain
from pytest_istio_sidecar.netfilter.model import Table as RuleTable

HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
PRIORITIES = (-400, -300, -250, -199, -150, -150, -101, -99, -50, 0, 0, 10, 50, 99, 150, 300)
NAT_PRIORITIES = (-199, -150, -100, -100, -50, 0, 100)
NAT_HOOKS = ("prerouting", "output")


class NftGenerator(Generator):
    """Makes rulesets of several tables; packets are those of the generator of iptables' rules."""

    def __init__(self, seed: str, family: int) -> None:
        super().__init__(seed, family, inverted_pairs=False)
        self.pick: Callable = self.random.choice
        self.taken: dict[tuple[str, bool, int], str] = {}
        """By hook, whether of type nat, and priority, the table that has a chain there."""
        self.scattered = True
        """Whether ports are asked for under masks, by which no diagram of all packets is small."""
        self.of = "tcp"
        """The protocol that a rule asks for, where it asks for ports."""
        self.other = False
        """Whether a rule asks for packets of the other family, of which there are none."""
        self.doubt = 0.001
        """How often a condition asks for what is not modelled."""

    def nft_rules(self, *, beside_legacy: bool = False) -> NftRules:
        own = "ip" if self.family == 4 else "ip6"
        self.taken = {}
        if beside_legacy:
            legacy = Ruleset(
                tables=tuple(
                    RuleTable(name=table, chains=tuple(RuleChain(name=hook) for hook in hooks))
                    for table, hooks in TABLES.items()
                ),
                backend=Backend.LEGACY,
            )
            for base in base_chains(legacy):
                self.taken[base.hook.lower(), base.type == "nat", base.priority] = "legacy"
        kinds = self.random.sample(
            [(own, "nat"), ("inet", "istio"), (own, "evil"), ("inet", "other"), ("netdev", "early")],
            self.pick((1, 2, 2, 3)),
        )
        if self.random.random() < 0.9 and all(family == "netdev" for family, _ in kinds):
            kinds.append(("inet", "istio"))
        return NftRules([self._table(*kind) for kind in kinds])

    def _table(self, family: str, name: str) -> Table:
        table = Table(family, name)
        if self.random.random() < 0.06:
            table.declared.append("flags dormant;")
        table.declared += self._sets(family)
        if family == "netdev":
            self._base(
                table, "ingress", "filter", self.pick((0, -10)), device=self.pick(("eth0", "eth1", "lo"))
            )
            return table
        for hook in HOOKS:
            nat = hook in NAT_HOOKS
            for kind, chance in (("nat", 0.8 if nat else 0), ("filter", 0.35), ("route", 0.3)):
                if kind == "route" and hook != "output":
                    continue
                for _ in range(2 if self.random.random() < 0.15 else 1):
                    if self.random.random() < chance:
                        self._base(table, hook, kind, self._priority(table, hook, nat=kind == "nat"))
        self.random.shuffle(table.chains)
        return table

    def _priority(self, table: Table, hook: str, *, nat: bool) -> int:
        """Mostly one that no other table has: in which order those are asked is not known."""
        while True:
            priority = self.pick(NAT_PRIORITIES if nat else PRIORITIES)
            name = f"{table.family} {table.name}"
            if self.taken.setdefault((hook, nat, priority), name) == name or self.random.random() < 0.001:
                return priority

    def _sets(self, family: str) -> list[str]:
        own = "ipv4_addr" if self.family == 4 else "ipv6_addr"
        ports = ", ".join(
            map(str, self.random.sample([port for port in PORTS if not 2000 <= port <= 9000], 3))
        )
        hosts = ", ".join(self.random.sample(self._addresses(), 2))
        pairs = f"{self._pair()}, {self._pair(network=True)}"
        verdicts = "80 : accept, 443 : return, 8080 : continue"
        made = [
            f"set ports {{ type inet_service; flags interval; elements = {{ {ports}, 2000-9000 }} }}",
            f"set hosts {{ type {own}; elements = {{ {hosts} }} }}",
            "set marks { type mark; flags interval; elements = { 0x1, 0x10-0x1f } }",
            f"set both {{ type {own} . inet_service; flags interval; elements = {{ {pairs} }} }}",
            'set names { type ifname; elements = { "lo", "eth1" } }',
            f"map verdicts {{ type inet_service : verdict; elements = {{ {verdicts} }} }}",
            "map numbers { type inet_service : mark; elements = { 80 : 0x1, 443 : 0x539 } }",
        ]
        return made if family != "netdev" else made[:5]

    def _addresses(self) -> list[str]:
        return [*OWN[self.family], *AWAY[self.family], *LOOPBACK[self.family]]

    def _pair(self, *, network: bool = False) -> str:
        address = self._network() if network else self.pick(self._addresses())
        return f"{address} . {self.pick((*PORTS, '100-9000'))}"

    def _network(self) -> str:
        if self.family == 4:
            return self.pick(("192.0.2.0/25", "192.0.2.8/29", "127.0.0.0/8", "192.0.2.128/26"))
        return self.pick(("2001:db8:0:1::/64", "2001:db8::/32", "2001:db8:0:1::8/125"))

    def _base(self, table: Table, hook: str, kind: str, priority: int, device: str = "") -> None:
        number = len(table.chains)
        users = [f"u{number}{end}" for end in "abc"[: self.random.randint(0, 3)]]
        policy = "drop" if self.random.random() < 0.04 else "accept"
        at = f" device {device}" if device else ""
        base = Chain(
            f"b{number}-{hook}", f"type {kind} hook {hook}{at} priority {priority}; policy {policy};"
        )
        base.rules = [
            self._nft_rule(table, kind, hook, priority, users) for _ in range(self.random.randint(1, 5))
        ]
        table.chains.append(base)
        for position, user in enumerate(users):
            rules = [
                self._nft_rule(table, kind, hook, priority, users[position + 1 :])
                for _ in range(self.random.randint(0, 3))
            ]
            table.chains.append(Chain(user, "", rules))

    def _nft_rule(self, table: Table, kind: str, hook: str, priority: int, users: list[str]) -> str:
        self.of = self.pick(("tcp", "tcp", "tcp", "udp", "udp", "th"))
        self.other = table.family == "inet" and self.random.random() < 0.06
        protocol, words = self._nft_conditions(table, hook)
        words.append("counter")
        if kind == "nat" and self.random.random() < 0.5:
            return " ".join((*words, self._nft_nat(table, hook, protocol)))
        while self.random.random() < 0.3:
            words.append(self._statement(table, hook, priority))
            if self.random.random() < 0.5:
                words += self._nft_conditions(table, hook, protocol, first=False)[1]
        words.append(self._end(table, kind, hook, users, protocol))
        return " ".join(filter(None, words))

    def _nft_conditions(
        self, table: Table, hook: str, protocol: str = "", *, first: bool = True
    ) -> tuple[str, list[str]]:
        """The protocol with ports that the conditions ask for, if they do, and the conditions."""
        found: list[str] = []
        if self.of == "th":
            protocol = "th"
            found += ["meta l4proto { tcp, udp }"] if first else []
        elif self.random.random() < 0.4 and not protocol:
            protocol = self.of
            form = self.pick(("meta l4proto {}", "meta l4proto {}", "{} dport != 1"))
            if table.family == "ip":
                form = self.pick((form, "ip protocol {}"))
            elif table.family == "ip6":
                form = self.pick((form, "ip6 nexthdr {}"))
            found.append(form.format(protocol))
        elif self.random.random() < 0.1:
            found.append(self.pick(("meta l4proto != 50-60", "meta l4proto != icmp")))
        makers: list[Callable[[Table, str], str]] = [
            self._port,
            self._port,
            self._nft_address,
            self._nft_address,
            self._device,
            self._nft_mark,
            self._concat,
        ]
        if table.family != "netdev":
            # Of what was handed to a socket, at INPUT, the user is not known.
            makers += [self._nft_owner] * (2 if hook != "input" or self.random.random() < 0.1 else 0)
            makers += [
                self._nft_state,
                self._nft_state,
                self._ct_mark,
                self._fib,
            ]
        for maker in makers:
            if self.random.random() < 0.12 * (1 if first else 1.5):
                found.append(maker(table, protocol or ""))
        if self.random.random() < self.doubt:
            found.append(self.pick(("limit rate 1/second", "meta length < 50", "numgen inc mod 2 == 0")))
        self.random.shuffle(found)
        begins = ("meta l4proto", "ip protocol", "ip6 nexthdr")
        found.sort(key=lambda each: (each.startswith("ct original"), not each.startswith(begins)))
        return protocol, found

    def _values(self, values: list[str], named: str = "") -> str:
        """One value, some in a set, or inverted."""
        some = self.random.sample(values, min(3, len(values)))
        return self.pick(
            (
                some[0],
                some[0],
                f"!= {some[0]}",
                f"{{ {', '.join(some)} }}",
                f"!= {{ {', '.join(some)} }}",
                *((f"@{named}", f"!= @{named}") if named else ()),
            )
        )

    def _port(self, _table: Table, protocol: str) -> str:
        port = self.pick(("dport", "dport", "sport"))
        of = self.of
        if self.random.random() < 0.25:
            ranges = ("80-443", "!= 80-443", ">= 1024", "< 1024", "> 15000", "1-65535")
            return f"{of} {port} " + self.pick(
                (*ranges, "& 1 == 1", "& 0xf != 0") if self.scattered else ranges
            )
        asked = self._values(list(map(str, PORTS)), "ports")
        if port == "sport" and asked.removeprefix("!= ").isdecimal():
            # Beside an inverted destination nft 1.0.6 would keep both in one comparison.
            asked = asked.removeprefix("!= ")
        return f"{of} {port} {asked}"

    def _nft_address(self, table: Table, _protocol: str) -> str:
        family = (10 - self.family) if self.other else self.family
        own = "ip" if family == 4 else "ip6"
        side = self.pick(("saddr", "daddr", "daddr"))
        if table.family == "inet" and self.random.random() < 0.15:
            own_number = "ipv4" if family == 4 else "ipv6"
            other_number = "ipv6" if family == 4 else "ipv4"
            return self.pick((f"meta nfproto {own_number}", f"meta nfproto != {other_number}"))
        if self.other:
            return f"{own} {side} " + self._values([*OWN[family], *LOOPBACK[family]])
        if self.random.random() < 0.3:
            pair = (
                ("192.0.2.10", "192.0.2.140") if self.family == 4 else ("2001:db8:0:1::10", "2001:db8:0:2::1")
            )
            mask, value = ("0.0.0.255", "0.0.0.10") if self.family == 4 else ("::ff", "::10")
            return f"{own} {side} " + self.pick(
                (
                    f"{pair[0]}-{pair[1]}",
                    f"!= {pair[0]}-{pair[1]}",
                    f"& {mask} == {value}",
                    f"& {mask} != {value}",
                    self._network(),
                    f"!= {self._network()}",
                    f"< {pair[1]}",
                )
            )
        return f"{own} {side} " + self._values(self._addresses(), "hosts")

    def _device(self, table: Table, _protocol: str) -> str:
        key = self.pick(("iifname", "oifname")) if table.family != "netdev" else "iifname"
        if self.random.random() < 0.2:
            return f"{key[:3]} {self.pick(('lo', 'eth0', '!= lo', '{ lo, eth1 }'))}"
        names = ['"eth0"', '"eth1"', '"lo"', '"none"']
        return f"{key} " + self.pick(
            (self._values(names, "names"), '"eth*"', '!= "eth*"', '"e*"', '{ "eth*", "lo" }')
        )

    def _nft_mark(self, _table: Table, _protocol: str) -> str:
        return "meta mark " + self.pick(
            (
                "0x0",
                "0x1",
                "!= 0x539",
                "& 0xf == 0x1",
                "& 0xff != 0x0",
                "1-100",
                "{ 0x1, 0x539, 0x10-0x20 }",
                "@marks",
                "!= @marks",
                "& 0xff00 == 0x100",
                "> 0x5",
            )
        )

    def _ct_mark(self, _table: Table, _protocol: str) -> str:
        return "ct mark " + self.pick(
            ("0x0", "0x1", "!= 0x0", "& 0xf == 0x1", "{ 0x0, 0x539 }", "!= 0x1-0x600")
        )

    def _nft_owner(self, _table: Table, _protocol: str) -> str:
        key = self.pick(("skuid", "skuid", "skgid"))
        ranged = ("1000-1337", "!= 1000-1337", ">= 1000", "< 1000")
        return f"meta {key} " + self.pick((self._values(list(map(str, IDS))), self.pick(ranged)))

    def _nft_state(self, _table: Table, protocol: str) -> str:
        choices = [
            "ct state new",
            "ct state established,related",
            "ct state new,established",
            "ct state invalid,new",
            "ct state != new",
            "ct state { new, untracked }",
            "ct state != established,related",
            "ct state invalid",
            "ct state untracked",
            "ct state != { new, invalid }",
            "ct status dnat",
            "ct direction original",
            "ct direction reply",
            "ct status & (dnat|snat) == dnat",
            "ct zone 0",
            "ct zone != 5",
        ]
        if protocol:
            choices += (
                [f"meta l4proto {protocol} ct original proto-dst {self.pick(PORTS)}"]
                if protocol != "th"
                else []
            )
            choices += (
                [
                    "tcp flags syn",
                    "tcp flags & (fin|syn|rst|ack) == syn",
                    "tcp flags & (syn|ack) != syn",
                    "tcp flags { fin, rst }",
                ]
                if protocol == "tcp"
                else []
            )
        own = "ip" if self.family == 4 else "ip6"
        if not self.other:
            choices.append(f"ct original {own} daddr {self.pick(self._addresses())}")
        return self.pick(choices)

    def _fib(self, _table: Table, _protocol: str) -> str:
        return f"fib {self.pick(('daddr', 'daddr', 'saddr'))} type " + self.pick(
            ("local", "!= local", "unicast", "{ local, multicast }")
        )

    def _concat(self, table: Table, protocol: str) -> str:
        own = "ip" if self.family == 4 else "ip6"
        of = self.of
        if self.other:
            return "meta mark 0x0"
        inverted = self.pick(("", "", "!= "))
        address = self.pick(self._addresses())
        forms = [
            f"{own} daddr . {of} dport {inverted}{{ {self._pair()}, {self._pair(network=True)} }}",
            f"{own} daddr . {of} dport {inverted}@both",
            f'iifname . {of} dport {inverted}{{ "lo" . 80, "eth0" . 443, "eth1" . 1000-9000 }}',
            f"meta mark . {of} dport {inverted}{{ 0x1 . 80, 0x0 . 443, 0x0 . 8080 }}",
            f"meta l4proto . {own} saddr {inverted}{{ tcp . {address}, udp . {self._network()} }}",
        ]
        if table.family != "netdev":
            forms.append(f"meta skuid . {of} dport {inverted}{{ 1337 . 80, 1000 . 443, 0 . 1000-9000 }}")
        return self.pick(forms)

    def _statement(self, table: Table, hook: str, priority: int) -> str:
        choices = [
            "meta mark set 0x1",
            "meta mark set 0x539",
            "meta mark set mark or 0x10",
            "meta mark set mark xor 0x3",
            "meta mark set mark and 0xff",
            "meta mark set mark & 0xf0 | 0x1",
        ]
        if table.family != "netdev":
            choices += [
                "meta mark set ct mark",
                "ct mark set mark",
                "ct mark set 0x1",
                "ct mark set ct mark or 0x5",
                "meta mark set ct mark and 0xf",
                f"meta mark set {self.of} dport map {{ 80 : 0x1, 443 : 0x2 }}",
                f"meta mark set {self.of} dport map @numbers",
                "meta mark set mark map { 0x0 : 0x10, 0x1 : 0x0 }",
            ]
            if hook in NAT_HOOKS and (priority < -200 or self.random.random() < 0.1):
                choices += ["notrack", "ct zone set 5", "ct zone set 5"]
        return self.pick(choices)

    def _end(self, table: Table, kind: str, hook: str, users: list[str], protocol: str) -> str:
        choices = ["", "", "accept", "return", "return", "continue"]
        choices += [f"{self.pick(('jump', 'jump', 'goto'))} {user}" for user in users]
        if kind != "nat":
            choices.append("drop")
        choices += [self._vmap(table, kind, hook, users)] * 2
        if kind == "filter" and hook == "prerouting" and protocol and not self.other:
            own = (
                self.pick(("ip " if self.family == 4 else "ip6 ", "ip " if self.family == 4 else "ip6 "))
                if table.family == "inet"
                else ""
            )
            choices += [
                f"fib daddr type local tproxy {own}to :{self.pick(TPROXY_PORTS)} {self._after_tproxy()}"
            ] * 3
        return self.pick(choices)

    def _after_tproxy(self) -> str:
        return self.pick(("", "accept", "meta mark set 0x539 accept", "return", "meta mark set 0x1"))

    def _vmap(self, table: Table, kind: str, hook: str, users: list[str]) -> str:
        verdicts = [
            "accept",
            "return",
            "continue",
            *(f"jump {user}" for user in users),
            *(f"goto {user}" for user in users),
            *(["drop"] if kind != "nat" else []),
        ]
        own = "ip" if self.family == 4 else "ip6"
        of = self.of
        forms = [
            (f"{of} dport", ["80", "443", "8000-9000", "15001"]),
            ("meta l4proto", ["tcp", "udp"]),
            ("iifname", ['"lo"', '"eth0"', '"eth1"']),
            ("meta mark", ["0x0", "0x1", "0x539"]),
        ]
        if not self.other:
            forms += [
                (f"{own} daddr . {of} dport", [self._pair()]),
                (f"{own} saddr", self.random.sample(self._addresses(), 2)),
            ]
        if table.family != "netdev":
            forms += [
                ("ct state", ["new", "invalid", "untracked"]),
                ("meta skuid", ["1337", "1000", "0-999"]),
            ]
            if self.random.random() < 0.1:
                return f"{of} dport vmap @verdicts"
        key, values = self.pick(forms)
        pairs = [f"{value} : {self.pick(verdicts)}" for value in values]
        if self.random.random() < 0.2 and " . " not in key:
            pairs.append(f"* : {self.pick(verdicts)}")
        return f"{key} vmap {{ {', '.join(pairs)} }}"

    def _nft_nat(self, table: Table, hook: str, protocol: str) -> str:
        self._ids += 1
        port = 20000 + self._ids % 20000
        addresses = [*OWN[self.family], *AWAY[self.family], *LOOPBACK[self.family]]
        if self.family == 6 and hook == "prerouting":
            # What comes in for ::1 is not delivered; whether it is dropped or sent on is up to the routes.
            addresses = [*OWN[6], *AWAY[6]]
        address = self.pick(addresses)
        own = " ip" if self.family == 4 else " ip6"
        named = own if table.family == "inet" else ""
        if self.other:
            return "redirect"
        if not protocol:
            return self.pick(("redirect", f"dnat{named} to {address}"))
        shown = f"[{address}]" if self.family == 6 else address
        return self.pick(
            [f"redirect to :{port}"] * 5
            + [
                f"redirect to :{port}-{port + 9}",
                "redirect",
                "redirect to :8000-15010",
                f"redirect to :{protocol} dport map {{ 80 : {port}, 443 : 15001, 8000-9000 : 15006 }}",
                f"dnat{named} to {shown}:{port}",
                f"dnat{named} to {address}",
                f"dnat to :{port}",
                f"dnat{named} to {protocol} dport map {{ 80 : {address}, 443 : {self.pick(addresses)} }}",
                f"dnat{named} to {protocol} dport map {{ 80 : {address} . {port}, 8080 : {address} . 99 }}",
                f"dnat{named} to {own.strip()} saddr map {{ {self.pick(self._addresses())} : {address} }}",
            ]
        )
