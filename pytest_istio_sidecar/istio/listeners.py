"""Envoy's listeners, from what its admin interface prints.

Knows the JSON of `/listeners?format=json` and `/config_dump` (Envoy's admin v3 API, which
pilot-agent passes on unchanged). Does not know which listeners there should be.
Invariant: a listener whose configuration binds no port is not listed here; what the configuration
says of one is unknown (None) where none was given or it does not mention the listener.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.netfilter.packet import Endpoint, IPAddress

Direction = Literal["inbound", "outbound"]
_DIRECTIONS: Mapping[object, Direction] = {"INBOUND": "inbound", "OUTBOUND": "outbound"}
_ORIGINAL_DESTINATION = ("envoy.filters.listener.original_dst", "envoy.listener.original_dst")
"""Since Istio 1.6, and before."""

_Json = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One listener of Envoy.

    Attributes:
        address, port: where it listens.
        direction: of the traffic it is for; None when its configuration does not say.
        name: Envoy's name for it, which may be a UUID.
        additional: more addresses it listens on.
        transparent: whether its socket takes packets for other addresses (IP_TRANSPARENT).
        original_destination: whether it asks the kernel where a connection was going.
    """

    address: IPAddress
    port: int
    direction: Direction | None = None
    name: str = ""
    additional: tuple[Endpoint, ...] = ()
    transparent: bool | None = None
    original_destination: bool | None = None

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Everywhere it listens."""
        return (Endpoint(self.address, self.port), *self.additional)


def parse_listeners(listeners: str, config_dump: str | None = None) -> tuple[Listener, ...]:
    """Read what Envoy's admin interface answers.

    Args:
        listeners: the body of `/listeners?format=json`.
        config_dump: the body of `/config_dump`; without it directions and flags stay unknown.

    Raises:
        ParseError: a body that is not this JSON.
    """
    statuses = _objects(_document(listeners, "/listeners?format=json"), "listener_statuses")
    known: dict[object, _Json] = {}
    if config_dump is not None:
        for configured in _configured(_document(config_dump, "/config_dump")):
            # An unnamed listener gets a UUID that the configuration does not show: its address tells.
            for key in (configured.get("name"), _endpoint(_object(configured, "address"))):
                if key:
                    known.setdefault(key, configured)
    return tuple(_listeners(statuses, known))


def _listeners(statuses: Iterator[_Json], known: Mapping[object, _Json]) -> Iterator[Listener]:
    for status in statuses:
        where = _endpoint(_object(status, "local_address"))
        if where is None or where.port is None:
            continue  # a pipe, or internal to Envoy: no packet gets there
        name = str(status.get("name", ""))
        additional = (_endpoint(address) for address in _objects(status, "additional_local_addresses"))
        bound = Listener(
            address=where.address,
            port=where.port,
            name=name,
            additional=tuple(endpoint for endpoint in additional if endpoint is not None),
        )
        configured = known.get(name) or known.get(where) or {}
        if _binds(configured):
            yield _complete(bound, configured) if configured else bound


def _binds(configured: _Json) -> bool:
    """Whether it has a socket. Those of the services have none: the capturing listener hands over to them.

    Source: Envoy's config.listener.v3.Listener, bind_to_port; deprecated_v1 up to about Istio 1.9.
    """
    return not any(
        held.get("bind_to_port") is False for held in (configured, _object(configured, "deprecated_v1"))
    )


def _complete(bound: Listener, configured: _Json) -> Listener:
    filters = {filter_.get("name") for filter_ in _objects(configured, "listener_filters")}
    return replace(
        bound,
        direction=_DIRECTIONS.get(configured.get("traffic_direction")),
        transparent=bool(configured.get("transparent")),
        original_destination=bool(configured.get("use_original_dst"))
        or not filters.isdisjoint(_ORIGINAL_DESTINATION),
    )


def _configured(dump: _Json) -> Iterator[_Json]:
    for section in _objects(dump, "configs"):
        for entry in _objects(section, "static_listeners"):
            yield _object(entry, "listener")
        for entry in _objects(section, "dynamic_listeners"):
            yield _object(_object(entry, "active_state"), "listener")


def _document(text: str, source: str) -> _Json:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        first = text.strip().splitlines()[:1]
        raise ParseError(
            "not the JSON object that Envoy's admin interface answers",
            source=f"Envoy {source}",
            line=1 if first else 0,
            text=first[0] if first else "",
            diagnosis="" if first else "the answer is empty: Envoy's admin port did not answer",
        )
    return document


def _objects(parent: _Json, key: str) -> Iterator[_Json]:
    members = parent.get(key)
    if isinstance(members, list):
        yield from (member for member in members if isinstance(member, dict))


def _object(parent: _Json, key: str) -> _Json:
    member = parent.get(key)
    return member if isinstance(member, dict) else {}


def _endpoint(address: _Json) -> Endpoint | None:
    socket = _object(address, "socket_address")
    try:
        return Endpoint(ipaddress.ip_address(str(socket["address"])), int(cast("int", socket["port_value"])))
    except (KeyError, ValueError, TypeError):
        return None
