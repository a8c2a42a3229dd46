"""`istio-sidecar expected`: the rules that a release installs, as text."""

from __future__ import annotations

import argparse
import json
import sys

from pytest_istio_sidecar.cli.command import Commands, Status, add_command, add_option_argument, options_of


def add(commands: Commands) -> None:
    """Register the command."""
    parser = add_command(
        commands,
        "expected",
        run,
        help="print the rules that a release of Istio installs",
        description="Print the rules that istio-init of a release installs, as iptables-save would.",
    )
    parser.add_argument("version", metavar="VERSION", help="a release of Istio: 1.8.3")
    add_option_argument(parser)
    parser.add_argument("--family", type=int, choices=(4, 6), default=4, help="default 4")


def run(options: argparse.Namespace) -> Status:
    """Print them."""
    from pytest_istio_sidecar.istio.rules import expected_ruleset, shown_by_image
    from pytest_istio_sidecar.istio.versions import known_release
    from pytest_istio_sidecar.netfilter.text.render import render_save

    asked = options_of(options.option, options.version)
    ruleset = expected_ruleset(options.version, family=options.family, options=asked)
    known = known_release(options.version)
    if known != options.version:
        print(f"istio-sidecar: {options.version} is taken to have the rules of {known}", file=sys.stderr)
    text = render_save(ruleset)
    if options.json:
        document = {
            "version": options.version,
            "rules_of": known,
            "backend": ruleset.backend,
            "image_shows": shown_by_image(options.version),
            "iptables_save": text,
        }
        print(json.dumps(document))
    else:
        print(text, end="")
    return Status.HOLDS
