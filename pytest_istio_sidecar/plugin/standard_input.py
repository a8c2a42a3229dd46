"""A listing that comes through a pipe: read once, before pytest takes standard input away.

Knows when pytest begins to capture, and where the run keeps what it read for its workers. Does not know what
a listing is. Invariant: imported, and anything read, only where a listing is standard input.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import pytest

from pytest_istio_sidecar.plugin.workers import run_of

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = pytest.StashKey[BinaryIO]()
"""Standard input as it was before pytest captured."""


def is_standard_input(table: str) -> bool:
    """Whether `--istio-table` names standard input, with or without a family and a back end."""
    return table.rpartition(":")[2] == "-"


def save(config: pytest.Config) -> None:
    """Keep standard input open beside what pytest puts in its place; nothing is read yet.

    A worker of pytest-xdist does so too, as it is not known to be one yet: its own is empty.
    """
    try:
        config.stash[SOURCE] = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    except (AttributeError, OSError, ValueError):  # closed, or a program's own object
        config.stash[SOURCE] = getattr(sys.stdin, "buffer", io.BytesIO())


def read(config: pytest.Config, tables: Sequence[str]) -> None:
    """Read it into the run's folder, where one of the tables is standard input: in the controller."""
    if SOURCE not in config.stash or not any(map(is_standard_input, tables)):
        return
    from pytest_istio_sidecar.environments.file import LIMIT

    run_of(config).make_directory()
    _kept(config).write_bytes(config.stash[SOURCE].read(LIMIT + 1))


@contextmanager
def given_back(config: pytest.Config) -> Iterator[None]:
    """What was read is standard input again meanwhile, in this process or another one of the run."""
    kept = _kept(config)
    if not kept.exists():
        yield
        return
    captured = sys.stdin
    with kept.open(encoding="utf-8") as content:
        sys.stdin = content
        try:
            yield
        finally:
            sys.stdin = captured


def _kept(config: pytest.Config) -> Path:
    return run_of(config).directory / "standard-input"
