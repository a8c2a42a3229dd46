"""Releases and options are found again for the rules that a release makes of its options."""

from __future__ import annotations

import pytest

from pytest_istio_sidecar import expected_ruleset
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.search import nearest


@pytest.mark.parametrize(
    ("version", "given", "words"),
    [
        ("1.6.14", {"redirect_dns": True}, ("DNS_CAPTURE: true",)),
        ("1.7.8", {"redirect_dns": True}, ("DNS_AGENT: true",)),
        ("1.7.8", {"dns_by_envoy": True}, ("ISTIO_META_DNS_CAPTURE without DNS_AGENT: true",)),
        ("1.8.3", {"redirect_dns": True}, ("ISTIO_META_DNS_CAPTURE: true",)),
        (
            "1.20.8",
            {"redirect_dns": True, "capture_all_dns": True},
            ("ISTIO_META_DNS_CAPTURE: true", "capture_all_dns: true"),
        ),
    ],
)
def test_dns_capture_is_found_again_as_its_release_asks_for_it(version, given, words) -> None:
    rules = expected_ruleset(version, **given)
    found = nearest([rules])[0]
    assert (found.apart, found.changes) == (0, words)
    assert version in found.versions
    pasted = IstioOptions.from_pairs(found.changes)
    assert expected_ruleset(version, options=pasted) == rules
