"""An embedded pod is read by the readers that pods of a cluster are read with."""

from pytest_istio_sidecar.environments.embedded.environment import PodRulesText
from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.netfilter.model import Backend


def test_both_families_and_both_back_ends_are_read(pod):
    rulesets = pod.read_rules().rulesets
    assert {(ruleset.family, ruleset.backend) for ruleset in rulesets} == {
        (family, backend) for family in (4, 6) for backend in Backend
    }


def test_the_rules_read_are_the_rules_of_istio(pod):
    legacy = next(r for r in pod.read_rules().of_family(4) if r.backend is Backend.LEGACY)
    expected = expected_ruleset("1.8.3")
    assert {chain.name: chain for chain in legacy.nat.chains} == {
        chain.name: chain for chain in expected.nat.chains
    }


def test_the_back_end_that_istio_does_not_use_is_empty(pod):
    other = [r for r in pod.read_rules().rulesets if (r.family, r.backend) != (4, Backend.LEGACY)]
    assert [rule.text for ruleset in other for rule in ruleset.rules()] == []


def test_raw_answers_are_kept_as_evidence(pod):
    pod.read_rules()
    assert "-A PREROUTING -p tcp -j ISTIO_INBOUND" in pod.evidence()["iptables-legacy-save_c.txt"]


def test_envoys_listeners_have_ports_and_directions(pod):
    found = {listener.port: listener.direction for listener in pod.read_listeners()}
    assert found == {15001: "outbound", 15006: "inbound", 15021: None, 15090: None}


def test_the_capturing_listeners_ask_for_the_original_destination(pod):
    asking = {listener.port for listener in pod.read_listeners() if listener.original_destination}
    assert asking == {15001, 15006}


def test_the_pods_addresses_come_in_the_kernels_order(pod):
    assert pod.pod().host.interfaces["eth0"][:3] == ("192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64")


def test_the_description_names_environment_rules_and_versions(pod):
    facts = pod.describe()
    assert {"environment", "istio", "pod", "backend", "reader", "envoy", "iptables", "kernel"} <= facts.keys()
    assert facts["istio"] == "1.8.3"


def test_services_run_as_the_users_that_the_rules_tell_apart(pod):
    script = (
        "import os\n"
        "for p in filter(str.isdecimal, os.listdir('/proc')):\n"
        "    name = os.path.basename(open(f'/proc/{p}/cmdline').read().replace(chr(0), ' '))\n"
        "    status = dict(line.split(':', 1) for line in open(f'/proc/{p}/status') if ':' in line)\n"
        "    what = 'httpbin' if 'gunicorn' in name or 'httpbin' in name else status['Name'].strip()\n"
        "    print(what, status['Uid'].split()[0], status['Gid'].split()[0])\n"
    )
    shown = set(pod._runner.run(["python3", "-c", script], timeout=5).stdout.splitlines())
    assert {"httpbin 1000 1000", "envoy 1337 1337"} <= shown


def test_rules_for_ipv6_are_loaded_and_read_too(start_pod):
    text = "*filter\n-A INPUT -p udp -j ACCEPT\nCOMMIT\n"
    pod = start_pod(rules=PodRulesText(backend=Backend.LEGACY, ipv4=None, ipv6=text))
    found = [(ruleset.family, rule.text) for ruleset in pod.read_rules().rulesets for rule in ruleset.rules()]
    assert found == [(6, "-A INPUT -p udp -j ACCEPT")]
