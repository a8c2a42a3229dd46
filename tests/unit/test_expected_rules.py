"""Expected rules, held against what Istio's own builder installed in a kernel."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

import pytest

from pytest_istio_sidecar import UsageProblem, expected_ruleset, parse_iptables_save
from pytest_istio_sidecar.istio.rules import backend
from pytest_istio_sidecar.istio.versions import known_versions
from pytest_istio_sidecar.netfilter.model import Backend

DATA = Path(__file__).parents[1] / "data" / "istio-init-tables.json.gz"
FAMILIES = {"default:V4": 4, "ipv6:V4": 4, "ipv6:V6": 6}


@cache
def recorded() -> dict:
    return json.loads(gzip.decompress(DATA.read_bytes()))


def without_readiness(text: str) -> str:
    """The recorded scenarios exclude 15021 in every release; the template of 1.5 does not yet."""
    return "".join(line for line in text.splitlines(keepends=True) if "--dport 15021" not in line)


@pytest.mark.parametrize("state", recorded()["versions"])
@pytest.mark.parametrize("scenario", FAMILIES)
def test_the_rules_of_a_release_are_those_that_its_builder_installed(state: str, scenario: str) -> None:
    table = recorded()["tables"][recorded()["results"][state][scenario]]
    text = without_readiness(table) if state.startswith("1.5.") else table
    observed = parse_iptables_save(text, family=FAMILIES[scenario])
    for version in recorded()["versions"][state]:
        expected = expected_ruleset(version, family=FAMILIES[scenario])
        assert list(expected.nat.rules()) == list(observed.nat.rules())
        assert set(expected.nat.chains) == set(observed.nat.chains)


def test_every_recorded_release_is_known_and_no_other() -> None:
    tags = {tag for tags in recorded()["versions"].values() for tag in tags}
    assert set(known_versions()) == tags


def test_a_release_with_a_suffix_has_the_rules_of_its_number() -> None:
    assert expected_ruleset("1.20.8-distroless").tables == expected_ruleset("1.20.8").tables


@pytest.mark.parametrize("version", ["nonsense", "1", "", "1.8.x", "1.4.0", "0.9.1"])
def test_what_is_no_described_release_is_refused_by_name(version: str) -> None:
    with pytest.raises(
        UsageProblem, match=repr(version) if version[:2] not in ("1.", "0.") else "Istio|release"
    ):
        expected_ruleset(version)


@pytest.mark.parametrize(
    ("version", "where"),
    [
        ("1.8.3", "legacy"),
        ("1.22.8", "legacy"),
        ("1.25.3", "legacy"),
        ("1.25.4", "nf_tables"),
        ("1.27.3", "nf_tables"),
    ],
)
def test_the_back_end_is_the_one_that_istio_init_writes(version: str, where: str) -> None:
    assert backend(version) is Backend(where)
    assert expected_ruleset(version).backend is Backend(where)
