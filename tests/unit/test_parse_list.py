"""`iptables -L` in every form, read back."""

from __future__ import annotations

from pathlib import Path

from pytest_istio_sidecar.netfilter.parse_list import parse_iptables_list

DATA = Path(__file__).parents[1] / "data"


def test_the_labs_printed_listing_parses() -> None:
    nat = parse_iptables_list((DATA / "lab-listing-1.8.3.txt").read_text()).nat
    assert {chain.name: len(chain) for chain in nat.chains} == {
        "PREROUTING": 1,
        "INPUT": 0,
        "OUTPUT": 1,
        "POSTROUTING": 0,
        "ISTIO_INBOUND": 6,
        "ISTIO_IN_REDIRECT": 1,
        "ISTIO_OUTPUT": 9,
        "ISTIO_REDIRECT": 1,
    }
