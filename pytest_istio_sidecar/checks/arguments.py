"""What an assertion is given: refused where it is of another type, before it becomes a verdict.

Knows what each argument may be. Does not know what is asked of it. Invariant: a port as text is no port: it
would differ from every port, and the verdict would be one on the test.
"""

from __future__ import annotations

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.netfilter.model import PodRules, Ruleset, Table
from pytest_istio_sidecar.netfilter.packet import Packet

_DIRECTIONS = ("inbound", "outbound")


def refuse_rules(rules: object) -> None:
    """Refuse what holds no rules, such as a listing that was not parsed."""
    if not isinstance(rules, PodRules | Ruleset | Table):
        raise UsageProblem(messages.NO_RULES_GIVEN(kind=type(rules).__name__))


def refuse_packet(packet: object) -> None:
    """Refuse what is no packet, such as a port alone."""
    if not isinstance(packet, Packet):
        raise UsageProblem(messages.NO_PACKET_GIVEN(value=packet))


def refuse_port(port: object) -> None:
    """Refuse what is no port, such as one that is text."""
    if not (type(port) is int and 1 <= port <= 0xFFFF):
        raise UsageProblem(messages.NO_PORT_GIVEN(value=port))


def refuse_direction(direction: object) -> None:
    """Refuse what is none of Envoy's directions; None is whichever."""
    if direction is not None and direction not in _DIRECTIONS:
        raise UsageProblem(messages.NO_DIRECTION(value=direction))
