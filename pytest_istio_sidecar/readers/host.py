"""A pod's interfaces and addresses.

Knows the JSON of `ip -j address` (ip-address(8)). Invariant: addresses keep the
kernel's order, in which the first of a family is the one that REDIRECT takes.

A node with a module for tunnels gives every namespace its fallback device, before eth0, down and without
address: tunl0, sit0 (kernel Documentation/admin-guide/sysctl/net.rst, fb_tunnels_only_for_init_net). No
packet of the pod takes it, so that it is left out.
"""

from __future__ import annotations

import json

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.readers import messages
from pytest_istio_sidecar.readers.runner import Runner


def read_host(runner: Runner, *, timeout: float, pod: str = "") -> Host:
    """Read the interfaces of a pod's network namespace.

    Raises:
        EnvironmentProblem: they could not be read.
    """
    result = runner.run(["ip", "-j", "address"], timeout=timeout)
    try:
        interfaces = {
            link["ifname"]: [f"{address['local']}/{address['prefixlen']}" for address in link["addr_info"]]
            for link in json.loads(result.stdout)
            if link["addr_info"] or "UP" in link["flags"]
        }
    except (ValueError, KeyError, TypeError):  # a failed command has printed no JSON
        raise EnvironmentProblem(
            messages.ADDRESSES_NOT_READ(pod=pod or "the pod", facts=result.facts())
        ) from None
    return Host(interfaces=interfaces)
