"""The options of istio-iptables: their written forms, and what Istio would refuse."""

from __future__ import annotations

import pytest

from pytest_istio_sidecar import UsageProblem, expected_ruleset
from pytest_istio_sidecar.checks.comparison.expectation import guess
from pytest_istio_sidecar.istio.option_names import option_named, options_named
from pytest_istio_sidecar.istio.option_table import OPTIONS, Option, OptionFields
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.rules import passed_over
from pytest_istio_sidecar.istio.versions import known_versions, number_of


def rules(
    version: str, table: str = "nat", chain: str = "ISTIO_OUTPUT", family: int = 4, **given
) -> list[str]:
    held = expected_ruleset(version, family=family, **given).table(table)
    return [rule.text.removeprefix(f"-A {chain} ") for rule in held.chain(chain)]


@pytest.mark.parametrize("given", ["80,8080", [80, 8080], ("80", "8080"), {80, 8080}])
def test_a_list_may_be_written_as_istio_does_or_as_a_sequence(given) -> None:
    assert IstioOptions(inbound_ports_include=given).inbound_ports_include == "80,8080"


def test_the_proxys_group_is_its_user_where_none_is_given() -> None:
    assert IstioOptions(proxy_uid="2000", proxy_gid="").proxy_gid == "2000"


def test_what_was_set_is_told_apart_from_what_was_not() -> None:
    assert IstioOptions(redirect_dns=True, proxy_uid=1337).changed() == {"redirect_dns": True}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"inbound_ports_exclude": "", "inbound_ports_include": ""},
        {"proxy_uid": "0,1337", "redirect_dns": True, "capture_all_dns": False, "mode": "cni"},
        {"outbound_ip_ranges_exclude": "10.0.0.0/8,fd00::/8", "enable_ipv6": True},
    ],
)
def test_the_pairs_of_options_make_the_same_options(given) -> None:
    options = IstioOptions.of(given)
    assert IstioOptions.from_pairs(options.pairs()) == options


def test_an_unknown_option_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(UsageProblem, match="inbound_port_include; inbound_ports_include"):
        expected_ruleset("1.8.3", inbound_port_include="80")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"inbound_ports_exclude": "80,http"}, "'http' is no port"),
        ({"proxy_port": 70000}, "'70000' is no port"),
        ({"inbound_ports_exclude": "90:80"}, "'90:80' ends before it begins"),
        ({"family": 5}, "family is 4 or 6"),
        ({"proxy_uid": "envoy"}, "'envoy' is no number"),
        ({"inbound_interception_mode": "MAGIC"}, "REDIRECT, TPROXY, NONE"),
        ({"outbound_ip_ranges_exclude": "*"}, "OUTBOUND_IP_RANGES_EXCLUDE"),
        ({"owner_groups_exclude": "no-such-group"}, 'Bad value for "--gid-owner"'),
        ({"owner_groups_include": range(65)}, "has 65 groups; Istio takes 64"),
        ({"host_ipv4_loopback_cidr": "10.0.0.0/8"}, "loopback"),
        ({"dns_servers_v4": "2001:db8::53"}, "no IPv4 address"),
        ({"exclude_interfaces": "a-name-that-is-too-long"}, "no interface's name"),
        ({"redirect_dns": "yes"}, "True or False"),
        ({"proxy_port": object()}, "text as Istio writes it"),
        ({"proxy_port": None}, "text as Istio writes it"),
        ({"mode": "ambient"}, "init or cni"),
    ],
)  # fmt: skip
def test_what_istio_refuses_is_refused(given, said: str) -> None:
    with pytest.raises(UsageProblem) as problem:
        expected_ruleset("1.27.3", **given)
    assert said in str(problem.value)


def test_every_option_can_be_given_as_a_typed_keyword() -> None:
    assert list(OptionFields.__annotations__) == [option.name for option in OPTIONS]


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.since > (1, 5, 0)])
def test_an_option_changes_nothing_before_its_first_release(option: Option) -> None:
    given = {"owner_groups_include": "202", "owner_groups_exclude": "202", "exclude_interfaces": "eth1",
             "host_ipv4_loopback_cidr": "127.0.0.0/8", "outbound_ports_include": "80",
             "inbound_tunnel_port": "15009"}.get(option.name, True)  # fmt: skip
    before = max((number_of(version), version) for version in known_versions()
                 if number_of(version) < option.since)[1]  # fmt: skip
    assert expected_ruleset(before, **{option.name: given}) == expected_ruleset(before)


