"""The workloads under test: with several named, every test that asks for one runs for each.

Knows which tests those are, how their ids tell the workload, and that each is read once a process. Does not
know what is read. Invariant: with one named, ids and folders are as if there were no others; with several, no
test judges one of them in the name of all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

import pytest

from pytest_istio_sidecar.environments.choices import EnvironmentName
from pytest_istio_sidecar.plugin.markers import MARKER
from pytest_istio_sidecar.plugin.settings import named_workloads

if TYPE_CHECKING:
    from collections.abc import Sequence

FIXTURE = "istio_workload"
_READINGS: pytest.StashKey[dict[tuple[str, str], object]] = pytest.StashKey()
_T = TypeVar("_T")


def parametrise(metafunc: pytest.Metafunc) -> None:
    """Make one test for each workload of a test that asks for it, where several are named."""
    marked = metafunc.definition.get_closest_marker(MARKER) is not None
    if FIXTURE not in metafunc.fixturenames and not marked:
        return
    workloads = several(metafunc.config)
    if not workloads or any(
        FIXTURE in str(marker.args[:1]) for marker in metafunc.definition.iter_markers("parametrize")
    ):
        return
    if FIXTURE not in metafunc.fixturenames:
        metafunc.fixturenames.append(FIXTURE)  # what the marker asks for comes later
    ids = [text.replace("/", "-") for text in workloads]
    metafunc.parametrize(FIXTURE, workloads, ids=ids, indirect=True, scope="session")


def several(config: pytest.Config) -> Sequence[str]:
    """The workloads that were named, where they are more than one; none elsewhere."""
    environment, names = named_workloads(config)
    return names if environment == EnvironmentName.EXISTING and len(names) > 1 else ()


def workload_of(item: pytest.Item) -> str:
    """The workload that a test is about; "" where not several are named, or it is about none."""
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get(FIXTURE, "")) if callspec is not None else ""


def folder_of(config: pytest.Config, workload: str) -> str:
    """Where a workload's evidence is in that of the run; "" where there is one."""
    return re.sub(r"[^\w.=-]+", "-", workload) if workload in several(config) else ""


def once(config: pytest.Config, workload: str, what: str, read: Callable[[], _T]) -> _T:
    """What was read of a workload before in this process; read now where it was not.

    pytest makes a fixture anew when tests come back to a workload, as with `--dist loadscope`.
    """
    readings = config.stash.setdefault(_READINGS, {})
    if (workload, what) not in readings:
        readings[workload, what] = read()
    return cast("_T", readings[workload, what])
