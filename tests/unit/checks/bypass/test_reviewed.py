"""What is open in a pod beyond its release's template: by which option, and whether a review has it."""

from __future__ import annotations

from datetime import date

import pytest

from pytest_istio_sidecar import (
    Bypass,
    BypassError,
    IstioOptions,
    PodRules,
    Severity,
    UsageProblem,
    assert_inbound_exclusions,
    assert_jump,
    assert_matches_istio,
    assert_reviewed_bypasses,
    check_inbound_exclusions,
    check_matches_istio,
    check_reviewed_bypasses,
    expected_ruleset,
    inbound,
    outbound,
    parse_iptables_save,
    parse_reviewed_bypasses,
    render_save,
)

TODAY = date(2026, 11, 27)
EXCLUDED = "15090,15021,8443,15020"
ENTRY = """
[[bypass]]
what = "inbound tcp 8443"
why = "scraped in clear text"
until = 2027-01-31
"""
JUMP = "-A PREROUTING -p tcp -j ISTIO_INBOUND\n"


def listed(text: str):
    return parse_reviewed_bypasses(text, source="reviewed.toml")


def found(options: IstioOptions, text: str = "", *, version: str = "1.20.8", **named) -> list:
    return check_reviewed_bypasses(version, options, listed(text), today=TODAY, **named)


def against(*arguments, **named) -> list[str]:
    findings = found(*arguments, **named)
    return [finding.summary for finding in findings if finding.severity is Severity.VIOLATION]


def foreign(line: str, family: int = 4) -> PodRules:
    text = render_save(expected_ruleset("1.20.8", family=family)).replace(JUMP, f"{line}\n{JUMP}")
    rules = parse_iptables_save(text, family=family)
    return PodRules(rulesets=(rules,), order_known=True)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"proxy_port": "15101", "inbound_capture_port": "15106"},
        {"redirect_dns": True, "capture_all_dns": True},
        {"inbound_interception_mode": "TPROXY"},
        {"mode": "cni"},
        {"outbound_ports_include": "80"},
        {"drop_invalid": True},
        {"kube_virt_interfaces": "eth1"},
        {"enable_ipv6": False, "proxy_uid": "1337", "proxy_gid": ""},
    ],
    ids=lambda given: " ".join(given) or "the template's",
)
def test_options_that_move_or_capture_open_nothing(given: dict) -> None:
    assert found(IstioOptions(**{"enable_ipv6": True, **given})) == []


