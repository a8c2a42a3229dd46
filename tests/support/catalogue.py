"""Every message that users can get: what the modules `messages` of the package have.

The hundreds tell what a message is about: `scripts/reference.py`, which makes their page, has the headings.
"""

from importlib import import_module
from pathlib import Path

import pytest_istio_sidecar
from pytest_istio_sidecar.failure import Message

PACKAGE = Path(pytest_istio_sidecar.__file__).parent


def module_of(path):
    return import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))


NAMED = [
    (name, value)
    for path in sorted(PACKAGE.rglob("messages.py"))
    for name, value in vars(module_of(path)).items()
    if isinstance(value, Message)
]

BY_NAME = dict(NAMED)
CATALOGUE = tuple(sorted(message for _, message in NAMED))
