"""What nft prints, in either form, as the rules that it means."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from netfilter_data import DATA, load

from pytest_istio_sidecar import ParseError, parse_nftables
from pytest_istio_sidecar.netfilter.matches import AnyOf
from pytest_istio_sidecar.netfilter.model import Backend, PodRules, Registration, Rule, Table
from pytest_istio_sidecar.netfilter.relations import Interfaces, Relation, Unmodelled
from pytest_istio_sidecar.netfilter.targets import Assign, Block, Jump, Redirect, Statement, Verdict
from pytest_istio_sidecar.netfilter.text.nft_render import render_nft

NFT = DATA / "nft"


def table(body: str, *, family: str = "inet", name: str = "t") -> Table:
    return parse_nftables(f"table {family} {name} {{\n{body}\n}}\n").rulesets[0].tables[0]


def rule(text: str, declared: str = "") -> Rule:
    """A rule of a chain at PREROUTING, as read from a listing."""
    hook = "type filter hook prerouting priority filter; policy accept;"
    chain = f"chain other {{\n}}\nchain c {{\n{hook}\n{text}\n}}"
    (made,) = table(f"{declared}\n{chain}").chain("c").rules
    return made


def in_json(*objects: dict[str, Any]) -> str:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *objects]})


TABLE = {"table": {"family": "inet", "name": "t", "handle": 1}}
CHAIN = {"chain": {"family": "inet", "table": "t", "name": "c", "handle": 1}}


def without_text(pod: PodRules) -> list[tuple[object, ...]]:
    """What rules mean: forms differ in how names and numbers are written, and in what of sets they show."""
    return [
        (own.name, chain.name, chain.policy, made.number, made.matches, made.target, made.packets, made.bytes)
        for ruleset in pod.rulesets
        for own in ruleset.tables
        for chain in own.chains
        for made in chain.rules
        # Numbers in place of names stand in the text of what is not modelled.
        if not any(isinstance(condition, Unmodelled) for condition in made.conditions())
    ]


@pytest.mark.parametrize("form", ["expressions.txt", "expressions-a.txt", "expressions-n-s.txt"])
def test_text_of_every_form_is_the_rules_of_the_json(form: str) -> None:
    read, same = (
        parse_nftables((NFT / form).read_text()),
        parse_nftables((NFT / "expressions.json").read_text()),
    )
    if form.endswith("-s.txt"):
        same = replace(
            same,
            rulesets=tuple(
                each.map_rules(lambda _, rule: replace(rule, packets=None, bytes=None))
                for each in same.rulesets
            ),
        )
    assert without_text(read) == without_text(same)
    assert len(without_text(read)) > 150


def test_a_rule_reads_as_nft_prints_it() -> None:
    printed = {line.strip() for line in (NFT / "expressions.txt").read_text().splitlines()}
    printed = {line.replace(" packets 0 bytes 0", "").replace(" packets 5 bytes 10", "") for line in printed}
    read = parse_nftables((NFT / "expressions.json").read_text()).rulesets[0]
    told = [made.text for made in read.rules() if made.text not in printed]
    # The reason of a reject that is left to nft, a number without a type, and a device without quotes.
    assert told == ["@nh,128,32 16909060 counter", "reject with icmpx port-unreachable", "dup to lo"]


def test_what_nft_prints_is_written_and_read_back() -> None:
    for name in ("expressions.json", "expressions.txt", "iptables-nft.json"):
        read = parse_nftables((NFT / name).read_text())
        assert without_text(parse_nftables(render_nft(read))) == [
            (*each[:6], None, None) for each in without_text(read)
        ]


def test_every_native_table_of_istio_is_written_and_read_back() -> None:
    for modes in load("istio-modes.json.gz").values():
        for mode, scenarios in modes.items():
            for scenario in scenarios.values():
                if mode.endswith("nft"):
                    read = parse_nftables(json.dumps(scenario["nft"]))
                    again = parse_nftables(render_nft(read))
                    assert again.rulesets == read.rulesets


def test_each_family_of_packets_has_the_tables_that_it_meets() -> None:
    text = "\n".join(
        f"table {family} x {{\n}}" for family in ("ip", "ip6", "inet", "netdev", "arp", "bridge")
    )
    four, six = parse_nftables(text).rulesets
    assert (four.family, six.family) == (4, 6)
    assert {four.backend, six.backend} == {Backend.NF_TABLES}
    assert [own.name for own in four.tables] == ["x", "inet x", "netdev x"]
    assert [own.name for own in six.tables] == ["x", "inet x", "netdev x"]
    assert [own.nft_family for own in six.tables] == ["ip6", "inet", "netdev"]


def test_tables_that_no_ip_packet_meets_are_named() -> None:
    notes = parse_nftables("table arp x {\n}\ntable bridge y {\n}\n").notes
    assert [note.split(":")[0] for note in notes] == [
        "tables of family arp are not judged",
        "tables of family bridge are not judged",
    ]


@pytest.mark.parametrize(
    ("priority", "number"),
    [
        ("filter", 0),
        ("mangle + 5", -145),
        ("dstnat - 1", -101),
        ("-100", -100),
        ("srcnat", 100),
        ("raw", -300),
    ],
)
def test_a_priority_is_read_by_its_name(priority: str, number: int) -> None:
    made = table(f"chain c {{\ntype filter hook input priority {priority}; policy drop;\n}}").chain("c")
    assert made.registered == Registration("INPUT", number, "filter")
    assert made.policy == "DROP"


def test_a_chain_at_a_device_says_which() -> None:
    made = table(
        'chain c {\ntype filter hook ingress device "eth0" priority 0; policy accept;\n}', family="netdev"
    )
    assert made.chain("c").registered == Registration("INGRESS", 0, "filter", ("eth0",))


def test_iptables_names_find_their_twins() -> None:
    native = table(
        "chain prerouting {\ntype nat hook prerouting priority dstnat; policy accept;\n}\n"
        "chain istio-inbound {\n}"
    )
    assert native.chain("PREROUTING").name == "prerouting"
    assert native.chain("ISTIO_INBOUND").name == "istio-inbound"
    assert "ISTIO_OUTPUT" not in native
    assert "OUTPUT" not in native


def test_a_dormant_table_is_told_from_one_whose_flags_cannot_be_read() -> None:
    assert table("flags dormant").dormant is True
    assert table("").dormant is False
    flags = ("dormant", ["dormant", "owner"], "owner", "")

    def read(version: str) -> list[bool | None]:
        """Nft up to 1.0.6 prints a word of its memory there, which somebody can have made one of these."""
        about = {"metainfo": {"version": version}}
        told = [in_json(about, {"table": {**TABLE["table"], "flags": flag}}) for flag in (*flags, "ok")]
        return [parse_nftables(text).rulesets[0].tables[0].dormant for text in told]

    assert read("1.1.3") == [True, True, False, False, None]
    assert read("1.0.6") == [None, None, None, False, None]


def test_counters_handles_and_places_are_kept() -> None:
    text = (
        "table ip nat {\n\tchain c { # handle 4\n\t\tcounter packets 5 bytes 60 accept # handle 9\n\t}\n}\n"
    )
    (made,) = parse_nftables(text, source="pod.nft").rulesets[0].nat.chain("c").rules
    assert (made.packets, made.bytes, made.handle, made.location) == (5, 60, 9, "pod.nft:3")
    assert made.text == "counter accept"


def test_a_rule_of_conditions_and_a_verdict_has_no_rules_within() -> None:
    made = rule('iifname != "lo" tcp dport { 80, 443-445 } counter jump other')
    assert made.matches == (
        Interfaces(direction="in", names=("lo",), negated=True),
        Relation(key="tcp dport", intervals=((80, 80), (443, 445))),
    )
    assert made.target == Jump("other")


def test_what_follows_a_statement_is_a_rule_within_the_rule() -> None:
    made = rule("meta mark set 0x1 tcp dport 80 accept")
    assert made.matches == ()
    assert isinstance(made.target, Block)
    assert [(inner.matches, inner.target) for inner in made.target.rules] == [
        ((), Assign(to="mark", of="nothing", flip=1)),
        ((Relation(key="tcp dport", intervals=((80, 80),)),), Verdict("ACCEPT")),
    ]


def test_elements_of_a_map_with_one_verdict_are_one_rule_within() -> None:
    made = rule("tcp dport vmap { 80 : accept, 81 : accept, 90 : drop }").target
    assert isinstance(made, Block)
    assert made.exclusive
    assert [(inner.matches[0].intervals, inner.target) for inner in made.rules] == [
        (((80, 81),), Verdict("ACCEPT")),
        (((90, 90),), Verdict("DROP")),
    ]


@pytest.mark.parametrize(
    ("text", "keep", "flip"),
    [
        ("meta mark set meta mark | 0x00000010", 0xFFFFFFEF, 0x10),
        ("meta mark set meta mark & 0x0000000f", 0xF, 0),
        ("meta mark set meta mark ^ 0x00000003", 0xFFFFFFFF, 3),
        ("meta mark set meta mark & 0x000000f0 | 0x00000001", 0xF0, 1),
    ],
)
def test_a_mark_is_set_bit_by_bit(text: str, keep: int, flip: int) -> None:
    assert rule(text).target == Assign(to="mark", of="mark", keep=keep, flip=flip)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("ct state established,related", Relation(key="ct state", intervals=((1, 0xFFFFFFFF),), mask=6)),
        ("ct state != established | related", Relation(key="ct state", intervals=((6, 6),), negated=True)),
        ("tcp flags syn / fin,syn,rst,ack", Relation(key="tcp flags", intervals=((2, 2),), mask=0x17)),
        ("tcp flags & (fin | ack) == fin", Relation(key="tcp flags", intervals=((1, 1),), mask=0x11)),
        ("meta mark & 0x0fff == 0x0539", Relation(key="meta mark", intervals=((0x539, 0x539),), mask=0xFFF)),
        ("ip daddr 10.0.0.0/8", Relation(key="ip daddr", intervals=((10 << 24, (11 << 24) - 1),))),
        ("tcp dport >= 1024", Relation(key="tcp dport", intervals=((1024, 65535),))),
        ("tcp dport & 0xfffe == 80", Relation(key="tcp dport", intervals=((80, 81),))),
        ("th dport 53", Relation(key="th dport", intervals=((53, 53),))),
        ("@th,16,16 0x35", Relation(key="th dport", intervals=((53, 53),))),
        ("meta mark 0x00000010/28", Relation(key="meta mark", intervals=((16, 31),))),
        ('oifname "eth*"', Interfaces(direction="out", names=("eth*",))),
    ],
)  # fmt: skip
def test_a_condition_is_what_nft_means_by_it(text: str, match: object) -> None:
    assert rule(f"{text} counter").matches == (match,)


def test_a_named_set_is_its_elements() -> None:
    declared = "set s {\ntype inet_service\nflags interval\nelements = { 80, 443,\n 1000-2000 }\n}"
    assert rule("tcp dport != @s", declared).matches == (
        Relation(key="tcp dport", intervals=((80, 80), (443, 443), (1000, 2000)), negated=True),
    )


def test_an_element_with_an_end_may_be_gone() -> None:
    declared = "set s {\ntype inet_service\nflags timeout\nelements = { 80 timeout 1h expires 59m, 443 }\n}"
    (match,) = rule("tcp dport @s", declared).matches
    assert isinstance(match, AnyOf)
    (certain,), (doubted, doubt) = match.alternatives
    assert certain == Relation(key="tcp dport", intervals=((443, 443),))
    assert doubted == Relation(key="tcp dport", intervals=((80, 80),))
    assert doubt == Unmodelled("tcp dport @s")


@pytest.mark.parametrize("declared", ["set s {\ntype inet_service\nflags dynamic\n}", ""])
def test_a_set_that_rules_fill_or_that_is_not_shown_is_not_known(declared: str) -> None:
    assert rule("tcp dport @s drop", declared).matches == (
        Relation(key="meta l4proto", intervals=((6, 6),)),
        Unmodelled("tcp dport @s"),
    )


def test_a_set_to_which_a_rule_adds_is_not_known() -> None:
    added = {"set": {"op": "add", "elem": {"payload": {"protocol": "ip", "field": "saddr"}}, "set": "@s"}}
    asked = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@s"}}
    place = {"family": "inet", "table": "t", "chain": "c"}
    text = in_json(
        TABLE,
        {"set": {"family": "inet", "table": "t", "name": "s", "type": "ipv4_addr", "elem": ["10.0.0.1"]}},
        CHAIN,
        {"rule": {**place, "expr": [added]}},
        {"rule": {**place, "expr": [asked, {"drop": None}]}},
    )
    assert Unmodelled("ip saddr @s") in parse_nftables(text).rulesets[0].tables[0].chain("c").rules[1].matches


@pytest.mark.parametrize(
    "text",
    ["limit rate 5/second", "meta length 100-200", "numgen inc mod 5 < 2", "socket transparent 1",
     "meta cgroup 5",      "quota over 5 mbytes", "fib saddr . iif oif missing"],
)  # fmt: skip
def test_a_condition_that_is_not_modelled_keeps_nfts_words(text: str) -> None:
    assert rule(f"{text} drop").matches == (Unmodelled(text),)


@pytest.mark.parametrize(
    "text", ["tcp dport set 80", "ip daddr set 10.0.0.1", "queue to 5", 'xt target "TEE"']
)
def test_a_statement_that_is_not_modelled_keeps_nfts_words(text: str) -> None:
    made = rule(text).target
    assert isinstance(made, Statement)
    assert str(made) == text


def test_words_that_are_not_understood_stay_with_the_rest_of_their_rule() -> None:
    made = rule("tcp dport 80 frobnicate 5 accept")
    assert made.matches == (Relation(key="tcp dport", intervals=((80, 80),)),)
    assert made.target == Statement("frobnicate 5 accept")
    assert made.text == "tcp dport 80 frobnicate 5 accept"


def test_two_inverted_ports_may_be_kept_as_one_comparison() -> None:
    (match,) = rule("udp sport != 15001 udp dport != 443 counter").matches
    assert isinstance(match, AnyOf)
    assert len(match.alternatives) == 3
    assert len(rule("udp dport != 443 counter udp sport != 15001").matches) == 1


def test_a_redirect_by_a_map_goes_where_the_element_says() -> None:
    made = rule("redirect to :tcp dport map { 80 : 8080, 443 : 8443 }").target
    assert isinstance(made, Block)
    assert [inner.target for inner in made.rules] == [
        Redirect(ports=(8080, 8080)),
        Redirect(ports=(8443, 8443)),
    ]


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("", "no table in it", 0),
        ("\n# nothing\n", "no table in it", 0),
        ("{", "no JSON", 1),
        ("[]", "no object with a list", 0),
        ('{"nftables": 5}', "no object with a list", 0),
        ('{"nftables": [5]}', "no object", 0),
        (in_json({"table": {"family": "xyz", "name": "t"}}), "no family xyz", 0),
        (in_json(TABLE, TABLE), "table inet t stands twice", 0),
        (in_json(TABLE, CHAIN, CHAIN), "chain c of table t stands twice", 0),
        (in_json(CHAIN), "no listing of nft", 0),
        (in_json(TABLE, {"rule": {**CHAIN["chain"], "chain": "x", "expr": []}}), "chain x of table t", 0),
        ("table inet t {\n chain c {\n  accept\n", "breaks off", 3),
        ("table inet t {\n frob\n}\n", "stands in no table", 2),
        ("chain c {\n}\n", "a table should begin", 1),
        ('table inet t {\n chain c {\n  log prefix "x\n }\n}\n', "quote is not closed", 3),
        ("table inet t {\n chain a {\n  jump b\n }\n}\ntable inet t {\n}\n", "stands twice", 6),
    ],
)  # fmt: skip
def test_what_is_no_listing_is_refused_with_its_line(text: str, problem: str, line: int) -> None:
    with pytest.raises(ParseError, match=problem) as raised:
        parse_nftables(text, source="pod.nft")
    assert raised.value.line == line


def test_chains_that_jump_in_a_circle_are_refused() -> None:
    circle = (
        "chain a {\ntype filter hook input priority 0; policy accept;\njump b\n}\n"
        "chain b {\ntcp dport vmap { 80 : jump a }\n}"
    )
    with pytest.raises(ParseError, match="jump in a circle: a -> b -> a"):
        table(circle)


def test_a_version_without_a_table_is_an_empty_ruleset_that_survives() -> None:
    empty = parse_nftables(in_json())
    assert [each.tables for each in empty.rulesets] == [(), ()]
    assert parse_nftables(render_nft(empty)) == empty


def test_json_that_is_nested_deep_is_refused() -> None:
    deep = '{"nftables": [' + '{"a":' * 5000 + "1" + "}" * 5000 + "]}"
    with pytest.raises(ParseError, match="nested too deep"):
        parse_nftables(deep)
