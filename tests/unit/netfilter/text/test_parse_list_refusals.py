"""Text that is no whole `iptables -L` listing, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.netfilter.targets import Jump
from pytest_istio_sidecar.netfilter.text.parse_list import parse_iptables_list

LAB = (Path(__file__).parents[3] / "data" / "lab-listing-1.8.3.txt").read_text()
COLUMNS = "target     prot opt source               destination"
NUMBERED = "Chain S (0 references)\nnum  target     prot opt source               destination\n"
BAD = {
    "empty": "",
    "blank": "\n \n",
    "binary": "\x00\x01\x7fELF\n",
    "an error message": "iptables: No chain/target/match by that name.\n",
    "iptables-save": "*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n",
    "another program": "CONTAINER ID   IMAGE\n",
    "a header without columns": "Chain OUTPUT (policy ACCEPT)\n",
    "two headers": "Chain A (0 references)\nChain B (0 references)\n",
    "an unended header": "Chain OUTPUT (policy ACC",
    "cut in a rule": LAB[: LAB.index("!localhost")],
    "cut before a chain that is needed": LAB[: LAB.index("Chain ISTIO_OUTPUT")],
    "two tables": LAB + LAB,
    "an error message inside": LAB.replace(
        "\n\nChain INPUT", "\ncommand terminated with exit code 4\n\nChain INPUT"
    ),
    "a comment over two lines": f"{NUMBERED}1    RETURN     all  --  anywhere             anywhere  /* x\n",
    "a number missing": f"{NUMBERED}2    RETURN     all  --  anywhere             anywhere\n",
    "no number": f"{NUMBERED}RETURN     all  --  anywhere             anywhere\n",
    "a chain that jumps to itself": (
        f"Chain OUTPUT (policy ACCEPT)\n{COLUMNS}\nS          all  --  anywhere             anywhere\n"
        f"Chain S (2 references)\n{COLUMNS}\nS          all  --  anywhere             anywhere\n"
    ),
    "IPv6 addresses": f"{NUMBERED}1    RETURN     all  --  ::1             anywhere\n",
    "no mask": f"{NUMBERED}1    RETURN     all  --  10.0.0.0/33             anywhere\n",
    "a goto to nowhere": f"{NUMBERED}1               all  --  anywhere             anywhere  [goto]\n",
    "a very long line": "Chain " + "x" * 20_000 + " (0 references)\n",
    "too many digits": (
        "Chain S (0 references)\n pkts bytes target     prot opt in out source destination\n"
        + "9" * 5000
        + "     0 RETURN     all  --  any    any     anywhere             anywhere\n"
    ),
}


@pytest.mark.parametrize("line", ["command terminated with exit code 4", "Chain OUTPUT (policy ACC"])
def test_prose_is_no_rule_even_where_the_opt_column_may_be_blank(line: str) -> None:
    with pytest.raises(ParseError):
        parse_iptables_list(f"Chain S (1 references)\n{COLUMNS}\n{line}\n", family=6)


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_text_that_is_no_whole_listing_is_a_parse_error(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_iptables_list(text, source="pod.txt")
    assert str(caught.value).startswith("pod.txt")


def test_a_circle_that_no_packet_can_enter_is_read_because_kernels_hold_such() -> None:
    ruleset = parse_iptables_list(
        f"{LAB}\nChain S (1 references)\n{COLUMNS}\nS          all  --  anywhere             anywhere\n"
    )
    assert ruleset.nat.chain("S").rules[0].target == Jump("S")


def test_a_message_of_iptables_is_explained() -> None:
    with pytest.raises(ParseError) as caught:
        parse_iptables_list(BAD["an error message"])
    assert "Istio's rules are not in this back end" in caught.value.diagnosis


def test_a_text_longer_than_any_listing_is_a_parse_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_istio_sidecar.netfilter.text.parse_list._MAX_TEXT", 1000)
    with pytest.raises(ParseError, match="more than 1,000 are not read"):
        parse_iptables_list(LAB)


def test_the_error_names_the_line_of_the_jump_that_leads_nowhere() -> None:
    with pytest.raises(ParseError) as caught:
        parse_iptables_list(LAB.replace("Chain ISTIO_INBOUND", "Chain ISTIO_INBOUNDS"))
    assert (caught.value.line, caught.value.text.split()[0]) == (3, "ISTIO_INBOUND")
