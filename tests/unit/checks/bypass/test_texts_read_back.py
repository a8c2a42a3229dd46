"""What a report says of a class can be given back as it stands: to `--allow`, or on the project's list."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_istio_sidecar import (
    Bypass,
    Host,
    bypasses,
    check_only_bypasses,
    expected_ruleset,
    parse_iptables_save,
    render_save,
)
from pytest_istio_sidecar.checks.wording import CLAUSES, top_of
from pytest_istio_sidecar.netfilter.diagram.intervals import joined

ISTIO = render_save(expected_ruleset("1.8.3"))
HOST = Host(interfaces={"eth0": ["10.5.0.9/24"]})
RULES = [
    "-p tcp -m owner --uid-owner 0 -m owner ! --gid-owner 1337 -j RETURN",
    "-m owner ! --socket-exists -j RETURN",
    "-m owner --gid-owner 5-9 -j RETURN",
    "-p tcp -m owner --uid-owner 1000-2000 -j DNAT --to-destination 192.0.2.99:5",
    "-d 10.0.0.0/255.0.255.0 -j RETURN",
    "! -d 10.0.0.0/255.0.255.0 -o eth0 -j RETURN",
    "-m iprange ! --dst-range 10.0.0.1-10.0.0.9 -j RETURN",
    "-p tcp -m multiport --dports 1,2,3:9 -j DNAT --to-destination 192.0.2.99",
    "-p tcp -m tcp ! --dport 80:90 -m mark ! --mark 0x1/0xff -j REDIRECT --to-ports 99",
    "-p udp -m udp --sport 53 -m mark --mark 0x5 -j RETURN",
    "! -p tcp -m mark ! --mark 0x5 -j RETURN",
    "-p 47 -j RETURN",
    "-p tcp -m connmark --mark 0x1 -j RETURN",
]


def with_first(rule):
    return parse_iptables_save(ISTIO.replace("-A OUTPUT ", f"-A OUTPUT {rule}\n-A OUTPUT ", 1))


@pytest.mark.parametrize("rule", RULES)
def test_each_text_of_a_report_reads_back_as_its_class(rule):
    report = bypasses(with_first(rule), host=HOST)
    for each in (*report.inbound, *report.outbound, *report.conditional):
        assert Bypass.parse(each.text) in (each.in_brief, each.bypass)


@pytest.mark.parametrize("rule", RULES)
def test_all_texts_of_a_report_allow_all_that_gets_by(rule):
    rules = with_first(rule)
    report = bypasses(rules, host=HOST)
    texts = [each.text for each in (*report.inbound, *report.outbound, *report.conditional)]
    assert check_only_bypasses(rules, texts, host=HOST) == []


def test_a_family_without_rules_reads_back():
    (each,) = bypasses(parse_iptables_save("*nat\nCOMMIT\n", family=6)).inbound
    assert (each.text, Bypass.parse(each.text)) == ("all inbound IPv6: no rules", each.bypass)


def test_a_user_without_a_group_is_not_told():
    texts = [
        each.text for each in bypasses(with_first(RULES[0]), expected=expected_ruleset("1.8.3")).outbound
    ]
    assert texts[0] == "outbound tcp from uid 0 gid not 1337 by eth0"


def test_a_mask_with_holes_is_told_as_one():
    texts = [each.text for each in bypasses(with_first(RULES[4]), host=HOST).outbound]
    assert any("to 10.0.0.0/255.0.255.0" in text for text in texts)
    assert not any("&" in text for text in texts if "to not" not in text and "!" not in text)


def intervals(low, top):
    value = st.one_of(st.integers(low, top), st.sampled_from([low, low + 1, top - 1, top]))
    pair = st.tuples(value, value).map(lambda ends: (min(ends), max(ends)))
    return st.lists(pair, min_size=1, max_size=4).map(joined)


@st.composite
def classes(draw):
    family = draw(st.sampled_from([None, 4, 6]))
    names = draw(st.lists(st.sampled_from(list(CLAUSES)), unique=True))
    if {"source", "destination"} & set(names):
        family = family or 4
    where = {}
    for name in names:
        if name == "interface":
            chosen = st.lists(st.sampled_from(["eth0", "lo", "net1"]), unique=True, min_size=1)
            where[name] = tuple(draw(chosen))
        else:
            where[name] = draw(intervals(1 if name == "protocol" else 0, top_of(name, family)))
    if "mark" in where and draw(st.booleans()):
        where["mark"] = (*where["mark"], "0x1/0xff")
    if "destination_port" in where:
        where.setdefault("protocol", ((6, 6),))
    return Bypass(
        direction=draw(st.sampled_from(["inbound", "outbound"])),
        family=family,
        where=tuple((name, where[name]) for name in CLAUSES if name in where),
    )


@settings(max_examples=200, deadline=None)
@given(
    classes(),
    st.sampled_from(["", ": no rules", ": sent to 192.0.2.1:80 or elsewhere", ": may be sent elsewhere"]),
)
def test_any_class_reads_back_whatever_is_said_of_it(each, remark):
    assert Bypass.parse(f"{each}{remark}") == each
