"""Rules beside the ones expected: by text, and by what becomes of packets."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from packet_classes import inbound_classes, outbound_classes

from pytest_istio_sidecar import (
    Host,
    IstioOptions,
    PodRules,
    Ruleset,
    RuleSetMismatch,
    Severity,
    Undecided,
    UsageProblem,
    assert_matches_istio,
    check_matches_istio,
    compare,
    expected_ruleset,
    parse_iptables,
    parse_iptables_save,
    parse_rules,
    render_save,
    trace,
)
from pytest_istio_sidecar.checks.comparison.expectation import guess
from pytest_istio_sidecar.checks.comparison.foreign import ForeignRules
from pytest_istio_sidecar.netfilter.model import Backend
from pytest_istio_sidecar.selftest.mutants import mutants

DATA = Path(__file__).parents[3] / "data"
EXPECTED = expected_ruleset("1.8.3")
SAVED = render_save(EXPECTED)
READINESS = "-A ISTIO_INBOUND -p tcp -m tcp --dport 15021 -j RETURN\n"
AGENT = "-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN\n"
CATCH_ALL = "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT\n"


def changed(*changes: tuple[str, str], source: str | None = None) -> Ruleset:
    text = SAVED
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_iptables_save(text, source=source)


def kinds(observed: Ruleset) -> list[str]:
    return [str(difference.kind) for difference in compare(observed, EXPECTED).differences]


def effects(observed: Ruleset | PodRules, expected: Ruleset = EXPECTED) -> list[str]:
    return [f"{effect.text}: {effect.fates}" for effect in compare(observed, expected).effects]


def test_the_same_rules_are_equal_in_text_and_in_effect() -> None:
    comparison = compare(parse_iptables_save(SAVED), EXPECTED)
    assert comparison.equal_text
    assert comparison.equivalent
    assert comparison.differences == comparison.effects == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([(READINESS, "")], ["missing"]),
        ([(READINESS, READINESS + AGENT.replace("15020", "8443"))], ["extra"]),
        ([(READINESS + AGENT, AGENT + READINESS)], ["moved"]),
        ([("REDIRECT --to-ports 15001", "REDIRECT --to-ports 15101")], ["changed"]),
        ([(AGENT + CATCH_ALL, CATCH_ALL + AGENT)], ["never reached", "moved"]),
    ],
)
def test_a_difference_of_text_is_named_by_its_kind(changes: list[tuple[str, str]], told: list[str]) -> None:
    assert kinds(changed(*changes)) == told


def test_a_rule_that_is_missing_changes_the_fate_of_exactly_its_packets() -> None:
    assert effects(changed((READINESS, ""))) == [
        "inbound tcp 15021: expected unchanged, here redirected to :15006"
    ]


def test_an_effect_names_who_sends_the_packets() -> None:
    told = effects(changed(("-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN\n", "")))
    assert told == [
        "outbound tcp from uid not 1337 gid 1337 by eth0: expected unchanged, here redirected to :15001"
    ]


def test_an_effect_comes_with_a_packet_whose_trace_shows_both_fates() -> None:
    observed = changed((AGENT + CATCH_ALL, CATCH_ALL + AGENT))
    (effect,) = compare(observed, EXPECTED).effects
    assert effect.witness.destination_port == 15020
    assert effect.where[0]["destination_port"] == [[15020, 15020]]
    assert trace(observed, effect.witness).fate is effect.observed.fate
    assert trace(EXPECTED, effect.witness).fate is effect.expected.fate


@pytest.mark.parametrize(
    "changes",
    [
        [(READINESS + AGENT, AGENT + READINESS)],
        [(CATCH_ALL, CATCH_ALL + "-A ISTIO_INBOUND -p tcp -m tcp --dport 8443 -j RETURN\n")],
        [("-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN\n", "")],
    ],
    ids=["order of excluded ports", "a rule below the last", "a dead rule"],
)
def test_text_may_differ_where_no_packet_is_affected(changes: list[tuple[str, str]]) -> None:
    comparison = compare(changed(*changes), EXPECTED)
    assert not comparison.equal_text
    assert comparison.equivalent


def test_what_only_invalid_packets_meet_is_an_effect_too() -> None:
    dropping = expected_ruleset("1.27.3", drop_invalid=True)
    told = effects(dropping, expected_ruleset("1.27.3"))
    assert "all inbound, conntrack state INVALID: expected unchanged, here dropped" in told


def test_what_a_listing_hides_leaves_the_comparison_undecided() -> None:
    listing = parse_iptables((DATA / "lab-listing-1.8.3.txt").read_text())
    comparison = compare(listing, expected_ruleset("1.20.8"))
    assert not comparison.equal_text
    with pytest.raises(Undecided, match="does not show"):
        _ = comparison.equivalent


def test_a_family_that_was_not_read_leaves_the_comparison_undecided() -> None:
    with pytest.raises(Undecided, match="no IPv6 rules were read"):
        compare(EXPECTED, expected_ruleset("1.8.3", family=6))


def test_nothing_expected_is_wrong_use() -> None:
    with pytest.raises(UsageProblem, match="nothing to compare with"):
        compare(EXPECTED, PodRules(rulesets=()))


def test_every_mutant_is_equivalent_exactly_where_no_class_of_packets_tells_it_apart() -> None:
    """The classes of tcp packets are another way to the same answer: one by one, with the tracer."""
    host = Host()
    pod = PodRules(rulesets=(EXPECTED,))
    for mutant in islice(mutants(pod), 0, None, 40):
        rules = mutant.rules
        both = PodRules(rulesets=(*rules.rulesets, EXPECTED))
        samples = [
            held.sample
            for classes in (inbound_classes, outbound_classes)
            for held in classes(both, host=host)
        ]
        same = all(
            (trace(rules, sample).fate, trace(rules, sample).destination)
            == (trace(EXPECTED, sample).fate, trace(EXPECTED, sample).destination)
            for sample in samples
        )
        if rules.of_family(4):
            assert compare(rules, EXPECTED).equivalent is same, mutant.change


# What is not Istio's


def test_another_tools_chains_are_named_and_judged_by_effect() -> None:
    kubelet = changed(
        (":ISTIO_INBOUND", ":KUBE-MARK - [0:0]\n:ISTIO_INBOUND"),
        (
            "-A OUTPUT -p tcp -j ISTIO_OUTPUT\n",
            "-A OUTPUT -p tcp -j ISTIO_OUTPUT\n-A OUTPUT -p udp -j KUBE-MARK\n-A KUBE-MARK -j RETURN\n",
        ),
    )
    comparison = compare(kubelet, EXPECTED)
    assert [held.text for held in comparison.foreign] == [
        "2 rules of kube-proxy or the kubelet (nat OUTPUT, nat KUBE-MARK): no packet is affected"
    ]
    assert comparison.equivalent


def test_a_foreign_rule_that_takes_packets_away_is_said_to() -> None:
    other = changed(
        (":ISTIO_INBOUND", ":cali-PREROUTING - [0:0]\n:ISTIO_INBOUND"),
        (
            "-A PREROUTING -p tcp -j ISTIO_INBOUND\n",
            (
                "-A PREROUTING -j cali-PREROUTING\n-A PREROUTING -p tcp -j ISTIO_INBOUND\n"
                "-A cali-PREROUTING -p tcp -m tcp --dport 8443 -j ACCEPT\n"
            ),
        ),
    )
    comparison = compare(other, EXPECTED)
    assert [(held.owner, held.matters) for held in comparison.foreign] == [("Calico", True)]
    assert [effect.text for effect in comparison.effects] == ["inbound tcp 8443"]


def test_a_second_run_of_istio_init_in_the_other_back_end_is_named() -> None:
    twice = PodRules(
        rulesets=(replace(EXPECTED, backend=Backend.LEGACY), replace(EXPECTED, backend=Backend.NF_TABLES))
    )
    comparison = compare(twice, EXPECTED)
    assert [(held.owner, held.count, held.matters) for held in comparison.foreign] == [
        ("Istio's that stand there already, as after istio-init ran again", 19, False)
    ]
    assert comparison.equivalent


@pytest.mark.parametrize(
    "left_over",
    [
        '*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p 255 -m comment --comment "Istio no-op" -j DROP\nCOMMIT\n',
        "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p 255 -j RETURN\nCOMMIT\n",
    ],
    ids=["1.25.4", "1.27.3"],
)
def test_the_trial_of_a_back_end_that_istio_iptables_left_is_named(left_over: str) -> None:
    """Seen in istio/istio#56587; the rule is that of tools/istio-iptables/pkg/dependencies."""
    other = replace(parse_iptables_save(left_over), backend=Backend.LEGACY)
    pod = PodRules(rulesets=(other, replace(EXPECTED, backend=Backend.NF_TABLES)))
    comparison = compare(pod, EXPECTED)
    assert [held.owner for held in comparison.foreign] == ["istio-iptables' trial of the back end, left over"]
    assert comparison.foreign[0].count == 1


