"""`istio-sidecar trace` where the answer depends on the pod's address, its interface or who sends."""

import json

import pytest

from pytest_istio_sidecar import expected_ruleset, render_save
from pytest_istio_sidecar.cli import main

ISTIO = render_save(expected_ruleset("1.8.3"))
OWN_IN = "-A PREROUTING -d 10.42.0.7/32 -p tcp -j RETURN"
NOT_OWN = "-A PREROUTING ! -d 10.42.0.7/32 -p tcp -j ISTIO_INBOUND"
OWN_OUT = "-A OUTPUT -s 10.42.0.0/16 -p tcp -j RETURN"
DEVICE = "-A PREROUTING -i net1 -p tcp -j RETURN"
NEIGHBOUR = "-A PREROUTING -s 10.42.9.0/24 -p tcp -j RETURN"
PUBLISHED = "-A PREROUTING ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:8080"
HAIRPIN = "-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 8080 -j MASQUERADE"
HARMLESS = "-A PREROUTING -d 10.42.0.7/32 -p tcp -j ISTIO_INBOUND"
IN, OUT = ("--inbound", "80"), ("--outbound", "198.51.100.7:443")


@pytest.fixture
def traced(tmp_path, capsys):
    """A function: what trace says of Istio's rules with one above them, and its exit status."""

    def ask(rule, *words, instead=False):
        first = f"-A {rule.split()[1]} "
        old = next(line for line in ISTIO.splitlines() if line.startswith(first))
        file = tmp_path / "pod.save"
        file.write_text(ISTIO.replace(old, rule if instead else f"{rule}\n{old}", 1))
        status = main(["trace", str(file), *words])
        return status, " ".join(capsys.readouterr().out.split())

    return ask


@pytest.mark.parametrize(("rule", "packet"), [(OWN_IN, IN), (OWN_OUT, OUT)])
def test_an_answer_that_the_pods_address_decides_is_open_until_it_is_stated(traced, rule, packet):
    status, said = traced(rule, *packet)
    assert status == 3
    assert ": unknown" in said
    assert "the pod's address decides, and nobody stated it: with eth0=10.42.0." in said
    assert f"`{rule}`" in said
    assert "give --interface eth0=ADDRESS/PREFIX" in said
    assert "<- decides" not in said


@pytest.mark.parametrize(
    ("interface", "fate"), [("eth0=10.42.0.7/24", "unchanged"), ("eth0=10.42.0.8/24", "redirected")]
)
def test_where_the_address_is_stated_the_answer_is_firm(traced, interface, fate):
    status, said = traced(OWN_IN, *IN, "--interface", interface)
    assert (status, said.startswith(f"inbound tcp 80: {fate}")) == (0, True)


def test_a_rule_for_all_addresses_but_one_singles_a_pod_out_as_well(traced):
    status, said = traced(NOT_OWN, *IN, instead=True)
    assert status == 3
    assert "with eth0=10.42.0.7 unchanged" in said


def test_a_rule_by_which_no_pod_fares_otherwise_leaves_the_answer_firm(traced):
    assert traced(HARMLESS, *IN)[0] == 0


def test_an_address_that_a_rule_names_is_the_same_whichever_pod_has_it(tmp_path, capsys):
    file = tmp_path / "vm.save"
    file.write_text(
        f"*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n{PUBLISHED}\n{HAIRPIN}\nCOMMIT\n"
    )
    assert main(["trace", str(file), *IN]) == 0
    assert capsys.readouterr().out.startswith("inbound tcp 80: translated to 172.17.0.2:8080")


def test_where_many_pods_are_singled_out_that_not_all_were_tried_is_remarked(traced):
    rules = "\n".join(
        f"-A PREROUTING -d 10.{number // 250}.{number % 250}.9/32 -p tcp -m tcp --dport 81 -j RETURN"
        for number in range(300)
    )
    status, said = traced(rules, *IN)
    assert status == 0
    assert "note not every pod was tried that a rule on the way singles out; --interface states" in said


@pytest.mark.parametrize(
    ("rule", "remark"),
    [
        (
            DEVICE,
            "in a pod with interface net1 it would be unchanged: `-A PREROUTING -i net1 -p tcp -j RETURN`",
        ),
        (NEIGHBOUR, "from 10.42.9.1 it would be unchanged: `-A PREROUTING -s 10.42.9.0/24 -p tcp -j RETURN`"),
    ],
)
def test_what_another_interface_or_neighbour_would_change_is_remarked(traced, rule, remark):
    status, said = traced(rule, *IN)
    assert (status, said.startswith("inbound tcp 80: redirected")) == (0, True)
    assert remark in said
    assert ("--interface net1=ADDRESS/PREFIX" if rule is DEVICE else "--source says who sends it") in said


def test_who_sends_is_not_remarked_where_it_is_stated(traced):
    assert "from 10.42.9.1" not in traced(NEIGHBOUR, *IN, "--source", "192.0.2.30")[1]


def test_a_destination_that_was_asked_of_is_not_taken_for_the_pods_own(traced):
    rule = "-A OUTPUT -d 198.51.100.7/32 -p tcp -j ISTIO_REDIRECT"
    assert traced(rule, *OUT)[0] == 0


def test_json_says_unknown_with_the_reason(traced):
    status, said = traced(OWN_IN, *IN, "--json")
    document = json.loads(said)
    assert (status, document["fate"], document["deciding_rule"]) == (3, "unknown", None)
    assert "give --interface" in document["reasons"][0]


def test_rules_that_the_release_makes_single_nothing_out(tmp_path, capsys):
    options = {"exclude_interfaces": "net1"}
    file = tmp_path / "pod.save"
    file.write_text(render_save(expected_ruleset("1.20.8", **options)))
    words = ["--istio-version", "1.20.8", "--option", "exclude_interfaces=net1"]
    assert main(["trace", str(file), *IN, *words]) == 0
    assert "net1 it would" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("first", "second", "interface", "rule"),
    [
        ("! -i eth0", "! -i net1", "net1", "! -i eth0"),
        ("! -i net1", "! -i eth0", "net1", "! -i net1"),
        ("! -i eth+", "! -i net1", "net1", "! -i eth+"),
        ("-i net1", "! -i net1", "net1", "-i net1"),
        ("! -i eth0", "! -i net+", "net0", "! -i eth0"),
    ],
)
def test_the_rule_that_tells_another_pod_apart_is_the_one_that_holds_for_one_of_them_only(
    tmp_path, capsys, first, second, interface, rule
):
    file = tmp_path / "pod.save"
    to = {first: 15001, second: 15006}
    rules = "\n".join(f"-A PREROUTING {match} -p tcp -j REDIRECT --to-ports {to[match]}" for match in to)
    file.write_text(f"*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}\nCOMMIT\n")
    assert main(["trace", str(file), *IN]) == 0
    said = " ".join(capsys.readouterr().out.split())
    remark = said.partition(f"in a pod with interface {interface} it would be ")[2].partition("; give")[0]
    assert f"`-A PREROUTING {rule} -p tcp -j REDIRECT --to-ports {to[rule]}`" in remark
