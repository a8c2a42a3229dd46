"""Every packet that gets by without Envoy: complete, disjoint, with its rule and witness."""

import gc
import json
from dataclasses import replace
from ipaddress import ip_address
from random import Random

import pytest

from pytest_istio_sidecar import (
    Bypass,
    BypassError,
    Fate,
    Host,
    Packet,
    PodRules,
    Ruleset,
    Undecided,
    assert_only_bypasses,
    bypasses,
    check_only_bypasses,
    expected_ruleset,
    inbound,
    parse_iptables_save,
    render_save,
    trace,
)
from pytest_istio_sidecar.netfilter.diagram.diagram import Diagrams
from pytest_istio_sidecar.netfilter.model import Backend

EXPECTED = expected_ruleset("1.8.3")
ISTIO = render_save(EXPECTED)
JUMP = "-A PREROUTING -p tcp -j ISTIO_INBOUND\n"
KEEPING = "-A PREROUTING -p tcp -j REDIRECT"
OWN_TEXTS = [
    "inbound not tcp",
    "inbound tcp 22,15008,15020-15021,15090",
    "outbound not tcp",
    "outbound from uid not 1337 by lo",
    "outbound to 127.0.0.1",
    "outbound from 127.0.0.6",
    "outbound from gid 1337 by eth0",
    "outbound from uid 1337 by eth0",
]


def rules_with(old, new):
    assert old in ISTIO
    return parse_iptables_save(ISTIO.replace(old, new))


def everything(report):
    return (*report.inbound, *report.outbound, *report.conditional)


def contains(where, packet):
    """Whether a packet is in a class, by the published form of `where`."""
    for name, allowed in where.items():
        value = getattr(packet, name)
        if name == "out_interface":
            value = "lo" if Host().is_local(packet.destination) else "eth0"
        if name == "in_interface":
            value = "eth0"
        if not any(_is(value, held) for held in allowed):
            return False
    return True


def _is(value, held):
    if isinstance(held, str):
        names = {"tcp": 6, "udp": 17, "icmp": 1, "no socket": None}
        return value == names.get(held, held)
    low, high = held
    if isinstance(low, str):
        return int(ip_address(low)) <= int(value) <= int(ip_address(high))
    return value is not None and low <= value <= high


def test_istios_own_bypasses_are_told_in_few_words():
    assert [found.text for found in everything(bypasses(EXPECTED))] == OWN_TEXTS


def test_istios_own_bypasses_are_by_design():
    assert bypasses(EXPECTED, expected=EXPECTED).unexpected == ()


def test_without_an_expectation_nothing_is_by_design():
    report = bypasses(EXPECTED)
    assert report.unexpected == (*report.inbound, *report.outbound)


def test_a_class_names_each_rule_that_lets_its_packets_by():
    (_, excluded) = bypasses(EXPECTED).inbound
    assert [rule.matches[1].destination.low for rule in excluded.rules] == [22, 15008, 15020, 15021, 15090]
    assert excluded.rule in excluded.rules


def test_one_port_more_is_not_by_design_and_names_its_rule():
    rules = rules_with(JUMP, f"-A PREROUTING -p tcp -m tcp --dport 8443 -j RETURN\n{JUMP}")
    (found,) = bypasses(rules, expected=EXPECTED).unexpected
    assert found.text == "inbound tcp 8443"
    assert found.rule.text == "-A PREROUTING -p tcp -m tcp --dport 8443 -j RETURN"


def test_a_bypass_of_a_single_source_and_port_is_found_among_all_packets():
    rule = "-A PREROUTING -s 203.0.113.77/32 -p tcp -m tcp --sport 31337 --dport 4242 -j ACCEPT\n"
    (found,) = bypasses(rules_with(JUMP, rule + JUMP), expected=EXPECTED).unexpected
    assert found.text == "inbound tcp 4242 from 203.0.113.77 from port 31337"
    assert found.witness == inbound(
        4242, source="203.0.113.77", source_port=31337, in_interface="eth0", mark=0
    )


def test_what_is_sent_to_another_port_than_envoys_is_no_capture():
    rules = rules_with("--to-ports 15006", "--to-ports 15007")
    texts = [found.text for found in bypasses(rules, expected=EXPECTED).unexpected]
    assert "inbound tcp not 22,15008,15020-15021,15090: sent to 192.0.2.10:15007" in texts


def test_what_keeps_envoys_port_through_a_redirect_is_captured():
    rules = parse_iptables_save(f"*nat\n:PREROUTING ACCEPT [0:0]\n{KEEPING}\nCOMMIT\n")
    assert "inbound tcp not 15006: sent to 192.0.2.10, each to its own port" in [
        found.text for found in bypasses(rules).inbound
    ]


ONE_REDIRECT = """*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports {}
COMMIT
"""


