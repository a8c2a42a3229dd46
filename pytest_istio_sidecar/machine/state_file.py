"""Facts that one process leaves in a file for another, as JSON.

Knows how they are written, and when they are refused. Does not know what they are of. Invariant: who reads
sees a whole writing or none; what has another shape than was written is refused in words.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any

from pytest_istio_sidecar.errors import EnvironmentProblem

Json = dict[str, Any]
"""An object of JSON."""

Shape = Mapping[str, "type | UnionType | Shape"]
"""What an object has to have: the type of each value, or the shape of an object in it."""

UNFINISHED = ".new"
"""How the name of a file ends that is being written, or whose writer was killed at it."""


class StateUnreadable(EnvironmentProblem):
    """A file does not have the facts that it is for."""


def write_state(file: Path, facts: Mapping[str, object]) -> None:
    """Write facts, whole or not at all. Several processes may do so at once; the last one's stay."""
    unfinished = file.with_name(f"{file.name}.{os.getpid()}{UNFINISHED}")
    unfinished.write_text(json.dumps(facts), encoding="utf-8")
    unfinished.rename(file)


def read_state(file: Path, shape: Shape) -> Json:
    """Read facts.

    Raises:
        StateUnreadable: there are none, or others than the shape has.
    """
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except OSError as problem:
        raise StateUnreadable(f"{file} cannot be read: {problem.strerror}") from None
    except ValueError as problem:
        raise StateUnreadable(f"{file} is no JSON: {problem}") from None
    return require(facts, shape, of=str(file))


def require(facts: object, shape: Shape, *, of: str) -> Json:
    """The same facts, if they are as the shape has them; it may leave some out.

    Args:
        of: what they are, for the message.

    Raises:
        StateUnreadable: one is not there, or of another type.
    """
    if not isinstance(facts, dict):
        raise StateUnreadable(f"{of} is {_written(facts)}, and should be an object")
    for name, wanted in shape.items():
        if name not in facts:
            raise StateUnreadable(f"{of} has no {name!r}")
        if isinstance(wanted, Mapping):
            require(facts[name], wanted, of=f"{name!r} of {of}")
        elif not isinstance(facts[name], wanted):
            expected = getattr(wanted, "__name__", str(wanted))
            raise StateUnreadable(
                f"{name!r} of {of} is {_written(facts[name])}, and should be of type {expected}"
            )
    return facts


def _written(value: object) -> str:
    """A value in a few characters."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
