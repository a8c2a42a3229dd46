"""`istio-sidecar clean`: what runs left behind that ended without cleaning up."""

from __future__ import annotations

import argparse
import json
import sys

from pytest_istio_sidecar.cli.command import Commands, Status, add_command, for_terminal, say


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
            removed = clean_stale(kept=True)
            clusters, gone = clean_clusters()
            removed += clusters
    except KeyboardInterrupt as interrupt:
        by = f" by {interrupt}" if str(interrupt) else ""
        say(f"interrupted{by}; the rest is still on file: clean again")
        return Status.UNDECIDED
    said = [
        *put_back,
        *(f"removed {what}" for what in removed),
        *(f"{what} is gone already" for what in gone),
    ]
    if options.json:
        document = {"removed": [*put_back, *removed], "problems": problems}
        print(json.dumps(document | ({"gone": gone} if gone else {})))
    elif said:
        print(*for_terminal("\n".join(said), sys.stdout), sep="\n")
    elif not problems:
        print("nothing was left behind", file=sys.stderr)
    for problem in problems:
        say(problem)
    return Status.UNDECIDED if problems else Status.HOLDS
