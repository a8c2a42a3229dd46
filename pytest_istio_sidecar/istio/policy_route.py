"""The policy route that TPROXY rests on: what bears its mark is for this host, wherever it is sent.

Knows which one istio-iptables makes, and how `ip rule` and `ip route` show it (ip-rule(8),
ip-route(8)). Does not know what is lost without it. Invariant: a mark counts as routed only if the
kernel comes to its rule before the main table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.release import ONE_LAYOUT_SINCE
from pytest_istio_sidecar.istio.versions import number_of
from pytest_istio_sidecar.netfilter.matches import FULL_MASK
from pytest_istio_sidecar.netfilter.model import Family

_RULE = re.compile(r"(\d+):\s+(.*?)\s*(?:lookup (\S+))?(?: proto \S+)?\s*")
_MARKED = re.compile(r"from all fwmark (0x[0-9a-f]+)(?:/(0x[0-9a-f]+))?")
_LOCAL = re.compile(r"local (?:default|0\.0\.0\.0/0|::/0) dev lo (?:.* )?table (\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRoute:
    """Packets with a mark are looked up in a table that calls every destination local."""

    family: Family
    mark: int
    table: str

    def commands(self) -> tuple[str, str]:
        """What makes it."""
        ip, everything = ("ip", "0.0.0.0/0") if self.family == 4 else ("ip -6", "::/0")
        return (
            f"{ip} rule add fwmark {self.mark} lookup {self.table}",
            f"{ip} route add local {everything} dev lo table {self.table}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRouting:
    """The policy routes of one family in a network namespace.

    Attributes:
        marks: (mark, mask, table) of each rule that looks a mark up before the main table, in order.
        late: the same of the rules that come after it.
        local: tables that call every destination local.
    """

    marks: tuple[tuple[int, int, str], ...] = ()
    late: tuple[tuple[int, int, str], ...] = ()
    local: frozenset[str] = frozenset()

    def table_of(self, mark: int) -> str | None:
        """The table that packets with this mark are looked up in; None: in no other than all."""
        return _table(self.marks, mark)

    def late_table_of(self, mark: int) -> str | None:
        """The same of rules that the main table comes before."""
        return _table(self.late, mark)


Routings = Mapping[Family, PolicyRouting]


def expected_policy_routes(version: str, options: IstioOptions) -> tuple[PolicyRoute, ...]:
    """The policy routes that istio-init of a release makes.

    Only in TPROXY mode, and only where inbound ports are captured; of IPv6 since 1.12
    (tools/istio-iptables/pkg/cmd/run.go, pkg/capture/run.go; tools/common/tproxy since 1.27).

    Raises:
        UsageProblem: the release is none.
    """
    if options.inbound_interception_mode != "TPROXY" or not options.inbound_ports_include:
        return ()
    families: list[Family] = [4]
    if options.enable_ipv6 and number_of(version) >= ONE_LAYOUT_SINCE:
        families.append(6)
    mark, table = int(options.inbound_tproxy_mark, 0), options.inbound_tproxy_route_table
    return tuple(PolicyRoute(family=family, mark=mark, table=table) for family in families)


def parse_policy_routing(rules: str, routes: str) -> PolicyRouting:
    """Read `ip rule show` and `ip route show table all` of one family.

    Raises:
        ParseError: a line of the rules is none.
    """
    before: list[tuple[int, int, str]] = []
    after: list[tuple[int, int, str]] = []
    current = before
    for line in rules.splitlines():
        rule = _RULE.fullmatch(line.strip())
        if rule is None:
            raise ParseError(f"ip rule printed what is no rule: {line!r}")
        _, selector, table = rule.groups()
        marked = _MARKED.fullmatch(selector)
        if selector == "from all" and table == "main":
            current = after
        elif marked is not None and table is not None:
            current.append((int(marked[1], 16), int(marked[2] or hex(FULL_MASK), 16), table))
    local = (_LOCAL.match(line.strip()) for line in routes.splitlines())
    return PolicyRouting(
        marks=tuple(before), late=tuple(after), local=frozenset(match[1] for match in local if match)
    )


def _table(rules: tuple[tuple[int, int, str], ...], mark: int) -> str | None:
    return next((table for value, mask, table in rules if mark & mask == value), None)
