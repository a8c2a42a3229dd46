"""`istio-sidecar bypasses`: every packet that gets by without Envoy, of all that the pod can see.

Knows how an expectation and what is allowed are written on the command line. Does not know how
classes are found. Invariant: exit status 0 only when all that gets by is by design or allowed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from typing import TYPE_CHECKING

from pytest_istio_sidecar.cli.command import (
    Commands,
    Status,
    add_command,
    add_interface_argument,
    add_option_argument,
    add_rules_argument,
    given,
    host_of,
    release_of,
)

if TYPE_CHECKING:
    from pytest_istio_sidecar.netfilter.model import Rules


def add(commands: Commands) -> None:
    """Register the command."""
    parser = add_command(
        commands,
        "bypasses",
        run,
        help="list all that gets by without Envoy",
        description="List every class of packets that reach or leave the application without Envoy.",
    )
    add_rules_argument(parser)
    parser.add_argument(
        "--istio-version",
        metavar="VERSION",
        help="release whose own bypasses are by design (default: the pod's where a folder tells it, "
        "else none, so that nothing is by design)",
    )
    add_option_argument(parser)
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="TEXT",
        help='what else may get by (repeat): "inbound tcp 9000-9010", "outbound from gid 0"',
    )
    add_interface_argument(parser)


def run(options: argparse.Namespace) -> Status:
    """Print them."""
    from pytest_istio_sidecar.checks.bypass.bypasses import bypasses, check_only_bypasses
    from pytest_istio_sidecar.checks.comparison.expectation import completed, expected_of
    from pytest_istio_sidecar.errors import Undecided
    from pytest_istio_sidecar.reports.bypasses import render_bypasses
    from pytest_istio_sidecar.reports.colour import painter

    read = given(options)
    rules: Rules = read.rules
    host = host_of(options.interface)
    expected = None
    version, asked = release_of(options, read)
    if version:
        expected = expected_of(rules, version, asked)
        rules = completed(rules, expected)
    report = bypasses(rules, expected=expected, host=host)
    try:
        against = check_only_bypasses(rules, options.allow, expected=expected, host=host)
        undecided = ""
    except Undecided as problem:
        against, undecided = [], str(problem)
    if options.json:
        print(json.dumps(report.to_dict()))
    else:
        width = shutil.get_terminal_size().columns
        paint = painter(sys.stdout)
        print(render_bypasses(report, expected=expected is not None, width=width, paint=paint))
    if undecided:
        print(f"istio-sidecar: {undecided}", file=sys.stderr)
        return Status.UNDECIDED
    if against and (expected is not None or options.allow):
        for finding in against:
            print(f"istio-sidecar: neither by design nor allowed: {finding.summary}", file=sys.stderr)
    elif against:
        print(
            "istio-sidecar: nothing was said of what may get by; --istio-version and --allow do",
            file=sys.stderr,
        )
    return Status.AGAINST if against else Status.HOLDS
