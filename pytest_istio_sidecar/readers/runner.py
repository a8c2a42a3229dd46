"""How commands get into a pod.

Each environment has a `Runner` of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.machine.command import CommandResult


class Runner(Protocol):
    """Runs commands in the network namespace of one pod."""

    def run(self, argv: Sequence[str], *, timeout: float) -> CommandResult:
        """Run one command and wait for its end, `timeout` seconds at most.

        Raises:
            EnvironmentProblem: the pod could not be reached. A command that fails is a result.
        """
        ...


class Completed:
    """Runs a program that the pod lacks where there is one, in the pod's network namespace."""

    def __init__(self, runner: Runner, program: str, elsewhere: Callable[[], Runner]) -> None:
        """Take the first choice and the second.

        Args:
            program: what is run elsewhere, where the first has none.
            elsewhere: how one gets there, which is asked when it is needed.
        """
        self._runner = runner
        self._program = program
        self._elsewhere = elsewhere

    def run(self, argv: Sequence[str], *, timeout: float) -> CommandResult:
        """As `Runner.run`; where the second cannot be reached, the first one's answer stands."""
        result = self._runner.run(argv, timeout=timeout)
        if argv[0] != self._program or not result.missing:
            return result
        try:
            other = self._elsewhere().run(argv, timeout=timeout)
        except EnvironmentProblem:
            return result
        return result if other.missing else other
