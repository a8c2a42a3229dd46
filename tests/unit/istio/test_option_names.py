"""What an option is called: every name that Istio has for it, and what a value means under each."""

from __future__ import annotations

import pytest

from pytest_istio_sidecar import UsageProblem, expected_ruleset
from pytest_istio_sidecar.istio.option_names import option_named
from pytest_istio_sidecar.istio.option_table import OPTIONS
from pytest_istio_sidecar.istio.option_wording import as_a_pod_asks
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.release import in_effect
from pytest_istio_sidecar.istio.versions import number_of

NAMES = [
    (name, option.name)
    for option in OPTIONS
    for full in (*option.annotations, *option.flags, *option.variables, option.name.upper(), option.name)
    for name in dict.fromkeys((full, full.rpartition("/")[2]))
]


@pytest.mark.parametrize(("name", "field"), NAMES)
def test_every_name_that_istio_has_for_an_option_stands_for_it(name: str, field: str) -> None:
    assert option_named(name) == field


@pytest.mark.parametrize(
    ("pair", "field", "value"),
    [
        ("ISTIO_LOCAL_EXCLUDE_PORTS=15020,8443", "inbound_ports_exclude", "15020,8443"),
        ("INBOUND_PORTS_EXCLUDE=15020,8443", "inbound_ports_exclude", "15020,8443"),
        ("-d=15020,8443", "inbound_ports_exclude", "15020,8443"),
        ("--istio-local-exclude-ports=15020", "inbound_ports_exclude", "15020"),
        ("traffic.sidecar.istio.io/excludeOutboundPorts=5432", "outbound_ports_exclude", "5432"),
        ("excludeOutboundIPRanges=fd00::/8", "outbound_ip_ranges_exclude", "fd00::/8"),
        ('excludeOutboundIPRanges: "fd00::/8"', "outbound_ip_ranges_exclude", "fd00::/8"),
        ("includeInboundPorts: 8000:8010", "inbound_ports_include", "8000:8010"),
        ('includeInboundPorts: ""', "inbound_ports_include", ""),
        ("sidecar.istio.io/interceptionMode: TPROXY", "inbound_interception_mode", "TPROXY"),
        ("PROXY_INBOUND_CAPTURE_PORT=16006", "inbound_capture_port", "16006"),
        ("KUBEVIRT_INTERFACES=net1", "kube_virt_interfaces", "net1"),
        ("ISTIO_META_DNS_CAPTURE=true", "redirect_dns", True),
        ("INVALID_DROP=true", "drop_invalid", True),
        ("istio-cni", "mode", "cni"),
        ("enable_ipv6: false", "enable_ipv6", False),
    ],
)
def test_an_option_is_taken_by_each_of_its_names(pair: str, field: str, value: object) -> None:
    assert getattr(IstioOptions.from_pairs([pair]), field) == value


@pytest.mark.parametrize("name", ["excludeInboundPorts", "traffic.sidecar.istio.io/excludeInboundPorts"])
@pytest.mark.parametrize(
    ("version", "annotation", "told"),
    [
        ("1.5.0", "8443", "15090,8443,15020"),
        ("1.8.3", "8443,9000", "15090,15021,8443,9000,15020"),
        ("1.8.3", "15020,8443", "15090,15021,15020,8443"),
        ("1.8.3", "", "15090,15021,15020"),
    ],
)
def test_an_annotations_ports_stand_beside_those_that_the_template_leaves_out(
    name: str, version: str, annotation: str, told: str
) -> None:
    options = IstioOptions.from_pairs([f"{name}={annotation}"])
    assert in_effect(number_of(version), options).inbound_ports_exclude == told


def test_istio_cni_adds_its_own_ports_behind_an_annotations() -> None:
    options = IstioOptions.from_pairs(["excludeInboundPorts=8443", "mode=cni"])
    left = in_effect(number_of("1.27.3"), options).inbound_ports_exclude
    assert left == "8443,15020,15021,15090"


