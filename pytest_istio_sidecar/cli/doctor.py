"""`istio-sidecar doctor`: what this machine has, and what to do about the rest."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from pytest_istio_sidecar.cli.command import Commands, Status, add_command, row


def add(commands: Commands) -> None:
    """Register the command."""
    parser = add_command(
        commands,
        "doctor",
        run,
        help="look whether this machine can make a cluster",
        description="Look at everything a kind cluster with Istio needs, and say what to do about what is "
        "not there. Exit status 3: something that is needed is missing.",
    )
    parser.add_argument("--istio-version", default="1.8.3", metavar="VERSION")


def run(options: argparse.Namespace) -> Status:
    """Look, and tell line by line."""
    from pytest_istio_sidecar.environments.doctor import Condition, examine

    lines = examine(options.istio_version)
    missing = any(line.condition is Condition.MISSING for line in lines)
    if options.json:
        print(json.dumps({"istio": options.istio_version, "lines": [asdict(line) for line in lines]}))
        return Status.UNDECIDED if missing else Status.HOLDS
    widths = (9, max(len(line.name) for line in lines) + 2)
    for line in lines:
        print(row(widths, line.condition, line.name, line.found))
        if line.advice:
            print(row(widths, "", "", f"-> {line.advice}"))
    short = [line.name for line in lines if line.condition is Condition.MISSING]
    print(f"\nmissing: {', '.join(short)}" if short else "\nnothing that is needed is missing")
    return Status.UNDECIDED if missing else Status.HOLDS
