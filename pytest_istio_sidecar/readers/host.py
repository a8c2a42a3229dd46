"""A pod's interfaces and addresses.

Knows the JSON of `ip -j address` (ip-address(8)). Invariant: addresses keep the
kernel's order, in which the first of a family is the one that REDIRECT takes.
"""

from __future__ import annotations

import json

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.readers import messages
from pytest_istio_sidecar.readers.command import Runner


def read_host(runner: Runner, *, timeout: float, pod: str = "") -> Host:
    """Read the interfaces of a pod's network namespace.

    Raises:
        EnvironmentProblem: they could not be read.
    """
    result = runner.run(["ip", "-j", "address"], timeout=timeout)
    try:
        interfaces = {
            link["ifname"]: [f"{held['local']}/{held['prefixlen']}" for held in link["addr_info"]]
            for link in json.loads(result.stdout)
        }
    except (ValueError, KeyError, TypeError):  # a failed command has printed no JSON
        raise EnvironmentProblem(
            messages.ADDRESSES_NOT_READ(pod=pod or "the pod", facts=result.facts())
        ) from None
    return Host(interfaces=interfaces)
