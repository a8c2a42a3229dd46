"""The marker `istio_version`: for which releases a test holds.

Knows how it is written. Does not know which release is there: the fixture `istio_version`
does. Invariant: a marker that cannot be meant is a wrong use, never a test that runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from packaging.specifiers import SpecifierSet

MARKER = "istio_version"
FIXTURE = "_holds_for_istio_version"
"""Name of the fixture that skips."""


def require_version_fixture(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Make every test with the marker ask for the fixture, before any other.

    Raises:
        pytest.UsageError: a marker cannot be meant. A worker of pytest-xdist cannot end the run by an
            error here: there the test itself ends with it.
    """
    is_worker = hasattr(config, "workerinput")
    for item in items:
        for marker in item.iter_markers(MARKER):
            if not is_worker:
                specifier_of(marker, item)
            names: list[str] = getattr(item, "fixturenames", [])
            if FIXTURE not in names:
                names.insert(0, FIXTURE)


def specifier_of(marker: pytest.Mark, node: pytest.Item) -> SpecifierSet:
    """The releases that a marker of a test means (packaging.python.org, Version specifiers).

    Raises:
        pytest.UsageError: it means none.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    match marker.args, marker.kwargs:
        case (str(text),), {**others} if text.strip() and not others:
            try:
                return SpecifierSet(text)
            except InvalidSpecifier:
                pass
    given = ", ".join(
        [*map(repr, marker.args), *(f"{key}={value!r}" for key, value in marker.kwargs.items())]
    )
    raise pytest.UsageError(
        f"{node.nodeid}: @pytest.mark.{MARKER}({given}): expected one specifier such as '>=1.8,<1.13'"
    )
