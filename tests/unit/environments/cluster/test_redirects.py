"""A redirect is followed by no request that carries credentials: what it points to never hears of it.

Both servers are doubles on loopback (api_double.py): one that redirects, one that records.
"""

import pytest
from api_double import api_double

from pytest_istio_sidecar.environments.cluster.api import KubernetesApi
from pytest_istio_sidecar.environments.cluster.api_problems import ApiRedirected, refusal
from pytest_istio_sidecar.environments.cluster.port_forward import get_from_pod

POD = "/api/v1/namespaces/demo/pods/p"


def run_a_command(api):
    api.exec(namespace="demo", pod="p", container="c", argv=["id"], timeout=5)


def forward_a_port(api):
    get_from_pod(api, namespace="demo", pod="p", port=15000, path="/listeners", timeout=5)


ASKED = {
    "exec": run_a_command,
    "port-forward": forward_a_port,
    "get": lambda api: api.get(POD),
    "find": lambda api: api.find(POD),
    "text": lambda api: api.text(f"{POD}/log", {"container": "c"}),
    "patch": lambda api: api.request("PATCH", POD, body={}),
    "delete": lambda api: api.request("DELETE", POD),
}


@pytest.fixture
def elsewhere(tmp_path):
    """A server that is not the API server, and would answer whatever it is asked."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    with api_double(place, [(200, {}, {"kind": "Pod"})]) as (server, _):
        yield server


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("asked", ASKED)
def test_no_redirect_is_followed_and_the_token_goes_to_no_other_host(
    tmp_path, elsewhere, asked, scheme, status
):
    there = f"{scheme}://127.0.0.1:{elsewhere.server_address[1]}"
    location = {"location": f"{there}{POD}?token=of-theirs"}
    with (
        api_double(tmp_path, [(status, location, "<a>Moved</a>")]) as (server, config),
        pytest.raises(ApiRedirected) as raised,
    ):
        ASKED[asked](KubernetesApi(kubeconfig=config))
    here = f"http://127.0.0.1:{server.server_address[1]}"
    assert elsewhere.asked == []
    assert len(server.asked) == 1
    message = str(raised.value)
    assert f"the API server at {here} redirects to {there}, and no redirect is followed" in message
    assert f"\n  got      {status}, a redirect\n" in message
    assert "fix      " in message
    assert "of-theirs" not in message
    assert "Bearer" not in message


def test_a_redirect_within_the_same_server_is_not_followed_either(tmp_path):
    with (
        api_double(tmp_path, [(307, {"location": "/login"}, ""), (200, {}, {})]) as (server, config),
        pytest.raises(ApiRedirected) as raised,
    ):
        run_a_command(KubernetesApi(kubeconfig=config))
    here = f"http://127.0.0.1:{server.server_address[1]}"
    assert f"redirects to {here}, and" in str(raised.value)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("https://user:secret@login.example:8443/?next=secret#secret", "https://login.example:8443"),
        ("//other.example/secret", "https://other.example"),
        ("https://\x9b2Jlogin.example/", r"https://\x9b2jlogin.example"),
        ("https://[2001:db8::1]:99/", "https://[2001:db8::1]:99"),
        ("https://[::1", "an address that is none"),
        ("data:secret", "no host"),
        ("", "no address"),
    ],
)
def test_of_what_it_points_to_the_host_is_named_and_nothing_else(location, named):
    problem = refusal(
        method="GET",
        url=f"https://api.example:6443{POD}",
        status=302,
        body="secret",
        headers={"Location": location} if location else {},
    )
    assert f"redirects to {named}, and no redirect is followed" in str(problem)
    assert "secret" not in str(problem)
    assert not problem.passing
