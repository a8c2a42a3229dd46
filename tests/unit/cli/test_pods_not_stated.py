"""Rules that let packets by in some pods only: where nobody said which pod it is, no answer is in favour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_istio_sidecar import expected_ruleset, render_save
from pytest_istio_sidecar.cli import main

ISTIO = render_save(expected_ruleset("1.8.3"))
JUMP = "-A PREROUTING -p tcp -j ISTIO_INBOUND\n"
INBOUND, OUTBOUND = (
    "-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN\n",
    "-A ISTIO_OUTPUT -s 127.0.0.6/32",
)
CHAIN = ":ISTIO_INBOUND - [0:0]\n"
TEN = "10.5.0.1/24"


@pytest.fixture
def listing(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "listing"
        path.write_text(text)
        return str(path)

    return write


def before(line: str, *added: str, chains: str = "") -> str:
    assert line in ISTIO
    rules = "".join(f"{rule}\n" for rule in added)
    return ISTIO.replace(line, rules + line, 1).replace(CHAIN, chains + CHAIN, 1)


LEAKS = {
    "a range of destinations": (
        before(INBOUND, "-A ISTIO_INBOUND -m iprange --dst-range 10.5.0.1-10.5.0.9 -j RETURN"),
        f"eth0={TEN}",
    ),
    "a range of sources": (
        before(OUTBOUND, "-A ISTIO_OUTPUT -m iprange --src-range 10.5.0.1-10.5.0.9 -j RETURN"),
        f"eth0={TEN}",
    ),
    "all addresses from the first one": (
        before(JUMP, "-A PREROUTING -d 0.0.0.0/1 -p tcp -j RETURN"),
        "eth0=10.244.0.5/24",
    ),
    "a range from the first address": (
        before(JUMP, "-A PREROUTING -p tcp -m iprange --dst-range 0.0.0.0-11.255.255.255 -j RETURN"),
        "eth0=10.244.0.5/24",
    ),
    "the last bit of an address": (
        before(JUMP, "-A PREROUTING -d 0.0.0.1/0.0.0.1 -p tcp -j RETURN"),
        "eth0=192.0.2.11/24",
    ),
    "all but the last byte of an address": (
        before(JUMP, "-A PREROUTING ! -d 0.0.0.10/0.0.0.255 -p tcp -j RETURN"),
        "eth0=192.0.2.11/24",
    ),
    "conntrack": (before(JUMP, "-A PREROUTING -m conntrack --ctorigdst 10.5.0.1 -j ACCEPT"), f"eth0={TEN}"),
    "two rules": (
        before(JUMP, "-A PREROUTING -i net1 -j X", "-A X -d 10.5.0.1/32 -j ACCEPT", chains=":X - [0:0]\n"),
        f"net1={TEN}",
    ),
    "two rules and a mark": (
        before(
            JUMP,
            "-A PREROUTING -i net1 -j MARK --set-xmark 0x1/0xffffffff",
            "-A PREROUTING -d 10.5.0.1/32 -m mark --mark 0x1 -j ACCEPT",
        ),
        f"net1={TEN}",
    ),
    "two rules of what leaves": (
        before(
            OUTBOUND, "-A ISTIO_OUTPUT -o net1 -j X", "-A X -s 10.5.0.1/32 -j ACCEPT", chains=":X - [0:0]\n"
        ),
        f"net1={TEN}",
    ),
    "another of a pattern": (
        before(JUMP, "-A PREROUTING -i eth0 -p tcp -j ISTIO_INBOUND", "-A PREROUTING -i eth+ -j ACCEPT"),
        f"eth1={TEN}",
    ),
    "neither of two": (
        before(JUMP, "-A PREROUTING -i other0 -p tcp -j ISTIO_INBOUND", "-A PREROUTING ! -i eth0 -j ACCEPT"),
        f"net7={TEN}",
    ),
    "a network around another": (
        before(
            JUMP,
            "-A PREROUTING -d 10.0.0.0/16 -p tcp -j ISTIO_INBOUND",
            "-A PREROUTING -d 10.0.0.0/8 -j ACCEPT",
        ),
        f"eth0={TEN}",
    ),
}


@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("command", ["bypasses", "compare"])
def test_rules_that_let_by_in_some_pods_only_leave_the_answer_open(
    listing: Callable[[str], str], command: str, name: str
) -> None:
    text, pod = LEAKS[name]
    argv = [command, listing(text), "--istio-version", "1.8.3"]
    assert main([*argv, "--interface", pod]) == 1
    assert main(argv) == 3


@pytest.mark.parametrize("name", ["net1", "net+"])
def test_an_option_that_opens_an_interface_nobody_stated_leaves_the_answer_open(
    listing: Callable[[str], str], name: str
) -> None:
    rules = listing(render_save(expected_ruleset("1.20.8", exclude_interfaces=name)))
    argv = ["bypasses", rules, "--istio-version", "1.20.8", "--option", f"exclude_interfaces={name}"]
    assert main(argv) == 3
    assert main([*argv, "--accept-options", "exclude_interfaces"]) == 0
    assert main([*argv, "--interface", f"eth0={TEN}"]) == 0
    assert main([*argv, "--interface", f"net1={TEN}"]) == 1


@pytest.mark.parametrize("command", ["bypasses", "compare"])
def test_a_missing_rule_for_an_interface_nobody_stated_leaves_the_answer_open(
    listing: Callable[[str], str], command: str
) -> None:
    whole = render_save(expected_ruleset("1.20.8", kube_virt_interfaces="net1"))
    lacking = "-A PREROUTING -i net1 -j ISTIO_REDIRECT\n"
    assert lacking in whole
    option = ["--istio-version", "1.20.8", "--option", "kube_virt_interfaces=net1"]
    assert main([command, listing(whole.replace(lacking, "")), *option]) == 3


@pytest.mark.parametrize("command", ["bypasses", "compare"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"inbound_interception_mode": "TPROXY"},
        {"outbound_ip_ranges_include": "10.0.0.0/8,172.16.0.0/12"},
        {"kube_virt_interfaces": "net1"},
    ],
    ids=str,
)
def test_a_release_s_own_rules_need_no_word_of_the_pod(
    listing: Callable[[str], str], command: str, options: dict[str, str]
) -> None:
    words = [word for name, value in options.items() for word in ("--option", f"{name}={value}")]
    accepted = (
        [word for name in options for word in ("--accept-options", name)] if command == "bypasses" else []
    )
    rules = listing(render_save(expected_ruleset("1.20.8", **options)))
    assert main([command, rules, "--istio-version", "1.20.8", *words, *accepted]) == 0


def test_what_is_sent_to_the_address_that_stands_for_the_pods_comes_to_envoy_in_no_pod_for_sure(
    listing, capsys
) -> None:
    text = before(JUMP, "-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.0.2.10:15006")
    assert main(["bypasses", listing(text), "--istio-version", "1.8.3"]) == 3
    assert "depends on the pod's own addresses" in " ".join(capsys.readouterr().err.split())
    stated = ("--interface", "eth0=192.0.2.10/24")
    assert main(["bypasses", listing(text), "--istio-version", "1.8.3", *stated]) == 0
