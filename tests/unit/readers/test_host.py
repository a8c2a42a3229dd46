"""What the addresses of a pod are read from. The pod is a double, with what `ip -j address` prints in one."""

from __future__ import annotations

import json

import pytest

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.readers.host import read_host

LO = {"ifname": "lo", "flags": ["LOOPBACK", "UP", "LOWER_UP"], "addr_info": [
    {"family": "inet", "local": "127.0.0.1", "prefixlen": 8, "scope": "host"},
]}  # fmt: skip
TUNNEL = {"ifname": "tunl0", "flags": ["NOARP"], "operstate": "DOWN", "addr_info": []}
ETH0 = {"ifname": "eth0", "flags": ["BROADCAST", "MULTICAST", "UP", "LOWER_UP"], "addr_info": [
    {"family": "inet", "local": "10.244.0.7", "prefixlen": 32, "scope": "global"},
    {"family": "inet6", "local": "fe80::1", "prefixlen": 64, "scope": "link"},
]}  # fmt: skip


class Pod:
    """Answers the one command with these links, or fails."""

    def __init__(self, *links: object) -> None:
        self.links = links

    def run(self, argv, *, timeout: float) -> CommandResult:
        assert (list(argv), timeout) == (["ip", "-j", "address"], 5)
        status, told = (0, json.dumps(self.links)) if self.links else (1, "")
        return CommandResult(argv=tuple(argv), exit_status=status, stdout=told, stderr="", seconds=0.1)


def test_addresses_are_read_in_the_kernels_order() -> None:
    host = read_host(Pod(LO, ETH0), timeout=5)
    assert host.interfaces == {"lo": ("127.0.0.1/8",), "eth0": ("10.244.0.7/32", "fe80::1/64")}


def test_a_nodes_tunnel_that_is_down_is_not_where_the_pods_packets_go() -> None:
    host = read_host(Pod(LO, TUNNEL, ETH0), timeout=5)
    assert host.external() == "eth0"
    assert "tunl0" not in host.interfaces


def test_an_interface_that_is_up_without_an_address_stays() -> None:
    up = {**TUNNEL, "ifname": "net1", "flags": ["UP"]}
    assert read_host(Pod(LO, ETH0, up), timeout=5).interfaces["net1"] == ()


def test_addresses_that_cannot_be_read_are_an_error() -> None:
    with pytest.raises(EnvironmentProblem, match="cannot read the addresses of demo/a"):
        read_host(Pod(), timeout=5, pod="demo/a")
