"""Excerpts without secrets: planted ones do not come through, and what bears on rules does."""

import json

import pytest

from pytest_istio_sidecar.environments.excerpts import (
    configuration_as_evidence,
    pod_as_evidence,
    workload_as_evidence,
)

PLANTED = "PLANTED-7f3a91c4"

CONTAINER = {
    "name": "istio-proxy",
    "image": "docker.io/istio/proxyv2:1.8.3",
    "args": ["proxy", "sidecar", f"--token={PLANTED}"],
    "env": [{"name": "PASSWORD", "value": PLANTED}, {"name": "PLAIN", "value": PLANTED}],
    "securityContext": {"privileged": True},
    "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/tokens"}],
}
TEMPLATE = {
    "metadata": {
        "name": "httpbin-1",
        "namespace": "default",
        "annotations": {
            "traffic.sidecar.istio.io/excludeInboundPorts": "9000",
            "example.com/note": PLANTED,
            "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"env": PLANTED}),
        },
        "managedFields": [{"fieldsV1": PLANTED}],
    },
    "spec": {
        "containers": [CONTAINER],
        "imagePullSecrets": [{"name": PLANTED}],
        "volumes": [{"name": "keys", "secret": {"secretName": PLANTED}}],
    },
    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "message": PLANTED}]},
}


def test_nothing_planted_in_a_pod_is_kept_and_what_bears_on_its_rules_is():
    kept = pod_as_evidence(TEMPLATE)
    assert PLANTED not in kept
    pod = json.loads(kept)
    assert pod["metadata"]["annotations"]["traffic.sidecar.istio.io/excludeInboundPorts"] == "9000"
    assert pod["spec"]["containers"][0]["securityContext"] == {"privileged": True}
    assert [held["name"] for held in pod["spec"]["containers"][0]["env"]] == ["PASSWORD", "PLAIN"]


def test_nothing_planted_in_a_workload_is_kept():
    deployment = {"kind": "Deployment", "metadata": TEMPLATE["metadata"], "spec": {"template": TEMPLATE}}
    kept = workload_as_evidence(deployment)
    assert PLANTED not in kept
    assert json.loads(kept)["spec"]["template"]["spec"]["containers"][0]["name"] == "istio-proxy"


SOCKET = {"private_key": {"inline_string": PLANTED}, "privateKey": {"inlineString": PLANTED}}


@pytest.mark.parametrize(
    "section",
    [
        {
            "dynamic_listeners": [
                {
                    "active_state": {
                        "listener": {
                            "name": "virtualInbound",
                            "address": {"socket_address": {"port_value": 15006}},
                            "hidden_envoy_deprecated_use_original_dst": True,
                            "filter_chains": [{"transport_socket": SOCKET}],
                            "listener_filters": [{"name": "x", "typed_config": {"@type": "y", **SOCKET}}],
                        }
                    }
                }
            ]
        },
        {
            "dynamicListeners": [
                {
                    "activeState": {
                        "listener": {
                            "name": "virtualInbound",
                            "address": {"socketAddress": {"portValue": 15006}},
                            "hiddenEnvoyDeprecatedUseOriginalDst": True,
                            "filterChains": [{"transportSocket": SOCKET}],
                            "listenerFilters": [{"name": "x", "typedConfig": {"@type": "y", **SOCKET}}],
                        }
                    }
                }
            ]
        },
        {
            "dynamic_active_listeners": [
                {
                    "listener": {
                        "name": "virtualInbound",
                        "address": {"socket_address": {"port_value": 15006}},
                        "use_original_dst": True,
                        "filter_chains": [{"tls_context": SOCKET}],
                        "listener_filters": [{"name": "x", "config": SOCKET}],
                    }
                }
            ]
        },
    ],
    ids=["v3", "camel-case", "v2"],
)
def test_envoys_certificates_stay_out_of_what_is_kept_of_its_configuration(section):
    secrets = {"dynamic_active_secrets": [{"secret": {"tls_certificate": SOCKET}}]}
    kept = configuration_as_evidence(json.dumps({"configs": [secrets, section]}))
    assert PLANTED not in kept
    assert "virtualInbound" in kept
    assert "15006" in kept
    assert "riginal" in kept
