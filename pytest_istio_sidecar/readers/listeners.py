"""Envoy's listeners, asked for at its admin port from inside the pod.

Knows where the admin interface is and a way to ask it that needs nothing but a
Python. Does not know what the answer means: `istio.listeners` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.listeners import Listener, parse_listeners
from pytest_istio_sidecar.readers.command import CommandResult, Runner

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


def read_listeners(runner: Runner, *, python: str, timeout: float, pod: str = "") -> ListenersReading:
    """Ask Envoy's admin interface for its listeners and their configuration.

    Args:
        python: the Python to ask with, in the pod's network namespace.
        timeout: seconds for each question.

    Raises:
        EnvironmentProblem: Envoy did not answer.
        ParseError: it answered something else.
    """
    results = []
    for path in ("/listeners?format=json", "/config_dump"):
        argv = [python, "-I", "-S", "-c", _ASK, str(ports.ADMIN), path]
        result = runner.run(argv, timeout=timeout)
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
