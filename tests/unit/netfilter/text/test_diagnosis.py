"""Every message that iptables was seen to print has a cause and a fix."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from netfilter_data import observed, vectors

from pytest_istio_sidecar.netfilter.text.diagnosis import diagnose


def meaning_of(text: str) -> str:
    known = diagnose(text)
    return "" if known is None else f"{known.cause}; {known.fix}"


def messages() -> Iterator[tuple[str, str]]:
    for situation, seen in vectors()["messages"].items():
        for stderr in sorted({message["stderr"] for message in seen if message["stderr"]}):
            yield situation, stderr


@pytest.mark.parametrize(("situation", "message"), list(messages()), ids=lambda value: value.splitlines()[-1])
def test_every_recorded_message_has_a_cause_and_a_fix(situation: str, message: str) -> None:
    cause, _, fix = meaning_of(message).partition("; ")
    assert cause
    assert fix


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ("# Warning: iptables-legacy tables present, use iptables-legacy to see them", "the other back end"),
        (
            (
                "iptables v1.6.1: can't initialize iptables table `nat': "
                "Permission denied (you must be root)\nPerhaps iptables or your kernel needs to be upgraded."
            ),
            "without root",
        ),
        ("Fatal: can't open lock file /run/xtables.lock: Permission denied", "the user is not root"),
        ("Fatal: can't open lock file /run/xtables.lock: Read-only file system", "use iptables-save"),
        (
            (
                "iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: "
                "Permission denied (you must be root)"
            ),
            "without root",
        ),
        ("iptables-save v1.8.9 (legacy): Cannot initialize: Permission denied (you must be root)", "CAP_NET"),
        ("Failed to list table names in /proc/net/ip_tables_names: Permission denied", "without root"),
        (
            (
                "iptables v1.8.9 (legacy): can't initialize iptables table `foo': Table does not exist "
                "(do you need to insmod?)"
            ),
            "no such table",
        ),
        ("iptables v1.8.9 (nf_tables): table 'foo' does not exist", "no such table"),
        (
            "iptables v1.8.9 (nf_tables): chain `OUTPUT' in table `nat' is incompatible, use 'nft' tool.",
            "no such chain in this back end, or nft itself",
        ),
        ("# Table `nat' is incompatible, use 'nft' tool.", "a newer iptables"),
        ("iptables: Invalid argument. Run `dmesg' for more information.", "does not allow"),
        ("iptables v1.8.9 (nf_tables):  RULE_APPEND failed (Invalid argument): rule in chain X", "not allow"),
        ("iptables-restore: line 7 failed", "jump in a circle"),
        ("line 6: RULE_APPEND failed (Too many links): rule in chain B", "jump in a circle"),
        (
            "Another app is currently holding the xtables lock. Perhaps you want to use the -w option?",
            "wait for it with -w",
        ),
        (
            'The "nat" table is not intended for filtering, the use of DROP is therefore inhibited.',
            "drop in the filter table",
        ),
        ("iptables: Bad rule (does a matching rule exist in that chain?).", "no such rule"),
        ("iptables-restore: COMMIT expected at line 3", "before its COMMIT"),
        ("iptables: No chain/target/match by that name.", "not in this back end"),
        (
            'sudo: The "no new privileges" flag is set, which prevents sudo from running as root.',
            "forbids privilege escalation",
        ),
        ('exec: "iptables-save": executable file not found in $PATH', "distroless"),
        ('Error from server (NotFound): pods "httpbin" not found', "kubectl"),
    ],
)
def test_a_message_is_told_apart_from_its_likes(message: str, meaning: str) -> None:
    assert meaning in meaning_of(message)


def test_the_messages_of_real_pods_are_known() -> None:
    told = {
        line: meaning_of(line)
        for path in observed("*stderr*")
        for line in path.read_text().splitlines()
        if line.strip() and not line.startswith("exit ")
    }
    assert len(told) >= 4
    assert [line for line, meaning in told.items() if not meaning] == []


def test_a_listing_is_no_message() -> None:
    assert meaning_of(vectors()["istio_1_8_3"]["ruleset"]) == ""
    assert meaning_of("") == ""


def test_a_message_is_found_at_the_end_of_a_long_text() -> None:
    assert "before its COMMIT" in meaning_of("x\n" * 100_000 + "iptables-restore: COMMIT expected at line 3")
