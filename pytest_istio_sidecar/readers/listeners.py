"""Envoy's listeners, asked for at its admin port from inside the pod.

Knows where the admin interface is and ways to ask it that need nothing installed.
Does not know what the answer means: `istio.listeners` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.listeners import Listener, parse_listeners
from pytest_istio_sidecar.readers.command import CommandResult, Runner
from pytest_istio_sidecar.readers.exec import Exec

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
    """What Envoy listens on, and the answers it was read from."""

    listeners: tuple[Listener, ...]
    commands: tuple[CommandResult, ...]


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


def read_listeners(ask: Ask, *, pod: str = "") -> ListenersReading:
    """Ask Envoy's admin interface for its listeners and their configuration.

    Raises:
        EnvironmentProblem: Envoy did not answer.
        ParseError: it answered something else.
    """
    results = []
    for path in ("/listeners?format=json", "/config_dump"):
        result = ask(path)
        if not result.succeeded:
            said = (result.stderr or result.stdout).strip().splitlines()[-1:]
            raise EnvironmentProblem(
                f"cannot read Envoy's listeners of {pod or 'the pod'}\n\n"
                f"  asked    http://127.0.0.1:{ports.ADMIN}{path}\n"
                f"  got      {said[0] if said else 'nothing'}\n\n"
                "  cause    Envoy is not running, or its admin port is not 15000\n"
                "  note     no listener of this pod was checked"
            )
        results.append(result)
    listeners = parse_listeners(results[0].stdout, results[1].stdout)
    return ListenersReading(listeners=listeners, commands=tuple(results))