def test_a_chain_of_istios_that_these_options_do_not_make_is_left_over() -> None:
    capturing = expected_ruleset("1.27.3", redirect_dns=True, capture_all_dns=True)
    comparison = compare(capturing, expected_ruleset("1.27.3"))
    assert any("chains of Istio's that this release" in held.owner for held in comparison.foreign)


def beside(chain: str, rule: str, *, first: bool = True) -> Ruleset:
    """Istio's rules, and another chain that PREROUTING goes through before or after them."""
    jump = "-A PREROUTING -p tcp -j ISTIO_INBOUND\n"
    own = f"-A PREROUTING -j {chain}\n"
    return changed(
        (":ISTIO_INBOUND", f":{chain} - [0:0]\n:ISTIO_INBOUND"),
        (jump, f"{own if first else ''}{jump}{'' if first else own}-A {chain} {rule}\n"),
    )


@pytest.mark.parametrize(
    ("rules", "owner", "effect"),
    [
        (
            beside("KUBE-NWPLCY", "-p tcp -m tcp --dport 15021 -j REDIRECT --to-ports 15020"),
            "kube-proxy or the kubelet",
            "inbound tcp 15021: expected unchanged, here redirected to :15020",
        ),
        (
            beside("CILIUM_PRE_nat", "-s 192.0.2.1/32 -p tcp -m tcp --dport 8080 -j ACCEPT"),
            "Cilium",
            "inbound tcp 8080 from 192.0.2.1: expected redirected to :15006, here unchanged",
        ),
        (
            beside("CNI-DN-1", "-p tcp -m tcp --dport 15021 -j DNAT --to-destination 192.0.2.99:80"),
            "a CNI plugin (portmap, bridge, firewall)",
            "inbound tcp 15021: expected unchanged, here translated to 192.0.2.99:80",
        ),
        (
            beside("PROBES", "-p tcp -m tcp --dport 15021 -j REDIRECT --to-ports 15020"),
            "nobody who is known here",
            "inbound tcp 15021: expected unchanged, here redirected to :15020",
        ),
        (
            beside("KUBE-NWPLCY", "-p tcp -m tcp --dport 8080 -j ACCEPT", first=False),
            "kube-proxy or the kubelet",
            "",
        ),
    ],
    ids=["readiness", "the kubelet's probe", "translated", "unknown", "behind Istio's"],
)
def test_rules_of_others_about_probes_are_named_and_judged_by_effect(rules, owner, effect) -> None:
    comparison = compare(rules, EXPECTED)
    ((held, matters),) = [(held.owner, held.matters) for held in comparison.foreign]
    assert (held, matters) == (owner, bool(effect))
    assert [f"{found.text}: {found.fates}" for found in comparison.effects] == [effect] * bool(effect)


