"""What an embedded pod is built from, as it goes from who asks for it to the pod's first process.

Knows the shape of that JSON. `embedded` fills it in; `embedded_pod`, which runs without this package,
has it for its types only.
"""

from __future__ import annotations

from typing import TypedDict


class Rules(TypedDict):
    """One `iptables-restore` and what it reads."""

    argv: list[str]
    text: str


class StandIn(TypedDict):
    """A server of the pod's first process: what it calls itself, where it listens and as whom."""

    who: str
    ports: list[int]
    network: str
    uid: int


class Specification(TypedDict):
    """What to build.

    Fields: the pod's directory; the program `ip` and its batches for both namespaces; commands that
    make policy routes; rules; Envoy's bootstrap; the programs to run and, for each to wait for, its
    name, port and path; stand-ins; the environment variables of all; the seconds it may take.
    """

    directory: str
    ip: str
    pod_commands: list[str]
    client_commands: list[str]
    policy_routes: list[list[str]]
    rules: list[Rules]
    envoy_bootstrap: dict[str, object]
    services: dict[str, list[str]]
    ready: list[tuple[str, int, str]]
    stand_ins: list[StandIn]
    environment: dict[str, str]
    seconds: float