@pytest.mark.parametrize("other", [9090, 15006], ids=["both elsewhere", "one to Envoy"])
def test_what_goes_to_one_of_two_ports_by_the_order_of_back_ends_is_told_with_both(other):
    legacy = replace(parse_iptables_save(ONE_REDIRECT.format(8080)), backend=Backend.LEGACY)
    nft = replace(parse_iptables_save(ONE_REDIRECT.format(other)), backend=Backend.NF_TABLES)
    report = bypasses(PodRules(rulesets=(legacy, nft)))
    assert f"inbound tcp 80: sent to 192.0.2.10:8080 or 192.0.2.10:{other}" in [
        found.text for found in (*report.inbound, *report.conditional)
    ]


def test_a_class_that_two_rules_send_to_different_places_is_told_with_both():
    rules = rules_with(
        "-A PREROUTING -p tcp -j ISTIO_INBOUND",
        "-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 81\n"
        "-A PREROUTING -p tcp -m tcp --dport 81 -j REDIRECT --to-ports 82\n"
        "-A PREROUTING -p tcp -j ISTIO_INBOUND",
    )
    texts = [found.text for found in bypasses(rules, expected=EXPECTED).unexpected]
    assert "inbound tcp 80-81: sent to 192.0.2.10:81 or 192.0.2.10:82" in texts


@pytest.mark.parametrize(
    ("uid", "named"), [("1234", "(uid 1234, gid 1234)"), ("1337", "(uid 1337, gid 1337)")]
)
def test_who_is_taken_for_envoy_is_read_from_the_rules(uid, named):
    report = bypasses(expected_ruleset("1.8.3", proxy_uid=uid, proxy_gid=uid))
    assert any(f"user or group {named} is taken for Envoy" in sentence for sentence in report.unseen)


def test_envoys_port_of_another_host_is_no_capture():
    rule = "-A OUTPUT -p tcp -j DNAT --to-destination :15001"
    rules = parse_iptables_save(f"*nat\n:OUTPUT ACCEPT [0:0]\n{rule}\nCOMMIT\n")
    (_, found) = bypasses(rules).outbound
    assert trace(rules, found.witness).destination.port == 15001
    assert not Host().is_local(found.witness.destination)


def test_a_family_without_rules_gets_by_whole():
    pod = PodRules(rulesets=(EXPECTED, Ruleset(family=6)))
    texts = [found.text for found in everything(bypasses(pod))]
    assert {text for text in texts if "IPv6" in text} == {
        "all inbound IPv6: no rules",
        "all outbound IPv6: no rules",
    }


def test_a_condition_that_rules_do_not_tell_makes_a_class_conditional():
    rules = rules_with(JUMP, f"-A PREROUTING -p tcp -m set --match-set friends src -j RETURN\n{JUMP}")
    (found,) = bypasses(rules).conditional
    assert found.text == "inbound tcp not 22,15008,15020-15021,15090"
    assert "--match-set friends src" in found.conditions[0]


def test_of_two_ways_by_that_both_miss_envoy_nothing_is_in_doubt():
    rule = "-A PREROUTING -m set --match-set friends src -j RETURN"
    report = bypasses(parse_iptables_save(f"*nat\n:PREROUTING ACCEPT [0:0]\n{rule}\nCOMMIT\n"))
    assert report.conditional == ()
    assert [found.text for found in report.inbound] == ["all inbound"]


def test_what_is_dropped_does_not_get_by():
    rules = parse_iptables_save(ISTIO + "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p udp -j DROP\nCOMMIT\n")
    assert [found.text for found in bypasses(rules).inbound] == [
        "inbound not tcp,udp",
        "inbound tcp 22,15008,15020-15021,15090",
    ]


def random_packet(random):
    own = ["192.0.2.10", "127.0.0.1", "127.0.0.6"]
    if random.random() < 0.4:
        port = random.choice([22, 80, 15001, 15006, 15008, 15020, 15090, random.randrange(65536)])
        return inbound(port, protocol=random.choice(["tcp", "tcp", "udp", 132]), source="198.51.100.9")
    destination = random.choice([*own, "198.51.100.9"])
    source = random.choice(own) if destination in own else "192.0.2.10"
    uid, gid = random.choice([(0, 0), (1000, 1337), (1337, 1337), (1337, 0), (None, None), (5, 5)])
    return Packet(
        hook="OUTPUT",
        protocol=random.choice(["tcp", "tcp", "udp"]),
        source=source,
        destination=destination,
        source_port=4000,
        destination_port=random.choice([53, 80, 15001, 15008]),
        uid=uid,
        gid=gid,
    )


@pytest.mark.parametrize("version", ["1.5.0", "1.8.3", "1.16.7", "1.20.8", "1.27.3"])
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_a_packet_is_in_one_class_just_where_trace_says_it_gets_by(version, mode):
    rules = expected_ruleset(version, inbound_interception_mode=mode)
    report = bypasses(rules)
    random = Random(f"{version} {mode}")
    seen = set()
    for _ in range(400):
        packet = random_packet(random)
        way = trace(rules, packet)
        captured = way.fate in (Fate.REDIRECTED, Fate.TPROXIED, Fate.TRANSLATED)
        gets_by = way.fate is not Fate.DROPPED and not (captured and way.destination.port in (15001, 15006))
        direction = "inbound" if packet.hook == "PREROUTING" else "outbound"
        classes = report.conditional if way.fate is Fate.UNKNOWN else (*report.inbound, *report.outbound)
        holding = [
            found for found in classes if found.direction == direction and contains(found.where, packet)
        ]
        assert len(holding) == (1 if gets_by else 0), (packet, [found.where for found in holding])
        seen.add(gets_by)
    assert seen == {True, False}


