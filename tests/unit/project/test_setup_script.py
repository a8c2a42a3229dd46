"""What scripts/setup does on machines that this one is not. Its functions run for real; what they would
ask of the machine (has, root_prefix) and apt-get are doubles."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "setup"
NOBODY = 65534


@pytest.fixture
def setup_function(tmp_path):
    """Runs bash code after sourcing the script; programs are looked up in tmp_path first."""

    def run(code, **options):
        return subprocess.run(
            ["bash", "-c", f'set -euo pipefail; source /dev/stdin <<<"$SETUP"; {code}'],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SETUP": SCRIPT.read_text()},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            **options,
        )

    return run


def write_program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_only_the_packages_of_missing_tools_are_named(setup_function):
    done = setup_function("has() { [[ $1 != iptables && $1 != newuidmap ]]; }; missing_packages")
    assert done.stdout == "iptables uidmap\n"


def test_a_machine_with_every_tool_installs_nothing_and_says_nothing(setup_function):
    done = setup_function("has() { true; }; apt_install() { echo called; }; install_system_tools")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_root_and_sudo_the_command_for_an_administrator_is_named_and_set_up_goes_on(setup_function):
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    done = setup_function(
        "has() { [[ $1 != sudo && $1 != iptables ]]; }; install_system_tools; echo went on", **user
    )
    assert done.stdout == "went on\n"
    assert done.stderr == (
        "setup: missing: iptables (to build embedded pods). This is not root, and there is no sudo:"
        " ask an administrator for: apt-get install iptables\n"
    )


def test_without_apt_the_packages_are_named(setup_function):
    done = setup_function("has() { [[ $1 != apt-get && $1 != conntrack ]]; }; install_system_tools")
    assert done.returncode == 0
    assert "missing: conntrack (to build embedded pods). There is no apt-get here" in done.stderr


def test_an_installation_that_works_is_one_line_though_the_update_fails(setup_function, tmp_path):
    log = tmp_path / "calls"
    write_program(tmp_path / "apt-get", f'echo "$1 $*" >>{log}; echo chatter; [ "$1" = install ]')
    done = setup_function(
        'has() { [[ $1 != nft ]]; }; root_prefix() { echo ""; }; install_system_tools; echo went on'
    )
    assert done.stdout == "setup: apt-get install nftables (to build embedded pods)\nwent on\n"
    assert done.stderr == ""
    calls = [line.split() for line in log.read_text().splitlines()]
    assert [call[0] for call in calls] == ["update", "install"]
    assert calls[1][-1] == "nftables"


def test_an_installation_that_fails_ends_the_set_up_with_its_last_words_and_what_to_do(
    setup_function, tmp_path
):
    write_program(tmp_path / "apt-get", 'echo "E: no route to the archive, $1"; exit 100')
    done = setup_function(
        'has() { [[ $1 != nft ]]; }; root_prefix() { echo ""; }; install_system_tools; echo went on'
    )
    assert done.returncode == 1
    assert "went on" not in done.stdout
    assert done.stderr == (
        "setup: apt-get failed with exit status 100. It said last:\n"
        "    E: no route to the archive, update\n"
        "    E: no route to the archive, install\n"
        "setup: Once this works as root, run this again: apt-get update && apt-get install nftables\n"
    )


def test_a_python_that_does_not_start_is_passed_over(setup_function, tmp_path):
    for name in ("python3", "python3.14"):
        write_program(tmp_path / name, "exit 127")
    write_program(tmp_path / "python3.13", "exit 0")
    assert setup_function("find_python").stdout == "python3.13\n"


def test_a_machine_with_old_python_only_is_told_so(setup_function, tmp_path):
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):
        write_program(tmp_path / name, "exit 1")
    done = setup_function("make_environment")
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr
