"""The configuration of the embedded pod's Envoy: the listeners that Istio gives a sidecar.

Knows what they are for a release and its options, TPROXY included. Knows nothing of a mesh: no
control plane, no mutual TLS. Invariant: every captured request goes on to the address it was meant for.

Source: istio/istio pilot/pkg/networking/core (listener_builder.go, listener_inbound.go, cluster_builder.go).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.tproxy import CONNMARK_SINCE
from pytest_istio_sidecar.istio.versions import number_of
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.readers.traffic import TOKEN_HEADER

_Json = dict[str, object]
_TYPE = "type.googleapis.com/envoy"
_FILTER = f"{_TYPE}.extensions.filters.listener"
_ORIGINAL_DESTINATION: _Json = {
    "name": "envoy.filters.listener.original_dst",
    "typed_config": {"@type": f"{_FILTER}.original_dst.v3.OriginalDst"},
}
"""Ask the kernel where a connection was going."""
_ANY: Mapping[Family, str] = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - of the pod's own network namespace
_LOOPBACK: Mapping[Family, str] = {4: "127.0.0.1", 6: "::1"}
_PASSTHROUGH: Mapping[Family, str] = {4: "127.0.0.6", 6: "::6"}
"""From here Envoy calls the application, so that the rules know the call for Envoy's own."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What Envoy's configuration depends on.

    Attributes:
        version, options: the release, and what its istio-init is told.
        addresses: of the pod, by family.
        application_port: where the application listens, on every address.
    """

    version: str
    options: IstioOptions
    addresses: Mapping[Family, Sequence[str]]
    application_port: int

    @property
    def families(self) -> tuple[Family, ...]:
        """What Envoy listens on: IPv6 where the rules are made for it."""
        return (4, 6) if self.options.enable_ipv6 else (4,)

    @property
    def transparent(self) -> bool:
        """Whether Envoy takes connections to other addresses (TPROXY)."""
        return self.options.inbound_interception_mode == "TPROXY"

    @property
    def keeps_source(self) -> bool:
        """Whether Envoy calls the application from its client's address. In TPROXY mode since 1.9, when
        inbound connections got a listener of their own in this mode too (istio/istio#28457).
        """
        return self.transparent and number_of(self.version) >= CONNMARK_SINCE


def bootstrap(sidecar: Sidecar) -> _Json:
    """Envoy's configuration."""
    clusters = [
        _original_destination("PassthroughCluster"),
        *(_inbound_passthrough(family) for family in sidecar.families),
        *(_static(f"application-{family}", _LOOPBACK[family], sidecar.application_port) for family in (4, 6)),
        _static("admin", _LOOPBACK[4], ports.ADMIN),
        {"name": "BlackHoleCluster", "type": "STATIC", "connect_timeout": "2s"},
    ]
    listeners = [
        _outbound(sidecar),
        _inbound(sidecar),
        _own(sidecar, "readiness", ports.READINESS, {"direct_response": {"status": 200}}, "/healthz/ready"),
        _own(sidecar, "telemetry", ports.TELEMETRY, {"route": {"cluster": "admin"}}, "/stats/prometheus"),
    ]
    return {
        "node": {"id": "sidecar", "cluster": "sidecar"},
        "admin": {"address": _socket_address(_LOOPBACK[4], ports.ADMIN)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def _outbound(sidecar: Sidecar) -> _Json:
    chains = [_captured("virtualOutbound", "outbound", "PassthroughCluster")]
    if sidecar.transparent and not sidecar.keeps_source:
        chains = [*_inbound_of_old(sidecar), *chains]
    return {
        **_listener(sidecar, "virtualOutbound", int(sidecar.options.proxy_port)),
        "traffic_direction": "OUTBOUND",
        "transparent": sidecar.transparent,
        "listener_filters": [_ORIGINAL_DESTINATION],
        "filter_chains": chains,
    }


def _inbound(sidecar: Sidecar) -> _Json:
    chains = [
        {
            **_captured("virtualInbound", "inbound", f"InboundPassthroughClusterIpv{family}"),
            "filter_chain_match": {"prefix_ranges": [_range(_ANY[family], 0)]},
        }
        for family in sidecar.families
    ]
    return {
        **_listener(sidecar, "virtualInbound", int(sidecar.options.inbound_capture_port)),
        "traffic_direction": "INBOUND",
        "transparent": sidecar.transparent,
        "listener_filters": [_ORIGINAL_DESTINATION, *_original_source(sidecar)],
        "filter_chains": chains,
    }


def _inbound_of_old(sidecar: Sidecar) -> list[_Json]:
    """TPROXY before 1.9: what is for this pod goes to 127.0.0.1, which the rules do not capture again.

    A port that nobody serves goes nowhere: it would come back for ever (istio/istio#23369).
    """
    chains: list[_Json] = []
    for family in sidecar.families:
        own = [_range(address, 32 if family == 4 else 128) for address in sidecar.addresses[family]]
        served = {"prefix_ranges": own, "destination_port": sidecar.application_port}
        for match, cluster in (
            (served, f"application-{family}"),
            ({"prefix_ranges": own}, "BlackHoleCluster"),
        ):
            chain = _captured("virtualOutbound", "outbound", cluster)
            chains.append({**chain, "filter_chain_match": match})
    return chains


def _original_source(sidecar: Sidecar) -> list[_Json]:
    """The filter that has Envoy call the application from the client's address, with TPROXY's mark."""
    if not sidecar.keeps_source:
        return []
    mark = int(sidecar.options.inbound_tproxy_mark, 0)
    source = {"@type": f"{_FILTER}.original_src.v3.OriginalSrc", "mark": mark}
    return [{"name": "envoy.filters.listener.original_src", "typed_config": source}]


def _captured(listener: str, direction: str, cluster: str) -> _Json:
    """A filter chain for what the rules send."""
    return _http(
        listener, direction, {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "15s"}}
    )


def _own(sidecar: Sidecar, name: str, port: int, action: Mapping[str, object], path: str) -> _Json:
    """A listener that Envoy answers itself."""
    return {
        **_listener(sidecar, name, port),
        "filter_chains": [_http(name, None, {"match": {"prefix": path}, **action})],
    }


def _listener(sidecar: Sidecar, name: str, port: int) -> _Json:
    first, *others = (_socket_address(_ANY[family], port) for family in sidecar.families)
    return {
        "name": name,
        "address": first,
        "additional_addresses": [{"address": address} for address in others],
    }


def _http(listener: str, direction: str | None, route: Mapping[str, object]) -> _Json:
    manager: _Json = {
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


def _original_destination(name: str) -> _Json:
    return {"name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "2s"}


def _inbound_passthrough(family: Family) -> _Json:
    source = {"source_address": {"address": _PASSTHROUGH[family], "port_value": 0}}
    return {
        **_original_destination(f"InboundPassthroughClusterIpv{family}"),
        "upstream_bind_config": source,
    }


def _static(name: str, address: str, port: int) -> _Json:
    endpoint = {"endpoint": {"address": _socket_address(address, port)}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "2s", "load_assignment": assignment}


def _socket_address(address: str, port: int) -> _Json:
    return {"socket_address": {"address": address, "port_value": port}}


def _range(address: str, length: int) -> _Json:
    return {"address_prefix": address, "prefix_len": length}
