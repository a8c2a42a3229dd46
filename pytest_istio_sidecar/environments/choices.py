"""What a user can choose: a class for each kind of environment, a field for each choice.

Knows an option's words, what may be given and what holds where nothing is. Does not know how a value is
given, nor what is done with it. Invariant: every start of pytest imports this, so that it imports nothing
of an environment.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pytest_istio_sidecar.environments.option import Frozen, file, formed, one_of, option, path, seconds

DEFAULT_VERSION = "1.8.3"


def istio_options(text: str, folder: Path) -> str:  # noqa: ARG001 - as every check
    """Names of options of Istio, with commas between them; as fields of `IstioOptions`."""
    from pytest_istio_sidecar.errors import UsageProblem
    from pytest_istio_sidecar.istio.option_names import options_named

    try:
        return ",".join(options_named(text))
    except UsageProblem as problem:
        raise ValueError(problem.failure.summary) from None


class EnvironmentName(StrEnum):
    """Where the rules under test are."""

    KIND = "kind"
    EXISTING = "existing"
    EMBEDDED = "embedded"
    FILE = "file"


class Injection(StrEnum):
    """How the sidecar comes into the pod."""

    KUBE_INJECT = "kube-inject"
    WEBHOOK = "webhook"


class ReaderName(StrEnum):
    """How the pod is read."""

    AUTO = "auto"
    EXEC = "exec"
    NODE = "node"
    DEBUG = "debug"
    NAMESPACE = "namespace"
    FILE = "file"
    LOG = "log"


class Keep(StrEnum):
    """Whether a cluster, or an embedded pod, outlives its run."""

    NEVER = "never"
    FAILED = "failed"
    ALWAYS = "always"


class RunChoices(Frozen):
    """What every run is asked for; the embedded environment and the file environment need no more."""

    environment: EnvironmentName = option(
        "--istio-environment",
        "Where the rules under test are: kind (a cluster made for the run, the default), existing (a "
        "cluster of yours), embedded (a pod of network namespaces on this machine, with real rules, "
        "Envoy and httpbin), file (listings saved before).",
        default=EnvironmentName.KIND,
        check=one_of(EnvironmentName),
        metavar="kind|existing|embedded|file",
    )
    version: str = option(
        "--istio-version",
        "Release of Istio whose rules are installed or expected (default: 1.8.3).",
        default=DEFAULT_VERSION,
        check=formed(r"\d+\.\d+(\.\d+)?([-+][\w.-]+)?", f"a release such as {DEFAULT_VERSION}"),
        metavar="VERSION",
    )
    version_given: bool = option(default=False)
    """Whether it was asked for by name."""
    options: tuple[str, ...] = option(
        "--istio-option",
        "What istio-init was told, where no pod tells it: the embedded environment loads such rules, the "
        "file environment expects them, by the name of an annotation, a flag or a variable of Istio's or "
        "of this package: excludeInboundPorts=8443, inbound_ports_exclude=15090,15021,8443,15020. May be "
        "repeated.",
        default=(),
        check=formed("istio-cni|.+?(=|: ).*", "NAME=VALUE"),
        metavar="NAME=VALUE",
        repeat=True,
    )
    reviewed_bypasses: Path | None = option(
        "--istio-reviewed-bypasses",
        "TOML file of the bypasses that this project has reviewed: what, why, until when; for which pods "
        "and which family, where that is meant. What the pod's options open and is not on it, or past its "
        "date, fails the suite.",
        default=None,
        check=file,
        metavar="FILE",
    )
    accepted_options: tuple[str, ...] = option(
        "--istio-accept-options",
        "An option of Istio whose openings this project accepts unreviewed: inbound_ports_exclude, or as an "
        "annotation names it, excludeInboundPorts; several with commas. May be repeated.",
        default=(),
        check=istio_options,
        metavar="NAME",
        repeat=True,
    )
    namespace: str = option(
        "--istio-namespace",
        "Namespace of the workload (default: default).",
        default="default",
        metavar="NAME",
    )
    tables: tuple[str, ...] = option(
        "--istio-table",
        "Rules for the file environment: a listing, log or paste of any form, '-' is standard input, or the "
        "folder that a reading wrote. 'ip6:' in front: of ip6tables; 'legacy:', 'nft:' or 'native:': of that "
        "back end, as iptables or as nft lists it. May be repeated.",
        default=(),
        metavar="[ip6:][legacy:|nft:|native:]FILE",
        repeat=True,
    )
    interfaces: tuple[str, ...] = option(
        "--istio-interface",
        "What the pod of a listing has, for the file environment, which cannot ask it: eth0=10.244.0.7/24. "
        "May be repeated (default: addresses that nobody has).",
        default=(),
        check=formed(r"[^=\s]+=\S+", "NAME=ADDRESS/PREFIX"),
        metavar="NAME=ADDRESS/PREFIX",
        repeat=True,
    )
    reader: ReaderName = option(
        "--istio-reader",
        "How the pod is read: exec in its sidecar, from its node, with a debug container; auto picks. log: "
        "what istio-init logged, which tells the rules as loaded at start, not as now.",
        default=ReaderName.AUTO,
        check=one_of(ReaderName),
        metavar="auto|exec|node|debug|namespace|file|log",
    )
    reports: tuple[Path, ...] = option(
        "--istio-report",
        "Write a report of the run; the suffix says the form: .json, .sarif, .md, .html (one page with "
        "pictures), .svg (a packet's way). May be repeated.",
        default=(),
        check=path,
        metavar="FILE",
        repeat=True,
    )
    evidence: Path | None = option(
        "--istio-evidence",
        "Folder for what was read: raw listings, listeners, versions (default: .istio-sidecar/ in the "
        "rootdir, or here where nothing says what that is, "
        "one folder a run; the file environment keeps none unless asked).",
        default=None,
        check=path,
        metavar="DIR",
    )
    timeout: float = option(
        "--istio-timeout",
        "Seconds that bringing the environment up may take (default: 300).",
        default=300.0,
        check=seconds,
        metavar="SECONDS",
    )


class KindChoices(RunChoices):
    """A cluster made for the run."""

    istioctl: str | None = option(
        "--istio-istioctl",
        "The istioctl to install with (default: the one on the PATH).",
        default=None,
        metavar="PATH",
    )
    values: tuple[str, ...] = option(
        "--istio-set",
        "A value for istioctl's --set. May be repeated.",
        default=(),
        check=formed(r"[^=\s]+=.*", "KEY=VALUE"),
        metavar="KEY=VALUE",
        repeat=True,
    )
    hub: str | None = option(
        "--istio-hub",
        "Registry of Istio's images (default: docker.io/istio, whatever the release, unless --istio-set "
        "names one).",
        default=None,
        metavar="REGISTRY",
    )
    images: tuple[str, ...] = option(
        "--istio-load-image",
        "An image of this machine's engine to load into the kind nodes before Istio. May be repeated.",
        default=(),
        metavar="NAME",
        repeat=True,
    )
    node_image: str | None = option(
        "--istio-node-image",
        "Image of the kind nodes (default: the one that versions.toml pairs with the release).",
        default=None,
        metavar="IMAGE",
        theirs="--kind-image",
    )
    kind_config: Path | None = option(
        "--istio-kind-config",
        "kind's configuration (default: the kind-config.yaml of this package).",
        default=None,
        check=file,
        metavar="FILE",
    )
    injection: Injection = option(
        "--istio-injection",
        "How the sidecar comes into httpbin (default: kube-inject).",
        default=Injection.KUBE_INJECT,
        check=one_of(Injection),
        metavar="kube-inject|webhook",
    )
    keep: Keep = option(
        "--istio-keep",
        "Whether the cluster, or the embedded pod, outlives the run (default: never).",
        default=Keep.NEVER,
        check=one_of(Keep),
        metavar="never|failed|always",
    )
    reuse: bool = option(
        "--istio-reuse",
        "Take the kind cluster of this name that an earlier run kept.",
        default=False,
        flag=True,
    )
    cluster: str | None = option(default=None, theirs="--cluster-name")
    kind: str | None = option(default=None, theirs="--kind-bin")
    kubectl: str | None = option(default=None, theirs="--kind-kubectl-bin")
    manifests: tuple[Path, ...] = option(default=())
    """YAML files of the application, whose first Deployment is under test; none: this package's httpbin."""