@pytest.mark.parametrize(
    ("given", "opened"),
    [
        ({"inbound_ports_exclude": EXCLUDED}, {"inbound tcp 8443": "excludeInboundPorts: 8443"}),
        (
            {"inbound_ports_exclude": EXCLUDED, "outbound_ports_exclude": "3306"},
            {
                "inbound tcp 8443": "excludeInboundPorts: 8443",
                "outbound tcp 3306 to not 127.0.0.1 from not 127.0.0.6 from uid 1337 by lo": (
                    "excludeOutboundPorts: 3306"
                ),
                "outbound tcp 3306 from uid not 1337 gid not 1337 by eth0": "excludeOutboundPorts: 3306",
            },
        ),
        (
            {"inbound_ports_include": "80", "inbound_ports_exclude": "15090,15020,9000"},
            {
                "inbound tcp not 80,9000,15008,15020-15021,15090": "includeInboundPorts: 80",
                "inbound tcp 9000": "includeInboundPorts: 80 and inbound_ports_exclude: 15090,15020,9000",
            },
        ),
        (
            {"inbound_interception_mode": "NONE"},
            {
                "inbound tcp not 15008,15020-15021,15090: no rules": "interceptionMode: NONE",
                "outbound tcp not 15008 to not 127.0.0.1 from not 127.0.0.6 from uid 1337 by lo: no rules": (
                    "interceptionMode: NONE"
                ),
                "outbound tcp from uid not 1337 gid not 1337 by eth0: no rules": "interceptionMode: NONE",
            },
        ),
        (
            {"outbound_ip_ranges_include": ""},
            {"outbound tcp from uid not 1337 gid not 1337 by eth0": 'includeOutboundIPRanges: ""'},
        ),
        (
            {"proxy_uid": "1337,0"},
            {"outbound tcp from uid 0 gid not 1337 by eth0": "proxy_uid: 1337,0"},
        ),
        (
            {"exclude_interfaces": "eth0"},
            {
                "inbound tcp not 15008,15020-15021,15090": "excludeInterfaces: eth0",
                "outbound tcp from uid not 1337 gid not 1337 by eth0": "excludeInterfaces: eth0",
            },
        ),
        (
            {"owner_groups_include": ""},
            {"outbound tcp from uid not 1337 gid not 1337 by eth0": 'ISTIO_OUTBOUND_OWNER_GROUPS: ""'},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_each_opening_names_the_options_that_open_it(given: dict, opened: dict[str, str]) -> None:
    summaries = against(IstioOptions(**given, enable_ipv6=False))
    assert summaries == [
        f"{packets} gets by without Envoy, and is not reviewed ({options})"
        for packets, options in opened.items()
    ]


def test_a_port_given_to_the_tunnel_is_taken_out_of_envoy() -> None:
    summaries = against(IstioOptions(inbound_tunnel_port="8443", enable_ipv6=False))
    assert summaries[0].startswith("inbound tcp 8443 gets by without Envoy")


def test_an_option_has_only_what_it_opens_itself() -> None:
    options = IstioOptions(
        outbound_ip_ranges_exclude="10.0.0.0/8", outbound_ports_exclude="3306", enable_ipv6=False
    )
    words = {finding.summary.partition(" (")[0]: finding.got for finding in found(options)}
    both = "outbound tcp 3306 to 10.0.0.0/8 from uid not 1337 gid not 1337"
    assert words[f"{both} gets by without Envoy, and is not reviewed"] == (
        "excludeOutboundIPRanges: 10.0.0.0/8 and excludeOutboundPorts: 3306 open it"
    )
    assert len(words) == 4


def test_ipv6_is_asked_the_same() -> None:
    options = IstioOptions(outbound_ip_ranges_exclude="::/0", enable_ipv6=True)
    (finding,) = found(options)
    assert finding.summary.startswith("outbound IPv6 tcp from uid not 1337 gid not 1337 by eth0 gets by")
    assert finding.trace.packet.family == 6
    assert finding.trace.deciding_rule.text == "-A ISTIO_OUTPUT -j RETURN"


def test_ipv6_ranges_of_a_pod_without_ipv6_rules_open_nothing_more_and_it_is_said() -> None:
    (finding,) = found(IstioOptions(outbound_ip_ranges_exclude="fd00::/8", enable_ipv6=False))
    assert finding.severity is Severity.NOTICE
    assert "fd00::/8 changes nothing: the pod has no IPv6 rules" in finding.summary


def test_a_range_that_the_release_passes_over_is_said() -> None:
    options = IstioOptions(outbound_ip_ranges_exclude="10.0.0.1", enable_ipv6=False)
    (finding,) = found(options, version="1.20.8")
    assert "'10.0.0.1' is no range in CIDR; istio-init of 1.20.8 passes it over" in finding.summary


def test_an_accepted_option_is_told_and_fails_nothing() -> None:
    options = IstioOptions(inbound_ports_exclude=EXCLUDED, outbound_ports_exclude="3306", enable_ipv6=False)
    summaries = against(options, accepted=["outbound_ports_exclude"])
    assert [summary.partition(" gets")[0] for summary in summaries] == ["inbound tcp 8443"]
    assert against(options, accepted=["outbound_ports_exclude", "inbound_ports_exclude"]) == []


def test_what_two_options_open_is_accepted_with_either() -> None:
    options = IstioOptions(
        outbound_ip_ranges_exclude="10.0.0.0/8", outbound_ports_exclude="3306", enable_ipv6=False
    )
    summaries = against(options, accepted=["outbound_ip_ranges_exclude"])
    assert not any("tcp 3306 to 10.0.0.0/8" in summary for summary in summaries)
    assert any("tcp 3306 to not 10.0.0.0/8" in summary for summary in summaries)


def test_a_review_that_holds_is_a_notice_with_its_reason() -> None:
    (finding,) = found(IstioOptions(inbound_ports_exclude=EXCLUDED, enable_ipv6=False), ENTRY)
    assert finding.severity is Severity.NOTICE
    assert finding.summary == (
        "inbound tcp 8443 gets by without Envoy, as the pod asks for it (excludeInboundPorts: 8443); "
        "reviewed until 2027-01-31: scraped in clear text"
    )


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (ENTRY.replace("2027-01-31", "2026-11-26"), "ended on 2026-11-26"),
        (ENTRY + 'pod = "other/*"', "is for pods other/*, and this is default/httpbin-1"),
        (ENTRY + "family = 6", "is for IPv6, and this is IPv4"),
        (ENTRY.replace("inbound tcp", "inbound IPv6 tcp"), "is for IPv6, and this is IPv4"),
        (
            ENTRY.replace("2027-01-31", "2026-11-26") + 'pod = "other/*"',
            "ended on 2026-11-26 and is for pods other/*",
        ),
    ],
    ids=["date", "pod", "family", "written family", "date and pod"],
)
@pytest.mark.parametrize("by", ["option", "a rule of somebody's"])
def test_a_review_that_does_not_hold_is_named_with_the_reason(entry: str, why: str, by: str) -> None:
    if by == "option":
        options, rules = IstioOptions(inbound_ports_exclude=EXCLUDED, enable_ipv6=False), None
    else:
        options, rules = IstioOptions(), foreign("-A PREROUTING -p tcp -m tcp --dport 8443 -j RETURN")
    (finding,) = found(options, entry, rules=rules, pod="default/httpbin-1")
    assert finding.severity is Severity.VIOLATION
    assert why in finding.cause
    assert finding.cause.endswith(": scraped in clear text")


@pytest.mark.parametrize("more", ['pod = "default/httpbin-*"', "family = 4", 'pod = "*"\nfamily = 4'])
def test_a_review_may_be_for_some_pods_and_one_family(more: str) -> None:
    options = IstioOptions(inbound_ports_exclude=EXCLUDED, enable_ipv6=False)
    assert against(options, ENTRY + more, pod="default/httpbin-1") == []


def test_a_review_of_one_family_leaves_the_other_open() -> None:
    options = IstioOptions(inbound_ports_exclude=EXCLUDED, enable_ipv6=True)
    (summary,) = against(options, f"{ENTRY}family = 4")
    assert summary.startswith("inbound IPv6 tcp 8443 gets by")


def test_a_failure_has_a_fix_with_the_entry_and_the_option() -> None:
    (finding,) = found(IstioOptions(inbound_ports_exclude=EXCLUDED, enable_ipv6=False))
    fix = dict(finding.facts)["fix"]
    assert 'what = "inbound tcp 8443"' in fix
    assert fix.endswith("--istio-accept-options=inbound_ports_exclude")


def test_what_is_left_of_a_class_is_what_no_review_has() -> None:
    options = IstioOptions(inbound_ports_exclude="15090,15021,8443,8444,15020", enable_ipv6=False)
    (summary,) = against(options, ENTRY)
    assert summary.startswith("inbound tcp 8444 gets by")


def test_what_somebody_else_opened_is_reviewed_alike() -> None:
    rules = foreign("-A PREROUTING -p tcp -m tcp --dport 8443 -j RETURN")
    (finding,) = found(IstioOptions(), ENTRY, rules=rules)
    assert finding.summary == (
        "inbound tcp 8443 gets by without Envoy; reviewed until 2027-01-31: scraped in clear text"
    )
    assert found(IstioOptions(), "", rules=rules) == []  # of this the comparison with the release tells


def test_the_assertion_raises_what_is_open() -> None:
    options = IstioOptions(inbound_ports_exclude=EXCLUDED)
    with pytest.raises(BypassError, match="inbound tcp 8443 gets by without Envoy, and is not reviewed"):
        assert_reviewed_bypasses("1.20.8", options, (), today=TODAY)
    assert_reviewed_bypasses("1.20.8", options, listed(ENTRY), today=TODAY)


@pytest.mark.parametrize("text", ["", "bypass = []", "# nothing yet\n", "\n\n"])
def test_a_list_may_have_nothing(text: str) -> None:
    assert listed(text) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bypass = 1", "is no list of reviewed bypasses"),
        ("bypasses = []", "is no list of reviewed bypasses"),
        ("[bypass]\nwhat = 'inbound tcp 1'", "is no list of reviewed bypasses"),
        ("bypass = [1]", "bypass 1 needs what, why and until"),
        (ENTRY + "namespace = 'x'", "bypass 1 needs what, why and until"),
        (ENTRY + "family = 5", "bypass 1: family is 5"),
        (ENTRY + "family = true", "bypass 1: family is True"),
        (ENTRY + "family = '4'", "bypass 1: family is '4'"),
        (ENTRY + "pod = ''", "bypass 1: pod is ''"),
        (ENTRY.replace("inbound", "inbound IPv6") + "family = 4", "bypass 1: family is 4"),
        (ENTRY.replace("2027-01-31", "'soon'"), "bypass 1: until is 'soon'"),
    ],
)
def test_what_is_no_list_is_refused_by_entry(text: str, said: str) -> None:
    with pytest.raises(UsageProblem, match=said):
        listed(text)


