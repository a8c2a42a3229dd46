"""What beside its rules decides where packets of a pod's network namespace go: routes, and parameters.

Knows the commands that show them, and what to say of each that has no answer. Does not know which there
should be. Invariant: what was not read is named in the notes, and taken for what a namespace has that nobody
changed.

Parameters: kernel Documentation/networking/ip-sysctl.rst, nf_conntrack-sysctl.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.netfilter.routes import RoutingPolicy
from pytest_istio_sidecar.netfilter.text.parse_routes import parse_routes
from pytest_istio_sidecar.readers.runner import Runner

_FAMILIES: tuple[Family, ...] = (4, 6)
_NO_FAMILY = "Address family not supported"
_DEVICES = "/proc/sys/net/ipv4/conf"
_LOOSE = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose"
_PARAMETERS = [
    "sh",
    "-c",
    f"grep -sH . {_DEVICES}/*/route_localnet {_DEVICES}/*/forwarding {_DEVICES}/*/rp_filter {_LOOSE}",
    "parameters",
]
_LINE = re.compile(rf"{_DEVICES}/(?P<device>[^/]+)/(?P<name>\w+):(?P<value>\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceReading:
    """What was read, and the answers it was read from.

    Attributes:
        routes: policy rules and routes, of each family that could be read.
        localnet, forwards: as `Host` has them.
        notes: what could not be read, and parameters that matter; one sentence each.
    """

    routes: tuple[RoutingPolicy, ...]
    localnet: frozenset[str]
    forwards: frozenset[str] | None
    notes: tuple[str, ...]
    commands: tuple[CommandResult, ...]


def read_namespace(runner: Runner, *, timeout: float) -> NamespaceReading:
    """Read policy rules and routes of all tables, of both families, and the parameters that change fates.

    Args:
        timeout: seconds for each command.

    Raises:
        EnvironmentProblem: nothing can be run in the pod.
    """
    commands: list[CommandResult] = []
    notes: list[str] = []
    routes = []
    for family in _FAMILIES:
        policy = _policy(runner, family, timeout, commands, notes)
        if policy is not None:
            routes.append(policy)
    parameters = runner.run(_PARAMETERS, timeout=timeout)
    commands.append(parameters)
    values = {(line["device"], line["name"]): line["value"] for line in _LINE.finditer(parameters.stdout)}
    if not values:
        notes.append(
            "parameters of the namespace (route_localnet, forwarding, rp_filter) were not read: "
            f"{_said(parameters)}"
        )
    localnet = _on(values, "route_localnet")
    notes += _told(values, localnet, parameters.stdout, routes)
    forwards = _devices(values, "forwarding") - {"all", "default"} if values else None
    return NamespaceReading(
        routes=tuple(routes),
        localnet=localnet,
        forwards=forwards,
        notes=tuple(notes),
        commands=tuple(commands),
    )


def _policy(
    runner: Runner, family: Family, timeout: float, commands: list[CommandResult], notes: list[str]
) -> RoutingPolicy | None:
    ip = ["ip", f"-{family}"]
    rules = runner.run([*ip, "rule", "show"], timeout=timeout)
    if family == 6 and _NO_FAMILY in rules.stderr:
        return None
    answers = [rules, runner.run([*ip, "route", "show", "table", "all"], timeout=timeout)]
    commands += answers
    failed = next((answer for answer in answers if not answer.succeeded), None)
    try:
        if failed is None:
            return parse_routes(answers[0].stdout, answers[1].stdout, family=family)
        why = _said(failed)
    except ParseError as problem:
        why = str(problem).partition("\n")[0]
    notes.append(
        f"policy rules and routes of IPv{family} were not read ({why}): "
        "one that leads past Envoy would not be seen"
    )
    return None


def _said(result: CommandResult) -> str:
    lines = (result.stderr or result.stdout).strip().splitlines()
    return lines[0] if lines else f"{result.argv[0]} said nothing"


def _devices(values: dict[tuple[str, str], str], name: str) -> frozenset[str]:
    return frozenset(device for (device, known), value in values.items() if known == name and value != "0")


def _on(values: dict[tuple[str, str], str], name: str) -> frozenset[str]:
    """The interfaces that have it; "all" is for all of them (include/linux/inetdevice.h, IN_DEV_MAXCONF)."""
    having = _devices(values, name)
    if "all" in having:
        having |= {device for device, known in values if known == name}
    return having - {"all", "default", "lo"}


def _told(
    values: dict[tuple[str, str], str],
    localnet: frozenset[str],
    text: str,
    routes: list[RoutingPolicy],
) -> Iterator[str]:
    if localnet:
        devices = ", ".join(sorted(localnet))
        yield f"route_localnet is on for {devices}: what comes in there may go to 127.0.0.0/8"
    if f"{_LOOSE}:0" in text:
        yield "nf_conntrack_tcp_loose is 0: a connection older than the rules goes on past Envoy"
    added = [line for policy in routes for line in policy.added]
    if added:
        yield f"somebody added to the namespace's routing: {'; '.join(added)}"
        strict = {device for device in _on(values, "rp_filter") if values.get((device, "rp_filter")) != "2"}
        if strict:
            yield (
                f"rp_filter is on for {', '.join(sorted(strict))}: what it drops for having come by another "
                "way than answers go is told as if it passed"
            )