def test_a_policy_in_the_filter_table_that_drops_probes_is_named() -> None:
    text = (
        "*filter\n:INPUT ACCEPT [0:0]\n:cali-INPUT - [0:0]\n-A INPUT -j cali-INPUT\n"
        "-A cali-INPUT ! -s 192.0.2.1/32 -p tcp -m tcp --dport 15021 -j DROP\nCOMMIT\n"
    )
    comparison = compare(parse_iptables_save(render_save(EXPECTED) + text), EXPECTED)
    assert [(held.owner, held.matters) for held in comparison.foreign] == [("Calico", True)]
    assert "inbound tcp 15021 from not 192.0.2.1" in [held.text for held in comparison.effects]


@pytest.mark.parametrize("earlier", ["1.8.3", "1.6.14", "1.20.8"])
def test_rules_that_a_second_init_appended_are_named_and_no_option_is_blamed_for_them(earlier) -> None:
    lines = render_save(expected_ruleset(earlier)).splitlines(keepends=True)
    again = "".join(line for line in lines if line.startswith("-A"))
    (notice,) = check_matches_istio(changed(("COMMIT\n", f"{again}COMMIT\n")), "1.8.3")
    assert notice.severity is Severity.NOTICE
    assert notice.cause.startswith("istio-init ran again in a namespace that had its rules already")
    (repeated,) = [held for held in notice.comparison.foreign if "stand there already" in held.owner]
    assert not repeated.matters


