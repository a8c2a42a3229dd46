"""What is said of kind clusters, Istio's installation and the lab's edit: IS75 to IS79, of downloads IS80.

Knows the words. Does not know when they are said.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import IN_THE_TEXT, Message

_MIRROR = "correct the mirror, or the release; nothing of it was kept"

KUBECTL_FAILED = Message("IS751", "kubectl failed on the cluster {cluster}", help="its own words say why")
KIND_FAILED = Message(
    "IS752",
    "kind could not {doing} the cluster {cluster}",
    help="its own words say why; istio-sidecar doctor",
)
IN_USE = Message(
    "IS753",
    "the kind cluster {cluster} is in use by process {pid}",
    fix="wait for its end, or choose another name: --cluster-name",
)
ALREADY_THERE = Message(
    "IS754",
    "there is a kind cluster {cluster} already",
    fix="use it: --istio-reuse; or choose another name: --cluster-name{delete}",
)
NOT_BROUGHT_UP = Message(
    "IS755", "the kind cluster of this run was not brought up: see the first error", help="the first error"
)
NO_SIDECAR_IN_MANIFEST = Message(
    "IS761",
    "istioctl kube-inject put no sidecar into the manifest",
    help="istioctl's own words say why; --istio-injection=webhook injects in the cluster",
)
VERSION_NOT_TOLD = Message(
    "IS762", "{program} does not tell its version", help="name an istioctl: --istio-istioctl"
)
OTHER_ISTIOCTL = Message(
    "IS763",
    "{program} is of Istio {found}, and Istio {version} is asked for",
    fix="--istio-version={found}, or --istio-istioctl with that of {version}",
)
OTHER_ISTIO = Message(
    "IS764",
    "Istio {found} is installed in this cluster, and Istio {version} is asked for",
    fix="--istio-version={found}, or a cluster without it",
)
NOT_INSTALLED = Message(
    "IS765",
    "istioctl could not install Istio {version}",
    help="its own words say why; a slow one: --istio-timeout",
)
VALUES_WITHOUT_EFFECT = Message(
    "IS766",
    "Istio {version} is in the cluster {cluster} already, so that {values} would change nothing",
    cause="values count when Istio is installed, and it was not installed with these by a run on file",
    fix="leave them out, or begin anew: istio-sidecar clean",
)
NOT_PRIVILEGED = Message(
    "IS767",
    "istio-proxy of {pod} is not privileged, and Istio {version} merges no container that could make it so",
    cause="{cause}",
    fix="--istio-injection=kube-inject; or a cluster without Istio: leave --istio-reuse out",
)
MANIFEST_WITHOUT_DEPLOYMENT = Message(
    "IS771",
    "the manifest has no Deployment to read the sidecar of",
    help="the manifest of this package was changed: install it again",
)
NO_PROGRAM = Message("IS801", "{option}={program} is no program", help="name a file that can be executed")
NO_CHECKSUM = Message("IS802", "{url} has no SHA-256 in it: {text!r}", help=_MIRROR)
OTHER_CHECKSUM = Message(
    "IS803", "{url} is not what its release says it is", note="nothing of it was kept", help=_MIRROR
)
ANSWER_WITHOUT_END = Message(
    "IS804", "the answer goes on after {limit} MiB, which no program does", help=_MIRROR
)
NOT_IN_ARCHIVE = Message("IS805", "{url} has no {program} in it ({problem!r})", help=_MIRROR)
NO_MIRROR = Message(
    "IS806", "{variable}={value}: expected an address that begins with https://", help=IN_THE_TEXT
)
NOT_DOWNLOADED = Message(
    "IS807",
    "there is no {program} on the PATH, and {version} could not be downloaded",
    fix="install {program}, or name it with {option}; behind a mirror: {mirror}=URL; "
    "without a cluster: --istio-environment=embedded",
)
