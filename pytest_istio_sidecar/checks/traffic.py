"""Did Envoy see this very request?

Knows how an observation compares with a wish. Does not send anything.
Invariant: an observation that does not tell raises `Undecided`.
"""

from __future__ import annotations

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.arguments import refuse_direction
from pytest_istio_sidecar.checks.finding import Finding, Kind
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.istio.observation import Observation


def check_intercepted(observation: Observation, *, direction: str | None = None) -> list[Finding]:
    """Whether Envoy captured the request, on its listener for a direction if one is given.

    Args:
        direction: "inbound" or "outbound"; None: either.

    Raises:
        Undecided: the evidence does not tell.
        UsageProblem: this is no direction.
    """
    refuse_direction(direction)
    _require_decision(observation)
    captured = observation.captured_by
    if captured is not None and direction in (None, captured):
        return []
    by = f"by Envoy's {direction} listener" if direction else "by Envoy"
    failure = (
        messages.OTHER_LISTENER(request=_request(observation), direction=captured, pod=_pod(observation))
        if captured
        else _not_seen(observation)
    )
    return [
        Finding(
            kind=Kind.TRAFFIC,
            failure=failure,
            wanted=f"captured {by}",
            got=f"captured by the {captured} listener" if captured else "Envoy did not capture it",
            facts=observation.facts(),
        )
    ]


def check_not_intercepted(observation: Observation) -> list[Finding]:
    """Whether the request was answered, and Envoy did not capture it.

    Raises:
        Undecided: the evidence does not tell, or nobody answered.
    """
    _require_decision(observation)
    captured = observation.captured_by
    elsewhere = observation.delivered_elsewhere
    if captured is not None or elsewhere is not None:
        taker = f"captured by Envoy's {captured} listener" if captured else f"redirected to {elsewhere}"
        return [
            Finding(
                kind=Kind.REDIRECT,
                failure=messages.CAPTURED(
                    request=_request(observation), outcome=taker, pod=_pod(observation)
                ),
                wanted="answered by its own destination, unseen by Envoy",
                got=taker,
                facts=observation.facts(),
            )
        ]
    if observation.answered_by is None:
        raise Undecided(
            messages.NOBODY_ANSWERED(
                request=_request(observation), pod=_pod(observation), facts=observation.facts()
            )
        )
    return []


def _require_decision(observation: Observation) -> None:
    if not observation.decided:
        raise Undecided(
            messages.NOTHING_SHOWS(
                request=_request(observation), pod=_pod(observation), facts=observation.facts()
            )
        )


def _request(observation: Observation) -> str:
    sender = "" if observation.kind == "inbound" else f" from uid {observation.uid} gid {observation.gid}"
    return f"{observation.kind} request to {observation.destination}{sender}"


def _not_seen(observation: Observation) -> Failure:
    request, pod = _request(observation), _pod(observation)
    if observation.answered_by is None:
        return messages.SEEN_BY_NOBODY(request=request, pod=pod)
    refused = observation.answered_by == "kernel"
    peer = "the kernel, which refused it," if refused else observation.answered_by
    return messages.WITHOUT_ENVOY(request=request, peer=peer, pod=pod)


def _pod(observation: Observation) -> str:
    return f" ({observation.pod})" if observation.pod else ""
