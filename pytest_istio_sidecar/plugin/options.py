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


GROUPS = {
    "Istio sidecar interception": (
        Option(
            "--istio-environment",
            "Where the rules under test are: kind (a cluster made for the run, the default), existing (a "
            "cluster of yours), embedded (a pod of network namespaces on this machine, with real rules, "
            "Envoy and httpbin), file (listings saved before).",
            default="kind",
            metavar="kind|existing|embedded|file",
        ),
        Option(
            "--istio-version",
            "Release of Istio whose rules are installed or expected (default: 1.8.3).",
            metavar="VERSION",
        ),
        Option(
            "--istio-option",
            "What istio-init was told, where no pod tells it: the embedded environment loads such rules, the "
            "file environment expects them: inbound_ports_exclude=15090,15021,8443,15020. May be repeated.",
            metavar="NAME=VALUE",
            repeat=True,
        ),
        Option(
            "--istio-reviewed-bypasses",
            "TOML file of the bypasses that options of the pod may open: what, why, until when. One that is "
            "not on it, or past its date, fails the suite.",
            metavar="FILE",
        ),
        Option("--istio-namespace", "Namespace of the workload (default: default).", metavar="NAME"),
        Option(
            "--istio-table",
            "A listing for the file environment, as iptables-save or iptables -L prints it; '-' is standard "
            "input. 'ip6:' in front: of ip6tables; 'legacy:' or 'nft:': of that back end. May be repeated.",
            metavar="[ip6:][legacy:|nft:]FILE",
            repeat=True,
        ),
        Option(
            "--istio-reader",
            "How the pod is read: exec in its sidecar, from its node, with a debug container; auto picks.",
            default="auto",
            metavar="auto|exec|node|debug|namespace|file",
        ),
        Option(
            "--istio-report",
            "Write a report of the run; the suffix says the form: .json, .sarif, .md, .html (one page with "
            "pictures), .svg (a packet's way). May be repeated.",
            metavar="FILE",
            repeat=True,
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
    ),
    "Istio sidecar interception: the kind cluster": (
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
        Option(
            "--istio-hub",
            "Registry of Istio's images (default: docker.io/istio, whatever the release, unless --istio-set "
            "names one).",
            metavar="REGISTRY",
        ),
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
        Option(
            "--istio-injection",
            "How the sidecar comes into httpbin (default: kube-inject).",
            default="kube-inject",
            metavar="kube-inject|webhook",
        ),
        Option(
            "--istio-keep",
            "Whether the cluster outlives the run (default: never).",
            default="never",
            metavar="never|failed|always",
        ),
        Option("--istio-reuse", "Take the kind cluster of this name that an earlier run kept.", flag=True),
    ),
    "Istio sidecar interception: a cluster of yours": (
        Option(
            "--istio-context", "Context of the kubeconfig file (default: its current one).", metavar="NAME"
        ),
        Option(
            "--istio-kubeconfig",
            "Kubeconfig file of your cluster (default: KUBECONFIG, ~/.kube/config).",
            metavar="FILE",
        ),
        Option(
            "--istio-workload",
            "What to read: KIND/NAME, or a label selector; every replica of it. "
            "May be repeated (default: deployment/httpbin).",
            metavar="WORKLOAD",
            repeat=True,
        ),
        Option(
            "--istio-traffic",
            "Send requests, from a client pod that is removed after.",
            flag=True,
        ),
        Option(
            "--istio-make-privileged",
            "Edit the workload so that its sidecar is privileged; put back after.",
            flag=True,
        ),
    ),
}
"""By the heading of `pytest --help` that they stand under."""

OPTIONS = tuple(option for held in GROUPS.values() for option in held)


def add_options(parser: pytest.Parser) -> None:
    """Register every option and its ini twin."""
    for heading, held in GROUPS.items():
        group = parser.getgroup(heading, heading)
        for option in held:
            _add(parser, group, option)


def _add(parser: pytest.Parser, group: pytest.OptionGroup, option: Option) -> None:
    if option.flag:
        group.addoption(option.name, dest=option.key, default=None, action="store_true", help=option.help)
        parser.addini(option.key, f"Default of {option.name}.", type="bool", default=False)
        return
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
