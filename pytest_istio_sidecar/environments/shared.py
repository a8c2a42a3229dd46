"""The environment of a run: brought up by the first process that needs it, found by the others.

Knows which environment a name stands for, and what is read from it. Does not
know pytest. Invariant: called under the run's lock, and taken down by the owner only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from pytest_istio_sidecar.checks.comparison.expectation import completed, expected_of
from pytest_istio_sidecar.environments import messages
from pytest_istio_sidecar.environments.base import Environment
from pytest_istio_sidecar.errors import EnvironmentProblem, UsageProblem
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.tables import other_mode
from pytest_istio_sidecar.machine.evidence import write_evidence
from pytest_istio_sidecar.machine.progress import Progress
from pytest_istio_sidecar.netfilter.model import PodRules


class Plan(Protocol):
    """What an environment is made of, and how it is made or found."""

    def start(self, *, state: Path, owner: int, progress: Progress) -> Environment:
        """Make it, and describe it in `state` for the other processes of the run."""
        ...

    def attach(self, state: Path) -> Environment:
        """Find what another process of the run made."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlan:
    """Listings saved before: each process reads them for itself."""

    tables: tuple[str, ...]
    folder: Path | None = None
    """Where the listings are kept as evidence, too, as places of rules name it; None: nowhere."""

    def start(self, *, state: Path, owner: int, progress: Progress) -> Environment:  # noqa: ARG002
        """Read the listings.

        Raises:
            UsageProblem: one that cannot be used.
        """
        from pytest_istio_sidecar.environments.file import FileEnvironment, read_and_keep

        rules, texts = read_and_keep(self.tables, self.folder)
        return FileEnvironment(rules=rules, names=self.tables, kept=texts if self.folder else {})

    def attach(self, state: Path) -> Environment:
        """Never: nothing is described in `state`."""
        raise AssertionError(state)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPlan:
    """A pod of namespaces on this machine."""

    version: str
    timeout: float
    options: tuple[str, ...] = ()
    """What its istio-init is told, as NAME=VALUE."""

    def start(self, *, state: Path, owner: int, progress: Progress) -> Environment:  # noqa: ARG002
        """Bring the pod up, which takes no time to tell of.

        Raises:
            UsageProblem: an option that Istio does not have, or refuses.
        """
        from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment

        options = IstioOptions.from_pairs(self.options)
        return EmbeddedEnvironment.start(
            state=state, owner=owner, version=self.version, options=options, timeout=self.timeout
        )

    def attach(self, state: Path) -> Environment:
        """Find it."""
        from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment

        return EmbeddedEnvironment.attach(state)


def bring_up(plan: Plan, *, state: Path, owner: int, progress: Progress) -> Environment:
    """The environment of a plan: made if `state` does not tell of one yet, found otherwise.

    Args:
        state: file that tells other processes of the run what was made.
        owner: process that all that is made must not outlive.

    Raises:
        EnvironmentProblem: it cannot be brought up.
        UsageProblem: something of the plan cannot be used.
    """
    if state.exists():
        return plan.attach(state)
    return plan.start(state=state, owner=owner, progress=progress)


def take_down(state: Path, evidence: Path, *, keep_it: bool, progress: Progress) -> str | None:
    """Take down what `state` tells of; what its programs wrote goes to `evidence`, where that is there.

    Args:
        keep_it: leave a cluster standing.

    Returns:
        How to get into what was left standing.
    """
    if not state.exists():
        return None
    name = json.loads(state.read_text()).get("environment")
    if name == "kind":
        from pytest_istio_sidecar.environments.kind.environment import stop_cluster

        return stop_cluster(state, keep=keep_it, progress=progress)
    if name == "existing":
        from pytest_istio_sidecar.environments.cluster.existing import put_back

        return "\n".join(put_back(state)) or None
    from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment

    try:
        environment = EmbeddedEnvironment.attach(state)
    except EnvironmentProblem:
        return None  # it has ended by itself; the tests that needed it have said so
    try:
        if evidence.exists():
            keep(environment, evidence)
    finally:
        environment.stop()
    return None


def keep(environment: Environment, folder: Path) -> None:
    """Write what was read so far into the folder for evidence."""
    write_evidence(folder, environment.evidence())


def read_rules(
    environment: Environment, version: str, options: IstioOptions, folder: Path, place: Path
) -> PodRules:
    """Read everything, keep it as evidence, and complete what lossy listings hide.

    Args:
        version, options: release, and what it was told, whose expected rules complete a listing.
        folder: for evidence; made only when there is something to keep.
        place: the same folder, as the places of rules name it.

    Raises:
        EnvironmentProblem: the rules are not a sidecar's in iptables, so that none of them could be judged.
    """
    rules = environment.read_rules(place)
    if environment.evidence():
        keep(environment, folder)
    pod = environment.pod().name
    mode = other_mode(rules)
    if mode:
        raise EnvironmentProblem(messages.NO_SIDECAR_RULES(pod=pod, cause=mode))
    of_pod = tuple(replace(ruleset, pod=pod) for ruleset in rules.rulesets)
    return _completed(replace(rules, pod=pod, rulesets=of_pod), version, options)


def read_replicas(
    environment: Environment, version: str, options: IstioOptions, folder: Path, place: Path
) -> Mapping[str, PodRules]:
    """Read the rules of the other pods of the workload, as `read_rules` reads those of the first."""
    replicas = environment.read_replicas(place)
    if replicas:
        keep(environment, folder)
    return {name: _completed(rules, version, options) for name, rules in replicas.items()}


def _completed(rules: PodRules, version: str, options: IstioOptions) -> PodRules:
    try:
        return cast("PodRules", completed(rules, expected_of(rules, version, options)))
    except UsageProblem:
        return rules  # a release or options that nothing is known of complete nothing