@pytest.fixture
def in_both_back_ends() -> PodRules:
    """The same rules twice, where nothing tells which the kernel asks first."""
    return parse_rules((DATA / "reports" / "32-both-backends.txt").read_text())


def test_what_would_be_with_other_rules_leaves_nothing_undecided_of_these(in_both_back_ends) -> None:
    """With a rule in place of another, whether it is reached would depend on the order of the back ends."""
    assert compare(in_both_back_ends, EXPECTED).equivalent


def test_releases_are_found_for_rules_that_stand_in_both_back_ends(in_both_back_ends) -> None:
    assert guess(in_both_back_ends)[0].text == "Istio 1.7.0 to 1.12.9"


def test_where_it_cannot_be_told_whether_foreign_rules_matter_that_is_said() -> None:
    foreign = ForeignRules(owner="Calico", places=("nat cali-OUTPUT",), count=2, matters=None)
    assert foreign.text == (
        "2 rules of Calico (nat cali-OUTPUT): whether packets are affected cannot be told"
    )


def test_rules_that_a_second_init_put_first_are_judged_by_what_they_do() -> None:
    lines = render_save(expected_ruleset("1.8.3", proxy_port=15011)).splitlines(keepends=True)
    first = "".join(line for line in lines if line.startswith("-A"))
    both = changed(("-A PREROUTING", f"{first}-A PREROUTING"))
    (finding,) = check_matches_istio(both, "1.8.3")
    assert finding.severity is Severity.VIOLATION
    assert any("redirected to :15011" in effect.fates for effect in finding.comparison.effects)


def test_a_chain_of_another_era_left_behind_matters_only_where_packets_come_to_it() -> None:
    dns = "-A ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053\n"
    chain = (":ISTIO_INBOUND", ":ISTIO_OUTPUT_DNS - [0:0]\n:ISTIO_INBOUND")
    for jump, matters in (("", False), ("-A OUTPUT -j ISTIO_OUTPUT_DNS\n", True)):
        comparison = compare(changed(chain, ("COMMIT\n", f"{jump}{dns}COMMIT\n")), EXPECTED)
        (held,) = comparison.foreign
        assert held.owner == "chains of Istio's that this release and these options do not make"
        assert held.matters is matters
        assert comparison.equivalent is not matters


# Against a release


def test_the_message_shows_the_rules_side_by_side_and_what_the_difference_does() -> None:
    observed = changed(
        (READINESS, ""), (AGENT + CATCH_ALL, CATCH_ALL + AGENT), source="evidence/httpbin.rules"
    )
    with pytest.raises(RuleSetMismatch) as raised:
        assert_matches_istio(PodRules(rulesets=(observed,), pod="demo/httpbin"), "1.8.3")
    assert str(raised.value) == (DATA / "messages" / "not-istios-rules.txt").read_text().rstrip("\n")


def test_text_without_effect_fails_only_where_it_was_asked_for() -> None:
    observed = changed((READINESS + AGENT, AGENT + READINESS))
    assert_matches_istio(observed, "1.8.3")
    (notice,) = check_matches_istio(observed, "1.8.3")
    assert notice.severity is Severity.NOTICE
    assert "no packet is affected" in notice.summary
    with pytest.raises(RuleSetMismatch, match="1 rule moved"):
        assert_matches_istio(observed, "1.8.3", exact=True)


def test_a_pod_without_rules_is_told_what_it_lacks() -> None:
    with pytest.raises(RuleSetMismatch, match="19 rules missing"):
        assert_matches_istio(PodRules(rulesets=(Ruleset(),)), "1.8.3")


def test_the_lossy_listing_of_the_lab_is_completed_and_says_so() -> None:
    listing = parse_iptables((DATA / "lab-listing-1.8.3.txt").read_text())
    assert check_matches_istio(listing, "1.8.3") == []


def test_native_nftables_is_named_instead_of_compared() -> None:
    rules = PodRules(rulesets=(Ruleset(),), native_tables=("inet istio-proxy-nat",))
    with pytest.raises(Undecided, match="nativeNftables"):
        check_matches_istio(rules, "1.28.0")


def test_ipv6_is_held_against_the_expectation_only_where_it_is_meant_to_be_programmed() -> None:
    rules = PodRules(rulesets=(EXPECTED, Ruleset(family=6)))
    assert_matches_istio(rules, "1.8.3")
    with pytest.raises(RuleSetMismatch, match="rules missing"):
        assert_matches_istio(rules, "1.8.3", enable_ipv6=True)


