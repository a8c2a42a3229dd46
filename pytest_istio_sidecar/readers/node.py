"""Run commands in a pod's network namespace from its node.

Knows how a container's process is found (crictl) and its namespace entered (nsenter).
Does not know how a command gets onto the node. Invariant: nothing of the pod's image is
used, so that it reads pods without shell, without sudo and without privilege; and a
process that is another pod's by now is never entered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.machine.command import NOT_FOUND, CommandResult
from pytest_istio_sidecar.readers import messages
from pytest_istio_sidecar.readers.exec import Exec


class NodeUnreadable(EnvironmentProblem):
    """The pod's process could not be found on its node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRunner:
    """Runs the node's commands in the network namespace of a pod's process.

    Attributes:
        exec: runs one on the node, as root.
        pid: of a process of the pod, as the node numbers it.
    """

    exec: Exec
    pid: int

    def run(self, argv: Sequence[str], *, timeout: float) -> CommandResult:
        """Run one command there."""
        result = self.exec(["nsenter", "--target", str(self.pid), "--net", *argv], timeout=timeout)
        result = replace(result, argv=tuple(argv))
        if f"nsenter: failed to execute {argv[0]}" in result.stderr:
            return replace(result, exit_status=NOT_FOUND)
        if "nsenter: cannot open" in result.stderr or "nsenter: reassociate" in result.stderr:
            raise NodeUnreadable(messages.POD_HAS_ENDED(facts=result.facts()))
        return result


def enter_pod(run: Exec, *, container_id: str, pod: str, timeout: float) -> NodeRunner:
    """Find the process of a container on its node.

    Args:
        container_id: as the pod's status has it: "containerd://…".

    Raises:
        NodeUnreadable: crictl does not know it.
    """
    bare = container_id.partition("://")[2]
    result = run(["crictl", "inspect", bare], timeout=timeout)
    try:
        pid = int(json.loads(result.stdout)["info"]["pid"])
    except (ValueError, KeyError, TypeError):
        raise NodeUnreadable(messages.PROCESS_NOT_TOLD(pod=pod, facts=result.facts())) from None
    if pid <= 0:
        raise NodeUnreadable(messages.CONTAINER_NOT_RUNNING(container=bare[:12], pod=pod))
    return NodeRunner(exec=run, pid=pid)
