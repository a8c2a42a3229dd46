"""Run commands in a container of a pod, as its root.

Knows how a sidecar's own user becomes root, and what keeps it from that. Does not
know how a command gets into the container: who gives the `Exec` does. Invariant: what
`sudo` refuses is told with what helps, and never taken for the command's own answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.failure import Advice, advise
from pytest_istio_sidecar.machine.command import NOT_FOUND, CommandResult
from pytest_istio_sidecar.readers import messages

_SUDO_REFUSALS = (
    Advice(
        '"no new privileges" flag is set',
        "the container does not allow privilege escalation: it is not privileged, or this is the old pod",
        "make istio-proxy privileged (--istio-make-privileged), or read from the node: --istio-reader=node",
    ),
    Advice(
        "a password is required",
        "the image's sudoers file does not let this user",
        "read from the node, or with a debug container: --istio-reader=node or debug",
    ),
    Advice(
        "sudo: unable to",
        "sudo cannot work in this container",
        "read from the node, or with a debug container: --istio-reader=node or debug",
    ),
)


class Exec(Protocol):
    """Runs a command in the container, as the container's user."""

    def __call__(self, argv: Sequence[str], *, timeout: float) -> CommandResult: ...


class CannotBecomeRoot(EnvironmentProblem):
    """The container's user may not read the rules, and cannot become one who may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRunner:
    """Runs commands in a container as root.

    Attributes:
        exec: runs one as the container's own user.
        prefix: what comes before a command to make it root's: ("sudo",), or nothing.
        where: how messages name the container.
    """

    exec: Exec
    prefix: tuple[str, ...]
    where: str

    def run(self, argv: Sequence[str], *, timeout: float) -> CommandResult:
        """Run one command as root.

        Raises:
            CannotBecomeRoot: sudo refused.
        """
        result = self.exec([*self.prefix, *argv], timeout=timeout)
        if not self.prefix:
            return result
        if result.exit_status == 1 and f"sudo: {argv[0]}: command not found" in result.stderr:
            return CommandResult(
                argv=result.argv,
                exit_status=NOT_FOUND,
                stdout="",
                stderr=result.stderr,
                seconds=result.seconds,
            )
        why = _refusal(result)
        if why is not None:
            raise CannotBecomeRoot(messages.NOT_ROOT(place=self.where, facts=result.facts()).advised(why))
        return result


def become_root(run: Exec, *, where: str, timeout: float) -> ExecRunner:
    """The way to run commands as root in a container: directly, or with sudo.

    Raises:
        CannotBecomeRoot: there is none; the message says why and what helps.
    """
    who = run(["id", "-u"], timeout=timeout)
    if who.missing:
        raise CannotBecomeRoot(messages.NOTHING_TO_ASK_WITH(place=where))
    if who.stdout.strip() == "0":
        return ExecRunner(exec=run, prefix=(), where=where)
    runner = ExecRunner(exec=run, prefix=("sudo",), where=where)
    trial = run(["sudo", "-n", "true"], timeout=timeout)
    if trial.missing:
        raise CannotBecomeRoot(messages.NO_SUDO(place=where, user=who.stdout.strip()))
    why = _refusal(trial)
    if why is not None or not trial.succeeded:
        raise CannotBecomeRoot(messages.NOT_ROOT(place=where, facts=trial.facts()).advised(why))
    return runner


def _refusal(result: CommandResult) -> Advice | None:
    return None if result.succeeded else advise(result.stderr, _SUDO_REFUSALS)
