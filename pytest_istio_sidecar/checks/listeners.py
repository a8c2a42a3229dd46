"""Does Envoy listen where the rules send traffic?

Knows how a listener compares with a wish. Does not know rules.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.finding import Finding, Kind
from pytest_istio_sidecar.istio.listeners import Listener
from pytest_istio_sidecar.istio.ports import PURPOSE
from pytest_istio_sidecar.netfilter.packet import Endpoint


def check_listener(
    listeners: Sequence[Listener], port: int, *, direction: str | None = None
) -> list[Finding]:
    """Whether Envoy has a listener on a port, for traffic of a direction.

    Args:
        direction: "inbound" or "outbound"; None: whichever.
    """
    wanted = f"a listener on :{port}" + (f" for {direction} traffic" if direction else "")
    purpose = f" ({PURPOSE[port]})" if port in PURPOSE else ""
    here = [listener for listener in listeners if listener.port == port]
    if here and (direction is None or any(listener.direction == direction for listener in here)):
        return []
    if here:
        failure = messages.OTHER_DIRECTION(
            port=port, direction=here[0].direction or "unsaid", wanted=direction
        )
    else:
        failure = messages.NOT_LISTENING(port=port)
    return [
        Finding(
            kind=Kind.LISTENER,
            failure=failure,
            wanted=wanted + purpose,
            got=", ".join(_describe(listener) for listener in listeners) or "no listener at all",
        )
    ]


def _describe(listener: Listener) -> str:
    where = Endpoint(listener.address, listener.port)
    return f"{where} {listener.direction or ''}".rstrip()
