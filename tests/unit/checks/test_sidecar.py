"""A pod without a sidecar, or a sidecar without rules: when that is a verdict, and when there is none."""

from __future__ import annotations

import pytest

from pytest_istio_sidecar import PodRules, Ruleset, expected_ruleset, parse_iptables_save
from pytest_istio_sidecar.checks.sidecar import check_istio_rules, check_sidecars
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.istio.injection import Unproxied
from pytest_istio_sidecar.netfilter.model import Backend
from pytest_istio_sidecar.reports.message import render_findings

INJECT = "sidecar.istio.io/inject"
OTHERS = parse_iptables_save("*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -j ACCEPT\nCOMMIT\n")


def lacking(
    name: str = "cart-1", *, namespace: dict | None = None, unread: str = "", **metadata: object
) -> Unproxied:
    pod = {
        "metadata": {"name": name, "namespace": "shop", **metadata},
        "spec": {"containers": [{"name": "cart"}]},
    }
    workload = {"kind": "Deployment", "metadata": {"name": "cart"}}
    named = "it is named by --istio-workload"
    return Unproxied(pod=pod, named=named, namespace=namespace, unread=unread, workload=workload)


def test_a_pod_whose_namespace_asks_for_a_sidecar_and_that_has_none_is_against():
    (finding,) = check_sidecars([lacking(namespace={"istio-injection": "enabled"})])
    assert finding.code == "IS181"
    why = "its namespace shop is labelled istio-injection=enabled"
    assert render_findings([finding]).splitlines() == [
        f"shop/cart-1 has no sidecar, though it should: {why}",
        "",
        "  wanted   a container istio-proxy",
        "  got      cart",
        "",
        "  cause    when the pod was made its label was not set yet, or the webhook was not ready, or not",
        "           there: pods that are there are never injected",
        "  fix      kubectl -n shop rollout restart deployment/cart",
        "           if that does not help: kubectl get mutatingwebhookconfigurations; istioctl tag list",
    ]


def test_a_pod_that_nothing_asks_one_for_should_have_one_where_it_is_named():
    (finding,) = check_sidecars([lacking(namespace={})])
    assert finding.summary == "shop/cart-1 has no sidecar, though it should: it is named by --istio-workload"


def test_labels_of_a_namespace_that_may_not_be_read_are_said_to_be_unread():
    message = render_findings(check_sidecars([lacking(unread="forbidden: not you")]))
    assert "not read the labels of the namespace: forbidden: not you" in message


@pytest.mark.parametrize(
    ("excused", "words"),
    [
        (lacking(labels={INJECT: "false"}), f'its label {INJECT} is "false"'),
        (lacking(annotations={INJECT: "false"}), f'its annotation {INJECT} is "false"'),
        (lacking(namespace={"istio.io/dataplane-mode": "ambient"}), "is in ambient mode"),
    ],
)
def test_where_the_pod_is_to_have_none_there_is_nothing_to_prove(excused, words):
    with pytest.raises(Undecided) as raised:
        check_sidecars([excused])
    assert words in str(raised.value)
    assert "nothing of this pod was checked" in str(raised.value)


def test_a_pod_with_its_nodes_network_is_told_as_one_that_is_never_injected():
    host = lacking()
    host.pod["spec"]["hostNetwork"] = True
    with pytest.raises(Undecided, match=r"is not to have a sidecar: .*hostNetwork: true"):
        check_sidecars([host])


def test_one_replica_that_opts_out_excuses_no_other():
    (finding,) = check_sidecars([lacking("cart-1", labels={INJECT: "false"}), lacking("cart-2")])
    assert "shop/cart-2" in finding.summary


def rules(*rulesets: Ruleset, native_read: bool = False, native: tuple[str, ...] = ()) -> PodRules:
    return PodRules(rulesets=rulesets, pod="shop/cart-1", native_read=native_read, native_tables=native)


EMPTY = Ruleset(family=4, backend=Backend.LEGACY)


@pytest.mark.parametrize(
    ("version", "native_read"), [("1.8.3", False), ("1.26.8", False), ("1.27.3", True), (None, True)]
)
@pytest.mark.parametrize("read", [EMPTY, OTHERS], ids=["empty", "others"])
def test_no_rule_is_against_where_rules_that_iptables_hides_would_have_been_seen(read, version, native_read):
    (finding,) = check_istio_rules(rules(read, native_read=native_read), version)
    assert finding.code == "IS182"
    assert finding.summary.startswith("shop/cart-1 has a sidecar, and no rule of Istio's")
    assert finding.trace is not None
    assert ("nf_tables' own tables" in finding.got) is native_read


@pytest.mark.parametrize("version", ["1.27.0", "1.27.3", "1.31.0-rc.0", "1.30.1-distroless", None])
def test_no_rule_is_undecided_where_nobody_looked_for_tables_that_the_release_can_write(version):
    with pytest.raises(Undecided) as raised:
        check_istio_rules(rules(EMPTY), version)
    assert "nf_tables' own tables were not read" in str(raised.value)
    assert "nft list ruleset" in str(raised.value)


@pytest.mark.parametrize(
    "there",
    [
        rules(EMPTY, expected_ruleset("1.27.3")),
        rules(EMPTY, native_read=True, native=("inet istio-proxy-nat",)),
    ],
    ids=["iptables", "native"],
)
def test_rules_of_istio_are_found_in_whichever_place(there):
    assert check_istio_rules(there, "1.27.3") == []


def test_chains_that_were_flushed_are_no_rules():
    flushed = expected_ruleset("1.8.3").map_rules(lambda _, __: None)
    (finding,) = check_istio_rules(rules(flushed), "1.8.3")
    assert finding.code == "IS182"


def test_a_gateway_has_no_rules_and_proves_nothing():
    with pytest.raises(Undecided, match="shop/cart-1 is a gateway"):
        check_istio_rules(rules(EMPTY), "1.8.3", gateway=True)
