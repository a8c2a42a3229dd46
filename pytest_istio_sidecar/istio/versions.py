"""Releases of Istio, and the clusters they are proven on: versions.toml, read.

Knows how a release is looked up there, also one that is not in it. Does not know what a
release's rules are. Invariant: a version is compared as numbers, never as text.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pytest_istio_sidecar.errors import UsageProblem

Number = tuple[int, int, int]
_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?((?:[-+][\w.-]+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPair:
    """A cluster that suits a release of Istio.

    Attributes:
        istio: the release it is proven with.
        kubernetes, kind: releases that belong together.
        node_image: of the nodes, by digest.
        hub: registry of Istio's images.
        proves: what this pair is there for.
        legacy: whether the release writes its rules through iptables-legacy, whose kernel
            modules a host may have to load first.
    """

    istio: str
    kubernetes: str
    kind: str
    node_image: str
    hub: str
    proves: str
    legacy: bool


def number_of(version: object) -> Number:
    """A release as numbers, whatever suffix it has: "1.20.8-distroless" is (1, 20, 8).

    Raises:
        UsageProblem: it is none.
    """
    # A number is refused too: 1.20 out of a YAML file is 1.2 by then.
    match = _RELEASE.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise UsageProblem(f"{version!r} is not a release of Istio; write it as 1.8.3")
    return int(match[1]), int(match[2]), int(match[3] or 0)


@cache
def known_versions() -> tuple[str, ...]:
    """Every release in versions.toml, oldest first."""
    return tuple(
        f"{minor}.{patch}" for minor, patches in _read()["releases"].items() for patch in _expand(patches)
    )


@cache
def known_release(version: str) -> str:
    """The release in versions.toml whose rules a release is taken to have: itself, or the newest before it.

    Raises:
        UsageProblem: it is no release.
    """
    return known_versions()[max(bisect_right(_known_numbers(), number_of(version)) - 1, 0)]


@cache
def _known_numbers() -> tuple[Number, ...]:
    return tuple(map(number_of, known_versions()))


@cache
def clusters() -> tuple[ClusterPair, ...]:
    """Every cluster of CI, oldest release first."""
    return tuple(
        ClusterPair(
            istio=pair["istio"],
            kubernetes=pair["kubernetes"],
            kind=pair["kind"],
            node_image=f"kindest/node:v{pair['kubernetes']}@sha256:{pair['digest']}",
            proves=pair["proves"],
            legacy=pair["legacy"],
            hub=default_hub(),
        )
        for pair in _read()["cluster"]
    )


def default_hub() -> str:
    """Registry of Istio's images, whatever the release: "docker.io/istio"."""
    return str(_read()["hub"])


def cluster_pair(istio_version: str) -> ClusterPair:
    """The cluster for a release: that of the newest release in versions.toml which is not newer.

    Raises:
        UsageProblem: it is no release.
    """
    number = number_of(istio_version)
    older = [pair for pair in clusters() if number_of(pair.istio) <= number]
    return older[-1] if older else clusters()[0]


def checksum(release: str, file_name: str) -> str | None:
    """SHA-256 of a file of a release, in hexadecimal; None where no source gave it."""
    checksums: Mapping[str, str] = _read()["checksums"]
    return checksums.get(f"{release}/{file_name}")


def _expand(patches: str) -> Iterator[str]:
    for part in patches.split(", "):
        span = re.fullmatch(r"(\d+)-(\d+)", part)
        if span is None:
            yield part
        else:
            yield from map(str, range(int(span[1]), int(span[2]) + 1))


@cache
def _read() -> dict[str, Any]:
    text = (files("pytest_istio_sidecar.istio") / "versions.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
