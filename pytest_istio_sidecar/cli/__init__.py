"""`istio-sidecar`: the same analysis without pytest.

Knows the commands and exit statuses. Each command is a module of its own, with `add` and
`run`. Invariant: one JSON document on standard output with `--json` (one line a packet for
`trace --packets`), messages on standard error.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from pytest_istio_sidecar.cli import (
    bypasses,
    check,
    clean,
    compare,
    completion,
    doctor,
    expected,
    matrix,
    messages,
    read,
    selftest,
    trace,
)
from pytest_istio_sidecar.cli.command import Status, for_terminal
from pytest_istio_sidecar.errors import IstioSidecarError, ParseError, UsageProblem, VerdictAgainst

_COMMANDS = (trace, bypasses, compare, check, selftest, read, expected, doctor, matrix, clean, completion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    parser = build_parser()
    options, others = parser.parse_known_args(arguments)
    if others and options.command is not check.run:
        parser.error(str(messages.UNKNOWN_ARGUMENTS(arguments=" ".join(others))))
    options.others = others
    for stream in (sys.stdout, sys.stderr):
        # A comment of a rule may hold what the stream cannot show; it is escaped, and ends nothing.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(options.command(options))
    except (UsageProblem, ParseError) as problem:
        print(*for_terminal(f"istio-sidecar: {problem}", sys.stderr), sep="\n", file=sys.stderr)
        return Status.UNUSABLE
    except VerdictAgainst as verdict:
        print(*for_terminal(f"istio-sidecar: {verdict}", sys.stderr), sep="\n", file=sys.stderr)
        return Status.AGAINST
    except IstioSidecarError as problem:
        print(*for_terminal(f"istio-sidecar: {problem}", sys.stderr), sep="\n", file=sys.stderr)
        return Status.UNDECIDED
    except BrokenPipeError:
        return Status.UNDECIDED


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(
        prog="istio-sidecar",
        description="What becomes of a pod's traffic: through the Istio sidecar, or past it.",
        epilog="Completion for bash, zsh, fish and tcsh: istio-sidecar completion --help",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser
