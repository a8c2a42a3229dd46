"""Options of real pods, and of the forms that a command line of istio-iptables can have."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from pytest_istio_sidecar import (
    IstioOptions,
    UsageProblem,
    expected_ruleset,
    outbound,
    parse_iptables_save,
    trace,
)
from pytest_istio_sidecar.istio.pod_options import unlike_user

DATA = Path(__file__).parents[2] / "data"
SAVED = {
    "1.6.14": "iptables-legacy-save_-c.txt",
    "1.8.3": "iptables-legacy-save-c.txt",
    "1.16.7": "iptables-legacy-save_-c.txt",
    "1.20.8": "iptables-legacy-save_-c.txt",
    "1.27.3": "iptables-nft-save_-c.txt",
}
TEMPLATE = [
    *("istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT"),
    *("-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020"),
]


def pod_of(version: str) -> dict:
    return json.loads((DATA / f"observed-{version}" / "pod.json").read_text())


def by_cni(annotations: dict[str, str], environment: dict[str, str] | None = None) -> dict:
    """The observed pod, as it would be where istio-cni had done istio-init's work."""
    pod = copy.deepcopy(pod_of("1.20.8"))
    started = pod["spec"]["initContainers"][0]
    started["name"] = "istio-validation"
    started["args"] += ["--run-validation", "--skip-rule-apply"]
    pod["metadata"]["annotations"] |= annotations
    for container in pod["spec"]["containers"]:
        if container["name"] == "istio-proxy":
            container["env"] += [
                {"name": name, "value": value} for name, value in (environment or {}).items()
            ]
    return pod


@pytest.mark.parametrize("version", SAVED)
def test_the_rules_in_a_real_pod_are_those_its_options_ask_for(version: str) -> None:
    options = IstioOptions.from_pod(pod_of(version))
    held = parse_iptables_save((DATA / f"observed-{version}" / SAVED[version]).read_text())
    expected = expected_ruleset(version, options=options)
    assert list(held.nat.rules()) == list(expected.nat.rules())


def test_what_istio_init_was_told_counts_and_not_the_annotation() -> None:
    pod = pod_of("1.6.14")
    assert pod["metadata"]["annotations"]["traffic.sidecar.istio.io/includeInboundPorts"] == "80"
    assert IstioOptions.from_pod(pod).inbound_ports_include == "*"


@pytest.mark.parametrize("version", SAVED)
def test_a_real_sidecar_runs_as_the_user_that_its_rules_name(version: str) -> None:
    assert unlike_user(pod_of(version), "1337", "1337") == ""


@pytest.mark.parametrize(
    ("group", "said"),
    [(1337, "they let by for its group 1337 alone"), (0, "Envoy's own connections are captured again")],
)
def test_a_sidecar_that_runs_as_root_is_told(group: int, said: str) -> None:
    """As an annotation with IPTABLES_TRACE_LOGGING makes it."""
    pod = pod_of("1.20.8")
    (sidecar,) = [held for held in pod["spec"]["containers"] if held["name"] == "istio-proxy"]
    sidecar["securityContext"] |= {"runAsUser": 0, "runAsGroup": group}
    told = unlike_user(pod, "1337", "1337")
    assert told.startswith("istio-proxy runs as user 0, and the rules name 1337: ")
    assert told.endswith(said)


def test_a_pod_with_an_ipv4_address_first_has_no_ipv6_rules() -> None:
    options = IstioOptions.from_pod(pod_of("1.8.3"))
    assert list(expected_ruleset("1.8.3", family=6, options=options).rules()) == []


def test_dual_stack_programs_both() -> None:
    pod = pod_of("1.20.8")
    pod["status"]["podIPs"] = [{"ip": "192.0.2.7"}, {"ip": "2001:db8::7"}]
    assert IstioOptions.from_pod(pod).enable_ipv6 is False
    pod["spec"]["initContainers"][0]["env"] = [{"name": "ISTIO_DUAL_STACK", "value": "true"}]
    assert IstioOptions.from_pod(pod).enable_ipv6 is True


def test_under_istio_cni_the_annotations_count() -> None:
    pod = by_cni(
        {
            "traffic.sidecar.istio.io/excludeInboundPorts": "9000,15020",
            "traffic.sidecar.istio.io/kubevirtInterfaces": "eth1",
            "istio.io/reroute-virtual-interfaces": "eth2",
        },
        {"ISTIO_META_DNS_CAPTURE": "true", "INVALID_DROP": "1"},
    )
    options = IstioOptions.from_pod(pod)
    assert options.mode == "cni"
    assert options.inbound_ports_exclude == "9000,15020,15021,15090"
    assert options.kube_virt_interfaces == "eth2"
    assert options.redirect_dns
    assert options.drop_invalid


def test_istio_cni_knows_a_port_again_before_blanks_come_off() -> None:
    """dedupPorts of cni/pkg/plugin compares texts."""
    annotation = "traffic.sidecar.istio.io/excludeInboundPorts"
    options = IstioOptions.from_pod(by_cni({annotation: "9000, 15020,"}))
    assert options.inbound_ports_exclude == "9000,15020,15020,15021,15090"


def test_a_pod_without_a_sidecar_is_refused_by_name() -> None:
    pod = pod_of("1.8.3")
    pod["spec"]["initContainers"] = []
    pod["spec"]["containers"] = [held for held in pod["spec"]["containers"] if held["name"] == "httpbin"]
    with pytest.raises(UsageProblem, match=r"pod istioinaction/httpbin-\S+ has no istio-proxy container"):
        IstioOptions.from_pod(pod)


