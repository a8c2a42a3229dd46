"""Who should have a sidecar: Istio's own table of labels, and what people get wrong about them."""

from __future__ import annotations

import pytest

from pytest_istio_sidecar.istio.injection import injection_of, is_ambient, why_missing

INJECT = "sidecar.istio.io/inject"
ENABLED, DISABLED = {"istio-injection": "enabled"}, {"istio-injection": "disabled"}
REVISION = {"istio.io/rev": "canary"}


def pod(
    labels: dict | None = None, annotations: dict | None = None, *, namespace: str = "shop", **spec: object
) -> dict:
    metadata = {
        "name": "cart-1",
        "namespace": namespace,
        "labels": labels or {},
        "annotations": annotations or {},
    }
    return {"metadata": metadata, "spec": {"containers": [{"name": "cart"}], **spec}}


def deployment(**metadata: object) -> dict:
    return {"kind": "Deployment", "metadata": {"name": "cart", **metadata}}


@pytest.mark.parametrize(
    ("namespace", "labels", "annotations", "wanted"),
    [
        # istio.io, "Controlling the injection policy": either label that disables, then either that enables.
        (ENABLED, {}, {}, True),
        (ENABLED, {INJECT: "true"}, {}, True),
        (ENABLED, {INJECT: "false"}, {}, False),
        (DISABLED, {}, {}, False),
        (DISABLED, {INJECT: "true"}, {}, False),
        (DISABLED, {INJECT: "false"}, {}, False),
        ({}, {}, {}, False),
        ({}, {INJECT: "true"}, {}, True),
        ({}, {INJECT: "false"}, {}, False),
        # Revisions: mutatingwebhook.yaml, rev.namespace and rev.object; istio-injection counts before them.
        (REVISION, {}, {}, True),
        (REVISION, {INJECT: "false"}, {}, False),
        ({}, REVISION, {}, True),
        (DISABLED, REVISION, {}, False),
        ({**DISABLED, **REVISION}, {}, {}, False),
        ({**ENABLED, **REVISION}, {}, {}, True),
        ({}, {"istio.io/rev": ""}, {}, False),
        # inject.go, injectRequired: the label counts before the annotation.
        (ENABLED, {}, {INJECT: "false"}, False),
        (ENABLED, {}, {INJECT: "true"}, True),
        ({}, {}, {INJECT: "true"}, True),
        (ENABLED, {INJECT: "true"}, {INJECT: "false"}, True),
        (ENABLED, {INJECT: "false"}, {INJECT: "true"}, False),
        # A value that is no truth leaves it to the namespace (since 1.13; before, nothing is injected).
        (ENABLED, {INJECT: "enabled"}, {}, True),
        ({}, {INJECT: "enabled"}, {}, False),
        ({"istio-injection": "true"}, {}, {}, False),
        ({"istio-injection": "true", **REVISION}, {}, {}, False),
        # Without the labels of the namespace what the pod says counts, and nothing else is known.
        (None, {}, {}, None),
        (None, {INJECT: "true"}, {}, True),
        (None, {INJECT: "false"}, {}, False),
        (None, REVISION, {}, True),
    ],
)
def test_who_should_have_a_sidecar_is_what_istios_table_says(namespace, labels, annotations, wanted):
    assert injection_of(pod(labels, annotations), namespace).wanted is wanted


@pytest.mark.parametrize(
    "opting_out",
    [
        pod({INJECT: "false"}),
        pod({}, {INJECT: "false"}),
        pod({INJECT: "False"}),
        pod({}, {INJECT: "no"}),
        pod({INJECT: "true"}, hostNetwork=True),
    ],
)
def test_only_the_pod_itself_opts_out(opting_out):
    assert injection_of(opting_out, ENABLED).opts_out
    assert not injection_of(pod(), DISABLED).opts_out


