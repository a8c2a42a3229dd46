"""A choice of the user's as a field of a class: its words, its check, its default.

Knows what a value may be. Does not know which choices there are. Invariant: such a class costs a start of
pytest no more than its fields: nothing is compiled for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self, dataclass_transform

Check = Callable[[str, Path], object]
"""Makes a value of what was given, with the folder that paths start from.

Raises:
    ValueError: it cannot be meant; in words what was expected.
"""


def as_given(text: str, folder: Path) -> str:  # noqa: ARG001 - as every check
    """Any text."""
    return text


def path(text: str, folder: Path) -> Path:
    """A path, whether something is there or not."""
    return folder / text


def file(text: str, folder: Path) -> Path:
    """A file that is there."""
    if not (folder / text).is_file():
        raise ValueError("there is no such file")
    return folder / text


def seconds(text: str, folder: Path) -> float:  # noqa: ARG001 - as every check
    """A time of at most a day."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number <= 86_400:
        raise ValueError("expected seconds, more than 0 and at most 86400")
    return number


def one_of(words: type[StrEnum]) -> Check:
    """One of these words."""

    def check(text: str, folder: Path) -> StrEnum:  # noqa: ARG001 - as every check
        try:
            return words(text)
        except ValueError:
            raise ValueError(f"expected one of {', '.join(words)}") from None

    return check


def formed(pattern: str, as_shown: str) -> Check:
    """Text of a form."""

    def check(text: str, folder: Path) -> str:  # noqa: ARG001 - as every check
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {as_shown}")
        return text

    return check


class Option(NamedTuple):
    """How a choice is made; its ini twin has the same name with `_` for `-`.

    Attributes:
        name: as it is given; "" where this plugin has no option for it.
        theirs: pytest-kind's option for the same.
        flag: given or not; it has no value.
    """

    name: str
    help: str
    default: object
    check: Check
    metavar: str | None
    repeat: bool
    flag: bool
    theirs: str

    @property
    def key(self) -> str:
        return key_of(self.name)


def key_of(name: str) -> str:
    """The ini key, and the attribute of pytest's options, of an option."""
    return name.removeprefix("--").replace("-", "_")


def option(
    name: str = "",
    help: str = "",  # noqa: A002 - as argparse calls it
    *,
    default: Any,
    check: Check = as_given,
    metavar: str | None = None,
    repeat: bool = False,
    flag: bool = False,
    theirs: str = "",
) -> Any:
    """A field; what has a name is set by an option of the command line, or its ini twin."""
    return Option(name, help, default, check, metavar, repeat, flag, theirs)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option,))
class Frozen:
    """Values of the fields of a class, each with its default; none can be set afterwards.

    A dataclass to type checkers. At run time none: the code that one compiles would take longer than all
    else that the plugin does at a start of pytest.
    """

    def __init__(self, **values: Any) -> None:
        defaults = {
            name: field.default for base in type(self).__mro__ for name, field in options_of(base).items()
        }
        if unknown := values.keys() - defaults.keys():
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        vars(self).update(defaults, **values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} of {type(self).__name__} cannot be set: make another with replace()")

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"
        )

    def replace(self, **values: Any) -> Self:
        """The same, but for these values."""
        return type(self)(**{**vars(self), **values})


def options_of(choices: type) -> dict[str, Option]:
    """The options of a class's own fields, by field."""
    return {name: field for name, field in vars(choices).items() if isinstance(field, Option)}
