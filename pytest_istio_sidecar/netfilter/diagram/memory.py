"""How memory is used where very much is made at once.

Knows Python's collector, and its limit of calls. Does not know what is made. Invariant: afterwards both are
as they were.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_CALLS = 50_000
"""Calls within each other: those of Python's own functions take no stack (since 3.11)."""


@contextmanager
def deep_calls() -> Iterator[None]:
    """With calls as deep as rules nest: the kernel takes hundreds of jumps, and each is several calls."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _CALLS))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@contextmanager
def no_collection() -> Iterator[None]:
    """Without Python's collector of cycles, while much is made that lives on: diagrams, rules.

    It would go through all of them again and again, which takes as long as making them.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
