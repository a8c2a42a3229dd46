"""`--istio-embedded-setup` runs a script in the pod before the tests; `--istio-keep` lets the pod go on."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_istio_sidecar import EnvironmentProblem
from pytest_istio_sidecar.environments.embedded import environment

ONE_TEST = "def test_one(istio_environment): pass"


@pytest.fixture
def started_with(start_pod, tmp_path, monkeypatch):
    """A function: a pod that ran a script, which may take two seconds."""
    monkeypatch.setattr(environment, "SETUP_SECONDS", 2.0)

    def start(script):
        file = tmp_path / "setup.sh"
        file.write_text(script)
        return start_pod(setup=file)

    return start


def test_a_script_runs_as_root_with_the_rules_loaded_and_every_program_listening(started_with):
    pod = started_with("id -u; iptables-legacy-save; cat /proc/net/tcp")
    said = pod.evidence()["setup.out"]
    assert said.startswith("0\n")
    assert "-A ISTIO_OUTPUT" in said
    assert ":3A9E 00000000:0000 0A" in said


def test_a_program_that_it_leaves_running_keeps_nobody_waiting(started_with):
    pod = started_with("sleep 1000 &\necho done")
    assert "sleep" in pod.run_program(["ps", "-e"], text="", timeout=5)


@pytest.mark.parametrize(
    ("script", "outcome", "said"),
    [
        ("echo wrong >&2; exit 3", "exit status 3", "stderr   wrong"),
        ("sleep 1000", "it was not done after 2.0 s", ""),
        ("yes", "it wrote more than 1 MiB", ""),
    ],
    ids=["fails", "hangs", "floods"],
)
def test_a_script_that_fails_is_the_environments_error(started_with, script, outcome, said):
    with pytest.raises(EnvironmentProblem) as caught:
        started_with(script)
    assert f"failed in the embedded pod ({outcome}), so that no test was run" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "content", [None, b"\xff\xfe", b"# " + b"x" * 200_000], ids=["none", "binary", "long"]
)
def test_what_is_no_shell_script_is_refused_before_anything_is_made(start_pod, tmp_path, content):
    file = tmp_path / "setup.sh"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EnvironmentProblem, match="cannot be run in the embedded pod: "):
        start_pod(setup=file)


def test_a_failing_script_ends_a_run_before_any_test(pytester):
    pytester.makepyfile(ONE_TEST)
    Path("setup.sh").write_text("exit 1\n")
    result = pytester.runpytest_subprocess("--istio-environment=embedded", "--istio-embedded-setup=setup.sh")
    result.assert_outcomes(errors=1)
    assert "so that no test was run" in result.stdout.str()


def test_a_kept_pod_tells_how_to_get_a_shell_in_it_and_clean_ends_it(pytester, monkeypatch):
    runtime = pytester.path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    pytester.makepyfile(ONE_TEST)
    result = pytester.runpytest_subprocess("--istio-environment=embedded", "--istio-keep=always")
    enter = re.search(r"a shell in it: (nsenter .*) sh$", result.stderr.str(), re.MULTILINE)[1].split()
    other = pytester.runpytest_subprocess("--istio-environment=embedded")
    other.assert_outcomes(passed=1)
    shown = subprocess.run(
        [*enter, "iptables-legacy-save"], capture_output=True, text=True, timeout=10, check=True
    )
    assert "-A ISTIO_OUTPUT" in shown.stdout
    cleaned = pytester.run(sys.executable, "-m", "pytest_istio_sidecar", "clean")
    assert "(kept, of process " in cleaned.stdout.str()
    deadline = time.monotonic() + 5
    while subprocess.run([*enter, "true"], capture_output=True, timeout=10, check=False).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
