"""A pod's policy routes.

Knows the commands that show them. Does not know which there should be.
"""

from __future__ import annotations

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio.policy_route import PolicyRouting, Routings, parse_policy_routing
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.readers import messages
from pytest_istio_sidecar.readers.runner import Runner

_IP: tuple[tuple[Family, list[str]], ...] = ((4, ["ip", "-4"]), (6, ["ip", "-6"]))
_NO_FAMILY = "Address family not supported"


def read_policy_routes(runner: Runner, *, timeout: float, pod: str = "") -> Routings:
    """Read the policy routes of a pod's network namespace, of both families.

    Raises:
        EnvironmentProblem: they could not be read.
        ParseError: `ip` answered with something else.
    """
    routings: dict[Family, PolicyRouting] = {}
    for family, ip in _IP:
        rules = runner.run([*ip, "rule", "show"], timeout=timeout)
        if family == 6 and _NO_FAMILY in rules.stderr:
            continue
        routes = runner.run([*ip, "route", "show", "table", "all"], timeout=timeout)
        for result in (rules, routes):
            if not result.succeeded:
                raise EnvironmentProblem(
                    messages.POLICY_ROUTES_NOT_READ(pod=pod or "the pod", facts=result.facts())
                )
        routings[family] = parse_policy_routing(rules.stdout, routes.stdout)
    return routings
