"""`istio-sidecar`: the same analysis without pytest.

Knows the commands and exit statuses. Each command is a module of its own, with `add` and
`run`. Invariant: one JSON document on standard output with `--json` (one line a packet for
`trace --packets`), messages on standard error.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

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
from pytest_istio_sidecar.cli.command import Status, columns_of, for_terminal, say
from pytest_istio_sidecar.errors import IstioSidecarError, ParseError, UsageProblem, VerdictAgainst
from pytest_istio_sidecar.failure import laid_out_for

_COMMANDS = (trace, bypasses, compare, check, selftest, read, expected, doctor, matrix, clean, completion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    try:
        try:
            return _run(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # what was printed may be lost only now
    except OSError as problem:
        if not _is_lost():
            raise
        if not isinstance(problem, BrokenPipeError):  # who reads no further wants no message either
            say(messages.NOT_PRINTED(problem=problem.strerror))
        return Status.UNDECIDED


def _is_lost() -> bool:
    """Whether standard output takes no more; what is left in it goes nowhere, so that the end is quiet."""
    try:
        print(flush=True)  # an unbuffered one has forgotten what it could not write
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return True
    return False


def _run(arguments: Sequence[str] | None) -> int:
    parser = build_parser()
    options, others = parser.parse_known_args(arguments)
    if others and options.command is not check.run:
        parser.error(str(messages.UNKNOWN_ARGUMENTS(arguments=" ".join(others))))
    options.others = others
    for stream in (sys.stdout, sys.stderr):
        # A comment of a rule may hold what the stream cannot show; it is escaped, and ends nothing.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    streams = [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
    columns = [width for stream in streams if (width := columns_of(stream)) is not None]
    with laid_out_for(min(columns, default=None)):
        return _obey(options)


def _obey(options: argparse.Namespace) -> int:
    try:
        return int(options.command(options))
    except (UsageProblem, ParseError) as problem:
        say(problem)
        return Status.UNUSABLE
    except VerdictAgainst as verdict:
        say(verdict)
        return Status.AGAINST
    except IstioSidecarError as problem:
        say(problem)
        return Status.UNDECIDED


class _Parser(argparse.ArgumentParser):
    """argparse's, whose errors are broken between words where a terminal ends."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        lines = for_terminal(f"{self.prog}: error: {message}", sys.stderr)
        self.exit(Status.UNUSABLE, "\n".join([*lines, ""]))


class _Version(argparse.Action):
    """Print the version, which is looked up only now, and end."""

    def __init__(self, option_strings: Sequence[str], **named: Any) -> None:
        super().__init__(option_strings, **{**named, "nargs": 0, "default": argparse.SUPPRESS})

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib import metadata

        print(f"istio-sidecar {metadata.version('pytest-istio-sidecar')}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = _Parser(
        prog="istio-sidecar",
        description="What becomes of a pod's traffic: through the Istio sidecar, or past it.",
        epilog="Completion for bash, zsh, fish and tcsh: istio-sidecar completion --help",
    )
    parser.add_argument("--version", action=_Version, help="print the version of this program")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser
