"""Does what TPROXY marks stay in the pod?

Knows which mark needs which policy route, and what is lost without. Does not know how routes were
read. Invariant: one finding for each mark of a family.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_istio_sidecar.checks.finding import Finding, Kind
from pytest_istio_sidecar.checks.tracing import of_pod
from pytest_istio_sidecar.istio.policy_route import PolicyRoute, PolicyRouting, Routings
from pytest_istio_sidecar.netfilter.model import Family, Rule, Rules, rulesets_of
from pytest_istio_sidecar.netfilter.targets import Tproxy

_FAMILIES: tuple[Family, ...] = (4, 6)
_TABLE = "133"
"""What the fix proposes: the table of istio-iptables (`-r`)."""


def check_policy_routes(rules: Rules, routes: Routings) -> list[Finding]:
    """Whether packets that bear the mark of a TPROXY rule are for this pod, wherever they are sent.

    The application answers Envoy at the client's address. Such an answer bears the mark; only a policy
    route keeps it in the pod (kernel Documentation/networking/tproxy.rst). Without it the answer goes to
    the client, who has no such connection, and the request ends in a timeout.

    Args:
        routes: of each family, as `policy_routes` reads them.

    Returns:
        Violations.
    """
    return [
        finding
        for family in _FAMILIES
        for mark, rule in _marks(rules, family).items()
        for finding in _missing(rules, family, mark, rule, routes.get(family, PolicyRouting()))
    ]


def uses_tproxy(rules: Rules) -> bool:
    """Whether any rule hands packets over by TPROXY."""
    return any(_marks(rules, family) for family in _FAMILIES)


def _marks(rules: Rules, family: Family) -> dict[int, Rule]:
    """The mark of each TPROXY rule, with the first that sets it."""
    marks: dict[int, Rule] = {}
    for ruleset in rulesets_of(rules, family):
        for rule in ruleset.rules():
            if isinstance(rule.target, Tproxy) and rule.target.mark:
                marks.setdefault(rule.target.mark, rule)
    return marks


def _missing(
    rules: Rules, family: Family, mark: int, rule: Rule, routing: PolicyRouting
) -> Iterator[Finding]:
    table = routing.table_of(mark)
    if table is not None and table in routing.local:
        return
    late = routing.late_table_of(mark)
    if table is not None:
        got = f"ip rule looks {mark:#x} up in table {table}, which has no local default route"
    elif late is not None:
        got = f"ip rule looks {mark:#x} up in table {late} only after the main table"
    else:
        got = f"no ip rule for fwmark {mark:#x}"
    route = PolicyRoute(family=family, mark=mark, table=table or late or _TABLE)
    add_rule, add_route = route.commands()
    lines = [] if table is not None else [add_rule]
    lines += [] if route.table in routing.local else [add_route]
    yield Finding(
        kind=Kind.REDIRECT,
        summary=f"TPROXY marks IPv{family} packets with {mark:#x}, and no policy route keeps them in the pod"
        f"{of_pod(rules)}",
        wanted=f"ip rule: fwmark {mark:#x} lookup {route.table}; there: local default dev lo",
        got=got,
        rule=rule,
        facts=(("rule", rule.text), ("fix", "\n".join(lines))),
        cause="istio-init did not make it, or something took it away: the application's answers to Envoy "
        "leave the pod, and every request times out",
    )
