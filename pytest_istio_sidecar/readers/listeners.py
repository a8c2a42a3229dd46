"""Envoy's listeners, asked for at its admin port.

Knows where the admin interface is and ways to ask it that need nothing installed.
Does not know what the answer means: `istio.listeners` does. Invariant: where no way was
answered, each is told with what it met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.failure import Fact
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.listeners import Listener, parse_listeners
from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.readers import messages
from pytest_istio_sidecar.readers.exec import Exec
from pytest_istio_sidecar.readers.runner import Runner

_ASK = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=5)
connection.request("GET", sys.argv[2])
response = connection.getresponse()
sys.stdout.buffer.write(response.read())
sys.exit(response.status != 200)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenersReading:
    """What Envoy listens on, and the answers it was read from.

    Attributes:
        how: the way that was answered.
    """

    listeners: tuple[Listener, ...]
    commands: tuple[CommandResult, ...]
    how: str


class Ask(Protocol):
    """Asks Envoy's admin interface for a path; its answer is the result's standard output."""

    def __call__(self, path: str) -> CommandResult: ...


def ask_with_python(runner: Runner, python: str, *, timeout: float) -> Ask:
    """Ask from a pod's network namespace, with the Python of this machine."""
    return lambda path: runner.run([python, "-I", "-S", "-c", _ASK, str(ports.ADMIN), path], timeout=timeout)


def ask_in_sidecar(run: Exec, *, timeout: float) -> Ask:
    """Ask from inside the sidecar's container: with Istio's own agent, which distroless images have too."""

    def ask(path: str) -> CommandResult:
        url = f"http://127.0.0.1:{ports.ADMIN}{path}"
        result = run(["pilot-agent", "request", "GET", path.removeprefix("/")], timeout=timeout)
        if result.succeeded and result.stdout.lstrip().startswith("{"):
            return result
        other = run(["curl", "--silent", "--show-error", "--fail", url], timeout=timeout)
        return result if other.missing else other

    return ask


def read_listeners(asks: Mapping[str, Ask], *, pod: str = "") -> ListenersReading:
    """Ask Envoy's admin interface for its listeners and their configuration.

    Args:
        ways: to ask, by name; the first that is answered counts.

    Raises:
        EnvironmentProblem: Envoy did not answer by any of them.
        ParseError: it answered something else.
    """
    failed: list[Fact] = []
    for how, ask in asks.items():
        results: list[CommandResult] = []
        for path in ("/listeners?format=json", "/config_dump"):
            said = _ask(ask, path, results)
            if said:
                failed.append((how, said))
                break
        else:
            listeners = parse_listeners(results[0].stdout, results[1].stdout)
            return ListenersReading(listeners=listeners, commands=tuple(results), how=how)
    raise EnvironmentProblem(
        messages.LISTENERS_NOT_READ(
            pod=pod or "the pod",
            cause=_cause(failed),
            facts=[("asked", f"http://127.0.0.1:{ports.ADMIN}{path}"), *failed],
        )
    )


def _ask(ask: Ask, path: str, results: list[CommandResult]) -> str:
    """Ask once; what prevented an answer, "" where nothing did."""
    try:
        result = ask(path)
    except EnvironmentProblem as problem:
        missing = [f"missing  {value}" for label, value in problem.failure.facts if label == "missing"]
        return "\n".join([problem.failure.summary.partition("\n")[0], *missing])
    results.append(result)
    if result.succeeded:
        return ""
    said = (result.stderr or result.stdout).strip().splitlines()[-1:]
    return f"{result.argv[0]}: {said[0] if said else 'nothing'}"


def _cause(failed: Sequence[Fact]) -> str:
    if any("missing  verb" in said for _, said in failed):
        return (
            "a right is missing: manifests/rbac-read.yaml has that for exec, rbac-port-forward.yaml the other"
        )
    return "Envoy is not running, or its admin port is not 15000"
