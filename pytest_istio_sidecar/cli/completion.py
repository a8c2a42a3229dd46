"""`istio-sidecar completion`: what a shell needs to complete the commands.

Knows which arguments are files, and which have known values. Does not know the shells: shtab does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_istio_sidecar.cli.command import Commands, Status

SHELLS = ("bash", "zsh", "fish", "tcsh")

_INSTALLED = """\
put one of these where the shell starts:
  bash  ~/.bashrc                  eval "$(istio-sidecar completion bash)"
  zsh   ~/.zshrc, after compinit   eval "$(istio-sidecar completion zsh)"
  fish  ~/.config/fish/config.fish istio-sidecar completion fish | source
  tcsh  ~/.tcshrc                  source ~/.istio-sidecar.tcsh
tcsh takes it from a file only:
  istio-sidecar completion tcsh > ~/.istio-sidecar.tcsh
"""


def add(commands: Commands) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "completion",
        help="print what makes a shell complete these commands",
        description="Print a script that makes a shell complete commands, options, files and\nreleases.",
        epilog=_INSTALLED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    parser.add_argument("shell", choices=SHELLS, help='in ~/.bashrc: eval "$(istio-sidecar completion bash)"')


def run(options: argparse.Namespace) -> Status:
    """Print it."""
    import shtab

    from pytest_istio_sidecar.cli import build_parser
    from pytest_istio_sidecar.istio.versions import known_versions

    parser = build_parser()
    for action in _arguments(parser):
        if action.metavar in ("RULES", "FILE") or action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar == "VERSION":
            action.choices = known_versions()
    print(shtab.complete(parser, options.shell))
    return Status.HOLDS


def _arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of a parser and of its commands."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way through them
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            commands: dict[str, Any] = action.choices
            for command in commands.values():
                yield from _arguments(command)
