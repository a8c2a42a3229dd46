"""Whether Istio would put a sidecar into a pod, and what of pod and namespace says so.

Knows the labels and annotations that injection heeds, and how they are got wrong. Does not know how they
are read, nor what follows for a pod that has no sidecar. Invariant: labels of a namespace that were not read
(None) leave open what they decide.

Source: istio/istio pkg/kube/inject/inject.go (injectRequired: hostNetwork, namespaces that are never injected
into, the pod's label before its annotation) and manifests/charts/istio-control/istio-discovery/templates/
mutatingwebhook.yaml (which pods the webhook is asked about); istio.io, "Installing the Sidecar", controlling
the injection policy: either label that disables wins, then either that enables. What a mesh injects without
any label (`enableNamespacesByDefault`, selectors of the injector's ConfigMap) no pod shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

INJECT, OF_NAMESPACE, REVISION = "sidecar.istio.io/inject", "istio-injection", "istio.io/rev"
_NEVER = ("kube-system", "kube-public", "kube-node-lease", "local-path-storage")
_YES, _NO = ("true", "y", "yes", "on"), ("false", "n", "no", "off")
"""Truths as the injector read them up to 1.12; newer ones take "true" and "false" only."""
_REDIRECTED = "ambient.istio.io/redirection"
_DATAPLANE = "istio.io/dataplane-mode"
_NO_SUCH = ("istio.io/revision", "istio-revision", "istio-rev", "istio.io/tag")
_RESTARTED = ("Deployment", "StatefulSet", "DaemonSet")

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """What pod and namespace say of a sidecar.

    Attributes:
        wanted: whether they ask for one; None: the labels of the namespace decide, and were not read.
        why: what says so, a part of a sentence: 'its label sidecar.istio.io/inject is "true"'.
        opts_out: whether the pod itself refuses one, or can have none.
    """

    wanted: bool | None
    why: str
    opts_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unproxied:
    """A pod under test that has no sidecar.

    Attributes:
        pod: as the API server has it.
        named: how it came to be under test: "it is named by --istio-workload".
        namespace: the labels of its namespace; None: they were not read.
        unread: why they were not; "" where they were.
        workload: that it belongs to, with its kind; None: none, or it was not read.
    """

    pod: Mapping[str, Any]
    named: str
    namespace: Labels | None = None
    unread: str = ""
    workload: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """How messages name it: `namespace/name`."""
        metadata = self.pod["metadata"]
        return f"{metadata.get('namespace', 'default')}/{metadata['name']}"


def injection_of(pod: Mapping[str, Any], namespace: Labels | None) -> Injection:
    """What a pod, as the API server has it, and the labels of its namespace say of a sidecar."""
    if pod["spec"].get("hostNetwork"):
        return Injection(wanted=False, why="it has its node's network (hostNetwork: true)", opts_out=True)
    kind, value = _own(pod)
    said = f'its {kind} {INJECT} is "{value}"'
    if value.lower() in _NO:
        return Injection(wanted=False, why=said, opts_out=True)
    name = pod["metadata"].get("namespace", "")
    if name in _NEVER:
        return Injection(wanted=False, why=f"Istio injects nothing into namespace {name}")
    policy = (namespace or {}).get(OF_NAMESPACE)
    if policy == "disabled":
        return Injection(wanted=False, why=f"its namespace {name} is labelled {OF_NAMESPACE}=disabled")
    if value.lower() in _YES:
        return Injection(wanted=True, why=said)
    if revision := labels_of(pod).get(REVISION):
        return Injection(wanted=True, why=f"its label {REVISION} is {revision}")
    if namespace is None:
        return Injection(wanted=None, why=f"the labels of its namespace {name} could not be read")
    if policy == "enabled":
        return Injection(wanted=True, why=f"its namespace {name} is labelled {OF_NAMESPACE}=enabled")
    if policy is None and (revision := namespace.get(REVISION)):
        return Injection(wanted=True, why=f"its namespace {name} is labelled {REVISION}={revision}")
    return Injection(wanted=False, why=f"neither it nor its namespace {name} asks for one")


def is_ambient(pod: Mapping[str, Any], namespace: Labels | None) -> bool:
    """Whether a pod without a sidecar is captured by ztunnel, or is asked to be and by no sidecar.

    Source: istio.io, "Add workloads to the mesh" (ambient): the label of the pod counts before that of its
    namespace; istio-cni notes at the pod what it has done.
    """
    if annotations_of(pod).get(_REDIRECTED) == "enabled":
        return True
    mode = labels_of(pod).get(_DATAPLANE) or (namespace or {}).get(_DATAPLANE)
    return mode == "ambient" and not injection_of(pod, namespace).wanted


def why_missing(
    pod: Mapping[str, Any], namespace: Labels | None, workload: Mapping[str, Any] | None
) -> tuple[str, str]:
    """Why a pod has no sidecar though it should, as far as that shows, and what helps.

    Args:
        workload: that the pod belongs to; None: none, or it could not be read.
    """
    name = pod["metadata"].get("namespace", "")
    restart = _restart(name, workload)
    template = f'{INJECT}: "true" among the labels of the pod template'
    injection = injection_of(pod, namespace)
    slips = () if injection.wanted else _slips(pod, namespace, workload)
    cause = next(iter((*_wrong_value(pod), *slips)), "")
    if name in _NEVER:
        return injection.why, "run the workload in another namespace"
    if cause:
        return cause, f"{template}, or\nkubectl label namespace {name} {OF_NAMESPACE}=enabled; then {restart}"
    if (namespace or {}).get(OF_NAMESPACE) == "disabled":
        more = f"{injection.why}, which counts before any label of the pod"
        return more, f"kubectl label --overwrite namespace {name} {OF_NAMESPACE}=enabled\n{restart}"
    if injection.wanted and _own(pod)[0] == "annotation" and not (namespace or {}).keys() & _ASKING:
        asked = "that of a namespace that asks for none is not heeded: there it takes the label of that name"
        return f"{injection.why}, but {asked}", f"{template}; then {restart}"
    if injection.wanted:
        late = "when the pod was made its label was not set yet, or the webhook was not ready, or not there"
        webhooks = "if that does not help: kubectl get mutatingwebhookconfigurations; istioctl tag list"
        return f"{late}: pods that are there are never injected", f"{restart}\n{webhooks}"
    return injection.why, f"kubectl label namespace {name} {OF_NAMESPACE}=enabled\n{restart}"


def labels_of(thing: Mapping[str, Any]) -> Labels:
    """The labels of a pod, namespace or workload."""
    return (thing.get("metadata") or {}).get("labels") or {}


def annotations_of(thing: Mapping[str, Any]) -> Labels:
    """The annotations of a pod, namespace or workload."""
    return (thing.get("metadata") or {}).get("annotations") or {}


_ASKING = {OF_NAMESPACE, REVISION}


def _own(pod: Mapping[str, Any]) -> tuple[str, str]:
    """What the pod itself says at `sidecar.istio.io/inject`, and whether by label or annotation."""
    labels = labels_of(pod)
    if INJECT in labels:
        return "label", labels[INJECT]
    return "annotation", annotations_of(pod).get(INJECT, "")


def _wrong_value(pod: Mapping[str, Any]) -> Iterator[str]:
    kind, value = _own(pod)
    if value and value.lower() not in (*_YES, *_NO):
        yield f'its {kind} {INJECT} is "{value}", and only "true" asks for a sidecar'


def _slips(
    pod: Mapping[str, Any], namespace: Labels | None, workload: Mapping[str, Any] | None
) -> Iterator[str]:
    """What was meant to ask for a sidecar and does not, a sentence each (istio/istio#20307, #38415)."""
    for kind, names in (("label", labels_of(pod)), ("annotation", annotations_of(pod))):
        if OF_NAMESPACE in names:
            yield f"its {kind} {OF_NAMESPACE} counts on a namespace only; a pod has {INJECT}"
        for name in _misspelt(names):
            yield f"its {kind} {name} is none that Istio reads; a pod has {INJECT}"
    if workload is not None:
        own = {**annotations_of(workload), **labels_of(workload)}
        for name in (INJECT, REVISION, OF_NAMESPACE):
            if name in own and name not in {**annotations_of(pod), **labels_of(pod)}:
                which = f"{workload.get('kind', 'workload')} {workload['metadata'].get('name', '')}"
                yield f"{name} stands on the {which} itself, not in its pod template"
    policy = (namespace or {}).get(OF_NAMESPACE)
    if policy not in (None, "enabled", "disabled"):
        yield f"its namespace is labelled {OF_NAMESPACE}={policy}, and only enabled asks for sidecars"
    for name in _misspelt(namespace or {}):
        yield f"its namespace's label {name} is none that Istio reads; a namespace has {OF_NAMESPACE}"


def _misspelt(names: Iterable[str]) -> Iterator[str]:
    known = (INJECT, OF_NAMESPACE, REVISION)
    for name in names:
        if name in known or name.startswith("inject.istio.io/"):
            continue
        near = get_close_matches(name.lower(), known[:2], 1, 0.9)
        if near or name in _NO_SUCH or ("istio" in name.lower() and "inject" in name.lower()):
            yield name


def _restart(namespace: str, workload: Mapping[str, Any] | None) -> str:
    if workload is None or workload.get("kind") not in _RESTARTED:
        return "make the pod anew"
    target = f"{str(workload['kind']).lower()}/{workload['metadata']['name']}"
    return f"kubectl -n {namespace} rollout restart {target}"
