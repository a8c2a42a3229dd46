"""Envoy's listeners, from what its admin interface prints.

Knows the JSON of `/listeners?format=json` and `/config_dump` (Envoy's admin API, which pilot-agent passes
on unchanged and istioctl prints in camel case) in every spelling that Envoys of Istio 1.5 and later have.
Does not know which listeners there should be.
Invariant: a listener whose configuration binds no port is not listed here; what the configuration
says of one is unknown (None) where none was given or it does not mention the listener.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.istio import messages
from pytest_istio_sidecar.netfilter.packet import Endpoint, IPAddress

Direction = Literal["inbound", "outbound"]
_DIRECTIONS: Mapping[str, Direction] = {"INBOUND": "inbound", "OUTBOUND": "outbound"}
_ORIGINAL_DESTINATION = frozenset(
    (
        "envoy.filters.listener.original_dst",
        "envoy.listener.original_dst",
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        "envoy.config.filter.listener.original_dst.v2.OriginalDst",
    )
)
"""The listener filter that asks the kernel, by its name (the second in older releases) or its type."""
_HIDDEN = "hidden_envoy_deprecated_"
"""What Envoy's v3 API before 1.17 put in front of a deprecated field (envoyproxy/envoy#14397)."""

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


@cache
def spellings(field: str) -> tuple[str, ...]:
    """The keys under which a dump may have a field: Envoy's own, the v3 API's of before 1.17, istioctl's."""
    names = (field, _HIDDEN + field)
    return (*names, *(_camel_case(name) for name in names))


def parse_listeners(listeners: str, config_dump: str | None = None) -> tuple[Listener, ...]:
    """Read what Envoy's admin interface answers.

    Args:
        listeners: the body of `/listeners?format=json`.
        config_dump: the body of `/config_dump`, or what `istioctl proxy-config listener -o json` prints of
            it; without it directions and flags stay unknown.

    Raises:
        ParseError: a body that is not this JSON.
    """
    body = _document(listeners, "/listeners?format=json")
    if not isinstance(body, dict):
        raise _no_answer(listeners, "/listeners?format=json")
    known: dict[str | Endpoint, _Json] = {}
    if config_dump is not None:
        for _, configured in configured_listeners(_document(config_dump, "/config_dump")):
            # An unnamed listener gets a UUID that the configuration does not show: its address tells.
            for key in (_text(configured, "name"), _endpoint(_object(configured, "address"))):
                if key:
                    known.setdefault(key, configured)
    return tuple(_listeners(_objects(body, "listener_statuses"), known))


def configured_listeners(dump: object) -> Iterator[tuple[Literal["static", "dynamic"], _Json]]:
    """The listeners in effect of a `/config_dump`, or of istioctl's list of them; none of other JSON.

    Envoy up to 1.12 has the dynamic ones under `dynamic_active_listeners`, later ones have their states.
    """
    if isinstance(dump, list):
        yield from (("dynamic", listener) for listener in dump if isinstance(listener, dict))
    if not isinstance(dump, dict):
        return
    for section in _objects(dump, "configs"):
        for entry in _objects(section, "static_listeners"):
            yield "static", _object(entry, "listener")
        for entry in _objects(section, "dynamic_active_listeners"):
            yield "dynamic", _object(entry, "listener")
        for entry in _objects(section, "dynamic_listeners"):
            yield "dynamic", _object(_object(entry, "active_state"), "listener")


def _listeners(statuses: Iterator[_Json], known: Mapping[str | Endpoint, _Json]) -> Iterator[Listener]:
    for status in statuses:
        where = _endpoint(_object(status, "local_address"))
        if where is None or where.port is None:
            continue  # a pipe, or internal to Envoy: no packet gets there
        name = _text(status, "name")
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
        _field(part, "bind_to_port") is False for part in (configured, _object(configured, "deprecated_v1"))
    )


def _complete(bound: Listener, configured: _Json) -> Listener:
    return replace(
        bound,
        direction=_DIRECTIONS.get(_text(configured, "traffic_direction")),
        transparent=_field(configured, "transparent") is True,
        original_destination=_field(configured, "use_original_dst") is True
        or any(map(_asks_for_destination, _objects(configured, "listener_filters"))),
    )


def _asks_for_destination(listener_filter: _Json) -> bool:
    type_url = _text(_object(listener_filter, "typed_config"), "@type")
    names = {_text(listener_filter, "name"), type_url.rpartition("/")[2]}
    return not names.isdisjoint(_ORIGINAL_DESTINATION)


def _document(text: str, source: str) -> object:
    """A JSON object, or a list of them; an empty list tells nothing, and is refused as well."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    members = document if isinstance(document, list) else [document]
    if not members or not all(isinstance(member, dict) for member in members):
        raise _no_answer(text, source)
    return document


def _no_answer(text: str, source: str) -> ParseError:
    first = text.strip().splitlines()[:1]
    source = f"Envoy {source}"
    if not first:
        return ParseError(messages.ENVOY_SAID_NOTHING(), source=source)
    return ParseError(messages.NO_ENVOY_ANSWER(), source=source, line=1, text=first[0])


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _field(parent: _Json, name: str) -> object:
    return next((parent[key] for key in spellings(name) if parent.get(key) is not None), None)


def _objects(parent: _Json, name: str) -> Iterator[_Json]:
    members = _field(parent, name)
    if isinstance(members, list):
        yield from (member for member in members if isinstance(member, dict))


def _object(parent: _Json, name: str) -> _Json:
    member = _field(parent, name)
    return member if isinstance(member, dict) else {}


def _text(parent: _Json, name: str) -> str:
    member = _field(parent, name)
    return member if isinstance(member, str) else ""


def _endpoint(address: _Json) -> Endpoint | None:
    socket = _object(address, "socket_address")
    port = _field(socket, "port_value")
    try:
        where = ipaddress.ip_address(_text(socket, "address"))
    except ValueError:
        return None
    return Endpoint(where, port) if type(port) is int else None
