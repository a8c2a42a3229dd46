"""`istio-sidecar clean`: what runs left behind that ended without cleaning up."""

from __future__ import annotations

import argparse
import json
import sys

from pytest_istio_sidecar.cli.command import Commands, Status, add_command


def add(commands: Commands) -> None:
    """Register the command."""
    add_command(
        commands,
        "clean",
        run,
        help="remove what crashed runs left behind",
        description="Remove what runs left that ended without cleaning up: pods, clusters (kept ones too), "
        "edits of your workloads. Running ones are left alone.",
    )


def run(options: argparse.Namespace) -> Status:
    """Remove it, and say what."""
    from pytest_istio_sidecar.environments.cluster.undo import take_back_of_ended_runs
    from pytest_istio_sidecar.environments.kind.environment import clean_clusters
    from pytest_istio_sidecar.machine.lease import clean_stale
    from pytest_istio_sidecar.machine.signals import EndingSignals

    try:
        with EndingSignals():
            # Before any cluster goes: what was changed in it has to be put back there.
            put_back, problems = take_back_of_ended_runs()
            removed = [*put_back, *clean_stale(kept=True), *clean_clusters()]
    except KeyboardInterrupt as interrupt:
        by = f" by {interrupt}" if str(interrupt) else ""
        print(f"istio-sidecar: interrupted{by}; the rest is still on file: clean again", file=sys.stderr)
        return Status.UNDECIDED
    if options.json:
        print(json.dumps({"removed": removed, "problems": problems}))
    elif removed:
        print("\n".join(f"removed {what}" if what not in put_back else what for what in removed))
    elif not problems:
        print("nothing was left behind", file=sys.stderr)
    for problem in problems:
        print(f"istio-sidecar: {problem}", file=sys.stderr)
    return Status.UNDECIDED if problems else Status.HOLDS