OPENED = "-A PREROUTING -p tcp -m tcp --dport 8443:8444 -j RETURN"


def test_checks_of_chains_and_of_all_packets_take_what_is_allowed() -> None:
    rules = foreign(OPENED)
    allowed = [Bypass.parse("inbound tcp 8443-8444")]
    nat = rules.rulesets[0].nat
    ports = {15008, 15090, 15021, 15020}
    assert_jump(nat, "PREROUTING", "ISTIO_INBOUND", allowed=allowed)
    assert_inbound_exclusions(rules, ports, allowed=allowed)
    assert_matches_istio(rules, "1.20.8", allowed=allowed)
    (finding,) = check_matches_istio(rules, "1.20.8", allowed=allowed)
    assert finding.summary.endswith("1 rule extra; only what is allowed gets by")


def test_what_is_allowed_in_part_is_told_without_that_part() -> None:
    rules = foreign(OPENED)
    allowed = [Bypass.parse("inbound tcp 8443")]
    (finding,) = check_inbound_exclusions(rules, {15008, 15090, 15021, 15020}, allowed=allowed)
    assert finding.got == "also tcp 8444: destination unchanged"
    (finding,) = check_matches_istio(rules, "1.20.8", allowed=allowed)
    assert dict(finding.facts)["effect"].startswith("inbound tcp 8444: ")


