"""Expected rules, held against what Istio's own builder installed in a kernel."""

from __future__ import annotations

import gzip
import json
import re
from functools import cache
from pathlib import Path

import pytest

from pytest_istio_sidecar import Ruleset, UsageProblem, expected_ruleset, parse_iptables_save
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.rules import backend, shown_by_image
from pytest_istio_sidecar.istio.versions import known_versions
from pytest_istio_sidecar.netfilter.model import Backend, Chain

DATA = Path(__file__).parents[2] / "data" / "istio-init-tables.json.gz"
FIELDS = {
    "ProxyUID": "proxy_uid",
    "ProxyGID": "proxy_gid",
    "KubeVirt": "kube_virt_interfaces",
    "IPv6": "enable_ipv6",
    "InboundTProxyMark": "inbound_tproxy_mark",
    "InboundTProxyRouteTable": "inbound_tproxy_route_table",
    "OutboundIPRangesInclude": "outbound_ip_ranges_include",
    "OutboundIPRangesExclude": "outbound_ip_ranges_exclude",
    "HostIPv4LoopbackCidr": "host_ipv4_loopback_cidr",
    "RedirectDNS": "redirect_dns",
    "CaptureAllDNS": "capture_all_dns",
    "DNSServersV4": "dns_servers_v4",
}
"""Keys of the recorded scenarios that do not become a field's name by their capitals alone."""
CHANGE_NO_RULE = {"RestoreFormat", "SkipRuleApply"}


@cache
def recorded() -> dict:
    return json.loads(gzip.decompress(DATA.read_bytes()))


def field_of(key: str) -> str:
    return FIELDS.get(key) or re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower()


@cache
def scenarios() -> dict[str, IstioOptions]:
    return {
        held["Name"]: IstioOptions.of(
            {field_of(key): value for key, value in held["Cfg"].items() if key not in CHANGE_NO_RULE}
        )
        for held in recorded()["scenarios"]
    }


@cache
def observed(index: int, family: int) -> Ruleset:
    return parse_iptables_save(recorded()["tables"][index], family=family)


@pytest.mark.parametrize("state", recorded()["versions"])
def test_the_rules_of_a_release_are_those_that_its_builder_installed(state: str) -> None:
    for key, index in recorded()["results"][state].items():
        name, _, family = key.partition(":V")
        held = observed(index, int(family))
        for version in recorded()["versions"][state]:
            expected = expected_ruleset(version, family=int(family), options=scenarios()[name])
            assert tables_of(expected) == tables_of(held), (version, key)


def test_dns_by_envoy_is_of_1_7_and_differs_in_the_port_alone() -> None:
    text = recorded()["tables"][recorded()["results"]["1.7.0"]["dns_all:V4"]]
    told = parse_iptables_save(text.replace("15053", "15013"))
    for version in known_versions():
        found = expected_ruleset(version, inbound_ports_exclude="15090,15021,15020", dns_by_envoy=True)
        plain = expected_ruleset(version, inbound_ports_exclude="15090,15021,15020")
        assert tables_of(found) == tables_of(told if version.startswith("1.7.") else plain), version


def tables_of(ruleset: Ruleset) -> dict[str, dict[str, Chain]]:
    return {
        table.name: {chain.name: chain for chain in table.chains}
        for table in ruleset.tables
        if any(chain.rules for chain in table.chains)
    }


def test_every_recorded_table_is_compared() -> None:
    assert sum(len(results) for results in recorded()["results"].values()) == 48 * 24
    indices = {index for results in recorded()["results"].values() for index in results.values()}
    assert indices == set(range(len(recorded()["tables"])))


@pytest.mark.parametrize("version", ["1.5.10", "1.8.3", "1.27.3"])
def test_unset_options_are_those_of_the_injection_template(version: str) -> None:
    ports = ["15090", "15020"] if version == "1.5.10" else ["15090", "15021", "15020"]
    told = expected_ruleset(version, inbound_ports_exclude=ports)
    assert expected_ruleset(version).tables == told.tables


def test_every_recorded_release_is_known_and_no_other() -> None:
    tags = {tag for tags in recorded()["versions"].values() for tag in tags}
    assert set(known_versions()) == tags


def test_a_release_with_a_suffix_has_the_rules_of_its_number() -> None:
    assert expected_ruleset("1.20.8-distroless").tables == expected_ruleset("1.20.8").tables


@pytest.mark.parametrize("version", ["nonsense", "1", "", "1.8.x", "1.4.0", "0.9.1"])
def test_what_is_no_described_release_is_refused_by_name(version: str) -> None:
    with pytest.raises(
        UsageProblem, match=repr(version) if version[:2] not in ("1.", "0.") else "Istio|release"
    ):
        expected_ruleset(version)


@pytest.mark.parametrize(
    ("version", "where"),
    [
        ("1.8.3", "legacy"),
        ("1.22.8", "legacy"),
        ("1.25.3", "legacy"),
        ("1.25.4", "nf_tables"),
        ("1.27.3", "nf_tables"),
    ],
)
def test_the_back_end_is_the_one_that_istio_init_writes(version: str, where: str) -> None:
    assert backend(version) is Backend(where)
    assert expected_ruleset(version).backend is Backend(where)


@pytest.mark.parametrize(
    ("version", "shown"), [("1.8.3", "legacy"), ("1.27.3", "legacy"), ("1.31.0-rc.0", "nf_tables")]
)
def test_the_back_end_that_the_images_iptables_shows_is_told_apart(version: str, shown: str) -> None:
    assert shown_by_image(version) is Backend(shown)
