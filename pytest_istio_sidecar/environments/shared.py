"""The environment of a run: brought up by the first process that needs it, found by the others.

Knows which environment a name stands for, and what is read from it. Does not
know pytest. Invariant: called under the run's lock, and taken down by the owner only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pytest_istio_sidecar.environments import messages
from pytest_istio_sidecar.environments.base import Environment
from pytest_istio_sidecar.environments.choices import Choices, EnvironmentName
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio.tables import other_mode
from pytest_istio_sidecar.machine.evidence import write_evidence
from pytest_istio_sidecar.machine.progress import Progress
from pytest_istio_sidecar.machine.state_file import read_state
from pytest_istio_sidecar.netfilter.model import PodRules


def environment_of(name: str) -> type[Environment]:
    """The class that a name stands for, imported when it is asked for."""
    match EnvironmentName(name):
        case EnvironmentName.KIND:
            from pytest_istio_sidecar.environments.kind.environment import KindEnvironment

            return KindEnvironment
        case EnvironmentName.EXISTING:
            from pytest_istio_sidecar.environments.cluster.existing import ExistingEnvironment

            return ExistingEnvironment
        case EnvironmentName.EMBEDDED:
            from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment

            return EmbeddedEnvironment
        case EnvironmentName.FILE:
            from pytest_istio_sidecar.environments.file import FileEnvironment

            return FileEnvironment


def bring_up(choices: Choices, *, state: Path, owner: int, progress: Progress) -> Environment:
    """What was chosen: made if `state` does not tell of one yet, found otherwise; see `Environment`."""
    chosen = environment_of(choices.environment)
    if state.exists():
        return chosen.attach(state)
    return chosen.bring_up(choices, state=state, owner=owner, progress=progress)


def take_down(state: Path, evidence: Path, *, keep_it: bool, progress: Progress) -> str | None:
    """Take down what `state` tells of, if anything was made; see `Environment`."""
    if not state.exists():
        return None
    chosen = environment_of(read_state(state, {"environment": str})["environment"])
    return chosen.take_down(state, evidence, keep_it=keep_it, progress=progress)


def keep(environment: Environment, folder: Path, into: str = "") -> None:
    """Write what was read so far into the folder for evidence.

    Args:
        into: a folder in it, where it has one for each workload.
    """
    write_evidence(folder, environment.evidence(), into=into)


def read_rules(environment: Environment, folder: Path, place: Path, into: str = "") -> PodRules:
    """Read everything, and keep it as evidence.

    Args:
        folder: for evidence; made only when there is something to keep.
        place: the same folder, as the places of rules name it.
        into: as of `keep`.

    Raises:
        EnvironmentProblem: the rules are not a sidecar's in iptables, so that none of them could be judged.
    """
    rules = environment.read_rules(place / into)
    if environment.evidence():
        keep(environment, folder, into)
    pod = environment.pod_name
    mode = other_mode(rules)
    if mode:
        raise EnvironmentProblem(messages.NO_SIDECAR_RULES(pod=pod, cause=mode))
    of_pod = tuple(replace(ruleset, pod=pod) for ruleset in rules.rulesets)
    return replace(rules, pod=pod, rulesets=of_pod)


def read_replicas(
    environment: Environment, folder: Path, place: Path, into: str = ""
) -> Mapping[str, PodRules]:
    """Read the rules of the other pods of the workload, as `read_rules` reads those of the first."""
    replicas = environment.read_replicas(place / into)
    if replicas:
        keep(environment, folder, into)
    return replicas
