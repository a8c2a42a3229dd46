"""What an assertion is given: refused where it is of another type, before it becomes a verdict.

Knows what each argument may be. Does not know what is asked of it. Invariant: a port as text is no port: it
would differ from every port, and the verdict would be one on the test.
"""

from __future__ import annotations

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.netfilter.model import Table

_DIRECTIONS = ("inbound", "outbound")


def refuse_table(table: object, *, only: str = "") -> None:
    """Refuse what is no table.

    Args:
        only: the table that can be asked; "": any.

    Raises:
        UsageProblem: it is none, or another.
    """
    if not isinstance(table, Table):
        raise UsageProblem(messages.NO_TABLE_GIVEN(kind=type(table).__name__))
    if only and table.name != only:
        raise UsageProblem(messages.OTHER_TABLE_GIVEN(table=table.name, wanted=only))


def refuse_port(port: object) -> None:
    """Refuse what is no port, such as one that is text."""
    if not (type(port) is int and 1 <= port <= 0xFFFF):
        raise UsageProblem(messages.NO_PORT_GIVEN(value=port))


def refuse_direction(direction: object) -> None:
    """Refuse what is none of Envoy's directions; None is whichever."""
    if direction is not None and direction not in _DIRECTIONS:
        raise UsageProblem(messages.NO_DIRECTION(value=direction))
