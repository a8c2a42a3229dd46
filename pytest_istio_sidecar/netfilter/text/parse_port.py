"""A protocol and ports as people write them: "80", "https", "tcp/80", "udp:53", "9000-9010", "proto/47".

Knows that form, wherever it stands. Does not know what is asked of the packets. Invariant: a number
alone is a TCP port, never a protocol.
"""

from __future__ import annotations

import re

from pytest_istio_sidecar.netfilter.diagram.intervals import Interval
from pytest_istio_sidecar.netfilter.matches import PROTOCOLS
from pytest_istio_sidecar.netfilter.text.complete import PORTS

_NUMBERS = re.compile(r"([0-9]{1,9})(?:[-:]([0-9]{1,9}))?")
_IN_FRONT = re.compile(r"(proto[/:][^/:,]*|(?!proto[/:])[^/:,]+)(?:([/:])(.*))?", re.DOTALL)


def parse_flow(text: str) -> tuple[Interval, Interval | None]:
    """Protocols and ports; no ports where a protocol stands alone, TCP where ports do.

    Raises:
        ValueError: it is none; the message says what it may be.
    """
    protocol, ports = split_protocol(text)
    return parse_protocols(protocol or "tcp"), None if ports is None else parse_ports(ports)


def split_protocol(text: str) -> tuple[str, str | None]:
    """What names a protocol in front, "" where nothing does, and what follows it: `tcp/80` is tcp and 80."""
    written = _IN_FRONT.fullmatch(text.lower())
    if written is None:
        return "", text
    protocol, separator, rest = written.groups()
    if separator == "/" or protocol in PROTOCOLS or protocol.startswith(("proto/", "proto:")):
        return protocol, rest
    return "", text


def parse_protocols(text: str) -> Interval:
    """A protocol by name or by number, or a range of numbers: `udp`, `proto/47`, `proto/7-16`.

    Raises:
        ValueError: it is none; the message says what it may be.
    """
    number = PROTOCOLS.get(text.lower())
    if number is not None:
        return number, number
    wrong = f"protocol {text!r}: expected proto/1 to proto/255, or one of {', '.join(PROTOCOLS)}"
    front, _, numbers = text.lower().replace(":", "/", 1).partition("/")
    return _interval(numbers if front == "proto" else "", 1, 255, wrong)


def parse_ports(text: str) -> Interval:
    """A port by number or by the name of its service, or a range of numbers: `80`, `https`, `9000-9010`.

    Raises:
        ValueError: it is none; the message says what it may be.
    """
    number = PORTS.get(text.lower())
    if number is not None:
        return number, number
    return _interval(text, 0, 0xFFFF, f"port {text!r}: expected 0 to 65535, or one of {', '.join(PORTS)}")


def are_ports(text: str) -> bool:
    """Whether a text has the form of `parse_ports`, be the numbers too large."""
    return text.lower() in PORTS or _NUMBERS.fullmatch(text) is not None


def _interval(text: str, lowest: int, highest: int, wrong: str) -> Interval:
    written = _NUMBERS.fullmatch(text)
    low, high = (int(written[1]), int(written[2] or written[1])) if written else (-1, -1)
    if not lowest <= low <= high <= highest:
        raise ValueError(wrong)
    return low, high
