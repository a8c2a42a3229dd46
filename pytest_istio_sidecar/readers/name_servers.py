"""The DNS servers that istio-init finds in a pod, which its object does not name.

Knows resolv.conf(5), as istio-iptables reads it (tools/istio-iptables/pkg/config: every `nameserver`).
Does not know whether DNS is captured. The kubelet gives all containers of a pod one such file.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from pytest_istio_sidecar.readers.exec import Exec

_FILE = "/etc/resolv.conf"


def read_name_servers(containers: Iterable[Exec], *, timeout: float) -> tuple[str, ...] | None:
    """Read the servers from the first container that can show its file; None: none can.

    Args:
        timeout: seconds for each container.
    """
    for run in containers:
        result = run(["cat", _FILE], timeout=timeout)
        if result.succeeded:
            return tuple(_servers(result.stdout))
    return None


def _servers(text: str) -> Iterable[str]:
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1 and _address(words[1]) is not None:
            yield words[1]


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
