"""versions.toml: releases and the clusters they are proven on."""

from __future__ import annotations

import re

import pytest

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio.versions import cluster_pair, clusters, known_versions, number_of


def test_releases_are_compared_as_numbers() -> None:
    assert number_of("1.10.0") > number_of("1.9.9")
    assert number_of("1.20.8-distroless") == (1, 20, 8)
    assert number_of("1.31.0-rc.0") == (1, 31, 0)


@pytest.mark.parametrize("text", ["", "1", "v1.8.3", "1.8.x", "latest", None, 1.2])
def test_what_is_no_release_is_refused(text: object) -> None:
    with pytest.raises(UsageProblem, match="is not a release of Istio"):
        number_of(text)


def test_releases_stand_oldest_first_and_once() -> None:
    numbers = [number_of(version) for version in known_versions()]
    assert numbers == sorted(numbers)
    assert len(set(known_versions())) == len(known_versions())


def test_at_least_eight_clusters_from_the_labs_release_on() -> None:
    assert len(clusters()) >= 8
    assert clusters()[0].istio == "1.8.3"
    assert {pair.istio for pair in clusters()} <= set(known_versions())


def test_every_node_image_is_named_by_digest() -> None:
    for pair in clusters():
        assert re.fullmatch(r"kindest/node:v[\d.]+@sha256:[0-9a-f]{64}", pair.node_image)
        assert f":v{pair.kubernetes}@" in pair.node_image


@pytest.mark.parametrize(
    ("version", "chosen"),
    [("1.8.3", "1.8.3"), ("1.6.14", "1.8.3"), ("1.16.7", "1.12.9"), ("2.0.0", "1.30.3")],
)
def test_a_release_in_between_has_the_cluster_of_the_nearest_older_one(version: str, chosen: str) -> None:
    assert cluster_pair(version).istio == chosen
