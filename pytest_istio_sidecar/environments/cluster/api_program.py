"""Programs that ask the Kubernetes API for us: kubectl and istioctl.

Knows how they say that the server is away. Does not know what they are asked for: it must bear
being done twice, as `apply`, `kube-inject` and `install` do. Invariant: only a server that is away
is asked again, and never past the deadline.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence

from pytest_istio_sidecar.environments.cluster.api_problems import ADMINISTRATOR
from pytest_istio_sidecar.machine.command import CommandResult, run_command

_PAUSE_SECONDS = 1.0

_AWAY = re.compile(
    r"connection refused|did you specify the right host|\bEOF\b|connection reset by peer"
    r"|TLS handshake timeout|http2: |etcdserver: |apiserver not ready"
    r"|the server is currently unable to handle the request"
    rf'|failed to download openapi: unknown|User "{ADMINISTRATOR}" cannot'
)
"""net/http's and client-go's words for an API server that is restarting.

"unknown" is what client-go calls an error without text (rest/request.go, newUnstructuredResponseError);
Kubernetes 1.34 answers so while it makes its schema.
"""


def run_api_program(
    argv: Sequence[str],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    text: str = "",
    on_line: Callable[[str], None] | None = None,
) -> CommandResult:
    """Run a program as `run_command` does, and again while the API server is away.

    Args:
        timeout: seconds, for all attempts together.
    """
    deadline = time.monotonic() + timeout
    while True:
        left = max(deadline - time.monotonic(), 0.1)
        result = run_command(argv, timeout=left, environment=environment, text=text, on_line=on_line)
        away = result.exit_status not in (0, None) and _AWAY.search(result.stderr)
        if not away or time.monotonic() + _PAUSE_SECONDS >= deadline:
            return result
        time.sleep(_PAUSE_SECONDS)
