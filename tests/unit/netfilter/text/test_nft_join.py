"""Rules of iptables-nft, of which nft shows some conditions by name only, and iptables-nft-save the rest."""

from __future__ import annotations

import json

import pytest
from netfilter_data import DATA, load

from pytest_istio_sidecar import Fate, PodRules, Ruleset, inbound, parse_iptables_save, parse_nftables, trace
from pytest_istio_sidecar.netfilter.text.nft_join import joined_with

NFT = DATA / "nft"
SAVED = (NFT / "iptables-nft-save.txt").read_text()


def read() -> tuple[PodRules, Ruleset]:
    return parse_nftables((NFT / "iptables-nft.json").read_text()), parse_iptables_save(SAVED)


def with_rule(expressions: list[object]) -> PodRules:
    """The recorded rules, one of which somebody wrote anew with nft."""
    document = json.loads((NFT / "iptables-nft.json").read_text())
    rules = [
        each["rule"]
        for each in document["nftables"]
        if "rule" in each and each["rule"]["chain"] == "ISTIO_IN"
    ]
    rules[0]["expr"] = expressions
    return parse_nftables(json.dumps(document))


def test_rules_that_both_show_alike_are_iptables_rules() -> None:
    pod, saved = read()
    joined = joined_with(pod, [saved])
    assert joined.notes == ()
    assert joined.rulesets[0].nat == saved.nat
    assert joined.rulesets[0].mangle == saved.mangle
    assert trace(joined, inbound(80)).fate is Fate.TPROXIED


def test_without_iptables_save_what_nft_names_only_is_unknown() -> None:
    pod, _ = read()
    told = trace(pod, inbound(80))
    assert told.fate is Fate.UNKNOWN
    assert '`xt target "TPROXY"`' in "".join(told.reasons)


def test_every_table_of_istio_in_iptables_nft_is_joined() -> None:
    tables = 0
    for modes in load("istio-modes.json.gz").values():
        for mode, scenarios in modes.items():
            for name, scenario in scenarios.items():
                if mode.endswith("iptables") and name != "env-native":
                    saves = ((4, scenario["iptables-nft-save"]), (6, scenario["ip6tables-nft-save"]))
                    saved = [
                        parse_iptables_save(text, family=family) for family, text in saves if "*" in text
                    ]
                    joined = joined_with(parse_nftables(json.dumps(scenario["nft"])), saved)
                    assert joined.notes == ()
                    tables += sum(not table.nft_family for each in joined.rulesets for table in each.tables)
                    assert all(not table.nft_family for each in joined.rulesets for table in each.tables)
    assert tables > 200


DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}


@pytest.mark.parametrize(
    ("expressions", "shown"),
    [
        (
            [{"vmap": {"key": DPORT, "data": {"set": [[9000, {"accept": None}]]}}}],
            "tcp dport vmap { 9000 : accept }",
        ),
        (
            [{"match": {"op": "==", "left": DPORT, "right": {"set": [15008, 9000]}}}, {"return": None}],
            "tcp dport { 15008, 9000 } return",
        ),
        (
            [{"match": {"op": "==", "left": {"&": [DPORT, 1]}, "right": 1}}, {"return": None}],
            "tcp dport & 1 == 1 return",
        ),
        (
            [{"match": {"op": "==", "left": DPORT, "right": 15008}}, {"accept": None}],
            "tcp dport 15008 accept",
        ),
    ],
)
def test_where_the_two_differ_nfts_rule_is_judged_and_that_is_told(expressions, shown: str) -> None:
    joined = joined_with(with_rule(expressions), [parse_iptables_save(SAVED)])
    made = joined.rulesets[0].nat.chain("ISTIO_IN").rules
    assert made[0].text == shown
    assert made[1].text == "-A ISTIO_IN -p tcp -m multiport --dports 1,2,3:7 -j RETURN"
    assert [note.partition(" as ")[0] for note in joined.notes] == [
        "iptables-nft-save shows rule 1 of chain ISTIO_IN of table nat"
    ]
    assert f"`{shown}`" in joined.notes[0]


