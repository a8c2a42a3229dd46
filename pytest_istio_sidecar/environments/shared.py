"""The environment of a run: brought up by the first process that needs it, found by the others.

Knows which environment a name stands for, and what is read from it. Does not
know pytest. Invariant: called under the run's lock, and taken down by the owner only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pytest_istio_sidecar.environments import messages
from pytest_istio_sidecar.environments.base import Environment
from pytest_istio_sidecar.errors import EnvironmentProblem, UsageProblem
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.istio.tables import other_mode
from pytest_istio_sidecar.machine.evidence import write_evidence
from pytest_istio_sidecar.machine.progress import Progress
from pytest_istio_sidecar.netfilter.model import PodRules, Ruleset
from pytest_istio_sidecar.netfilter.text.complete import complete
from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save


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
    keep: bool = False
    """Whether the listings are kept as evidence, too."""

    def start(self, *, state: Path, owner: int, progress: Progress) -> Environment:  # noqa: ARG002
        """Read the listings.

        Raises:
            UsageProblem: one that cannot be used.
        """
        from pytest_istio_sidecar.environments.file import FileEnvironment, read_listings

        return FileEnvironment(rules=read_listings(self.tables), names=self.tables, keep=self.keep)

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
    environment: Environment, version: str, options: IstioOptions, evidence: Callable[[], Path]
) -> PodRules:
    """Read everything, keep it as evidence, and complete what lossy listings hide.

    Args:
        version, options: release, and what it was told, whose expected rules complete a listing.
        evidence: gives the folder; asked only when there is something to keep.

    Raises:
        EnvironmentProblem: the rules are not a sidecar's in iptables, so that none of them could be judged.
    """
    rules = environment.read_rules()
    raw = environment.evidence()
    if raw:
        keep(environment, evidence())
    pod = environment.pod().name
    mode = other_mode(rules)
    if mode:
        raise EnvironmentProblem(messages.NO_SIDECAR_RULES(pod=pod, cause=mode))
    placed = tuple(_placed(ruleset, pod, raw, evidence) for ruleset in rules.rulesets)
    return replace(
        rules, pod=pod, rulesets=tuple(_completed(ruleset, version, options) for ruleset in placed)
    )


def _placed(ruleset: Ruleset, pod: str, raw: Mapping[str, str], evidence: Callable[[], Path]) -> Ruleset:
    """The same rules, placed in the file that keeps their listing, so that messages can point into it."""
    name = "_".join(word.strip("-") for word in (ruleset.source or "").split()) + ".txt"
    listing = raw.get(name, "")
    if not listing.strip():
        return replace(ruleset, pod=pod)
    path = os.path.relpath(evidence() / name)
    again = parse_iptables_save(listing, family=ruleset.family, source=path)
    return replace(again, pod=pod, backend=ruleset.backend)


def _completed(ruleset: Ruleset, version: str, options: IstioOptions) -> Ruleset:
    if not any(rule.hidden for rule in ruleset.rules()):
        return ruleset
    try:
        expected = expected_ruleset(version, family=ruleset.family, options=options)
    except UsageProblem:
        return ruleset
    return complete(ruleset, expected)
