"""Who opened what is open: the release, an option of the pod, or whoever is taken for Envoy."""

from __future__ import annotations

from datetime import date

import pytest

from pytest_istio_sidecar import (
    Host,
    IstioOptions,
    PodRules,
    Ruleset,
    Severity,
    Undecided,
    check_reviewed_bypasses,
    expected_ruleset,
    parse_reviewed_bypasses,
)
from pytest_istio_sidecar.checks.bypass.bypasses import BypassReport
from pytest_istio_sidecar.checks.bypass.found_bypass import FoundBypass, Standing
from pytest_istio_sidecar.checks.bypass.reviewed import judged_bypasses
from pytest_istio_sidecar.istio.pod_options import PodUsers

TODAY = date(2026, 11, 27)
EMPTY = Ruleset(family=6)


def rules_of(version: str = "1.8.3", **given) -> PodRules:
    return PodRules(rulesets=(expected_ruleset(version, **given),), order_known=True)


def judged(version: str = "1.8.3", **given) -> BypassReport:
    accepted, users = given.pop("accepted", ()), given.pop("users", None)
    options = IstioOptions(**given)
    rules = rules_of(version, **given)
    return judged_bypasses(rules, version, options, accepted=accepted, users=users, today=TODAY)


def of_standing(report: BypassReport, standing: Standing) -> list[FoundBypass]:
    return [each for each in (*report.inbound, *report.outbound) if each.standing is standing]


def found(rules: PodRules, options: IstioOptions, reviews: str = "", **named) -> list:
    return check_reviewed_bypasses(
        "1.8.3", options, parse_reviewed_bypasses(reviews), today=TODAY, rules=rules, **named
    )


def summaries(rules: PodRules, options: IstioOptions, *, severity: Severity, **named) -> list[str]:
    return [each.summary for each in found(rules, options, **named) if each.severity is severity]


# Whose interface it is.


@pytest.mark.parametrize("version", ["1.5.10", "1.8.3", "1.20.8", "1.27.3"])
def test_inbound_that_an_option_sends_to_the_outbound_port_is_opened_by_it(version: str) -> None:
    (opened,) = of_standing(judged(version, kube_virt_interfaces="eth0"), Standing.OPEN)
    assert opened.text == "inbound tcp: sent to 192.0.2.10:15001"
    assert opened.asked == ("kubevirtInterfaces: eth0",)


def test_the_message_of_such_an_opening_names_port_and_option() -> None:
    given = {"kube_virt_interfaces": "eth0"}
    (summary,) = summaries(rules_of(**given), IstioOptions(**given), severity=Severity.VIOLATION)
    assert summary == (
        "inbound tcp gets by without Envoy's port for inbound traffic (sent to 192.0.2.10:15001), "
        "and is not reviewed (kubevirtInterfaces: eth0)"
    )


def test_what_comes_by_a_virtual_machines_interface_leaves_and_is_captured() -> None:
    host = Host(interfaces={"eth0": ["192.0.2.10/24"], "k6t-eth0": ["10.0.2.1/24"]})
    given = {"kube_virt_interfaces": "k6t-eth0"}
    assert found(rules_of(**given), IstioOptions(**given), host=host) == []


# Who is taken for Envoy.


@pytest.mark.parametrize(("option", "who"), [("proxy_uid", "user"), ("proxy_gid", "group")])
def test_another_id_for_envoys_is_told_and_not_credited_to_the_release(option: str, who: str) -> None:
    given = {option: "1000"}
    report = judged(**given)
    assert of_standing(report, Standing.OPEN) == []
    assert {each.opened_by for each in of_standing(report, Standing.MOVED)} == {(option,)}
    (notice,) = found(rules_of(**given), IstioOptions(**given))
    assert notice.severity is Severity.NOTICE
    assert notice.summary == (
        f"what {who} 1000 sends is taken for Envoy's, whose {who} is 1337 by the template ({option}: 1000); "
        "nothing that was read tells that only the sidecar runs so"
    )


@pytest.mark.parametrize("option", ["proxy_uid", "proxy_gid"])
def test_root_taken_for_envoy_is_an_opening(option: str) -> None:
    given = {option: "0"}
    opened = of_standing(judged(**given), Standing.OPEN)
    assert {each.opened_by for each in opened} == {(option,)}
    assert any("by eth0" in each.text for each in opened)


@pytest.mark.parametrize("option", ["proxy_uid", "proxy_gid"])
def test_an_application_taken_for_envoy_is_an_opening(option: str) -> None:
    users = PodUsers(applications={option: frozenset({1000})})
    assert of_standing(judged(**{option: "1000"}, users=users), Standing.OPEN)


def test_the_sidecars_own_id_is_by_design_and_needs_no_word() -> None:
    both = ("proxy_uid", "proxy_gid")
    users = PodUsers(sidecar=dict.fromkeys(both, frozenset({2000})))
    given = dict.fromkeys(both, "2000")
    report = judged(**given, users=users)
    assert {each.standing for each in (*report.inbound, *report.outbound)} == {Standing.BY_DESIGN}
    assert found(rules_of(**given), IstioOptions(**given), users=users) == []


