"""The options of the command line, each with its twin in the ini file.

Knows names, help and defaults. Does not know what a value may be: `settings` checks
them. Invariant: a twin has the option's name with `_` for `-`, and means the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import pytest


class Option(NamedTuple):
    """One option; its ini twin has the same name with `_` for `-`."""

    name: str
    help: str
    default: str = ""
    metavar: str | None = None
    repeat: bool = False
    flag: bool = False
    """Given or not; it has no value."""

    @property
    def key(self) -> str:
        return self.name.removeprefix("--").replace("-", "_")


OPTIONS = (
    Option(
        "--istio-environment",
        "Where the rules under test are: kind (a cluster made for the run), existing (a cluster of yours), "
        "embedded (a pod of network namespaces on this machine, with real rules, Envoy and httpbin), "
        "file (listings saved before).",
        default="kind",
        metavar="kind|existing|embedded|file",
    ),
    Option(
        "--istio-version",
        "Release of Istio whose rules are installed or expected (default: 1.8.3).",
        metavar="VERSION",
    ),
    Option(
        "--istio-table",
        "A listing for the file environment, as iptables-save or iptables -L prints it; '-' is standard "
        "input. 'ip6:' in front: of ip6tables; 'legacy:' or 'nft:': of that back end. May be repeated.",
        metavar="[ip6:][legacy:|nft:]FILE",
        repeat=True,
    ),
    Option(
        "--istio-istioctl",
        "The istioctl to install with (default: the one on the PATH).",
        metavar="PATH",
    ),
    Option(
        "--istio-set",
        "A value for istioctl's --set. May be repeated.",
        metavar="KEY=VALUE",
        repeat=True,
    ),
    Option("--istio-hub", "Registry of Istio's images (default: istioctl's own).", metavar="REGISTRY"),
    Option(
        "--istio-load-image",
        "An image of this machine's engine to load into the kind nodes before Istio. May be repeated.",
        metavar="NAME",
        repeat=True,
    ),
    Option(
        "--istio-node-image",
        "Image of the kind nodes (default: the one that versions.toml pairs with the release).",
        metavar="IMAGE",
    ),
    Option(
        "--istio-kind-config",
        "kind's configuration (default: the kind-config.yaml of this package).",
        metavar="FILE",
    ),
    Option("--istio-context", "Context of your cluster, in the existing environment.", metavar="NAME"),
    Option(
        "--istio-kubeconfig",
        "Kubeconfig file of your cluster, in the existing environment (default: KUBECONFIG, ~/.kube/config).",
        metavar="FILE",
    ),
    Option("--istio-namespace", "Namespace of the workload (default: default).", metavar="NAME"),
    Option(
        "--istio-workload",
        "What to read, in the existing environment: KIND/NAME, or a label selector; every replica of it. "
        "May be repeated (default: deployment/httpbin).",
        metavar="WORKLOAD",
        repeat=True,
    ),
    Option(
        "--istio-injection",
        "How the sidecar comes into httpbin (default: kube-inject).",
        default="kube-inject",
        metavar="kube-inject|webhook",
    ),
    Option(
        "--istio-reader",
        "How the pod is read: exec in its sidecar, from its node, with a debug container; auto picks.",
        default="auto",
        metavar="auto|exec|node|debug|namespace|file",
    ),
    Option(
        "--istio-keep",
        "Whether the cluster outlives the run (default: never).",
        default="never",
        metavar="never|failed|always",
    ),
    Option("--istio-reuse", "Take the kind cluster of this name that an earlier run kept.", flag=True),
    Option(
        "--istio-traffic",
        "Send requests in the existing environment, from a client pod that is removed after.",
        flag=True,
    ),
    Option(
        "--istio-make-privileged",
        "Edit the workload of the existing environment so that its sidecar is privileged; put back after.",
        flag=True,
    ),
    Option(
        "--istio-evidence",
        "Folder for what was read: raw listings, listeners, versions (default: .istio-sidecar/ in the "
        "rootdir, one folder a run; the file environment keeps none unless asked).",
        metavar="DIR",
    ),
    Option(
        "--istio-timeout",
        "Seconds that bringing the environment up may take (default: 300).",
        default="300",
        metavar="SECONDS",
    ),
)


def add_options(parser: pytest.Parser) -> None:
    """Register every option and its ini twin."""
    group = parser.getgroup("istio-sidecar", "Istio sidecar interception")
    for option in OPTIONS:
        if option.flag:
            group.addoption(option.name, dest=option.key, default=None, action="store_true", help=option.help)
            parser.addini(option.key, f"Default of {option.name}.", type="bool", default=False)
            continue
        group.addoption(
            option.name,
            dest=option.key,
            default=None,
            action="append" if option.repeat else "store",
            metavar=option.metavar,
            help=option.help,
        )
        lines: Literal["linelist", "string"] = "linelist" if option.repeat else "string"
        parser.addini(option.key, f"Default of {option.name}.", type=lines, default=None)
