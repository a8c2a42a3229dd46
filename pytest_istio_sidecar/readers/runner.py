"""How commands get into a pod.

Each environment has a `Runner` of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pytest_istio_sidecar.machine.command import CommandResult


class Runner(Protocol):
    """Runs commands in the network namespace of one pod."""

    def run(self, argv: Sequence[str], *, timeout: float) -> CommandResult:
        """Run one command and wait for its end, `timeout` seconds at most.

        Raises:
            EnvironmentProblem: the pod could not be reached. A command that fails is a result.
        """
        ...