def test_options_and_single_fields_are_not_mixed() -> None:
    with pytest.raises(UsageProblem, match="not both"):
        expected_ruleset("1.8.3", options=IstioOptions(), redirect_dns=True)


def test_a_range_that_is_none_is_passed_over_until_istio_refused_it() -> None:
    assert "-d 10.0.0.0/8 -j ISTIO_REDIRECT" in rules(
        "1.26.8", outbound_ip_ranges_include="10.0.0.1,10.0.0.0/8"
    )
    with pytest.raises(UsageProblem, match=r"'10\.0\.0\.1' is no range"):
        expected_ruleset("1.27.0", outbound_ip_ranges_include="10.0.0.1,10.0.0.0/8")


def test_ranges_go_to_their_own_family() -> None:
    both = "10.0.0.0/8,2001:db8::/32"
    assert rules("1.30.3", outbound_ip_ranges_include=both)[-1] == "-d 10.0.0.0/8 -j ISTIO_REDIRECT"
    assert (
        rules("1.30.3", family=6, outbound_ip_ranges_include=both)[-1] == "-d 2001:db8::/32 -j ISTIO_REDIRECT"
    )


def test_no_owner_group_at_all_lets_everything_go() -> None:
    assert "-j RETURN" in rules("1.14.0", owner_groups_include="")


def test_a_pod_without_interception_has_no_rule() -> None:
    assert list(expected_ruleset("1.8.3", inbound_interception_mode="NONE").rules()) == []


def test_ip6tables_of_a_pod_without_ipv6_have_no_rule() -> None:
    assert list(expected_ruleset("1.8.3", family=6, enable_ipv6=False).rules()) == []


def test_istio_cni_has_another_order_and_leaves_the_agents_port_alone() -> None:
    inbound = rules("1.27.3", chain="ISTIO_INBOUND", mode="cni")
    assert [rule.split()[5] for rule in inbound[:-1]] == ["15008", "15020", "15021", "15090"]
    assert rules("1.27.3", mode="cni")[:2] == [
        "-p tcp -m tcp --dport 15020 -j RETURN",
        "-p udp -m udp --dport 15020 -j RETURN",
    ]


def test_excluded_interfaces_reach_mangle_of_ipv6_before_tproxy_did() -> None:
    """1.11.3 to 1.11.8: one of the builder's cross-effects."""
    held = expected_ruleset(
        "1.11.8", family=6, inbound_interception_mode="TPROXY", exclude_interfaces="eth2"
    ).mangle
    assert [rule.text for rule in held.rules()] == [
        "-A PREROUTING -i eth2 -j RETURN",
        "-A OUTPUT -o eth2 -j RETURN",
    ]


def test_a_chain_that_istio_would_not_make_is_refused_as_iptables_restore_does() -> None:
    with pytest.raises(UsageProblem, match="no rule is in ISTIO_INBOUND"):
        expected_ruleset("1.6.14", inbound_ports_include=",")


def test_an_ipv4_range_in_the_notation_of_ipv6_is_ipv4_until_1_16() -> None:
    mapped = "::ffff:10.0.0.0/104"
    assert "-d 10.0.0.0/8 -j ISTIO_REDIRECT" in rules("1.15.7", outbound_ip_ranges_include=mapped)
    assert not any("-d 10." in rule for rule in rules("1.16.0", outbound_ip_ranges_include=mapped))
    assert rules("1.16.0", family=6, outbound_ip_ranges_include=mapped)[-2].endswith("/104 -j ISTIO_REDIRECT")


def test_a_loopback_range_in_the_notation_of_ipv6_opens_loopback() -> None:
    held = rules("1.30.3", outbound_ip_ranges_include="::ffff:127.0.0.1/128")
    assert not any("-o lo -m owner !" in rule for rule in held)


