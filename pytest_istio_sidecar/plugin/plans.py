"""From settings and overridable fixtures to the plan of an environment.

Knows which setting goes where. Does not know how a plan is carried out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_istio_sidecar.environments.choices import EnvironmentName

if TYPE_CHECKING:
    from pytest_istio_sidecar.environments.shared import Plan
    from pytest_istio_sidecar.plugin.settings import Settings


def plan_of(
    settings: Settings,
    *,
    kind_config: Path | None = None,
    install_options: Mapping[str, str] | None = None,
    manifests: Sequence[Path] = (),
    evidence: Path | None = None,
) -> Plan:
    """The plan that these settings ask for.

    Args:
        evidence: the run's folder for it, as the places of rules name it.
        kind_config: kind's configuration; None: this package's.
        install_options: more values for istioctl's `--set`, by key; options win over them.
        manifests: YAML files of the application; none: this package's httpbin.
    """
    if settings.environment is EnvironmentName.FILE:
        from pytest_istio_sidecar.environments.shared import FilePlan

        return FilePlan(tables=settings.tables, folder=evidence if settings.evidence else None)
    if settings.environment is EnvironmentName.EMBEDDED:
        from pytest_istio_sidecar.environments.shared import EmbeddedPlan

        return EmbeddedPlan(version=settings.version, options=settings.options, timeout=settings.timeout)
    if settings.environment is EnvironmentName.KIND:
        from pytest_istio_sidecar.environments.kind.environment import KindPlan
        from pytest_istio_sidecar.istio.versions import cluster_pair

        values = (*(f"{key}={value}" for key, value in (install_options or {}).items()), *settings.values)
        return KindPlan(
            cluster=settings.cluster or _cluster_name(settings),
            version=settings.version,
            image=settings.node_image or cluster_pair(settings.version).node_image,
            config=kind_config,
            kind=settings.kind,
            kubectl=settings.kubectl,
            istioctl=settings.istioctl,
            images=settings.images,
            values=values,
            hub=settings.hub,
            namespace=settings.namespace,
            manifests=tuple(path.read_text(encoding="utf-8") for path in manifests),
            injection=settings.injection,
            reader=settings.reader,
            reuse=settings.reuse,
            timeout=settings.timeout,
        )
    from pytest_istio_sidecar.environments.cluster.existing import ExistingPlan

    return ExistingPlan(
        kubeconfig=settings.kubeconfig,
        context=settings.context,
        namespace=settings.namespace,
        workloads=settings.workloads,
        version=settings.version if settings.version_given else None,
        reader=settings.reader,
        traffic=settings.traffic,
        make_privileged=settings.make_privileged,
        timeout=settings.timeout,
    )


def _cluster_name(settings: Settings) -> str:
    """One for each run; one for each release where a kept one is to be found again."""
    release = settings.version.replace(".", "-").replace("+", "-")
    again = settings.reuse or settings.keep != "never"
    return f"istio-sidecar-{release}" if again else f"istio-sidecar-{release}-{os.urandom(2).hex()}"
