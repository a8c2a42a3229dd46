"""What the commands have in common: exit statuses, and how one is registered."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from enum import IntEnum
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001
"""What `add_subparsers` returns, which has no public name."""


class Status(IntEnum):
    """Exit statuses."""

    HOLDS = 0
    """What was asked holds; of a command that only shows, it was shown."""
    AGAINST = 1
    """A verdict against."""
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
    """Register RULES, which `environments.file.read_listings` reads."""
    parser.add_argument(
        "rules",
        nargs="+",
        metavar="RULES",
        help="[ip6:][legacy:|nft:]FILE, as iptables-save or iptables -L prints it; - is standard input",
    )


def add_option_argument(parser: argparse.ArgumentParser) -> None:
    """Register `--option`, which `IstioOptions.from_pairs` reads."""
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what istio-iptables is told (repeat): inbound_ports_exclude=15090,15021,9000,15020",
    )


def add_interface_argument(parser: argparse.ArgumentParser) -> None:
    """Register `--interface`, of which `trace.host_of` makes a host."""
    parser.add_argument(
        "--interface",
        action="append",
        default=[],
        metavar="NAME=ADDRESS/PREFIX",
        help="an interface of the pod and its address (repeat; default eth0=192.0.2.10/24)",
    )
