"""`istio-sidecar selftest`: would the suite notice broken rules?

Knows how a score becomes an exit status, and shows how far it is. Does not know which faults are made.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from pytest_istio_sidecar.cli import messages
from pytest_istio_sidecar.cli.command import Commands, Status, add_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment
    from pytest_istio_sidecar.istio.options import IstioOptions
    from pytest_istio_sidecar.netfilter.packet import Host
    from pytest_istio_sidecar.selftest.mutants import Mutant
    from pytest_istio_sidecar.selftest.score import Score


def add(commands: Commands) -> None:
    """Register the command."""
    parser = add_command(
        commands,
        "selftest",
        run,
        help="measure whether the suite notices broken rules",
        description="Break the rules of a release in every way that this program knows, load each set into "
        "an embedded pod, and hold what the suite says against what the kernel does with packets. Exit "
        "status 1: a change that matters was missed, or one that does not was called wrong; 3: neither, but "
        "too few mutants were made for all of the named faults to be among them.",
    )
    parser.add_argument(
        "--istio-version",
        action="append",
        metavar="VERSION",
        help="a release whose rules are broken (repeat; default 1.8.3)",
    )
    parser.add_argument(
        "--mutants",
        type=_count,
        metavar="N",
        help="at most so many of each release, the named faults among them (default: all)",
    )


def run(options: argparse.Namespace) -> Status:
    """Measure, and print the score."""
    from pytest_istio_sidecar.environments.choices import DEFAULT_VERSION
    from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment, PodRulesText
    from pytest_istio_sidecar.istio.options import IstioOptions
    from pytest_istio_sidecar.istio.rules import expected_ruleset
    from pytest_istio_sidecar.netfilter.model import Backend
    from pytest_istio_sidecar.selftest.report import conclusion, render_score, score_fields

    versions = list(dict.fromkeys(options.istio_version or [DEFAULT_VERSION]))
    for version in versions:
        expected_ruleset(version)  # refuses one that is none before a pod is made
    pod = EmbeddedEnvironment.start(rules=PodRulesText(backend=Backend.LEGACY, ipv4=None))
    try:
        host = pod.pod().host
        given = IstioOptions(enable_ipv6=host.primary(host.external(), 6) is not None)
        scores = []
        for version in versions:
            scores.append(_score(pod, host, version, given, options.mutants))
            if not options.json:
                print(render_score(scores[-1]), flush=True)
    finally:
        pod.stop()
    perfect = all(score.perfect for score in scores)
    if options.json:
        print(json.dumps({"perfect": perfect, "releases": list(map(score_fields, scores))}))
    else:
        print(conclusion(scores))
    if any(score.missed or score.false_alarms for score in scores):
        return Status.AGAINST
    return Status.HOLDS if perfect else Status.UNDECIDED


def _score(
    pod: EmbeddedEnvironment, host: Host, version: str, given: IstioOptions, at_most: int | None
) -> Score:
    from pytest_istio_sidecar.selftest.kernel import ask_kernel, can_be_sent
    from pytest_istio_sidecar.selftest.score import Score, default_rules, judge_mutants, mutants_of

    made = mutants_of(version, given, at_most)
    judged = []
    for mutant in judge_mutants(
        version, made, lambda asked: ask_kernel(pod, asked), options=given, host=host, can_be_sent=can_be_sent
    ):
        judged.append(mutant)
        _show(version, len(judged), made)
    return Score(version=version, original=default_rules(version, given), judged=tuple(judged))


def _show(version: str, done: int, made: Sequence[Mutant]) -> None:
    """How far it is: on a terminal in place, elsewhere a line now and then."""
    place = f"Istio {version}: {done} of {len(made)} mutants judged"
    if sys.stderr.isatty():
        print(f"\r{place}", end="\r\x1b[K" if done == len(made) else "", file=sys.stderr, flush=True)
    elif done % 100 == 0 or done == len(made):
        print(place, file=sys.stderr, flush=True)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(str(messages.NO_COUNT(text=text)))
    return int(text)
