"""The mutants of scripts/mutation-sample: what is changed, and what is left as it is."""

from __future__ import annotations

import ast
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "mutation-sample"
SOURCE = '''"""A module."""

from __future__ import annotations

@frozen(True)
def first(items: list[int | None], limit: int = 3) -> "int":
    """The first that is small."""
    for item in items:
        if item < limit and not item == 1:
            return item
    log(f"none below {limit + 1}")
    raise ValueError("none: é")
'''


@pytest.fixture
def script(monkeypatch, tmp_path):
    loader = SourceFileLoader("mutation_sample", str(SCRIPT))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    monkeypatch.setitem(sys.modules, loader.name, module)
    loader.exec_module(module)
    monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    (tmp_path / module.PACKAGE).mkdir()
    (tmp_path / module.PACKAGE / "module.py").write_text(SOURCE)
    return module


def test_every_kind_of_change_is_found_and_types_decorators_and_documentation_are_left(script, tmp_path):
    mutants = list(script.mutants_of(tmp_path / script.PACKAGE / "module.py"))
    assert sorted((mutant.line, mutant.operator, mutant.old) for mutant in mutants) == [
        (6, "number", "3"),
        (9, "and, or", "item < limit and not item == 1"),
        (9, "comparison", "item < limit"),
        (9, "comparison", "item == 1"),
        (9, "not left out", "not item == 1"),
        (9, "number", "1"),
        (10, "return", "return item"),
        (11, "statement left out", 'log(f"none below {limit + 1}")'),
        (12, "statement left out", 'raise ValueError("none: é")'),
        (12, "text", '"none: é"'),
    ]


def test_a_mutant_in_its_place_is_a_module_that_means_something_else(script, tmp_path):
    source = (tmp_path / script.PACKAGE / "module.py").read_bytes()
    for mutant in script.mutants_of(tmp_path / script.PACKAGE / "module.py"):
        changed = source[: mutant.begin] + mutant.new.encode() + source[mutant.end :]
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), mutant


def test_a_seed_gives_the_same_sample_again_of_one_mutant_a_line(script):
    sample = script.sample(4, seed=7)
    assert sample == script.sample(4, seed=7)
    assert len({mutant.line for mutant in sample}) == 4


def mutant_of(script, path):
    return script.Mutant(path=f"{script.PACKAGE}/{path}", line=1, begin=0, end=1, operator="", old="", new="")


@pytest.fixture
def folders(tmp_path):
    for folder in ("tests/unit/istio", "tests/unit/netfilter", "tests/plugin"):
        (tmp_path / folder).mkdir(parents=True)


def test_the_folder_that_mirrors_a_module_is_tried_first_and_every_folder_in_the_end(script, folders):
    assert list(script.stages(mutant_of(script, "netfilter/trace/match.py"), {""})) == [
        ("tests/unit/netfilter",),
        ("tests/unit", "tests/plugin", "--ignore=tests/unit/netfilter"),
        *((folder,) for folder in script.LATER),
        ("tests", *(f"--ignore={folder}" for folder in ("tests/unit", "tests/plugin", *script.LATER))),
    ]
    assert next(script.stages(mutant_of(script, "plugin/hooks.py"), {""})) == ("tests/plugin",)
    assert next(script.stages(mutant_of(script, "errors.py"), {""})) == ("tests/unit", "tests/plugin")


def test_of_lines_that_tests_alone_run_only_these_are_tried_the_quick_ones_first(script, folders):
    running = {"tests/slow/a.py::x", "tests/plugin/b.py::y", "tests/unit/netfilter/c.py::z"}
    assert list(script.stages(mutant_of(script, "netfilter/trace/match.py"), running)) == [
        ("tests/unit/netfilter",),
        ("tests/plugin/b.py::y",),
        ("tests/slow/a.py::x",),
    ]


@pytest.mark.parametrize(
    ("context", "test"),
    [
        ("", ""),
        ("test_one.test_first", "tests/unit/test_one.py::test_first"),
        ("tests/unit/test_one.py::test_first[a (b)-1] (call)", "tests/unit/test_one.py::test_first"),
        ("tests/unit/test_one.py::test_first (setup)|test_two.test_x", "tests/unit/test_one.py::test_first"),
        ("elsewhere.test_first", ""),
    ],
)
def test_what_ran_a_line_is_a_test_or_something_else(script, context, test):
    suite = object.__new__(script.Suite)
    suite._files = {"test_one": "tests/unit/test_one.py"}
    assert suite._test(context) == test
