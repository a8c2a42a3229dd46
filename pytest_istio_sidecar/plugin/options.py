"""The options of the command line, each with its twin in the ini file.

Knows how pytest is told of them. Does not know which there are: `environments/choices` has them, with what
each may be. Invariant: a twin has the option's name with `_` for `-`, and means the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pytest_istio_sidecar.environments.choices import (
    EmbeddedChoices,
    ExistingChoices,
    KindChoices,
    RunChoices,
)
from pytest_istio_sidecar.environments.option import Option, options_of

if TYPE_CHECKING:
    import pytest

_HEADINGS = {
    "Istio sidecar interception": RunChoices,
    "Istio sidecar interception: the kind cluster": KindChoices,
    "Istio sidecar interception: a cluster of yours": ExistingChoices,
    "Istio sidecar interception: the embedded pod": EmbeddedChoices,
}

FIELDS: dict[str, Option] = {
    field: option for choices in _HEADINGS.values() for field, option in options_of(choices).items()
}
"""Every choice, by its field."""

GROUPS: dict[str, tuple[Option, ...]] = {
    heading: tuple(option for option in options_of(choices).values() if option.name)
    for heading, choices in _HEADINGS.items()
}
"""By the heading of `pytest --help` that they stand under."""

OPTIONS = tuple(option for options in GROUPS.values() for option in options)


def add_options(parser: pytest.Parser) -> None:
    """Register every option and its ini twin."""
    for heading, options in GROUPS.items():
        group = parser.getgroup(heading, heading)
        for option in options:
            _add(parser, group, option)


def _add(parser: pytest.Parser, group: pytest.OptionGroup, option: Option) -> None:
    if option.flag:
        group.addoption(option.name, dest=option.key, default=None, action="store_true", help=option.help)
        parser.addini(option.key, f"Default of {option.name}.", type="bool", default=False)
        return
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