@pytest.mark.parametrize("version", ["1.5.7", "1.6.4"])
def test_an_empty_member_of_a_list_is_refused_until_istio_left_it_out(version: str) -> None:
    with pytest.raises(UsageProblem, match="'80,' has an empty member"):
        expected_ruleset(version, inbound_ports_include="80,")


@pytest.mark.parametrize("version", ["1.5.8", "1.6.5", "1.30.3"])
def test_an_empty_member_of_a_list_is_left_out(version: str) -> None:
    assert expected_ruleset(version, inbound_ports_include="80,").tables == (
        expected_ruleset(version, inbound_ports_include="80").tables
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"inbound_ports_exclude": "5432, 6379"}, "5432,6379"),
        ({"inbound_ports_include": " 80 ,8080 "}, "80,8080"),
        ({"outbound_ports_exclude": "5432,\t6379"}, "5432,6379"),
        ({"outbound_ports_include": " 5432"}, "5432"),
        ({"exclude_interfaces": "eth1, eth2"}, "eth1,eth2"),
        ({"kube_virt_interfaces": "eth1, eth2"}, "eth1,eth2"),
        ({"proxy_uid": "1337, 0"}, "1337,0"),
        ({"owner_groups_include": "202, daemon"}, "202,daemon"),
        ({"dns_servers_v4": "192.0.2.53, 192.0.2.54"}, "192.0.2.53,192.0.2.54"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_blanks_around_the_members_of_a_list_are_nothing(given: dict, meant: str) -> None:
    """The webhook trims ports, and iptables-restore takes a second blank for one."""
    assert getattr(IstioOptions(**given), next(iter(given))) == meant


@pytest.mark.parametrize("option", ["outbound_ip_ranges_include", "outbound_ip_ranges_exclude"])
@pytest.mark.parametrize("text", ["10.0.0.0/8, 192.168.0.0/16", " 10.0.0.0/8", "10.0.0.0/8 192.168.0.0/16"])
def test_a_blank_in_ranges_is_refused_as_the_webhook_refuses_it(option: str, text: str) -> None:
    with pytest.raises(UsageProblem, match="Istio's webhook refuses the pod") as problem:
        IstioOptions.of({option: text})
    assert problem.value.failure.fix.endswith(",".join(text.replace(",", " ").split()))


@pytest.mark.parametrize("text", ["80, ,81", " ", "80, "])
def test_a_blank_alone_is_no_member_and_not_left_out(text: str) -> None:
    with pytest.raises(UsageProblem, match="' ' is no port"):
        IstioOptions(inbound_ports_exclude=text)


def test_all_is_a_star_alone() -> None:
    with pytest.raises(UsageProblem, match="is no port"):
        IstioOptions(inbound_ports_include=" *")


def test_what_a_release_passes_over_is_told() -> None:
    options = IstioOptions(outbound_ip_ranges_include="10.0.0.1,10.0.0.0/8", outbound_ip_ranges_exclude="-b")
    assert passed_over("1.26.8", options) == (
        ("outbound_ip_ranges_include", "10.0.0.1"),
        ("outbound_ip_ranges_exclude", "-b"),
    )
    assert passed_over("1.26.8", IstioOptions()) == ()


@pytest.mark.parametrize(
    "name",
    [
        "outbound_ip_ranges_exclude",
        "excludeOutboundIPRanges",
        "traffic.sidecar.istio.io/excludeOutboundIPRanges",
        "--istio-service-exclude-cidr",
        "ISTIO_SERVICE_EXCLUDE_CIDR",
    ],
)
def test_an_option_has_the_names_that_istio_gives_it(name: str) -> None:
    assert option_named(name) == "outbound_ip_ranges_exclude"


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("proxy_port=0", "'0' is no port that Envoy could listen on"),
        ("inbound_capture_port=0", "'0' is no port that Envoy could listen on"),
        ("proxy_port=80:90", "'80:90' is no port that Envoy could listen on"),
        ("proxy_port=", "'' is no port"),
        ("proxy_port=15006", "both 15006"),
        ("inbound_tunnel_port=", "'' is no port"),
        ("inbound_ports_exclude=010", "'010' is no port"),
        ("inbound_ports_exclude=٨٠", "is no port"),
        ("inbound_ports_exclude=0x50", "'0x50' is no port"),
        ("inbound_ports_include=80,*", "'*' is no port"),
        ("outbound_ports_exclude=65536", "'65536' is no port"),
        ("outbound_ports_include=http", "'http' is no port"),
        ("proxy_uid=010", "'010' is no number"),
        ("proxy_uid=1_000", "'1_000' is no number"),
        ("proxy_uid=-1", "'-1' is no number"),
        ("proxy_gid=istio-proxy", "'istio-proxy' is no number"),
        ("proxy_uid=,", "',' names nobody"),
        ("proxy_gid=,,", "',,' names nobody"),
        ("inbound_tproxy_mark=", "'' is no number"),
        ("inbound_tproxy_route_table=0x", "'0x' is no number"),
        ("owner_groups_include=010", "no group 010"),
        ("outbound_ip_ranges_exclude=10.0.0.300/8", "'10.0.0.300/8' is no range of addresses"),
        ("outbound_ip_ranges_exclude=10.0.0.0/33", "'10.0.0.0/33' is no range of addresses"),
        ("outbound_ip_ranges_exclude=10.0.0.0/255.0.0.0", "is no range of addresses"),
        ("outbound_ip_ranges_include=10.0.0.0/8,10.0.0.256", "'10.0.0.256' is no range of addresses"),
        ("outbound_ip_ranges_include=::/129", "'::/129' is no range of addresses"),
        ("outbound_ip_ranges_include= ", "has a blank"),
        ("kube_virt_interfaces=a/b", "no interface's name"),
        ("exclude_interfaces= ", "no interface's name"),
        ("inbound_interception_mode=tproxy", "REDIRECT, TPROXY, NONE"),
        ("inbound_interception_mode=", "REDIRECT, TPROXY, NONE"),
        ("host_ipv4_loopback_cidr=", "loopback"),
        ("redirect_dns=", "True or False"),
        ("redirect_dns=yes", "True or False"),
        ("enable_ipv6=None", "True or False"),
        ("dns_servers_v4=8.8.8.8/32", "no IPv4 address"),
        ("mode=", "init or cni"),
    ],
)
def test_what_istios_programs_would_not_take_so_is_refused_on_a_command_line(pair: str, said: str) -> None:
    with pytest.raises(UsageProblem) as problem:
        IstioOptions.from_pairs([pair])
    assert said in str(problem.value)


