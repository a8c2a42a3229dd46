"""Evidence without secrets: planted ones do not come through, and what bears on rules does."""

import json

import pytest

from pytest_istio_sidecar.machine.redaction import (
    configuration_as_evidence,
    pod_as_evidence,
    scrub,
    workload_as_evidence,
)

PLANTED = "PLANTED-7f3a91c4"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJlLXBsYW50ZWQ"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nUExBTlRFRA==\n-----END RSA PRIVATE KEY-----"

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


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"Authorization: Bearer {PLANTED}", PLANTED),
        (f"authorization: Basic {PLANTED}", PLANTED),
        (f"failed with bearer {PLANTED} on the way", PLANTED),
        (f"Cookie: session={PLANTED}", PLANTED),
        (f'{{"password": "{PLANTED}"}}', PLANTED),
        (f"--token={PLANTED}", PLANTED),
        (f"client-key-data: {PLANTED}", PLANTED),
        (f"https://user:{PLANTED}@example.com/", PLANTED),
        (f"a token {JWT} in a log", JWT),
        (f"before\n{PEM}\nafter", "UExBTlRFRA=="),
        ("certificate-authority-data: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t", "LS0tLS1CRUdJTiBD"),
    ],
)
def test_what_has_the_form_of_a_secret_is_replaced_in_texts(text, secret):
    assert secret not in scrub(text)


def test_a_secret_of_this_processs_environment_is_replaced_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", PLANTED)
    assert PLANTED not in scrub(f"in the middle{PLANTED}of a word")


def test_rules_are_kept_as_they_are():
    rules = "*nat\n-A ISTIO_INBOUND -p tcp -m tcp --dport 22 -j RETURN\nCOMMIT\n"
    assert scrub(rules) == rules
