"""Istio put into a cluster, by istioctl.

Knows istioctl's commands in every release and when a control plane is ready. Does not
know how a cluster is made or what runs in the mesh. Invariant: a mesh that is there
already is left as it is, or refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_istio_sidecar.environments.cluster.api import ApiProblem, Json, KubernetesApi
from pytest_istio_sidecar.environments.cluster.api_program import run_api_program
from pytest_istio_sidecar.environments.cluster.stuck_pods import why_not_ready
from pytest_istio_sidecar.environments.cluster.workload import SIDECAR, container_of, describe_pods
from pytest_istio_sidecar.environments.kind import messages
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.failure import Advice, Fact, Failure
from pytest_istio_sidecar.istio.versions import default_hub
from pytest_istio_sidecar.machine.command import CommandResult, run_command
from pytest_istio_sidecar.machine.progress import Progress

NAMESPACE = "istio-system"
_QUESTION_SECONDS = 60.0
_NAMES_HUB = re.compile(
    r"""\s* (?: (?:spec\.)? (?:(?:values|unvalidatedValues)\.global\.)? hub \s* =
             | (?:spec|values|unvalidatedValues) [\w.]* \s* = .* \b hub ["']? \s* :
             | profile \s* = .* (?: / | \.ya?ml \s* $ ) )""",
    re.VERBOSE,
)
"""A value of `--set` that names the registry of every image (istio/istio, operator/pkg/render/manifest.go),
by a key or within an object; or a file of the user's, which may."""


class IstioNotInstalled(EnvironmentProblem):
    """Istio could not be installed, or did not become ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Istioctl:
    """One istioctl program and the cluster it is for.

    Attributes:
        path: the program.
        version: the release it is of.
        kubeconfig: of the cluster.
    """

    path: str
    version: str
    kubeconfig: Path

    def run(self, argv: Sequence[str], *, timeout: float, progress: Progress | None = None) -> CommandResult:
        """Run it; the kubeconfig goes by the environment, which every release reads."""
        return run_api_program(
            [self.path, *argv],
            timeout=timeout,
            environment={"KUBECONFIG": str(self.kubeconfig)},
            on_line=progress.line if progress else None,
        )

    def inject(self, manifest: str) -> str:
        """The manifest with the sidecar in it: `istioctl kube-inject`.

        Raises:
            IstioNotInstalled: istioctl refused.
        """
        result = run_api_program(
            [self.path, "kube-inject", "-f", "-"],
            timeout=_QUESTION_SECONDS,
            environment={"KUBECONFIG": str(self.kubeconfig)},
            text=manifest,
        )
        if not result.succeeded:
            raise IstioNotInstalled(messages.NO_SIDECAR_IN_MANIFEST(facts=result.facts()))
        return result.stdout


def istioctl_of(path: str, version: str, kubeconfig: Path) -> Istioctl:
    """That program, for a cluster.

    Raises:
        EnvironmentProblem: it does not run, or is of another release.
    """
    result = run_command([path, "version", "--remote=false"], timeout=_QUESTION_SECONDS)
    release = re.search(r"\d+\.\d+(\.\d+)?(-[\w.-]+)?", result.stdout)
    if not result.succeeded or release is None:
        raise EnvironmentProblem(messages.VERSION_NOT_TOLD(program=path, facts=result.facts()))
    if release[0] != version:
        raise EnvironmentProblem(messages.OTHER_ISTIOCTL(program=path, found=release[0], version=version))
    return Istioctl(path=path, version=version, kubeconfig=kubeconfig)


def installed_version(api: KubernetesApi) -> str | None:
    """The release of the control plane in a cluster; None where there is none."""
    items = api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", labelSelector="app=istiod")["items"]
    for deployment in items:
        container = container_of({"spec": deployment["spec"]["template"]["spec"]}, "discovery")
        if container is not None:
            return str(container["image"]).partition("@")[0].rpartition(":")[2]
    return None


def install(
    istioctl: Istioctl,
    api: KubernetesApi,
    *,
    values: Sequence[str],
    hub: str | None,
    timeout: float,
    progress: Progress,
) -> bool:
    """Install the release with profile minimal, unless it is there already, and wait until it is ready.

    Args:
        values: `KEY=VALUE` for `--set`; a profile among them replaces minimal.
        hub: registry of Istio's images; None: the one among `values`, else that of versions.toml.

    Returns:
        Whether it was installed now; where it was there already, neither `values` nor `hub` did anything.

    Raises:
        IstioNotInstalled: istioctl failed, another release is there, or it did not become ready.
    """
    version = istioctl.version
    there = installed_version(api)
    if there is not None and there != version:
        raise IstioNotInstalled(messages.OTHER_ISTIO(found=there, version=version))
    if there is None:
        argv = install_command(version, values, hub)
        result = istioctl.run(argv, timeout=timeout, progress=progress)
        if not result.succeeded:
            raise IstioNotInstalled(_explain(api, result, messages.NOT_INSTALLED(version=version)))
    try:
        api.wait(f"istiod {version} to be ready", lambda: _control_plane(api), timeout=timeout)
    except EnvironmentProblem as problem:
        facts, advice = _why_not_ready(api)
        raise IstioNotInstalled(problem.failure.and_facts(facts).advised(advice)) from None
    return there is None


def install_command(version: str, values: Sequence[str], hub: str | None) -> list[str]:
    """The arguments that install a release without asking.

    Up to 1.5 it is `manifest apply`, whose minimal profile has no injector; from 1.6 on `install`.
    """
    old = tuple(map(int, re.findall(r"\d+", version)[:2])) < (1, 6)
    argv = ["manifest", "apply"] if old else ["install", "-y"]
    profile = "default" if old else "minimal"
    if not any(value.partition("=")[0].strip() == "profile" for value in values):
        argv += ["--set", f"profile={profile}"]
    if hub is not None:
        argv += ["--set", f"hub={hub}", "--set", f"tag={version}"]
    elif not any(map(_NAMES_HUB.match, values)):
        argv += ["--set", f"hub={default_hub()}"]
    for value in values:
        argv += ["--set", value]
    return argv


def wait_for_injection(api: KubernetesApi, namespace: str, *, timeout: float) -> None:
    """Wait until the webhook puts a sidecar into a pod of a namespace.

    For some seconds after `install` returns, istiod's webhook lets pods pass unchanged.

    Raises:
        EnvironmentProblem: it did not until the deadline.
    """
    api.wait(
        f"the injection webhook to put {SIDECAR} into a pod of namespace {namespace}",
        lambda: _try_injection(api, namespace),
        timeout=timeout,
    )


def _try_injection(api: KubernetesApi, namespace: str) -> tuple[bool | None, str]:
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "istio-sidecar-probe", "labels": {"app": "istio-sidecar-probe"}},
        "spec": {"containers": [{"name": "probe", "image": "probe"}]},
    }
    path = f"/api/v1/namespaces/{namespace}/pods"
    try:
        pod = api.request("POST", path, body=body, query={"dryRun": "All"})
    except ApiProblem as problem:
        if "does not support dry run" in problem.said:
            pod = api.request("POST", path, body=body)
            api.request("DELETE", f"{path}/istio-sidecar-probe", query={"gracePeriodSeconds": "0"})
        else:
            return None, problem.said or str(problem)
    if container_of(pod) is not None:
        return True, ""
    return None, "a pod passed unchanged"


def _control_plane(api: KubernetesApi) -> tuple[Json | None, str]:
    items = api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", labelSelector="app=istiod")["items"]
    pods = api.get(f"/api/v1/namespaces/{NAMESPACE}/pods", labelSelector="app=istiod")["items"]
    seen = describe_pods(pods)
    for deployment in items:
        status: Mapping[str, int] = deployment.get("status", {})
        if status.get("availableReplicas", 0) >= 1 and not status.get("unavailableReplicas", 0):
            return deployment, seen
    return None, seen if items else "no Deployment istiod"


def _explain(api: KubernetesApi, result: CommandResult, failure: Failure) -> Failure:
    ended = "ended at its deadline" if result.exit_status is None else f"exit {result.exit_status}"
    facts = [
        ("ran", " ".join(result.argv)),
        ("got", f"{ended} after {result.seconds:.1f} s"),
        ("said", "\n".join((result.stdout + result.stderr).strip().splitlines()[-10:])),
    ]
    try:
        facts.append(("pods", describe_pods(_pods(api))))
    except ApiProblem as problem:
        return failure.and_facts([*facts, ("pods", problem.said or str(problem))])
    more, advice = _why_not_ready(api)
    return failure.and_facts([*facts, *more]).advised(advice)


def _pods(api: KubernetesApi) -> list[Json]:
    return list(api.get(f"/api/v1/namespaces/{NAMESPACE}/pods")["items"])


def _why_not_ready(api: KubernetesApi) -> tuple[list[Fact], Advice | None]:
    return why_not_ready(api, namespace=NAMESPACE, names=["istio"], pods=lambda: _pods(api))