@pytest.mark.parametrize(
    ("pair", "taken"),
    [
        ("proxy_uid=0x539", "1337"),
        ("proxy_uid=+80", "80"),
        ("proxy_uid=1337,,0", "1337,,0"),
        ("inbound_tproxy_mark=0x539", "1337"),
        ("inbound_ports_exclude=80:80,90:91", "80,90:91"),
        ("redirect_dns=True", True),
        ("redirect_dns=1", True),
        ("enable_ipv6=f", False),
        ("outbound_ip_ranges_include=", ""),
    ],
)
def test_what_is_written_otherwise_and_means_the_same_is_kept_as_iptables_prints_it(pair, taken) -> None:
    assert getattr(IstioOptions.from_pairs([pair]), pair.partition("=")[0]) == taken


@pytest.mark.parametrize(
    "pair",
    [
        "excludeInboundPorts=8443",
        "traffic.sidecar.istio.io/excludeInboundPorts=8443",
        "excludeInboundPorts: 8443",
        "inbound_ports_exclude=+8443",
    ],
)
@pytest.mark.parametrize("version", ["1.5.0", "1.8.3", "1.20.8"])
def test_by_an_annotations_name_ports_are_left_alone_beside_those_of_the_template(pair, version) -> None:
    left = {"1.5.0": "15090,8443,15020"}.get(version, "15090,15021,8443,15020")
    options = IstioOptions.from_pairs([pair])
    assert expected_ruleset(version, options=options) == expected_ruleset(version, inbound_ports_exclude=left)
    assert IstioOptions.from_pairs(options.pairs()) == options