class ExistingChoices(RunChoices):
    """A cluster of the user's."""

    context: str | None = option(
        "--istio-context",
        "Context of the kubeconfig file (default: its current one).",
        default=None,
        metavar="NAME",
    )
    kubeconfig: Path | None = option(
        "--istio-kubeconfig",
        "Kubeconfig file of your cluster (default: KUBECONFIG, ~/.kube/config).",
        default=None,
        check=path,
        metavar="FILE",
        theirs="--kubeconfig",
    )
    workloads: tuple[str, ...] = option(
        "--istio-workload",
        "What to read: KIND/NAME, or a label selector; every replica of it. "
        "May be repeated (default: deployment/httpbin).",
        default=("deployment/httpbin",),
        metavar="WORKLOAD",
        repeat=True,
    )
    traffic: bool = option(
        "--istio-traffic",
        "Send requests, from a client pod that is removed after.",
        default=False,
        flag=True,
    )
    make_privileged: bool = option(
        "--istio-make-privileged",
        "Edit the workload so that its sidecar is privileged; put back after.",
        default=False,
        flag=True,
    )


class EmbeddedChoices(RunChoices):
    """A pod of this machine's namespaces."""

    embedded_setup: Path | None = option(
        "--istio-embedded-setup",
        "A shell script to run as root in the embedded pod, once its rules are loaded and its programs "
        "listen: to try rules, or to break it. One that fails ends the run before any test.",
        default=None,
        check=file,
        metavar="FILE",
    )


class Choices(KindChoices, ExistingChoices, EmbeddedChoices):
    """Everything that a user can choose."""