@pytest.mark.parametrize("given", [{}, {"kind": "Deployment", "spec": {}}, {"kind": "Pod", "spec": "?"}])
def test_what_is_no_pod_is_refused(given: dict) -> None:
    with pytest.raises(UsageProblem, match="no pod"):
        IstioOptions.from_pod(given)


def test_a_pod_that_asks_for_no_interception_has_no_rules() -> None:
    pod = pod_of("1.20.8")
    pod["spec"]["initContainers"] = []
    pod["metadata"]["annotations"]["sidecar.istio.io/interceptionMode"] = "NONE"
    assert IstioOptions.from_pod(pod).inbound_interception_mode == "NONE"


@pytest.mark.parametrize(
    "arguments",
    [
        [*TEMPLATE, "-o", "3306"],
        [*TEMPLATE[1:], "-o", "3306"],
        [*TEMPLATE, "--istio-local-outbound-ports-exclude=3306", "--log_output_level=default:info"],
        [*TEMPLATE, "-o=3306"],
        [*TEMPLATE, "-o3306"],
        [
            "/usr/local/bin/pilot-agent",
            *TEMPLATE,
            "--istio-local-outbound-ports-exclude",
            "3306",
            "--log_as_json",
        ],
    ],
)
def test_every_form_of_a_flag_is_read(arguments: list[str]) -> None:
    told = IstioOptions.from_init_arguments(arguments)
    assert told.changed() == {"inbound_ports_exclude": "15090,15021,15020", "outbound_ports_exclude": "3306"}


def test_no_argument_at_all_captures_nothing_as_the_program_does() -> None:
    told = IstioOptions.from_init_arguments(["istio-iptables"])
    assert (told.inbound_ports_include, told.outbound_ip_ranges_include) == ("", "")


def test_the_group_follows_the_user() -> None:
    assert IstioOptions.from_init_arguments(["-u", "2000"]).proxy_gid == "2000"


@pytest.mark.parametrize(
    ("environment", "field", "value"),
    [
        ({"ISTIO_META_DNS_CAPTURE": "true"}, "redirect_dns", True),
        ({"ISTIO_META_DNS_CAPTURE": "false"}, "redirect_dns", False),
        ({"ISTIO_META_DNS_CAPTURE": "ALL"}, "dns_by_envoy", True),
        ({"ISTIO_META_DNS_CAPTURE": "true"}, "dns_by_envoy", False),
        ({"DNS_AGENT": ""}, "redirect_dns", False),
        ({"DNS_AGENT": "yes"}, "redirect_dns", True),
        ({"INVALID_DROP": "1"}, "drop_invalid", True),
        ({"ISTIO_OUTBOUND_OWNER_GROUPS": "202,daemon"}, "owner_groups_include", "202,daemon"),
        ({"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.0/8"}, "host_ipv4_loopback_cidr", "127.0.0.0/8"),
        ({"ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE": "3306"}, "outbound_ports_exclude", "3306"),
        ({"KUBE_VIRT_INTERFACES": "eth1"}, "kube_virt_interfaces", "eth1"),
        ({"PROXY_UID": "2000"}, "proxy_uid", "1337"),
    ],
)
def test_variables_of_the_container_are_read(environment: dict, field: str, value: object) -> None:
    assert getattr(IstioOptions.from_init_arguments(TEMPLATE, environment), field) == value


def test_a_variable_of_a_flag_counts_where_the_flag_is_not_given() -> None:
    """As `proxyMetadata` sets it; seen in a pod of 1.31.0-rc.0, whose rules had 3306 excluded."""
    pod = pod_of("1.27.3")
    (started,) = [held for held in pod["spec"]["initContainers"] if held["name"] == "istio-init"]
    started["env"] = [{"name": "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE", "value": "3306"}]
    assert IstioOptions.from_pod(pod).outbound_ports_exclude == "3306"


def test_istio_cni_does_not_heed_what_istio_iptables_takes_from_variables() -> None:
    environment = {"ISTIO_OUTBOUND_OWNER_GROUPS": "202", "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE": "3306"}
    options = IstioOptions.from_pod(by_cni({}, environment))
    assert (options.owner_groups_include, options.outbound_ports_exclude) == ("*", None)


@pytest.mark.parametrize(
    ("image", "variables", "port"),
    [
        ("proxyv2:1.7.8", {"ISTIO_META_DNS_CAPTURE": "true"}, 15013),
        ("proxyv2:1.7.0-distroless", {"ISTIO_META_DNS_CAPTURE": "false"}, 15013),
        ("proxyv2:1.7.8", {"ISTIO_META_DNS_CAPTURE": "ALL", "DNS_AGENT": "DNS-TLS"}, 15053),
        ("proxyv2:1.7.8", {"DNS_AGENT": "DNS-TLS"}, 15053),
        ("proxyv2:1.7.8", {}, None),
        ("mirror.example:5000/proxyv2:latest", {"ISTIO_META_DNS_CAPTURE": "ALL"}, 15013),
    ],
)
def test_dns_of_a_pod_of_1_7_goes_to_envoy_unless_the_agent_is_asked_for(image, variables, port) -> None:
    pod = copy.deepcopy(pod_of("1.8.3"))
    started = pod["spec"]["initContainers"][0]
    started["image"] = image
    started["env"] = [{"name": name, "value": value} for name, value in variables.items()]
    rules = expected_ruleset("1.7.8", options=IstioOptions.from_pod(pod))
    to = trace(rules, outbound("192.0.2.53", 53, protocol="udp")).destination
    assert to.port == (port or 53)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-p"], "-p lacks its value"),
        (["--no-such-flag"], "has no flag --no-such-flag"),
        (["--redirect-dns=perhaps"], "neither true nor false"),
    ],
)
def test_a_command_line_that_istio_iptables_refuses_is_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageProblem, match=said):
        IstioOptions.from_init_arguments(arguments)
