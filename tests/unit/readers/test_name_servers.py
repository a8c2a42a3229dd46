"""The servers of resolv.conf: read in a pod, and put into its options."""

import copy
import json
from pathlib import Path

import pytest

from pytest_istio_sidecar import IstioOptions, expected_ruleset, outbound, trace
from pytest_istio_sidecar.environments.cluster.pod import ClusterPod
from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.readers.name_servers import read_name_servers

POD = Path(__file__).parents[2] / "data" / "observed-1.20.8" / "pod.json"
RESOLV_CONF = """\
search demo.svc.cluster.local svc.cluster.local cluster.local
nameserver 192.0.2.53
  nameserver 2001:db8::53 # a comment
nameserver
nameserver example.test
# nameserver 198.51.100.53
options ndots:5
"""


def result(argv, status, stdout=""):
    return CommandResult(argv=tuple(argv), exit_status=status, stdout=stdout, stderr="", seconds=0.1)


def shows(text):
    return lambda argv, timeout: result(argv, 0, text)


def has_no_cat(argv, timeout):
    return result(argv, 127)


def test_every_server_is_read_in_order_and_nothing_else():
    assert read_name_servers([shows(RESOLV_CONF)], timeout=1) == ("192.0.2.53", "2001:db8::53")


def test_a_distroless_sidecar_is_passed_over():
    assert read_name_servers([has_no_cat, shows("nameserver 192.0.2.1\n")], timeout=1) == ("192.0.2.1",)


def test_no_server_is_known_where_no_container_can_show_the_file():
    assert read_name_servers([has_no_cat, has_no_cat], timeout=1) is None


@pytest.mark.parametrize(
    ("options", "lacks"),
    [
        ({"redirect_dns": True}, True),
        ({}, False),
        ({"redirect_dns": True, "capture_all_dns": True}, False),
        ({"redirect_dns": True, "mode": "cni"}, False),
        ({"redirect_dns": True, "dns_servers_v6": "2001:db8::53"}, False),
    ],
    ids=str,
)
def test_servers_count_where_dns_is_captured_for_them_alone(options, lacks):
    assert IstioOptions(**options).lacks_servers is lacks


class Cluster:
    """A double of the API server's client: its containers answer `cat`, `id` and `ip`."""

    def exec(self, *, namespace, pod, container, argv, timeout):
        words = [word for word in argv if word not in ("sudo", "-n")]
        said = {"cat": RESOLV_CONF, "id": "0\n", "ip": "[]"}.get(words[0], "")
        return result(argv, 0, said)


def test_a_pod_that_captures_dns_has_the_servers_of_its_resolv_conf_in_its_options():
    pod = copy.deepcopy(json.loads(POD.read_text()))
    started = pod["spec"]["initContainers"][0]
    started["env"] = [*started.get("env", []), {"name": "ISTIO_META_DNS_CAPTURE", "value": "true"}]
    assert IstioOptions.from_pod(pod).lacks_servers
    options = ClusterPod(Cluster(), pod).pod().options
    assert (options.dns_servers_v4, options.dns_servers_v6) == ("192.0.2.53", "2001:db8::53")
    rules = expected_ruleset("1.20.8", options=options)
    fates = [
        str(trace(rules, outbound(to, 53, protocol="udp")).destination)
        for to in ("192.0.2.53", "198.51.100.53")
    ]
    assert fates == ["127.0.0.1:15053", "198.51.100.53:53"]
