"""A pod ends with its owner, whatever happens, and leaves nothing."""

import json
import os
import signal
import subprocess
import sys

import pytest
from leftovers import processes_in, processes_naming, send_signal, wait_until_nothing_is_left

from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment, PodRulesText
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.machine.lease import clean_stale
from pytest_istio_sidecar.machine.process import ProcessIdentity
from pytest_istio_sidecar.netfilter.model import Backend

pytestmark = pytest.mark.usefixtures("able_machine")

OWNER = """
import signal, sys, time
from pathlib import Path
from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment
# A job in the background is started with SIGINT ignored, and so are its children.
deaf = sys.argv[2:] == ["deaf"]
signal.signal(signal.SIGINT, signal.SIG_IGN if deaf else signal.default_int_handler)
print("starting", flush=True)
pod = EmbeddedEnvironment.start(state=Path(sys.argv[1]))
print("started", flush=True)
try:
    time.sleep(60)
finally:
    pod.stop()
"""


@pytest.fixture
def owner(runtime_directory, tmp_path):
    """A function that starts a process which owns a pod, and waits until it says a word."""
    state = tmp_path / "state.json"
    owners = []

    def start(word, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(state), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        owners.append(process)
        for line in process.stdout:
            if line.strip() == word:
                return process
        raise AssertionError(process.stderr.read())

    start.state = state
    yield start
    for process in owners:
        process.kill()
        process.communicate(timeout=10)


def _pid_namespace(pod):
    return pod._runner.run(["readlink", "/proc/1/ns/pid"], timeout=5).stdout.strip()


def test_stop_leaves_no_process_and_no_file(runtime_directory):
    pod = EmbeddedEnvironment.start()
    namespace = _pid_namespace(pod)
    assert len(processes_in(namespace)) >= 5  # else the check below would see nothing, too
    pod.stop()
    assert processes_in(namespace) == []
    assert processes_naming(runtime_directory) == []
    assert list((runtime_directory / "istio-sidecar").iterdir()) == []


def test_a_second_stop_does_nothing(runtime_directory):
    pod = EmbeddedEnvironment.start()
    pod.stop()
    pod.stop()


def test_an_owner_killed_by_sigkill_takes_its_pod_along(owner, runtime_directory):
    process = owner("started")
    namespace = _pid_namespace(EmbeddedEnvironment.attach(owner.state))
    assert processes_in(namespace)
    process.kill()
    process.wait(10)
    wait_until_nothing_is_left(runtime_directory)
    assert processes_in(namespace) == []


@pytest.mark.parametrize("milliseconds", [0, 30, 80, 150, 250, 400])
def test_ctrl_c_during_the_start_leaves_nothing(owner, runtime_directory, milliseconds):
    process = owner("starting")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(milliseconds / 1000)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in errors
    wait_until_nothing_is_left(runtime_directory, seconds=0.5)


def test_ctrl_c_in_the_terminal_reaches_the_owner_alone(owner, runtime_directory):
    process = owner("started", "deaf")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    pod = EmbeddedEnvironment.attach(owner.state)
    assert pod.send_request("inbound", port=80).captured_by == "inbound"


def test_what_a_crash_of_owner_and_pod_left_is_removed_and_named(owner, runtime_directory):
    process = owner("started")
    told = json.loads(owner.state.read_text())
    os.kill(told["supervisor"]["pid"], signal.SIGKILL)
    process.kill()
    process.wait(10)
    (removed,) = clean_stale()
    assert told["directory"] in removed
    wait_until_nothing_is_left(runtime_directory)
    assert clean_stale() == []


def test_what_a_living_owner_holds_is_not_cleaned(runtime_directory, start_pod):
    pod = start_pod()
    assert clean_stale() == []
    assert pod.send_request("inbound").answered_by == "httpbin"


def test_a_process_number_given_away_again_is_not_the_owner():
    me = ProcessIdentity.of(os.getpid())
    stranger = ProcessIdentity(pid=me.pid, started=me.started - 1)
    assert not stranger.alive
    stranger.end()  # were it taken for this process, the test would end here


def test_two_pods_side_by_side_do_not_meet(pod, start_pod):
    other = start_pod()
    assert _pid_namespace(pod) != _pid_namespace(other)
    counted = [sum(count for _, count in _counters(environment)) for environment in (pod, other)]
    assert pod.send_request("inbound", port=80).captured_by == "inbound"
    assert sum(count for _, count in _counters(other)) == counted[1]
    assert sum(count for _, count in _counters(pod)) > counted[0]


def _counters(environment):
    from pytest_istio_sidecar.readers.tables import read_counters

    return read_counters(environment._runner, timeout=5)


def test_the_counters_of_a_new_pod_are_all_at_nothing(start_pod):
    counters = _counters(start_pod())
    assert len(counters) == 19
    assert {count for _, count in counters} == {0}


def test_a_pod_comes_up_whatever_its_rules_do(start_pod):
    drop_all = "*filter\n:INPUT DROP [0:0]\n:OUTPUT DROP [0:0]\nCOMMIT\n"
    pod = start_pod(rules=PodRulesText(backend=Backend.LEGACY, ipv4=drop_all))
    assert pod.read_rules().of_family(4)[0].filter.chain("INPUT").policy == "DROP"


def test_another_process_attaches_to_the_same_pod(owner):
    owner("started")
    pod = EmbeddedEnvironment.attach(owner.state)
    assert pod.send_request("inbound", port=80).captured_by == "inbound"
    assert pod.describe()["istio"] == "1.8.3"


def test_a_pod_that_has_ended_cannot_be_attached_to(runtime_directory, tmp_path):
    state = tmp_path / "state.json"
    EmbeddedEnvironment.start(state=state).stop()
    with pytest.raises(EnvironmentProblem, match="has ended"):
        EmbeddedEnvironment.attach(state)


def test_asking_a_pod_that_has_ended_says_so(runtime_directory):
    pod = EmbeddedEnvironment.start()
    pod.stop()
    with pytest.raises(EnvironmentProblem, match="does not answer"):
        pod.read_rules()


def test_rules_that_iptables_refuses_are_told_in_its_words_and_leave_nothing(runtime_directory):
    rules = PodRulesText(backend=Backend.LEGACY, ipv4="*nat\n-A OUTPUT -j NOWHERE\nCOMMIT\n")
    with pytest.raises(EnvironmentProblem) as raised:
        EmbeddedEnvironment.start(rules=rules)
    assert "iptables-legacy-restore" in str(raised.value)
    assert "stderr   iptables" in str(raised.value)
    wait_until_nothing_is_left(runtime_directory, seconds=0.5)


def test_a_table_that_the_kernel_does_not_have_is_told_with_the_module_to_load(runtime_directory):
    rules = PodRulesText(backend=Backend.LEGACY, ipv4="*foo\nCOMMIT\n")
    with pytest.raises(EnvironmentProblem, match="sudo modprobe -a iptable_nat"):
        EmbeddedEnvironment.start(rules=rules)


def test_a_pod_that_is_late_says_what_it_waits_for_and_leaves_nothing(runtime_directory):
    with pytest.raises(EnvironmentProblem, match="did not become ready in time; last seen on port"):
        EmbeddedEnvironment.start(timeout=0.01)
    wait_until_nothing_is_left(runtime_directory, seconds=0.5)


def test_a_program_of_the_pod_that_has_died_is_named(start_pod):
    pod = start_pod()
    send_signal(pod, "envoy", signal.SIGKILL)
    with pytest.raises(EnvironmentProblem, match="envoy"):
        pod.read_rules()
