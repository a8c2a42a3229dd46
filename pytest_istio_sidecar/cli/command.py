"""What the commands have in common: exit statuses, and how one is registered."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from enum import IntEnum
from typing import TYPE_CHECKING, TextIO, TypeAlias

from pytest_istio_sidecar.cli import messages
from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.failure import fitted, wrapped

if TYPE_CHECKING:
    from pytest_istio_sidecar.environments.file import Given
    from pytest_istio_sidecar.istio.options import IstioOptions
    from pytest_istio_sidecar.netfilter.model import PodRules, Rules
    from pytest_istio_sidecar.netfilter.packet import Host

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001
"""What `add_subparsers` returns, which has no public name."""


class Status(IntEnum):
    """Exit statuses."""

    HOLDS = 0
    """What was asked holds; of a command that only shows, it was shown."""
    AGAINST = 1
    """A verdict against, whatever is undecided beside it: both are said."""
    UNUSABLE = 2
    """Wrong use, or input that cannot be read."""
    UNDECIDED = 3
    """No verdict could be reached, or the environment failed."""


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], Status],
    *,
    help: str,  # noqa: A002 - as argparse has it
    description: str,
) -> argparse.ArgumentParser:
    """Register a command that prints JSON when asked to."""
    parser = commands.add_parser(name, help=help, description=description)
    parser.set_defaults(command=run)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return parser


def add_rules_argument(parser: argparse.ArgumentParser) -> None:
    """Register RULES, which `given` reads."""
    parser.add_argument(
        "rules",
        nargs="+",
        metavar="RULES",
        help="[ip6:][legacy:|nft:|native:]FILE: a listing, log or paste of any form, - is standard input; "
        "or the FOLDER that istio-sidecar read or a run wrote",
    )


def given(options: argparse.Namespace) -> Given:
    """Read RULES, and say on standard error what was seen in reading that bears on trust in them.

    Returns:
        It; the notes of its rules are those left to say: which tables alone were given.

    Raises:
        UsageProblem, ParseError, EnvironmentProblem: as `environments.file.read_given`.
    """
    from pytest_istio_sidecar.environments.file import read_given

    read = read_given(options.rules)
    print_notes(note for note in read.rules.notes if note not in read.alone)
    return replace(read, rules=replace(read.rules, notes=read.alone))


def add_option_argument(parser: argparse.ArgumentParser) -> None:
    """Register `--option`, which `release_of` reads."""
    parser.add_argument(
        "--option",
        "--istio-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what a pod asks istio-init for (repeat), by the name of an annotation, a flag or a variable of "
        "Istio's or of this package: excludeInboundPorts=9000, inbound_ports_exclude=15090,15021,9000,15020",
    )


def add_interface_argument(parser: argparse.ArgumentParser) -> None:
    """Register `--interface`, of which `host_of` makes a host."""
    parser.add_argument(
        "--interface",
        action="append",
        default=[],
        metavar="NAME=ADDRESS/PREFIX",
        help="an interface of the pod and its address (repeat; default eth0=192.0.2.10/24)",
    )


def host_of(interfaces: Sequence[str]) -> Host:
    """The interfaces given on the command line; none: the default host."""
    from pytest_istio_sidecar.netfilter.packet import Host

    return Host.of(interfaces)


def release_of(options: argparse.Namespace, read: Given | None = None) -> tuple[str | None, IstioOptions]:
    """The release to hold rules against, and what its istio-init was told.

    Args:
        options: with `--istio-version` and `--option`.
        read: RULES; where they tell of a pod, what it has counts where nothing else was said.

    Raises:
        UsageProblem: no release is known for `--option`, or there is no such option.
    """
    known = None if read is None else read.version
    version = options.istio_version or known
    if options.option and not version:
        raise UsageProblem(messages.OPTION_OF_RELEASE())
    pods = None if read is None else read.options
    if pods is not None and not options.option:
        return version, pods
    chosen = options_of(options.option, version)
    return version, chosen if pods is None else chosen.beside(pods)


def refuse_unseen(rules: PodRules, version: str, asked: IstioOptions, host: Host) -> None:
    """Give no answer where iptables shows no rule of Istio's, and the release can write them elsewhere.

    Raises:
        Undecided: it is so.
    """
    from pytest_istio_sidecar.checks.sidecar import check_istio_rules
    from pytest_istio_sidecar.netfilter.kernel.unread import is_unread

    meant = bool(rules.of_family(4)) and asked.inbound_interception_mode != "NONE"
    if meant and not any(map(is_unread, rules.rulesets)):
        check_istio_rules(rules, version, host=host)


def options_of(pairs: Sequence[str], version: str | None) -> IstioOptions:
    """What a release is told; what it passes over is told on standard error.

    Raises:
        UsageProblem: there is no such option, or release.
    """
    from pytest_istio_sidecar.istio.messages import RANGE_PASSED_OVER
    from pytest_istio_sidecar.istio.options import IstioOptions
    from pytest_istio_sidecar.istio.rules import passed_over

    chosen = IstioOptions.from_pairs(pairs)
    for name, text in passed_over(version, chosen) if version else ():
        note = RANGE_PASSED_OVER(option=name, text=text, release=version)
        say(note.summary)
    return chosen


def columns_of(stream: TextIO) -> int | None:
    """The columns of a terminal; None: it is none, and lines are as long as they are."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def for_terminal(text: str, stream: TextIO) -> list[str]:
    """The lines of a text, those that a terminal would break inside a word broken between words."""
    columns = columns_of(stream)
    return text.splitlines() if columns is None else fitted(text, columns)


def say(text: object) -> None:
    """Say something beside what is printed: on standard error, and by whom."""
    print(*for_terminal(f"istio-sidecar: {text}", sys.stderr), sep="\n", file=sys.stderr)


def with_notes(text: str, rules: PodRules) -> str:
    """An output whose first line says what is to be known of the rules given: "(nat only was given)"."""
    first, newline, rest = text.partition("\n")
    notes = f" ({'; '.join(rules.notes)})" if rules.notes else ""
    return f"{first}{notes}{newline}{rest}"


def print_assumptions(rules: Rules) -> None:
    """Say what an answer rests on that no listing shows."""
    from pytest_istio_sidecar.checks.tracing import assumptions

    print_notes(f"assumed: {text}" for family in (4, 6) for text in assumptions(rules, family))


def print_notes(notes: Iterable[str]) -> None:
    """Say it beside an output that is for programs."""
    for note in notes:
        say(f"note: {note}")


def row(widths: Sequence[int], *cells: object) -> str:
    """Cells in columns of these widths; what follows them is broken between words where a terminal ends."""
    filled = "".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False))
    rest = "".join(map(str, cells[len(widths) :]))
    columns = columns_of(sys.stdout)
    if columns is None or len(filled) + len(rest) <= columns:
        return filled + rest
    lines = wrapped(rest, max(columns - len(filled), columns // 3))
    return f"\n{'':<{len(filled)}}".join([f"{filled}{lines[0]}", *lines[1:]] if lines else [filled])
