"""What Istio is installed with in a cluster of ours, and how that makes the sidecar privileged.

Knows which value does so where no edit can, and that values count at an installation only. Does not know how
Istio is installed. Invariant: a value that would change nothing is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_istio_sidecar.environments.choices import Injection, KindChoices
from pytest_istio_sidecar.environments.cluster.api import Json, KubernetesApi
from pytest_istio_sidecar.environments.cluster.pod import name_of
from pytest_istio_sidecar.environments.cluster.privileged import (
    MERGING_SINCE,
    is_privileged,
    make_privileged,
    wait_until_privileged,
)
from pytest_istio_sidecar.environments.cluster.workload import Workload, container_of
from pytest_istio_sidecar.environments.kind import messages
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio.versions import number_of
from pytest_istio_sidecar.machine.state_file import StateUnreadable, read_state, write_state

_PRIVILEGED = "values.global.proxy.privileged=true"
_NOTED = "installed"
"""Where a cluster's file has the values."""


def values_of(choices: KindChoices) -> Sequence[str]:
    """The user's, and what makes sidecars privileged where nothing else does."""
    if choices.injection is Injection.WEBHOOK and not _merges(choices.version):
        return (*choices.values, _PRIVILEGED)
    return choices.values


def privileged(
    api: KubernetesApi, workload: Workload, pod: Json, choices: KindChoices, *, installed: bool
) -> Json:
    """The pod with a privileged sidecar: edited, or as Istio's values made it where no edit could.

    Args:
        installed: whether Istio was installed by this run, with its values.

    Raises:
        EnvironmentProblem: it is not privileged after all.
    """
    if choices.injection is Injection.KUBE_INJECT or _merges(choices.version):
        make_privileged(api, workload)
        return wait_until_privileged(api, workload, timeout=choices.timeout)
    if not is_privileged(container_of(pod)):
        before = f"Istio was there before this run, and installed without {_PRIVILEGED}"
        cause = "a policy or a webhook takes it away" if installed else before
        raise EnvironmentProblem(
            messages.NOT_PRIVILEGED(pod=name_of(pod), version=choices.version, cause=cause)
        )
    return pod


def note_values(file: Path, choices: KindChoices) -> None:
    """Write down what Istio was installed with, for runs that reuse the cluster."""
    write_state(file, read_state(file, {}) | {_NOTED: _asked(choices)})


def noted_values(file: Path) -> Json:
    """What an earlier run has written down so; nothing where none has."""
    try:
        written = read_state(file, {})
    except StateUnreadable:
        return {}
    return {_NOTED: written[_NOTED]} if _NOTED in written else {}


def require_values(file: Path, choices: KindChoices, *, cluster: str) -> None:
    """Refuse values that would count at an installation, where there is none.

    Raises:
        EnvironmentProblem: Istio was not installed with one of them, as far as that is on file.
    """
    known = noted_values(file).get(_NOTED, [])
    missing = [value for value in _asked(choices) if value not in known]
    if missing:
        values = ", ".join(value if value.startswith("--") else f"--istio-set={value}" for value in missing)
        raise EnvironmentProblem(
            messages.VALUES_WITHOUT_EFFECT(version=choices.version, cluster=cluster, values=values)
        )


def _asked(choices: KindChoices) -> list[str]:
    return [*choices.values, *([f"--istio-hub={choices.hub}"] if choices.hub else [])]


def _merges(version: str) -> bool:
    return number_of(version) >= MERGING_SINCE
