"""Every message that users can get, by its code.

Knows which rooms have messages. Does not know any of them, nor how one is laid out: `failure` does.
Invariant: nothing of this package is raised, and no finding made, that is not listed here.

The hundreds tell what a message is about: 1 verdicts and notices, 2 listings, rules and packets, 3 options
and releases of Istio, 4 what prevents a verdict, 5 reading a pod, 6 and 7 environments, 8 this machine,
9 options of pytest and of the command line.
"""

from __future__ import annotations

from typing import Final

from pytest_istio_sidecar.checks import messages as checks
from pytest_istio_sidecar.cli import messages as cli
from pytest_istio_sidecar.environments import messages as environments
from pytest_istio_sidecar.environments.cluster import messages as cluster
from pytest_istio_sidecar.environments.embedded import messages as embedded
from pytest_istio_sidecar.environments.kind import messages as kind
from pytest_istio_sidecar.failure import Message
from pytest_istio_sidecar.istio import messages as istio
from pytest_istio_sidecar.machine import messages as machine
from pytest_istio_sidecar.netfilter import messages as netfilter
from pytest_istio_sidecar.plugin import messages as plugin
from pytest_istio_sidecar.readers import messages as readers

_ROOMS = (checks, netfilter, istio, readers, environments, embedded, cluster, kind, machine, plugin, cli)

_NAMED = [
    (name, value) for room in _ROOMS for name, value in vars(room).items() if isinstance(value, Message)
]

BY_NAME: Final = dict(_NAMED)
"""The messages by the names that the code has for them, which no two rooms share."""

CATALOGUE: Final = tuple(sorted(message for _, message in _NAMED))
"""The messages in the order of their codes."""
