"""What the user asked for, from command line, ini file and defaults.

Knows the options' names, meanings and order of precedence. Does not know what
is done with them. Invariant: a `Settings` is valid; what cannot be meant has
been refused with the accepted values named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_VERSION = "1.8.3"


class EnvironmentName(StrEnum):
    """Where the rules under test are."""

    KIND = "kind"
    EXISTING = "existing"
    EMBEDDED = "embedded"
    FILE = "file"


class Option(NamedTuple):
    """One option; its ini twin has the same name with `_` for `-`."""

    name: str
    help: str
    default: str = ""
    metavar: str | None = None
    repeat: bool = False

    @property
    def key(self) -> str:
        return self.name.removeprefix("--").replace("-", "_")


OPTIONS = (
    Option(
        "--istio-environment",
        "Where the rules under test are: kind (a cluster made for the run), existing (a cluster of yours), "
        "embedded (a pod of network namespaces on this machine, with real rules, Envoy and httpbin), "
        "file (listings saved before).",
        default=EnvironmentName.KIND,
        metavar="|".join(EnvironmentName),
    ),
    Option(
        "--istio-version",
        f"Release of Istio whose rules are installed or expected (default: {DEFAULT_VERSION}).",
        metavar="VERSION",
    ),
    Option(
        "--istio-table",
        "A listing for the file environment, as iptables-save or iptables -L prints it; '-' is standard "
        "input. 'ip6:' in front: of ip6tables; 'legacy:' or 'nft:': of that back end. May be repeated.",
        metavar="[ip6:][legacy:|nft:]FILE",
        repeat=True,
    ),
    Option(
        "--istio-evidence",
        "Folder for what was read: raw listings, listeners, versions (default: .istio-sidecar/ in the "
        "rootdir, one folder a run; the file environment keeps none unless asked).",
        metavar="DIR",
    ),
    Option(
        "--istio-timeout",
        "Seconds that bringing the environment up may take (default: 300).",
        default="300",
        metavar="SECONDS",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of this run, checked."""

    environment: EnvironmentName
    version: str = DEFAULT_VERSION
    version_given: bool = False
    tables: tuple[str, ...] = ()
    evidence: Path | None = None
    timeout: float = 300.0

    @classmethod
    def from_config(cls, config: pytest.Config) -> Settings:
        """Read the options; the command line wins over the ini file, both over the default.

        Raises:
            pytest.UsageError: a value that cannot be meant; the message names the accepted ones.
        """
        values = {option.key: _value(config, option) for option in OPTIONS}
        name = values["istio_environment"][0]
        if name not in list(EnvironmentName):
            accepted = ", ".join(EnvironmentName)
            raise pytest.UsageError(f"--istio-environment={name}: expected one of {accepted}")
        environment = EnvironmentName(name)
        tables = values["istio_table"]
        if environment is EnvironmentName.FILE and not tables:
            raise pytest.UsageError("--istio-environment=file needs a listing: --istio-table FILE")
        if tables and environment is not EnvironmentName.FILE:
            raise pytest.UsageError(
                f"--istio-table is for --istio-environment=file; the environment is {environment}"
            )
        version = _only(values["istio_version"])
        if version is not None and not re.fullmatch(r"\d+\.\d+(\.\d+)?([-+][\w.-]+)?", version):
            raise pytest.UsageError(
                f"--istio-version={version}: expected a release such as {DEFAULT_VERSION}"
            )
        evidence = _only(values["istio_evidence"])
        return cls(
            environment=environment,
            version=version or DEFAULT_VERSION,
            version_given=version is not None,
            tables=tuple(tables),
            evidence=config.invocation_params.dir / evidence if evidence else None,
            timeout=_seconds("--istio-timeout", values["istio_timeout"][0]),
        )


def add_options(parser: pytest.Parser) -> None:
    """Register every option and its ini twin."""
    group = parser.getgroup("istio-sidecar", "Istio sidecar interception")
    for option in OPTIONS:
        group.addoption(
            option.name,
            dest=option.key,
            default=None,
            action="append" if option.repeat else "store",
            metavar=option.metavar,
            help=option.help,
        )
        lines: Literal["linelist", "string"] = "linelist" if option.repeat else "string"
        parser.addini(option.key, f"Default of {option.name}.", type=lines, default=None)


def _value(config: pytest.Config, option: Option) -> list[str]:
    """The option's value or values; none at all where neither it nor its ini twin nor a default is given."""
    chosen: object = config.getoption(option.key)
    if not chosen:
        chosen = config.getini(option.key) or option.default
    if isinstance(chosen, list):
        return [str(value) for value in chosen]
    return [str(chosen)] if chosen else []


def _only(values: Sequence[str]) -> str | None:
    return values[0] if values else None


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 86_400:
        raise pytest.UsageError(f"{name}={text}: expected seconds, more than 0 and at most 86400")
    return seconds