def test_a_chain_that_iptables_does_not_have_keeps_the_table_nfts() -> None:
    document = json.loads((NFT / "iptables-nft.json").read_text())
    evil = {"family": "ip", "table": "nat", "name": "evil", "handle": 99}
    hook = {"type": "nat", "hook": "prerouting", "prio": -150, "policy": "accept"}
    document["nftables"].append({"chain": {**evil, **hook}})
    joined = joined_with(parse_nftables(json.dumps(document)), [parse_iptables_save(SAVED)])
    assert joined.rulesets[0].nat.nft_family == "ip"
    assert "evil" in joined.rulesets[0].nat
    assert joined.rulesets[0].mangle.nft_family == ""


def test_a_dormant_table_is_not_iptables_own() -> None:
    document = json.loads((NFT / "iptables-nft.json").read_text())
    document["nftables"][0]["metainfo"]["version"] = "1.1.3"
    next(each["table"] for each in document["nftables"] if "table" in each)["flags"] = "dormant"
    joined = joined_with(parse_nftables(json.dumps(document)), [parse_iptables_save(SAVED)])
    assert joined.rulesets[0].nat.dormant is True


NEWER = """table ip nat {
    chain PREROUTING {
        type nat hook prerouting priority dstnat; policy accept;
        ip protocol tcp counter packets 0 bytes 0 xt target "REDIRECT"
    }
}
"""


def test_a_protocol_that_a_newer_iptables_stores_as_a_field_of_the_packet_is_the_same() -> None:
    """iptables-nft 1.8.11 on the image, nft 1.0.6 on the node."""
    saved = parse_iptables_save(
        "# Generated by iptables-nft-save v1.8.11 (nf_tables)\n*nat\n:PREROUTING ACCEPT [0:0]\n"
        "-A PREROUTING -p tcp -j REDIRECT --to-ports 15006\nCOMMIT\n"
    )
    joined = joined_with(parse_nftables(NEWER), [saved])
    assert joined.notes == ()
    assert trace(joined, inbound(80)).destination.port == 15006
    udp = joined_with(parse_nftables(NEWER.replace("protocol tcp", "protocol udp")), [saved])
    assert "nft's is judged" in udp.notes[0]


LEFT_OUT = NEWER.replace(' xt target "REDIRECT"', " ").replace("ip protocol tcp", "tcp dport 80")


def test_where_nfts_text_shows_no_target_iptables_may_have_one() -> None:
    """nft 1.0.6 leaves one out that it printed of the other family before."""
    told = trace(parse_nftables(LEFT_OUT), inbound(80))
    assert told.fate is Fate.UNKNOWN
    assert "which nft may have left out" in told.reasons[0]
    assert trace(parse_nftables(LEFT_OUT), inbound(81)).fate is Fate.UNCHANGED


@pytest.mark.parametrize("target", [" -j REDIRECT --to-ports 8080", ""])
def test_what_iptables_shows_there_is_taken(target: str) -> None:
    saved = parse_iptables_save(
        "# Generated by iptables-nft-save v1.8.9 (nf_tables)\n*nat\n:PREROUTING ACCEPT [0:0]\n"
        f"-A PREROUTING -p tcp -m tcp --dport 80{target}\nCOMMIT\n"
    )
    joined = joined_with(parse_nftables(LEFT_OUT), [saved])
    assert joined.notes == ()
    assert trace(joined, inbound(80)).fate is (Fate.REDIRECTED if target else Fate.UNCHANGED)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (LEFT_OUT.replace("    ", "\t"), False),
        (LEFT_OUT.replace("    ", "\t").replace("bytes 0 ", "bytes 0"), True),
        (LEFT_OUT.replace("    ", "\t").replace("bytes 0 ", "bytes 0 # handle 4"), True),
        (LEFT_OUT.replace("    ", "\t").replace("bytes 0 ", "bytes 0  # handle 4"), False),
        (LEFT_OUT.replace("bytes 0 ", "bytes 0"), False),
    ],
    ids=["a blank", "no blank", "a handle", "a blank and a handle", "pasted"],
)
def test_a_blank_at_its_end_tells_that_nft_left_something_out(text: str, known: bool) -> None:
    assert (trace(parse_nftables(text), inbound(80)).fate is not Fate.UNKNOWN) is known


def test_in_tables_that_no_iptables_made_a_rule_without_target_has_none() -> None:
    text = LEFT_OUT.replace("ip nat", "inet nat")
    assert trace(parse_nftables(text), inbound(80)).fate is Fate.UNCHANGED
