"""The configuration of the double's Envoy: the listeners that a version's sidecar has.

Knows listeners, ports and next hops by version, and the mesh's access log. No control
plane and no mutual TLS: a captured connection goes on to the address it was meant for.
"""

from __future__ import annotations

import json
from typing import Any

JSON = dict[str, Any]

_TYPE = "type.googleapis.com/envoy.extensions"
_TEXT_FORMAT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% '
    "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "
    '"%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% '
    '%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" '
    '"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER% '
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% "
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
"""Istio's own default of 1.9 and later, near enough to 1.8's."""
_JSON_FORMAT = {
    "start_time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
} | {
    name: f"%{name.upper()}%"
    for name in (
        *("protocol", "response_code", "response_flags", "response_code_details"),
        *("connection_termination_details", "upstream_transport_failure_reason", "bytes_received"),
        *("bytes_sent", "duration", "upstream_host", "upstream_cluster", "upstream_local_address"),
        *("downstream_local_address", "downstream_remote_address", "requested_server_name", "route_name"),
    )
}


def configuration(version: tuple[int, ...], *, mesh: JSON, ports: list[int], node: JSON) -> JSON:
    """An Envoy bootstrap.

    Args:
        version: Istio's.
        mesh: the mesh configuration: `accessLogFile`, `accessLogEncoding`, `accessLogFormat`.
        ports: the application's container ports.
        node: Envoy's node.
    """
    log = _access_log(mesh)
    to_localhost = version < (1, 10)
    outbound_port = int(mesh.get("proxyListenPort", 15001))
    inbound_port = int(mesh.get("proxyInboundListenPort", 15006))
    inbound = [_blackhole("virtualInbound-blackhole", inbound_port)]
    if to_localhost:
        for port in ports:
            cluster = f"inbound|{port}||"
            inbound.append(
                {**_http("inbound", cluster, log), "filter_chain_match": _matching(destination_port=port)}
            )
    inbound += [
        {
            "name": "virtualInbound-catchall-http",
            **_http("inbound", "InboundPassthroughClusterIpv4", log),
            "filter_chain_match": _matching(),
        },
        {"name": "virtualInbound", **_tcp("InboundPassthroughClusterIpv4", log)},
    ]
    outbound = [
        _blackhole("virtualOutbound-blackhole", outbound_port),
        {**_http("outbound", "PassthroughCluster", log), "filter_chain_match": _matching()},
        {"name": "virtualOutbound-catchall-tcp", **_tcp("PassthroughCluster", log)},
    ]
    clusters: list[JSON] = [
        _original_destination("PassthroughCluster"),
        {
            **_original_destination("InboundPassthroughClusterIpv4"),
            "upstream_bind_config": {"source_address": {"address": "127.0.0.6", "port_value": 0}},
        },
        {"name": "BlackHoleCluster", "type": "STATIC"},
        _static("prometheus_stats", 15000),
        _static("agent", 15020),
    ]
    if to_localhost:
        clusters += [_static(f"inbound|{port}||", port) for port in ports]
    return {
        "node": node,
        "admin": {"address": _address("127.0.0.1", 15000)},
        "static_resources": {
            "listeners": [
                {
                    "name": "virtualOutbound",
                    "traffic_direction": "OUTBOUND",
                    "address": _address("0.0.0.0", outbound_port),
                    "use_original_dst": True,
                    **_captured(),
                    "filter_chains": outbound,
                },
                {
                    "name": "virtualInbound",
                    "traffic_direction": "INBOUND",
                    "address": _address("0.0.0.0", inbound_port),
                    **_captured(),
                    "filter_chains": inbound,
                },
                _own(version, 15021, "/healthz/ready", "agent"),
                _own(version, 15090, "/stats/prometheus", "prometheus_stats"),
            ],
            "clusters": clusters,
        },
    }


def _access_log(mesh: JSON) -> list[JSON]:
    if not mesh.get("accessLogFile"):
        return []
    text = mesh.get("accessLogFormat") or ""
    if mesh.get("accessLogEncoding") == "JSON":
        log_format: JSON = {"json_format": json.loads(text) if text else _JSON_FORMAT}
    else:
        log_format = {"text_format_source": {"inline_string": text or _TEXT_FORMAT}}
    return [
        {
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": f"{_TYPE}.access_loggers.file.v3.FileAccessLog",
                "path": mesh["accessLogFile"],
                "log_format": log_format,
            },
        }
    ]


def _captured() -> JSON:
    names = {"original_dst": "OriginalDst", "http_inspector": "HttpInspector"}
    return {
        "listener_filters": [
            {
                "name": f"envoy.filters.listener.{name}",
                "typed_config": {"@type": f"{_TYPE}.filters.listener.{name}.v3.{kind}"},
            }
            for name, kind in names.items()
        ],
        # a protocol in which the server speaks first never shows what it is
        "listener_filters_timeout": "5s",
        "continue_on_listener_filters_timeout": True,
    }


def _matching(**more: int) -> JSON:
    return {"application_protocols": ["http/1.0", "http/1.1", "h2c"], **more}


def _http(direction: str, cluster: str, log: list[JSON]) -> JSON:
    manager: JSON = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": f"{direction}_{cluster}",
        "access_log": log,
        "use_remote_address": False,
        "generate_request_id": True,
        "route_config": {
            "name": cluster,
            "virtual_hosts": [
                {
                    "name": f"{direction}|http",
                    "domains": ["*"],
                    "routes": [
                        {
                            "name": "default",
                            "match": {"prefix": "/"},
                            "route": {"cluster": cluster, "timeout": "0s"},
                            "decorator": {"operation": f"{direction}:*"},
                        }
                    ],
                }
            ],
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
            }
        ],
    }
    if direction == "inbound":
        manager["server_name"] = "istio-envoy"
    return {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}


def _tcp(cluster: str, log: list[JSON]) -> JSON:
    proxy = {
        "@type": f"{_TYPE}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": cluster,
        "cluster": cluster,
        "access_log": log,
    }
    return {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}


def _blackhole(name: str, port: int) -> JSON:
    """For what is sent to the capturing port itself, which would go round in circles."""
    return {"name": name, **_tcp("BlackHoleCluster", []), "filter_chain_match": {"destination_port": port}}


def _own(version: tuple[int, ...], port: int, path: str, cluster: str) -> JSON:
    """A listener of the bootstrap; up to 1.23 it has no name, and Envoy gives it a UUID."""
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": cluster,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "backend",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": path}, "route": {"cluster": cluster}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
            }
        ],
    }
    listener: JSON = {
        "address": _address("0.0.0.0", port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    if version >= (1, 24):
        listener["name"] = f"0.0.0.0_{port}"
    return listener


def _original_destination(name: str) -> JSON:
    return {"name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "10s"}


def _static(name: str, port: int) -> JSON:
    endpoint = {"endpoint": {"address": _address("127.0.0.1", port)}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment}


def _address(address: str, port: int) -> JSON:
    return {"socket_address": {"address": address, "port_value": port}}