@pytest.mark.parametrize("namespace", ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"])
def test_nothing_is_injected_into_namespaces_of_the_system(namespace):
    injection = injection_of(pod({INJECT: "true"}, namespace=namespace), ENABLED)
    assert (injection.wanted, injection.opts_out) == (False, False)
    assert injection.why == f"Istio injects nothing into namespace {namespace}"


def test_what_says_so_is_named_with_its_value():
    assert injection_of(pod({INJECT: "true"}), {}).why == f'its label {INJECT} is "true"'
    assert injection_of(pod({}, {INJECT: "false"}), {}).why == f'its annotation {INJECT} is "false"'
    assert injection_of(pod(), ENABLED).why == "its namespace shop is labelled istio-injection=enabled"
    assert injection_of(pod(), REVISION).why == "its namespace shop is labelled istio.io/rev=canary"
    assert "hostNetwork: true" in injection_of(pod(hostNetwork=True), {}).why


@pytest.mark.parametrize(
    ("labels", "annotations", "namespace", "ambient"),
    [
        ({}, {"ambient.istio.io/redirection": "enabled"}, None, True),
        ({"istio.io/dataplane-mode": "ambient"}, {}, {}, True),
        ({}, {}, {"istio.io/dataplane-mode": "ambient"}, True),
        ({"istio.io/dataplane-mode": "none"}, {}, {"istio.io/dataplane-mode": "ambient"}, False),
        ({}, {}, {"istio.io/dataplane-mode": "ambient", **ENABLED}, False),
        ({INJECT: "true"}, {}, {"istio.io/dataplane-mode": "ambient"}, False),
        ({}, {}, {}, False),
    ],
)
def test_a_pod_of_ambient_mode_is_told_from_one_that_lacks_a_sidecar(labels, annotations, namespace, ambient):
    assert is_ambient(pod(labels, annotations), namespace) is ambient


@pytest.mark.parametrize(
    ("lacking", "namespace", "workload", "cause", "fix"),
    [
        pytest.param(
            pod(), ENABLED, deployment(),
            "pods that are there are never injected",
            "kubectl -n shop rollout restart deployment/cart",
            id="made too early",
        ),
        pytest.param(
            pod({}, {"sidecar.istio.io/injection": "true"}), {}, deployment(),
            "its annotation sidecar.istio.io/injection is none that Istio reads",
            f'{INJECT}: "true" among the labels of the pod template',
            id="misspelt annotation (istio#20307)",
        ),
        pytest.param(
            pod({"sidecar.istio.io/inect": "true"}), {}, deployment(),
            "its label sidecar.istio.io/inect is none that Istio reads", INJECT,
            id="misspelt label",
        ),
        pytest.param(
            pod(), {}, deployment(annotations={INJECT: "true"}),
            f"{INJECT} stands on the Deployment cart itself, not in its pod template",
            "among the labels of the pod template",
            id="on the Deployment (istio#38415)",
        ),
        pytest.param(
            pod({"istio-injection": "enabled"}), {}, deployment(),
            "its label istio-injection counts on a namespace only", INJECT,
            id="a namespace's label on the pod",
        ),
        pytest.param(
            pod({INJECT: "enabled"}), ENABLED, deployment(),
            f'its label {INJECT} is "enabled", and only "true" asks for a sidecar', INJECT,
            id="no truth",
        ),
        pytest.param(
            pod(), {"istio-injection": "true"}, deployment(),
            "its namespace is labelled istio-injection=true, and only enabled asks for sidecars",
            "kubectl label namespace shop istio-injection=enabled",
            id="no value of the namespace's label",
        ),
        pytest.param(
            pod(), {"istio-inject": "enabled"}, None,
            "its namespace's label istio-inject is none that Istio reads", "make the pod anew",
            id="misspelt label of the namespace",
        ),
        pytest.param(
            pod({}, {INJECT: "true"}), {}, deployment(),
            "that of a namespace that asks for none is not heeded", "among the labels of the pod template",
            id="an annotation alone",
        ),
        pytest.param(
            pod({INJECT: "true"}), DISABLED, deployment(),
            "which counts before any label of the pod",
            "kubectl label --overwrite namespace shop istio-injection=enabled",
            id="disabled by the namespace",
        ),
        pytest.param(
            pod(namespace="kube-system"), ENABLED, deployment(),
            "Istio injects nothing into namespace kube-system", "run the workload in another namespace",
            id="a namespace of the system",
        ),
        pytest.param(
            pod(), {}, deployment(),
            "neither it nor its namespace shop asks for one",
            "kubectl label namespace shop istio-injection=enabled",
            id="nobody asks",
        ),
        pytest.param(
            pod(), None, deployment(), "could not be read", "rollout restart deployment/cart",
            id="namespace not read",
        ),
    ],
)  # fmt: skip
def test_why_there_is_none_is_told_with_what_helps(lacking, namespace, workload, cause, fix):
    told, helps = why_missing(lacking, namespace, workload)
    assert cause in told
    assert fix in helps