@pytest.mark.parametrize("version", ["1.6.14", "1.8.3", "1.16.7", "1.20.8", "1.27.3"])
def test_every_observed_pod_has_exactly_the_rules_of_its_release_and_options(version: str) -> None:
    folder = DATA / f"observed-{version}"
    separator = "-c" if version == "1.8.3" else "_-c"
    backend = "nft" if version == "1.27.3" else "legacy"
    pod = json.loads(next(folder.glob("pod*.json")).read_text())
    rules = PodRules(
        rulesets=tuple(
            parse_iptables_save(
                (folder / f"{program}-{backend}-save{separator}.txt").read_text()
                or "# empty\n*nat\nCOMMIT\n",
                family=family,
            )
            for program, family in (("iptables", 4), ("ip6tables", 6))
        )
    )
    assert_matches_istio(rules, version, exact=True, options=IstioOptions.from_pod(pod))


def test_another_back_end_than_istio_inits_is_told_with_what_the_images_iptables_shows() -> None:
    observed = replace(changed((READINESS, "")), backend=Backend.LEGACY)
    (finding,) = check_matches_istio(observed, "1.27.3")
    told = dict(finding.facts)["back end"]
    assert told.startswith("the rules are in legacy; istio-init of 1.27.3 writes nf_tables")
    assert told.endswith("its image's iptables shows legacy")


# Drift and guesses


@pytest.mark.parametrize(
    ("version", "given", "told"),
    [
        ("1.8.3", {"inbound_ports_exclude": "15090,15021,8443,15020"}, "as with excludeInboundPorts: 8443"),
        ("1.20.8", {"outbound_ports_exclude": "3306"}, "as with excludeOutboundPorts: 3306"),
        (
            "1.27.3",
            {"outbound_ip_ranges_include": "10.0.0.0/8"},
            "as with includeOutboundIPRanges: 10.0.0.0/8",
        ),
        ("1.27.3", {"inbound_ports_include": ""}, 'as with includeInboundPorts: ""'),
        ("1.24.6", {"inbound_interception_mode": "TPROXY"}, "as with interceptionMode: TPROXY"),
        (
            "1.16.7",
            {"redirect_dns": True, "dns_servers_v4": "10.96.0.10"},
            "as with ISTIO_META_DNS_CAPTURE: true and dns_servers_v4: 10.96.0.10",
        ),
        ("1.7.8", {"dns_by_envoy": True}, "as with ISTIO_META_DNS_CAPTURE without DNS_AGENT: true"),
    ],
)
def test_a_drift_is_explained_by_the_options_that_would_have_made_it(
    version: str, given: dict[str, object], told: str
) -> None:
    (finding,) = check_matches_istio(expected_ruleset(version, **given), version)
    assert finding.cause == told


def test_the_rules_of_another_release_are_said_to_be_that() -> None:
    (finding,) = check_matches_istio(EXPECTED, "1.30.3")
    assert finding.cause == "as Istio 1.7.0 to 1.12.9 installs them"


def test_a_change_that_no_option_makes_is_explained_by_none() -> None:
    observed = changed(("REDIRECT --to-ports 15006", "REDIRECT --to-ports 15006 --random"))
    (finding,) = check_matches_istio(observed, "1.8.3", exact=True)
    assert finding.cause == ""


def test_a_guess_names_releases_and_options_nearest_first() -> None:
    observed = expected_ruleset("1.20.8", inbound_ports_exclude="15090,15021,8443,15020")
    nearest, *_ = guess(observed)
    assert nearest.text == "Istio 1.18.0 to 1.24.6 with excludeInboundPorts: 8443"
    assert nearest.comparison.equal_text


def test_the_release_of_the_lab_listing_is_guessed() -> None:
    nearest, *_ = guess(parse_iptables((DATA / "lab-listing-1.8.3.txt").read_text()))
    assert nearest.text == "Istio 1.7.0 to 1.12.9"


def test_rules_that_no_release_makes_get_the_nearest_with_what_sets_them_apart() -> None:
    guesses = guess(changed(("REDIRECT --to-ports 15001", "REDIRECT --to-ports 80-90")))
    assert [held.comparison.equivalent for held in guesses] == [False]


def test_nothing_is_guessed_where_istio_has_no_chain() -> None:
    with pytest.raises(Undecided, match="no chain of Istio's"):
        guess(Ruleset())