@pytest.mark.parametrize("version", ["1.8.3", "1.20.8"])
def test_a_class_as_a_value_allows_just_itself(version):
    rules = expected_ruleset(version)
    report = bypasses(rules)
    for left_out in everything(report):
        allowed = [found.bypass for found in everything(report) if found is not left_out]
        findings = check_only_bypasses(rules, allowed)
        assert len(findings) == 1
        assert findings[0].trace.packet == left_out.witness


def test_written_classes_allow_what_they_say():
    allowed = ["inbound not tcp", "inbound tcp 22,15008,15020,15021,15090", Bypass.parse("all outbound")]
    assert_only_bypasses(EXPECTED, allowed)


def test_what_is_not_allowed_fails_with_the_packets_and_the_rule():
    allowed = ["inbound not tcp", "inbound tcp 15008,15020,15021,15090", "all outbound"]
    with pytest.raises(BypassError) as failure:
        assert_only_bypasses(EXPECTED, allowed)
    assert str(failure.value).startswith("inbound tcp 22 reaches the application without Envoy")
    assert "--dport 22 -j RETURN" in str(failure.value)


def test_a_doubt_about_what_is_not_allowed_is_no_verdict():
    rules = rules_with(JUMP, f"-A PREROUTING -p tcp -m set --match-set friends src -j RETURN\n{JUMP}")
    with pytest.raises(Undecided, match="do not tell whether it gets by"):
        check_only_bypasses(rules, [], expected=EXPECTED)


def test_the_report_is_json_with_the_fields_of_the_contract():
    report = json.loads(json.dumps(bypasses(EXPECTED, expected=EXPECTED).to_dict()))
    assert set(report) == {"inbound", "outbound", "conditional"}
    assert set(report["inbound"][0]) == {"text", "where", "witness", "rule", "by_design"}
    assert Packet(**report["outbound"][0]["witness"]).hook == "OUTPUT"


def test_the_report_says_what_rules_cannot_show():
    told = " ".join(bypasses(EXPECTED).unseen)
    for what in ("UDP", "INVALID", "AF_PACKET", "1337", "back end"):
        assert what in told


def nat(*rules):
    lines = "\n".join(rules)
    return parse_iptables_save(f"*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{lines}\nCOMMIT\n")


def test_classes_that_read_the_same_are_one():
    rules = nat(
        "-A OUTPUT -p tcp -d 198.51.100.0/24 -j REDIRECT --to-ports 8080",
        "-A OUTPUT -p tcp -m owner --uid-owner 1-999 -j REDIRECT --to-ports 15001",
    )
    told = [found for found in bypasses(rules).outbound if "198.51.100.0/24" in str(found.bypass)]
    assert [found.text for found in told if "sent" in found.text] == [
        "outbound tcp to 198.51.100.0/24: sent to 127.0.0.1:8080"
    ]
    assert check_only_bypasses(rules, [*bypasses(rules).outbound, "inbound"]) == []


def test_a_text_that_would_be_true_of_another_class_too_is_told_exactly():
    report = bypasses(
        parse_iptables_save(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
            "-A PREROUTING -p tcp -m tcp --sport 80:443 -j REDIRECT\n"
            "-A PREROUTING -i eth0 -p tcp -j RETURN\n"
            "-A PREROUTING -p tcp -d 192.0.2.130 -j REDIRECT\n"
            "-A PREROUTING -p tcp -j REDIRECT --to-ports 15006\nCOMMIT\n"
        ),
        host=Host({"eth0": ["192.0.2.10/24"], "eth1": ["192.0.2.130/24"]}),
    )
    texts = [found.text for found in report.inbound]
    assert len(set(texts)) == len(texts)


def test_a_port_that_the_kernel_picks_at_random_makes_a_class_conditional():
    report = bypasses(nat("-A PREROUTING -p tcp -j REDIRECT --to-ports 15006-15010 --random"))
    (found,) = report.conditional
    assert found.text == "inbound tcp"
    assert found.conditions[0].startswith("the kernel picks one of the ports 15006-15010 at random")
    assert [other.text for other in report.inbound] == ["inbound not tcp"]


def test_a_single_port_is_the_one_at_random_too():
    report = bypasses(nat("-A PREROUTING -p tcp -j REDIRECT --to-ports 15006 --random"))
    assert report.conditional == ()
    assert [found.text for found in report.inbound] == ["inbound not tcp"]


def test_a_report_keeps_none_of_the_diagrams_that_it_was_found_with() -> None:
    def diagrams() -> int:
        return sum(isinstance(held, Diagrams) for held in gc.get_objects())

    gc.collect()
    before = diagrams()
    gc.disable()
    try:
        report = bypasses(EXPECTED)
        assert report.inbound
        assert diagrams() == before
    finally:
        gc.enable()