def test_what_is_dropped_is_no_bypass_that_could_be_allowed() -> None:
    text = render_save(expected_ruleset("1.20.8"))
    text += "*filter\n:INPUT ACCEPT\n-A INPUT -p tcp -m tcp --dport 15006 -j DROP\nCOMMIT\n"
    rules = PodRules(rulesets=(parse_iptables_save(text),), order_known=True)
    allowed = [Bypass.parse("all inbound")]
    (finding,) = check_matches_istio(rules, "1.20.8", allowed=allowed)
    assert finding.severity is Severity.VIOLATION


def test_the_exclusions_of_ipv6_are_asked_too_where_istio_has_rules_there() -> None:
    ports = {15008, 15090, 15021, 15020}
    healthy = expected_ruleset("1.20.8")
    opened = foreign("-A PREROUTING -p tcp -m tcp --dport 8443 -j RETURN", 6).rulesets[0]
    (finding,) = check_inbound_exclusions(PodRules(rulesets=(healthy, opened)), ports)
    assert finding.summary.startswith("inbound IPv6 tcp 8443 reaches the application")
    nothing = expected_ruleset("1.20.8", family=6, enable_ipv6=False)
    assert check_inbound_exclusions(PodRules(rulesets=(healthy, nothing)), ports) == []


@pytest.mark.parametrize(
    ("text", "packet", "has"),
    [
        ("inbound tcp 8443", inbound(8443), True),
        ("inbound tcp 8443", inbound(8444), False),
        ("inbound tcp 8443", inbound(8443, family=6), True),
        ("inbound IPv4 tcp 8443", inbound(8443, family=6), False),
        ("outbound tcp 8443", inbound(8443), False),
        ("inbound not tcp", inbound(53, protocol="udp"), True),
        ("outbound tcp 443 to 198.51.100.0/24 from uid 0-999", outbound("198.51.100.7", 443, uid=0), True),
        ("outbound tcp 443 to 198.51.100.0/24 from uid 0-999", outbound("198.51.100.7", 443), False),
        ("outbound by lo", outbound("127.0.0.1", 80), True),
        ("outbound by lo", outbound("198.51.100.7", 80), False),
        ("outbound from gid none", outbound("198.51.100.7", 80, uid=None, gid=None), True),
        ("outbound mark 0x0/0xff", outbound("198.51.100.7", 80), True),
        ("outbound mark 0x1/0xff", outbound("198.51.100.7", 80), False),
    ],
)
def test_a_bypass_tells_whether_a_packet_is_one_of_it(text: str, packet, has: bool) -> None:
    assert Bypass.parse(text).has(packet) is has