def test_with_istio_cni_ports_are_left_alone_beside_its_own() -> None:
    options = IstioOptions.from_pairs(["excludeInboundPorts=9000,15020", "mode=cni"])
    assert "-p tcp -m tcp --dport 15021 -j RETURN" in rules("1.20.8", chain="ISTIO_INBOUND", options=options)


@pytest.mark.parametrize(
    ("pair", "field", "value"),
    [
        ("ISTIO_LOCAL_EXCLUDE_PORTS=9000", "inbound_ports_exclude", "9000"),
        ("--istio-local-exclude-ports=9000", "inbound_ports_exclude", "9000"),
        ('includeInboundPorts: ""', "inbound_ports_include", ""),
        ("ISTIO_META_DNS_CAPTURE: true", "redirect_dns", True),
        ("excludeOutboundIPRanges: ::/0", "outbound_ip_ranges_exclude", "::/0"),
        ("outbound_ip_ranges_exclude=::/0", "outbound_ip_ranges_exclude", "::/0"),
        (" proxy_uid = 2000 ", "proxy_uid", "2000"),
    ],
)
def test_an_option_is_taken_by_any_name_and_as_messages_write_it(pair, field, value) -> None:
    assert getattr(IstioOptions.from_pairs([pair]), field) == value


def test_what_sets_rules_apart_can_be_given_as_it_is_told() -> None:
    rules_of_pod = expected_ruleset("1.20.8", inbound_ports_exclude="15090,15021,9000,15020")
    told = guess(rules_of_pod)[0].changes
    assert told == ("excludeInboundPorts: 9000",)
    assert expected_ruleset("1.20.8", options=IstioOptions.from_pairs(told)) == rules_of_pod


@pytest.mark.parametrize("pair", ["excludeInboundPorts=8443,no", "inbound_ports_exclude=+x", "+8443"])
def test_ports_beside_the_templates_are_ports(pair) -> None:
    with pytest.raises(UsageProblem):
        IstioOptions.from_pairs([pair])


def test_the_nearest_name_is_found_whatever_its_letters_case() -> None:
    with pytest.raises(UsageProblem, match="; inbound_ports_exclude"):
        IstioOptions.from_pairs(["INBOUND_PORTS_EXCLUDED=1"])


def test_an_option_with_two_values_is_refused_and_not_the_last_one_taken() -> None:
    with pytest.raises(UsageProblem, match="given twice, as '80' and as '90'"):
        IstioOptions.from_pairs(["inbound_ports_exclude=80", "inbound_ports_exclude=90"])
    assert IstioOptions.from_pairs(["proxy_uid=1337", " proxy_uid=1337"]) == IstioOptions()


def test_what_is_left_of_a_list_of_blanks_is_named_in_the_fix() -> None:
    with pytest.raises(UsageProblem) as problem:
        IstioOptions(outbound_ip_ranges_exclude=" ")
    assert problem.value.failure.fix == "write it as an empty list: outbound_ip_ranges_exclude="


def test_all_among_other_ranges_is_told_as_passed_over() -> None:
    options = IstioOptions(outbound_ip_ranges_include="*,10.0.0.0/8")
    assert passed_over("1.20.8", options) == (("outbound_ip_ranges_include", "*"),)


def test_ranges_of_a_command_line_that_are_none_stand_and_can_be_written_again() -> None:
    options = IstioOptions.from_init_arguments(["-x", "10.0.0.300/8,10.0.0.0/8"])
    assert options.outbound_ip_ranges_exclude == "10.0.0.300/8,10.0.0.0/8"
    assert IstioOptions.from_pairs(options.pairs()).outbound_ip_ranges_exclude == "10.0.0.0/8"


@pytest.mark.parametrize("text", ["", " ", ",", "excludeInboundPorts,", "a,,b"])
def test_names_of_options_leave_none_out(text: str) -> None:
    with pytest.raises(UsageProblem, match="no option without a name"):
        options_named(text)


def test_names_of_options_with_commas_are_the_fields_they_stand_for() -> None:
    assert options_named("excludeInboundPorts, --proxy-uid") == ("inbound_ports_exclude", "proxy_uid")
