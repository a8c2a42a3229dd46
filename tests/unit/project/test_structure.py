"""The figures of the import graph, on graphs that one can count by hand."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import grimp
import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "structure"


@pytest.fixture(scope="module")
def structure():
    loader = SourceFileLoader("structure", str(SCRIPT))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def test_a_folder_is_one_room_and_many_imports_are_one_arrow(structure):
    graph = grimp.ImportGraph()
    for name in ("p", "p.low", "p.high", "p.high.one", "p.high.two"):
        graph.add_module(name)
    graph.add_import(importer="p.high.one", imported="p.low")
    graph.add_import(importer="p.high.two", imported="p.low")
    graph.add_import(importer="p.high.two", imported="p.high.one")
    assert structure.arrows_between_rooms(graph, "p") == {"high": {"low"}, "low": set()}


def test_the_depth_is_that_of_the_longest_chain(structure):
    arrows = {"a": {"b", "d"}, "b": {"c"}, "c": {"d"}, "d": set(), "alone": set()}
    assert structure.circles_of(arrows) == []
    assert structure.depth_of(arrows, []) == 4


def test_a_circle_is_named_and_is_one_floor(structure):
    arrows = {"top": {"a"}, "a": {"b"}, "b": {"c"}, "c": {"a", "low"}, "low": set()}
    circles = structure.circles_of(arrows)
    assert circles == [{"a", "b", "c"}]
    assert structure.depth_of(arrows, circles) == 3
