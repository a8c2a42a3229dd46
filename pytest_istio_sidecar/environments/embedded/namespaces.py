"""Namespaces for an embedded pod, as root or without: the command that makes them, and why it fails.

Knows unshare(1), user namespaces and what stands in their way. Does not know
what runs inside. Invariant: what cannot work is told in one sentence with the
command that helps, before anything is made where that can be known before.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pytest_istio_sidecar.environments.embedded import messages
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.machine.process import find_program
from pytest_istio_sidecar.netfilter.model import Family

POD_ADDRESSES: Mapping[Family, tuple[str, ...]] = {
    4: ("192.0.2.10", "192.0.2.11"),
    6: ("2001:db8::10",),
}
CLIENT_ADDRESSES: Mapping[Family, str] = {4: "192.0.2.20", 6: "2001:db8::20"}
"""Of TEST-NET-1 (RFC 5737) and the documentation prefix (RFC 3849): nobody's addresses, so that a leak
would reach nobody."""

_POD_COMMANDS = [
    "link set lo up",
    "link add eth0 type veth peer name eth0 netns client",
    *(f"address add {address}/24 dev eth0" for address in POD_ADDRESSES[4]),
    "link set eth0 up",
    f"route add default via {CLIENT_ADDRESSES[4]}",
]
_CLIENT_COMMANDS = [
    "link set lo up",
    f"address add {CLIENT_ADDRESSES[4]}/24 dev eth0",
    "link set eth0 up",
]
_POD_COMMANDS_6 = [
    *(f"address add {address}/64 dev eth0 nodad" for address in POD_ADDRESSES[6]),
    # From here Envoy calls the application; istio-init adds it (pkg/capture, configureIPv6Addresses).
    "address add ::6/128 dev lo nodad",
    f"route add ::/0 via {CLIENT_ADDRESSES[6]} dev eth0",
]
_CLIENT_COMMANDS_6 = [f"address add {CLIENT_ADDRESSES[6]}/64 dev eth0 nodad"]

_PACKAGES = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "iptables-legacy-restore": "iptables",
    "iptables-nft-restore": "iptables",
    "newuidmap": "uidmap",
}


def has_ipv6() -> bool:
    """Whether this kernel has IPv6."""
    return Path("/proc/net/if_inet6").exists()


def network_commands() -> tuple[list[str], list[str]]:
    """The `ip -batch` lines for the pod and for the client; IPv6 where the kernel has it."""
    if not has_ipv6():
        return _POD_COMMANDS, _CLIENT_COMMANDS
    return _POD_COMMANDS + _POD_COMMANDS_6, _CLIENT_COMMANDS + _CLIENT_COMMANDS_6


def require_program(name: str) -> str:
    """The path of a program that a pod is built with.

    Raises:
        EnvironmentProblem: it is not there; the message names the package.
    """
    path = find_program(name)
    if path is None:
        package = _PACKAGES.get(name, name)
        raise EnvironmentProblem(messages.PROGRAM_MISSING(program=name, package=package))
    return path


def unshare_command() -> list[str]:
    """The start of a command line that runs the rest in namespaces of its own.

    With mount, PID and network namespaces; for who is not root also a user namespace that maps
    root, 1000 and 1337, which the owner match needs (user_namespaces(7), newuidmap(1)). The
    program becomes process 1, and dies with `unshare`.

    Raises:
        EnvironmentProblem: the machine lacks what that takes.
    """
    unshare = require_program("unshare")
    command = [unshare, "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() == 0:
        return command
    require_program("newuidmap")
    _require_subordinate_ids()
    if _setting("user/max_user_namespaces") == "0":
        raise EnvironmentProblem(messages.NO_USER_NAMESPACES())
    # A refusal has to be known before --map-auto, whose helper then waits for ever (unshare of
    # util-linux 2.38), and holds open what it got from us.
    trial = subprocess.run(
        [unshare, "--user", "--map-root-user", "true"],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    if trial.returncode != 0:
        raise EnvironmentProblem(explain_failed_unshare(trial.stderr))
    # One after the other: a network namespace made before its user namespace has a root
    # leaves /proc/net/ip_tables_names to the machine's root, and iptables-legacy-save fails.
    return [unshare, "--user", "--map-root-user", "--map-auto", *command]


def _require_subordinate_ids() -> None:
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    for file, option in (("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")):
        try:
            owners = {line.partition(":")[0] for line in Path(file).read_text().splitlines()}
        except OSError:
            owners = set()
        if not owners & {name, str(uid)}:
            raise EnvironmentProblem(messages.NO_SUBORDINATE_IDS(user=name, file=file, option=option))


def explain_failed_unshare(stderr: str) -> Failure:
    """Why `unshare` made no namespaces, in one sentence with what helps."""
    said = stderr.strip().splitlines()[-1] if stderr.strip() else "nothing"
    if os.geteuid() == 0:
        return messages.ROOT_MAY_NOT(said=said)
    if _setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return messages.APPARMOR()
    if _setting("kernel/unprivileged_userns_clone") == "0":
        return messages.KERNEL_FORBIDS()
    if "uidmap:" in said or "gidmap:" in said:
        return messages.NO_USERS_MAPPED(said=said)
    return messages.USER_MAY_NOT(said=said)


def _setting(name: str) -> str | None:
    """A sysctl; None where this kernel has none of that name."""
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None
