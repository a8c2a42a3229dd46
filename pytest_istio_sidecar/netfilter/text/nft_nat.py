"""nft's statements that send a packet elsewhere, as JSON, to targets; and what maps do.

Knows redirect, dnat, snat, masquerade and tproxy, and how the elements of a map become rules within a rule.
Does not know other statements (`nft_statements`). Invariant: an address or port that has no value here is
`NotModelled`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_istio_sidecar.netfilter.diagram.intervals import joined
from pytest_istio_sidecar.netfilter.matches import AnyOf, Match, Option
from pytest_istio_sidecar.netfilter.packet import IPAddress
from pytest_istio_sidecar.netfilter.relations import Relation
from pytest_istio_sidecar.netfilter.targets import Block, Extended, Inner, Redirect, Target, Tproxy, Translate
from pytest_istio_sidecar.netfilter.text.nft_conditions import Sets, alternatives, elements_of, of_family
from pytest_istio_sidecar.netfilter.text.nft_values import NotModelled, single
from pytest_istio_sidecar.netfilter.text.nft_words import statement

Json = Any
Item = list[Match] | Target | None
"""Conditions, or what is done; None: nothing that a rule can see."""

_FLAGS = {"random": "--random", "fully-random": "--random-fully", "persistent": "--persistent"}


def by_elements(
    value: Mapping[str, Json], sets: Sets, text: str, make: Callable[[Json], Target | None]
) -> Block:
    """What a map does: that of the one element that the key is, nothing where it is none."""
    key, data = value.get("key", value.get("left")), value.get("data", value.get("right"))
    done: dict[Target | None, list[tuple[Match, ...]]] = {}
    others: list[Inner] = []
    for pair, doubtful in elements_of(data, sets):
        if not isinstance(pair, list) or len(pair) != 2:
            raise NotModelled
        element = pair[0]
        matches = alternatives(key, element, text, doubtful=doubtful)
        target = make(pair[1])
        if element == "*":
            others.append(Inner(matches=matches, target=target))
        else:
            done.setdefault(target, []).append(matches)
    rules = [Inner(matches=_either(each), target=target) for target, each in done.items()]
    return Block(rules=(*rules, *others), exclusive=True)


def _either(each: Sequence[tuple[Match, ...]]) -> tuple[Match, ...]:
    """One condition for several elements; as one relation where they are values of one key."""
    if len(each) == 1:
        return each[0]
    relations = [matches[0] for matches in each if len(matches) == 1 and isinstance(matches[0], Relation)]
    if len(relations) == len(each) and all(relation.mask is None for relation in relations):
        intervals = joined(interval for relation in relations for interval in relation.intervals)
        return (Relation(key=relations[0].key, intervals=intervals),)
    return (AnyOf(alternatives=tuple(each)),)


def mapped_in(value: Json) -> Mapping[str, Json] | None:
    """The map that a value is looked up in, if it is."""
    mapped = value.get("map") if isinstance(value, dict) else None
    return mapped if isinstance(mapped, dict) else None


def redirect(value: Mapping[str, Json], _family: str, sets: Sets, text: str) -> list[Item]:
    flags = _flags(value)
    port = value.get("port")
    mapped = mapped_in(port)
    if mapped is not None:
        return [by_elements(mapped, sets, text, lambda each: Redirect(ports=_ports(each), flags=flags))]
    return [Redirect(ports=None if port is None else _ports(port), flags=flags)]


def translation(name: Any) -> Callable[[Mapping[str, Json], str, Sets, str], list[Item]]:
    def translate(value: Mapping[str, Json], family: str, sets: Sets, text: str) -> list[Item]:
        flags = _flags(value)
        address, port = value.get("addr"), value.get("port")
        before: list[Item] = []
        mapped = mapped_in(address)
        if family == "inet" and "family" in value:
            before.append(of_family(value["family"]))
        elif family == "inet" and address is not None and mapped is None:
            before.append(of_family("ip" if _addresses(address)[0].version == 4 else "ip6"))
        ports = None if port is None or mapped_in(port) else _ports(port)

        def made(to: Json) -> Target:
            own = ports
            if isinstance(to, dict) and "concat" in to:
                to, given = to["concat"]
                own = _ports(given)
            return Translate(name=name, addresses=_addresses(to), ports=own, flags=flags)

        if mapped is not None:
            if mapped_in(port) is not None:
                raise NotModelled
            return [*before, by_elements(mapped, sets, text, made)]
        mapped = mapped_in(port)
        if mapped is not None:
            addresses = None if address is None else _addresses(address)

            def with_port(to: Json) -> Target:
                return Translate(name=name, addresses=addresses, ports=_ports(to), flags=flags)

            return [*before, by_elements(mapped, sets, text, with_port)]
        addresses = None if address is None else _addresses(address)
        return [*before, Translate(name=name, addresses=addresses, ports=ports, flags=flags)]

    return translate


def masquerade(value: Mapping[str, Json], _family: str, _sets: Sets, _text: str) -> list[Item]:
    options = [Option(name=flag) for flag in _flags(value)]
    if "port" in value:
        options.insert(
            0, Option(name="--to-ports", values=(statement({"redirect": {"port": value["port"]}}),))
        )
    return [Extended(name="MASQUERADE", options=tuple(options))]


def tproxy(value: Mapping[str, Json], family: str, sets: Sets, text: str) -> list[Item]:
    """net/netfilter/nfttproxy.c: it ends the rule for other protocols, and for another family."""
    before: list[Item] = [[Relation(key="meta l4proto", intervals=((6, 6), (17, 17)), text="tproxy")]]
    kind = value.get("family", family)
    address = value.get("addr")
    if family == "inet" and kind in ("ip", "ip6"):
        before.append(of_family(kind))
    if address is None:
        own: IPAddress = ipaddress.ip_address("0.0.0.0" if kind == "ip" else "::")  # noqa: S104
    else:
        own, last = _addresses(address)
        if own != last:
            raise NotModelled
    port = value.get("port")
    mapped = mapped_in(port)
    if mapped is not None:
        return [*before, by_elements(mapped, sets, text, lambda each: _handed(each, own))]
    return [*before, _handed(0 if port is None else port, own)]


def _handed(port: Json, address: IPAddress) -> Target:
    low, high = _ports(port)
    if low != high:
        raise NotModelled
    return Tproxy(port=low, address=address, goes_on=True)


def _flags(value: Mapping[str, Json]) -> tuple[str, ...]:
    """Raises NotModelled where addresses are mapped one to one."""
    given = value.get("flags", ())
    names = [given] if isinstance(given, str) else given
    if any(name not in _FLAGS for name in names) or value.get("type_flags"):
        raise NotModelled
    return tuple(_FLAGS[name] for name in names)


def _ports(value: Json) -> tuple[int, int]:
    if isinstance(value, dict) and "range" in value:
        low, high = (single("th dport", each) for each in value["range"])
        if low > high:
            raise NotModelled
        return low, high
    number = single("th dport", value)
    return number, number


def _addresses(value: Json) -> tuple[IPAddress, IPAddress]:
    try:
        if isinstance(value, str):
            address = ipaddress.ip_address(value)
            return address, address
        if isinstance(value, dict) and "range" in value:
            low, high = map(ipaddress.ip_address, value["range"])
            return low, high
        if isinstance(value, dict) and "prefix" in value:
            prefix = value["prefix"]
            network = ipaddress.ip_network(f"{prefix['addr']}/{prefix['len']}", strict=False)
            return network.network_address, network.broadcast_address
    except ValueError:
        pass
    raise NotModelled
