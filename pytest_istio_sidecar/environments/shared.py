"""The environment of a run: brought up by the first process that needs it, found by the others.

Knows which environment a name stands for, and what is read from it. Does not
know pytest. Invariant: called under the run's lock, and taken down by the owner only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_istio_sidecar.environments.base import Environment
from pytest_istio_sidecar.errors import EnvironmentProblem, UsageProblem
from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.netfilter.complete import complete
from pytest_istio_sidecar.netfilter.model import PodRules, Ruleset
from pytest_istio_sidecar.netfilter.parse_save import parse_iptables_save

if TYPE_CHECKING:
    pass


def bring_up(
    name: str, *, state: Path, owner: int, version: str, tables: tuple[str, ...], timeout: float
) -> Environment:
    """The environment of that name: made if `state` does not tell of one yet, found otherwise.

    Args:
        name: "kind", "existing", "embedded" or "file".
        state: file that tells other processes of the run what was made.
        owner: process that all that is made must not outlive.
        version: release of Istio whose rules are installed.
        tables: listings of the file environment.
        timeout: seconds that bringing it up may take.

    Raises:
        EnvironmentProblem: it cannot be brought up.
        UsageProblem: a listing that cannot be used.
    """
    if name == "file":
        from pytest_istio_sidecar.environments.file import FileEnvironment, read_listings

        return FileEnvironment(rules=read_listings(tables), names=tables)
    if name == "embedded":
        from pytest_istio_sidecar.environments.embedded import EmbeddedEnvironment

        if state.exists():
            return EmbeddedEnvironment.attach(state)
        return EmbeddedEnvironment.start(state=state, owner=owner, version=version, timeout=timeout)
    raise EnvironmentProblem(
        f"--istio-environment={name} is not there yet; use --istio-environment=embedded "
        "(a pod on this machine) or --istio-environment=file (a listing)"
    )


def take_down(state: Path, evidence: Path) -> None:
    """Take down what `state` tells of; what its programs wrote goes to `evidence`, where that is there."""
    if state.exists():
        from pytest_istio_sidecar.environments.embedded import EmbeddedEnvironment

        try:
            environment = EmbeddedEnvironment.attach(state)
        except EnvironmentProblem:
            return  # it has ended by itself; the tests that needed it have said so
        try:
            if evidence.exists():
                keep(environment, evidence)
        finally:
            environment.stop()


def keep(environment: Environment, folder: Path) -> None:
    """Write what was read so far, raw, into the folder for evidence."""
    for name, text in environment.evidence().items():
        (folder / name).write_text(text, encoding="utf-8")


def read_rules(environment: Environment, version: str, evidence: Callable[[], Path]) -> PodRules:
    """Read everything, keep it as evidence, and complete what lossy listings hide.

    Args:
        version: release whose expected rules complete a listing.
        evidence: gives the folder; asked only when there is something to keep.
    """
    rules = environment.read_rules()
    raw = environment.evidence()
    if raw:
        keep(environment, evidence())
    pod = environment.pod().name
    placed = tuple(_placed(ruleset, pod, raw, evidence) for ruleset in rules.rulesets)
    return replace(rules, pod=pod, rulesets=tuple(_completed(ruleset, version) for ruleset in placed))


def _placed(ruleset: Ruleset, pod: str, raw: Mapping[str, str], evidence: Callable[[], Path]) -> Ruleset:
    """The same rules, placed in the file that keeps their listing, so that messages can point into it."""
    name = "_".join(word.strip("-") for word in (ruleset.source or "").split()) + ".txt"
    listing = raw.get(name, "")
    if not listing.strip():
        return replace(ruleset, pod=pod)
    path = os.path.relpath(evidence() / name)
    again = parse_iptables_save(listing, family=ruleset.family, source=path)
    return replace(again, pod=pod, backend=ruleset.backend)


def _completed(ruleset: Ruleset, version: str) -> Ruleset:
    if not any(rule.hidden for rule in ruleset.rules()):
        return ruleset
    try:
        expected = expected_ruleset(version, family=ruleset.family)
    except UsageProblem:
        return ruleset
    return complete(ruleset, expected)
