"""Commands as a container's root, and from a pod's node: what keeps them from it is told with its fix.

The refusals are the words of real programs: sudo in a sidecar of Istio 1.8.3, crictl, nsenter.
"""

from __future__ import annotations

import json

import pytest

from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.readers.exec import CannotBecomeRoot, ExecRunner, become_root
from pytest_istio_sidecar.readers.node import NodeUnreadable, enter_pod

NO_NEW_PRIVILEGES = 'sudo: The "no new privileges" flag is set, which prevents sudo from running as root.\n'


def container(**said: tuple[int | None, str, str]):
    """A double of a container: the first word after sudo, or `sudo_WORD`, chooses what it answers."""

    def run(argv, *, timeout: float) -> CommandResult:
        assert timeout > 0
        words = [word for word in argv if word != "-n"]
        name = f"sudo_{words[1]}" if words[0] == "sudo" else words[0]
        status, stdout, stderr = said.get(name, (127, "", f"{words[0]}: executable file not found"))
        return CommandResult(argv=tuple(argv), exit_status=status, stdout=stdout, stderr=stderr, seconds=0.1)

    return run


def test_root_needs_no_sudo() -> None:
    runner = become_root(container(id=(0, "0\n", "")), where="demo/a", timeout=5)
    assert runner.prefix == ()


def test_the_proxys_user_becomes_root_with_sudo() -> None:
    inside = container(id=(0, "1337\n", ""), sudo_true=(0, "", ""), sudo_ip=(0, "[]", ""))
    runner = become_root(inside, where="demo/a", timeout=5)
    result = runner.run(["ip"], timeout=5)
    assert (runner.prefix, result.argv, result.stdout) == (("sudo",), ("sudo", "ip"), "[]")


def test_a_container_without_privilege_is_told_to_be_edited_or_read_from_the_node() -> None:
    inside = container(id=(0, "1337\n", ""), sudo_true=(1, "", NO_NEW_PRIVILEGES))
    with pytest.raises(CannotBecomeRoot) as raised:
        become_root(inside, where="demo/a (container istio-proxy)", timeout=5)
    message = str(raised.value)
    assert message.startswith("cannot become root in demo/a (container istio-proxy)\n")
    assert "it is not privileged, or this is the old pod" in " ".join(message.split())
    assert "--istio-reader=node" in message


def test_a_distroless_image_is_told_by_name() -> None:
    with pytest.raises(CannotBecomeRoot, match="a distroless image has no shell, no sudo and no iptables"):
        become_root(container(), where="demo/a", timeout=5)


def test_an_image_without_sudo_is_told_with_the_user_it_runs_as() -> None:
    with pytest.raises(CannotBecomeRoot, match="there is no sudo in its image, and its user is 1337"):
        become_root(container(id=(0, "1337\n", "")), where="demo/a", timeout=5)


def test_a_sudo_that_wants_a_password_is_told() -> None:
    inside = container(id=(0, "1000\n", ""), sudo_true=(1, "", "sudo: a password is required\n"))
    with pytest.raises(CannotBecomeRoot, match="the image's sudoers file does not let this user"):
        become_root(inside, where="demo/a", timeout=5)


def test_a_pod_that_loses_its_privilege_between_two_commands_is_no_answer() -> None:
    runner = ExecRunner(exec=container(sudo_ip=(1, "", NO_NEW_PRIVILEGES)), prefix=("sudo",), where="demo/a")
    with pytest.raises(CannotBecomeRoot):
        runner.run(["ip"], timeout=5)


def test_a_program_that_sudo_does_not_find_is_missing_as_without_sudo() -> None:
    inside = container(sudo_nft=(1, "", "sudo: nft: command not found\n"))
    assert ExecRunner(exec=inside, prefix=("sudo",), where="demo/a").run(["nft"], timeout=5).missing


def test_a_commands_own_failure_is_its_answer() -> None:
    inside = container(sudo_ip=(2, "", "ip: no\n"))
    assert ExecRunner(exec=inside, prefix=("sudo",), where="demo/a").run(["ip"], timeout=5).exit_status == 2


# From the node


def node(pid: int | None, *, inside: tuple[int, str, str] = (0, "", "")):
    """A double of a node that knows one container."""

    def run(argv, *, timeout: float) -> CommandResult:
        assert timeout > 0
        if argv[0] == "crictl":
            known = pid is not None
            text = json.dumps({"info": {"pid": pid}}) if known else ""
            status, stdout, stderr = (0, text, "") if known else (1, "", 'container "abc" not found\n')
        else:
            status, stdout, stderr = inside
        return CommandResult(argv=tuple(argv), exit_status=status, stdout=stdout, stderr=stderr, seconds=0.1)

    return run


def test_commands_run_in_the_network_namespace_of_the_containers_process() -> None:
    asked = []

    def run(argv, *, timeout: float) -> CommandResult:
        asked.append(list(argv))
        return node(4711)(argv, timeout=timeout)

    runner = enter_pod(run, container_id="containerd://abc", pod="demo/a", timeout=5)
    assert runner.run(["iptables-save"], timeout=5).argv == ("iptables-save",)
    assert asked == [
        ["crictl", "inspect", "abc"],
        ["nsenter", "--target", "4711", "--net", "iptables-save"],
    ]


@pytest.mark.parametrize("pid", [None, 0])
def test_a_container_without_process_is_an_error(pid: int | None) -> None:
    with pytest.raises(NodeUnreadable, match="demo/a"):
        enter_pod(node(pid), container_id="containerd://abc", pod="demo/a", timeout=5)


def test_a_program_that_the_node_lacks_is_missing() -> None:
    lacks = node(4711, inside=(127, "", "nsenter: failed to execute nft: No such file or directory\n"))
    runner = enter_pod(lacks, container_id="containerd://abc", pod="demo/a", timeout=5)
    assert runner.run(["nft"], timeout=5).missing


def test_a_process_that_has_ended_is_no_answer() -> None:
    gone = node(4711, inside=(1, "", "nsenter: cannot open /proc/4711/ns/net: No such file or directory\n"))
    runner = enter_pod(gone, container_id="containerd://abc", pod="demo/a", timeout=5)
    with pytest.raises(NodeUnreadable, match="the pod's process has ended meanwhile"):
        runner.run(["iptables-save"], timeout=5)
