"""How memory is used where very much is made at once.

Knows Python's collector. Does not know what is made. Invariant: it collects again afterwards, if it did.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