def test_an_id_that_the_sidecar_shares_with_an_application_is_an_opening() -> None:
    shared = {"proxy_uid": frozenset({2000})}
    users = PodUsers(sidecar=shared, applications=shared)
    assert of_standing(judged(proxy_uid="2000", users=users), Standing.OPEN)


def test_a_second_id_beside_envoys_is_an_opening() -> None:
    opened = of_standing(judged(proxy_uid="2000,3000"), Standing.OPEN)
    assert [each.text for each in opened] == ["outbound tcp from uid 3000 gid not 1337 by eth0"]


def test_an_accepted_option_is_accepted_whoever_is_taken_for_envoy() -> None:
    report = judged(proxy_uid="0", accepted=["proxy_uid"])
    assert of_standing(report, Standing.OPEN) == []
    assert of_standing(report, Standing.ACCEPTED)


def test_another_opening_is_told_beside_another_id_for_envoys() -> None:
    report = judged(proxy_gid="1000", outbound_ports_exclude="3306")
    opened = of_standing(report, Standing.OPEN)
    assert {each.opened_by for each in opened} == {("outbound_ports_exclude",)}
    accepted = judged(proxy_gid="1000", outbound_ports_exclude="3306", accepted=["outbound_ports_exclude"])
    assert of_standing(accepted, Standing.OPEN) == []


# IPv6 that was read and has no rule.


def both_families(**given) -> PodRules:
    return PodRules(rulesets=(expected_ruleset("1.8.3", **given), EMPTY), order_known=True)


def test_ipv6_without_rules_is_undecided_where_nobody_said_whether_it_should_have_some() -> None:
    with pytest.raises(Undecided, match="whether IPv6 is to go through Envoy cannot be told") as problem:
        found(both_families(), IstioOptions())
    assert "enable_ipv6=false" in problem.value.failure.fix


def test_of_ipv6_alone_it_is_undecided_too() -> None:
    with pytest.raises(Undecided, match="whether IPv6 is to go through Envoy"):
        found(PodRules(rulesets=(EMPTY,), order_known=True), IstioOptions())


def test_the_report_has_it_among_what_cannot_be_told() -> None:
    report = judged_bypasses(both_families(), "1.8.3", IstioOptions(), today=TODAY)
    assert [each.text for each in report.conditional] == [
        "all inbound IPv6: no rules",
        "all outbound IPv6: no rules",
    ]
    assert all("enable_ipv6" in each.conditions[0] for each in report.conditional)
    assert not any(each.family == 6 for each in (*report.inbound, *report.outbound))


def test_ipv6_that_is_said_to_have_no_rules_is_by_design_and_a_notice_names_the_option() -> None:
    (notice,) = found(both_families(), IstioOptions(enable_ipv6=False))
    assert notice.severity is Severity.NOTICE
    assert notice.summary.startswith("all IPv6 gets by without Envoy")
    assert "(enable_ipv6: false)" in notice.summary
    report = judged_bypasses(both_families(), "1.8.3", IstioOptions(enable_ipv6=False), today=TODAY)
    of_ipv6 = [each for each in (*report.inbound, *report.outbound) if each.family == 6]
    assert {(each.standing, each.asked) for each in of_ipv6} == {
        (Standing.BY_DESIGN, ("enable_ipv6: false",))
    }


@pytest.mark.parametrize("addresses", [["10.0.0.5/24"], ["10.0.0.5/24", "fe80::5/64"]])
@pytest.mark.parametrize("enabled", [None, False])
def test_a_pod_that_is_said_to_have_no_ipv6_address_needs_no_word(addresses, enabled) -> None:
    host = Host(interfaces={"eth0": addresses})
    assert found(both_families(), IstioOptions(enable_ipv6=enabled), host=host) == []


def test_ipv6_that_was_not_read_is_not_asked_of() -> None:
    assert found(rules_of(), IstioOptions()) == []


def test_ipv6_that_should_have_rules_and_has_none_is_open() -> None:
    report = judged_bypasses(both_families(), "1.8.3", IstioOptions(enable_ipv6=True), today=TODAY)
    assert any(each.family == 6 for each in of_standing(report, Standing.OPEN))


REVIEW = """
[[bypass]]
what = "{} IPv6"
why = "nobody has IPv6 here"
until = 2027-01-31
"""


def test_a_review_of_all_ipv6_leaves_nothing_untold() -> None:
    reviews = REVIEW.format("inbound") + REVIEW.format("outbound")
    assert all(each.severity is Severity.NOTICE for each in found(both_families(), IstioOptions(), reviews))
    with pytest.raises(Undecided):
        found(both_families(), IstioOptions(), REVIEW.format("inbound"))


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ({"proxy_uid": "1000"}, "outbound tcp from uid 1337 gid not 1337 by eth0"),
        ({"inbound_tunnel_port": "15099"}, "inbound tcp 15008"),
        ({"inbound_ports_exclude": "15020"}, "inbound tcp 15021,15090"),
    ],
)
def test_what_the_options_of_the_pod_take_back_is_not_by_design(told: dict[str, str], left: str) -> None:
    """The rules are the template's: what the pod asks for instead is not in effect."""
    rules = expected_ruleset("1.24.0")
    report = judged_bypasses(rules, "1.24.0", IstioOptions(**told), pod="x", today=date(2026, 1, 1))
    assert left in [each.text for each in report.unexpected]
