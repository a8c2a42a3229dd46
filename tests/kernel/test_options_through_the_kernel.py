"""Rules of combined options: the kernel takes them, and reads back what was meant.

The recorded tables have one option each; what options do to one another is here.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

import pytest
from kernel_testbed import why_impossible
from test_round_trip import chains, through_the_kernel

from pytest_istio_sidecar import IstioOptions, Ruleset, expected_ruleset

pytestmark = pytest.mark.skipif(bool(why_impossible()), reason=why_impossible() or "possible")

VALUES = {
    "proxy_port": ["10001"],
    "inbound_capture_port": ["10006"],
    "inbound_tunnel_port": ["10008"],
    "proxy_uid": ["0", "1337,1338", "1000"],
    "proxy_gid": ["0", "1337,2000"],
    "inbound_interception_mode": ["TPROXY"],
    "inbound_tproxy_mark": ["77"],
    "inbound_ports_include": ["", "80", "80,8080,443"],
    "inbound_ports_exclude": ["", "22,9000,15020", "8000:8010"],
    "outbound_ip_ranges_include": [
        "",
        "10.1.2.3/8,192.168.0.0/16,2001:db8::/32",
        "127.0.0.1/32,10.0.0.0/8",
        "::1/128,2001:db8::/32",
        "0.0.0.0/0,::/0",
    ],
    "outbound_ip_ranges_exclude": ["10.96.0.1/32,2001:db8::1/128"],
    "outbound_ports_include": ["80,443"],
    "outbound_ports_exclude": ["53,3306"],
    "kube_virt_interfaces": ["eth1", "eth1,net1"],
    "exclude_interfaces": ["eth2,net1"],
    "owner_groups_include": ["", "202,daemon"],
    "owner_groups_exclude": ["888,daemon"],
    "host_ipv4_loopback_cidr": ["127.0.0.0/8"],
    "redirect_dns": [True],
    "dns_by_envoy": [True],
    "capture_all_dns": [True],
    "dns_servers_v4": ["192.0.2.53", "192.0.2.53,198.51.100.53"],
    "dns_servers_v6": ["2001:db8::53"],
    "drop_invalid": [True],
    "mode": ["cni"],
}
RELEASES = (
    *("1.5.1", "1.5.10", "1.6.14", "1.7.8", "1.8.3", "1.9.9", "1.10.6", "1.11.0", "1.11.8", "1.12.9"),
    *("1.14.6", "1.17.8", "1.19.10", "1.22.8", "1.23.6", "1.24.6", "1.25.3", "1.27.3", "1.31.0-rc.0"),
)
COMBINATIONS = 4


def combinations(version: str) -> list[IstioOptions]:
    chance = random.Random(version)
    found = []
    for _ in range(COMBINATIONS):
        names = chance.sample(sorted(VALUES), chance.randint(3, len(VALUES)))
        found.append(IstioOptions.of({name: chance.choice(VALUES[name]) for name in names}))
    return found


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("version", RELEASES)
def test_combined_options_come_back_from_the_kernel(
    version: str, family: Literal[4, 6], tmp_path: Path
) -> None:
    for options in combinations(version):
        meant = expected_ruleset(version, family=family, options=options)
        held = through_the_kernel(meant, "legacy", tmp_path)
        assert isinstance(held, Ruleset), (options.changed(), held)
        assert chains(held) == chains(meant), options.changed()
