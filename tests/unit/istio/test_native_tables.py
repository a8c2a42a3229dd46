"""Istio's native tables, as its own programs install them: understood, and in effect those of iptables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from netfilter_data import load

from pytest_istio_sidecar import Fate, Host, PodRules, parse_iptables_save, parse_nftables
from pytest_istio_sidecar.cli import main
from pytest_istio_sidecar.netfilter.space.space import differing, regions

HOOKS = ("PREROUTING", "OUTPUT")
MODES = load("istio-modes.json.gz")


def scenarios() -> Iterator[tuple[str, str, str]]:
    for version, modes in MODES.items():
        for mode, made in modes.items():
            if mode.endswith("nft"):
                yield from ((version, mode, scenario) for scenario in made)


def host_of(made: dict[str, Any]) -> Host:
    return Host(interfaces={"eth0": made["made-by"]["addresses"]})


def native(made: dict[str, Any]) -> PodRules:
    return parse_nftables(json.dumps(made["nft"]))


def twin(version: str, mode: str, scenario: str, family: int) -> PodRules | None:
    """The rules that the same program installs with iptables."""
    made = MODES[version].get(mode.replace("nft", "iptables"), {}).get(scenario)
    if made is None:
        return None
    tool = "iptables" if family == 4 else "ip6tables"
    saves = [made[f"{tool}-{back_end}-save"] for back_end in ("legacy", "nft")]
    read = [parse_iptables_save(text, family=family) for text in saves if "*" in text]
    return PodRules(rulesets=tuple(read)) if read else None


PROGRAMS = sorted({(version, mode) for version, mode, _ in scenarios()})


@pytest.mark.parametrize(("version", "mode"), PROGRAMS)
def test_of_every_packet_it_is_known_what_native_tables_do(version: str, mode: str) -> None:
    for scenario, made in MODES[version][mode].items():
        for family in (4, 6):
            for hook in HOOKS:
                parts = regions(native(made), hook, host=host_of(made), family=family)
                assert Fate.UNKNOWN not in {part.fate for part in parts}, scenario


@pytest.mark.parametrize(("version", "mode"), PROGRAMS)
def test_native_tables_do_what_iptables_do_but_for_packets_without_socket(version: str, mode: str) -> None:
    """`skuid != 1337` needs a socket, where iptables' inverted owner match takes its absence (clause 6.4)."""
    for scenario, made in MODES[version][mode].items():
        for family in (4, 6):
            other = twin(version, mode, scenario, family)
            if other is None or (scenario, family) in APART:
                continue
            for hook in HOOKS:
                told = differing(native(made), other, hook, host=host_of(made), family=family)
                assert all(each.witness.uid is None and hook == "OUTPUT" for each in told), (
                    scenario,
                    told[0],
                )


APART = {
    ("env-native", 4),
    ("env-native", 6),
    ("ipv4-first-with-ipv6-address", 6),
}
"""Scenarios in which the program of mode iptables made other rules on purpose (see the data's README)."""


def test_an_invalid_packet_of_another_protocol_than_tcp_is_dropped_by_iptables_only() -> None:
    for version, mode, scenario in scenarios():
        other = twin(version, mode, scenario, 4)
        if "drop-invalid" not in scenario or other is None:
            continue
        made = MODES[version][mode][scenario]
        told = differing(native(made), other, "PREROUTING", host=host_of(made), state="INVALID")
        assert {(each.observed.fate, each.expected.fate) for each in told} == {(Fate.UNCHANGED, Fate.DROPPED)}
        assert 6 not in {each.witness.protocol for each in told}


def test_ipv6_beside_an_ipv4_first_pod_is_redirected_by_native_tables_only() -> None:
    scenario = "ipv4-first-with-ipv6-address"
    made = MODES["1.31.0-rc.0"]["nft"][scenario]
    other = twin("1.31.0-rc.0", "nft", scenario, 6)
    assert other is not None
    told = differing(native(made), other, "PREROUTING", host=host_of(made), family=6)
    assert {(each.observed.fate, each.expected.fate) for each in told} == {(Fate.REDIRECTED, Fate.UNCHANGED)}


STATED = ("--interface", "eth0=10.244.0.5/24")


@pytest.mark.parametrize(
    ("scenario", "told", "status"),
    [
        ("default", (), 3),
        ("default", STATED, 0),
        ("default", ("--option", "enable_ipv6=false", "--accept-options", "enable_ipv6"), 0),
        ("dual-stack", (), 0),
    ],
)
@pytest.mark.parametrize("version", ["1.27.3", "1.28.10"])
def test_a_sound_pod_with_native_tables_lets_by_what_is_by_design(
    tmp_path, version: str, scenario: str, told: tuple[str, ...], status: int
) -> None:
    """The tables are of both families: whether IPv6 is enabled, rules with its addresses tell."""
    (tmp_path / "nft.json").write_text(json.dumps(MODES[version]["nft"][scenario]["nft"]))
    assert main(["bypasses", str(tmp_path / "nft.json"), "--istio-version", version, *told]) == status
