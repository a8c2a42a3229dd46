"""What the probes of Istio and Linkerd see of the six named faults: their packets, and the kernel's answers.

The procedures are theirs; each passes when its connection comes to a port that it listens on.
Source: istio/istio tools/istio-iptables/pkg/validation/validator.go, linkerd/linkerd2-proxy-init
validator/src/main.rs. Linkerd's listens on its proxy's outbound port; here that is 15001.
"""

import pytest

from pytest_istio_sidecar import outbound
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.netfilter.model import PodRules, Ruleset
from pytest_istio_sidecar.selftest.kernel import ask_kernel
from pytest_istio_sidecar.selftest.score import default_rules, mutants_of, named_faults

ISTIO = outbound("127.0.0.6", 15002, uid=1337, gid=1337, source="127.0.0.1"), (15001, 15006)
LINKERD = outbound("192.0.2.2", 1404, uid=1000, gid=1000, source="192.0.2.10"), (15001,)


@pytest.fixture
def noticed(start_pod):
    """A function: of the untouched rules, of none, and of each named fault, whether a probe fails."""
    names = named_faults("1.8.3")
    made = {
        "untouched": default_rules("1.8.3", IstioOptions()),
        **{names[m.change]: m.rules for m in mutants_of("1.8.3", IstioOptions(), 6)},
        "none": PodRules(rulesets=(Ruleset(),)),
    }
    pod = start_pod()

    def failing(probe):
        packet, listening = probe
        told = ask_kernel(pod, [(rules, [packet]) for rules in made.values()])
        answers = [answered.answers[0] for answered in told]
        return {
            name: answer is None or answer[1] not in listening
            for name, answer in zip(made, answers, strict=True)
        }

    return failing


def test_istios_probe_notices_none_of_the_six(noticed):
    found = noticed(ISTIO)
    assert (found.pop("untouched"), found.pop("none")) == (False, True)
    assert found == dict.fromkeys(named_faults("1.8.3").values(), False)


def test_linkerds_probe_notices_one_of_the_six(noticed):
    found = noticed(LINKERD)
    assert (found.pop("untouched"), found.pop("none")) == (False, True)
    assert [name for name, failed in found.items() if failed] == ["last rule of ISTIO_OUTPUT removed"]
    assert len(found) == 6
