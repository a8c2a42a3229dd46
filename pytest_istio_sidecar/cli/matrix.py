"""`istio-sidecar matrix`: the clusters that versions.toml names, for a CI matrix."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from pytest_istio_sidecar.cli.command import Commands, Status, add_command


def add(commands: Commands) -> None:
    """Register the command."""
    add_command(
        commands,
        "matrix",
        run,
        help="print the clusters that releases are proven on",
        description="Print the pairs of Istio and Kubernetes that releases are proven on; with --json as "
        "GitHub Actions takes a matrix.",
    )


def run(options: argparse.Namespace) -> Status:
    """Print them."""
    from pytest_istio_sidecar.istio.versions import clusters

    if options.json:
        print(json.dumps({"include": [asdict(pair) for pair in clusters()]}))
        return Status.HOLDS
    print(f"{'ISTIO':<10}{'KUBERNETES':<12}{'KIND':<8}PROVES")
    for pair in clusters():
        print(f"{pair.istio:<10}{pair.kubernetes:<12}{pair.kind:<8}{pair.proves}")
    return Status.HOLDS
