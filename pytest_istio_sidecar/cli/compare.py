"""`istio-sidecar compare`: listings beside what a release installs, or which release they are of."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from pytest_istio_sidecar.cli import messages
from pytest_istio_sidecar.cli.command import (
    Commands,
    Status,
    add_command,
    add_interface_argument,
    add_option_argument,
    add_rules_argument,
    for_terminal,
    given,
    host_of,
    print_notes,
    refuse_unseen,
    release_of,
    say,
    with_notes,
)
from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.failure import lay_out

if TYPE_CHECKING:
    from pytest_istio_sidecar.istio.options import IstioOptions
    from pytest_istio_sidecar.netfilter.model import PodRules
    from pytest_istio_sidecar.netfilter.packet import Host


def add(commands: Commands) -> None:
    """Register the command."""
    parser = add_command(
        commands,
        "compare",
        run,
        help="hold listings against what a release of Istio installs",
        description="Hold listings against what a release of Istio installs, by text and by what becomes of "
        "packets; or find the releases and options that they may come from.",
    )
    add_rules_argument(parser)
    against = parser.add_mutually_exclusive_group()
    against.add_argument(
        "--istio-version",
        metavar="VERSION",
        help="the release to compare with: 1.8.3 (default: the pod's where a folder tells it)",
    )
    against.add_argument(
        "--guess", action="store_true", help="which releases and options install the same, nearest first"
    )
    add_option_argument(parser)
    parser.add_argument("--exact", action="store_true", help="the text has to be the same too")
    add_interface_argument(parser)


def run(options: argparse.Namespace) -> Status:
    """Compare, or guess."""
    if options.guess and (options.option or options.exact):
        raise UsageProblem(messages.GUESS_ALONE())
    read = given(options)
    host = host_of(options.interface)
    if options.guess:
        return _guess(options, read.rules, host)
    version, asked = release_of(options, read)
    if version is None:
        raise UsageProblem(messages.NO_RELEASE_NAMED())
    return _compare(options, read.rules, version, asked, host)


def _compare(
    options: argparse.Namespace, rules: PodRules, version: str, asked: IstioOptions, host: Host
) -> Status:
    from pytest_istio_sidecar.checks.bypass.openings import leaves_ipv6_untold
    from pytest_istio_sidecar.checks.comparison.comparison import compare
    from pytest_istio_sidecar.checks.comparison.expectation import check_matches_istio, completed, expected_of
    from pytest_istio_sidecar.checks.finding import violations
    from pytest_istio_sidecar.checks.messages import IPV6_UNTOLD
    from pytest_istio_sidecar.checks.tracing import of_pod
    from pytest_istio_sidecar.netfilter.kernel.unread import left_aside
    from pytest_istio_sidecar.reports.comparison import comparison_fields
    from pytest_istio_sidecar.reports.message import render_findings

    refuse_unseen(rules, version, asked, host)
    findings = check_matches_istio(rules, version, options.exact, options=asked, host=host)
    if options.json:
        expected = expected_of(rules, version, asked)
        comparison = (findings[0].comparison if findings else None) or compare(
            completed(rules, expected), expected, host=host
        )
        document = comparison_fields(comparison)
        document["as_with"] = findings[0].cause if findings else ""
        print(json.dumps(document))
        print_notes((*rules.notes, *left_aside(rules)))
    else:
        text = render_findings(findings) if findings else f"these are Istio {version}'s rules, rule for rule"
        print(*for_terminal(with_notes(text, rules), sys.stdout), sep="\n")
        filled = cast("PodRules", completed(rules, expected_of(rules, version, asked)))
        _print_what_it_rests_on(filled, [] if findings else _assumptions(filled), apart=not findings)
    untold = leaves_ipv6_untold(rules, asked, host)
    if untold:
        say(IPV6_UNTOLD(pod=of_pod(rules)))
    if violations(findings):
        return Status.AGAINST
    return Status.UNDECIDED if untold else Status.HOLDS


def _assumptions(rules: PodRules) -> list[str]:
    from pytest_istio_sidecar.checks.tracing import assumptions

    return [text for family in (4, 6) for text in assumptions(rules, family)]


def _print_what_it_rests_on(rules: PodRules, assumed: Sequence[str], *, apart: bool = True) -> None:
    """Say what was taken for what is not shown, and what was not read.

    Args:
        apart: whether an empty line stands before it.
    """
    from pytest_istio_sidecar.netfilter.kernel.unread import left_aside

    lines = [*lay_out("assumed", "\n".join(assumed)), *lay_out("note", "\n".join(left_aside(rules)))]
    if lines:
        print(*([""] if apart else []), *for_terminal("\n".join(lines), sys.stdout), sep="\n")


def _guess(options: argparse.Namespace, rules: PodRules, host: Host) -> Status:
    from pytest_istio_sidecar.checks.comparison.expectation import guess as guesses_of
    from pytest_istio_sidecar.netfilter.kernel.unread import left_aside
    from pytest_istio_sidecar.reports.comparison import comparison_fields

    guesses = guesses_of(rules, host=host)
    equivalent = [guess for guess in guesses if guess.comparison.equivalent]
    if options.json:
        print(
            json.dumps(
                {
                    "guesses": [
                        {
                            "versions": list(guess.versions),
                            "options": list(guess.changes),
                            **comparison_fields(guess.comparison),
                        }
                        for guess in guesses
                    ]
                }
            )
        )
    elif equivalent:
        for guess in equivalent:
            same = "rule for rule" if guess.comparison.equal_text else "no packet is treated differently"
            print(*for_terminal(with_notes(f"{guess.text}: {same}", rules), sys.stdout), sep="\n")
    else:
        nearest = guesses[0]
        first = f"no release installs rules that do the same; nearest is {nearest.text}:"
        print(*for_terminal(first, sys.stdout), sep="\n")
        for effect in nearest.comparison.effects:
            print(*for_terminal(f"  {effect.text}: {effect.fates}", sys.stdout), sep="\n")
    if options.json:
        print_notes((*rules.notes, *left_aside(rules)))
    else:
        _print_what_it_rests_on(rules, guesses[0].comparison.assumptions)
    return Status.HOLDS if equivalent else Status.AGAINST
