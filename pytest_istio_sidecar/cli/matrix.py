"""`istio-sidecar matrix`: the clusters that versions.toml names, for a CI matrix."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from pytest_istio_sidecar.cli.command import Commands, Status, add_command, row


def add(commands: Commands) -> None:
    """Register the command."""
    add_command(
        commands,
        "matrix",
        run,
        help="print the clusters that releases are proven on",
        description="Print the pairs of Istio and Kubernetes that releases are proven on; with --json as "
        "GitHub Actions takes a matrix. A checksum is that of the program for this machine, and empty where "
        "versions.toml has none.",
    )


def run(options: argparse.Namespace) -> Status:
    """Print them."""
    from pytest_istio_sidecar.environments.kind.download import release_of
    from pytest_istio_sidecar.istio.versions import checksum, clusters

    def sha256(program: str, version: str) -> str:
        return checksum(version, release_of(program, version).file_name) or ""

    if options.json:
        pairs = [
            asdict(pair)
            | {
                "kind_sha256": sha256("kind", pair.kind),
                "istioctl_sha256": sha256("istioctl", pair.istio),
            }
            for pair in clusters()
        ]
        print(json.dumps({"include": pairs}))
        return Status.HOLDS
    widths = (10, 12, 8)
    print(row(widths, "ISTIO", "KUBERNETES", "KIND", "PROVES"))
    for pair in clusters():
        print(row(widths, pair.istio, pair.kubernetes, pair.kind, pair.proves))
    return Status.HOLDS