@pytest.mark.parametrize(
    ("pair", "field"),
    [
        ("ISTIO_META_DNS_CAPTURE=true", "redirect_dns"),
        ("ISTIO_META_DNS_CAPTURE without DNS_AGENT: true", "dns_by_envoy"),
        ("DNS_AGENT=true", "redirect_dns"),
        ("DNS_CAPTURE=true", "redirect_dns"),
    ],
)
def test_dns_capture_is_asked_for_by_the_variables_of_its_releases(pair, field) -> None:
    assert IstioOptions.from_pairs([pair]).changed() == {field: True}


@pytest.mark.parametrize("version", ["1.5.0", "1.6.14", "1.7.3", "1.8.3", "1.12.2", "1.27.3"])
@pytest.mark.parametrize(
    "given",
    [
        {"inbound_ports_exclude": "15090,15021,15020,8443"},
        {"inbound_ports_exclude": "15090,15020"},
        {"inbound_ports_exclude": ""},
        {"inbound_ports_exclude": "15090,15021,15020,8443", "mode": "cni"},
        {"outbound_ports_exclude": "15020,5432", "mode": "cni"},
        {"outbound_ports_exclude": "", "mode": "cni"},
        {"inbound_ports_include": "80,443", "outbound_ip_ranges_include": ""},
        {"outbound_ip_ranges_include": "10.0.0.0/8,172.16.0.0/12", "outbound_ports_include": "443"},
        {"proxy_uid": "1337,0", "proxy_gid": "0"},
        {"inbound_interception_mode": "TPROXY", "inbound_tproxy_mark": 99},
        {"redirect_dns": True, "dns_servers_v4": "10.96.0.10"},
        {"dns_by_envoy": True, "dns_servers_v4": "10.96.0.10"},
        {"redirect_dns": True, "capture_all_dns": True, "drop_invalid": True},
        {"kube_virt_interfaces": "net1,net2", "exclude_interfaces": "eth1"},
        {"owner_groups_exclude": "202,203"},
        {"owner_groups_include": "202"},
    ],
    ids=str,
)
def test_what_is_printed_of_options_can_be_given_as_an_option(version: str, given: dict[str, object]) -> None:
    number = number_of(version)
    after = in_effect(number, IstioOptions.of(given))
    mode = {"mode": "cni"} if after.mode == "cni" else {}
    words = as_a_pod_asks(number, in_effect(number, IstioOptions.of(mode)), after)
    pasted = IstioOptions.from_pairs([*words, *(["istio-cni"] if mode else [])])
    wanted = expected_ruleset(version, options=after)
    made = expected_ruleset(version, options=pasted)
    assert sorted(rule.text for rule in made.rules()) == sorted(rule.text for rule in wanted.rules())


@pytest.mark.parametrize(
    ("name", "proposed"),
    [
        ("excludeInboundPort", "excludeInboundPort; excludeInboundPorts?"),
        ("excludeinboundports", "; excludeInboundPorts?"),
        ("traffic.sidecar.istio.io/excludeInboundPort", "; traffic.sidecar.istio.io/excludeInboundPorts?"),
        ("INBOUND_PORTS_EXCLUDED", "; inbound_ports_exclude?"),
        ("exclude_ports", "; excludeInboundPorts or excludeOutboundPorts or "),
        ("nothing-like-it-at-all", "nothing-like-it-at-all. There are proxy_port"),
    ],
)
def test_the_nearest_names_are_proposed_for_one_that_no_option_has(name: str, proposed: str) -> None:
    with pytest.raises(UsageProblem) as problem:
        IstioOptions.from_pairs([f"{name}=1"])
    assert proposed in problem.value.failure.summary


def test_two_names_of_one_option_with_two_values_are_refused() -> None:
    with pytest.raises(UsageProblem, match="inbound_ports_include is given twice, as '80' and as '90'"):
        IstioOptions.from_pairs(["includeInboundPorts=80", "ISTIO_INBOUND_PORTS=90"])
