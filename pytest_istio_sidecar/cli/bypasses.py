"""`istio-sidecar bypasses`: every packet that gets by without Envoy, of all that the pod can see.

Knows how an expectation and what is allowed are written on the command line. Does not know how
classes are found. Invariant: exit status 0 only when all that gets by is by design or allowed.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from pytest_istio_sidecar.cli.command import (
    Commands,
    Status,
    add_command,
    add_interface_argument,
    add_option_argument,
)

if TYPE_CHECKING:
    from pytest_istio_sidecar.netfilter.model import PodRules


def add(commands: Commands) -> None:
    """Register the command."""
    parser = add_command(
        commands,
        "bypasses",
        run,
        help="list all that gets by without Envoy",
        description="List every class of packets that reach or leave the application without Envoy.",
    )
    parser.add_argument(
        "rules",
        nargs="+",
        metavar="RULES",
        help="[ip6:][legacy:|nft:]FILE, as iptables-save or iptables -L prints it; - is standard input",
    )
    parser.add_argument(
        "--istio-version",
        metavar="VERSION",
        help="release whose own bypasses are by design (default: none, so that nothing is by design)",
    )
    add_option_argument(parser)
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="TEXT",
        help='what may get by beside (repeat): "inbound tcp 9000-9010", "outbound from gid 0"',
    )
    add_interface_argument(parser)


def run(options: argparse.Namespace) -> Status:
    """Print them."""
    from pytest_istio_sidecar.checks.bypasses import bypasses, check_only_bypasses
    from pytest_istio_sidecar.cli.trace import host_of
    from pytest_istio_sidecar.environments.file import read_listings
    from pytest_istio_sidecar.errors import Undecided
    from pytest_istio_sidecar.reports.bypasses import render_bypasses

    rules = read_listings(options.rules)
    host = host_of(options.interface)
    expected = None
    if options.istio_version or options.option:
        expected = _expected(rules, options)
        rules = _completed(rules, expected)
    report = bypasses(rules, expected=expected, host=host)
    try:
        against = check_only_bypasses(rules, options.allow, expected=expected, host=host)
        undecided = ""
    except Undecided as problem:
        against, undecided = [], str(problem)
    if options.json:
        print(json.dumps(report.to_dict()))
    else:
        print(render_bypasses(report, expected=expected is not None))
    if undecided:
        print(f"istio-sidecar: {undecided}", file=sys.stderr)
        return Status.UNDECIDED
    for finding in against:
        print(f"istio-sidecar: neither by design nor allowed: {finding.summary}", file=sys.stderr)
    return Status.AGAINST if against else Status.HOLDS


def _expected(rules: PodRules, options: argparse.Namespace) -> PodRules:
    from pytest_istio_sidecar.checks.bypasses import families_of
    from pytest_istio_sidecar.istio.options import IstioOptions
    from pytest_istio_sidecar.istio.rules import expected_ruleset
    from pytest_istio_sidecar.netfilter.model import PodRules

    version = options.istio_version or "1.8.3"
    return PodRules(
        rulesets=tuple(
            expected_ruleset(version, family=family, options=IstioOptions.from_pairs(options.option))
            for family in families_of(rules)
        )
    )


def _completed(rules: PodRules, expected: PodRules) -> PodRules:
    """What a lossy listing hides, taken from the expectation; the rulesets remember it."""
    from dataclasses import replace

    from pytest_istio_sidecar.netfilter.complete import complete

    return replace(
        rules,
        rulesets=tuple(
            complete(held, expected.of_family(held.family)[0])
            if any(rule.hidden for rule in held.rules())
            else held
            for held in rules.rulesets
        ),
    )
