"""The pages hang together: links lead somewhere, and what is written about the code is true of it."""

from __future__ import annotations

import ast
import gzip
import json
import re
import runpy
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import pytest
from catalogue import CATALOGUE
from markdown_blocks import CHECKOUT, PAGES, tokens_of

import pytest_istio_sidecar
from pytest_istio_sidecar.cli import _COMMANDS, main
from pytest_istio_sidecar.netfilter.text.diagnosis import KNOWN, diagnose
from pytest_istio_sidecar.plugin.options import OPTIONS
from pytest_istio_sidecar.reports.form import ReportForm

LINKED = (*PAGES, "ARCHITECTURE.md", "CONTRIBUTING.md", "changelog.d/README.md", "tests/cluster/README.md")


def text_of(page: str) -> str:
    return (CHECKOUT / page).read_text(encoding="utf-8")


def links_of(page: str) -> Iterator[str]:
    for token in tokens_of(text_of(page)):
        for child in token.children or ():
            if child.type in ("link_open", "image"):
                yield str(child.attrGet("href") or child.attrGet("src"))


def anchors_of(page: str) -> set[str]:
    """The anchors that GitHub gives headings."""
    tokens = tokens_of(text_of(page))
    headings = [following.content for token, following in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED)
def test_every_link_within_the_project_leads_to_a_file_and_a_heading(page):
    for link in links_of(page):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = ((CHECKOUT / page).parent / name).resolve() if name else CHECKOUT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors_of(str(target.relative_to(CHECKOUT))), f"{page}: {link}"


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("README.md", "docs/README.md")])
def test_every_page_is_linked_from_the_readme(page):
    assert page in set(links_of("README.md")), f"README.md does not link {page}"


def test_the_page_on_reports_tells_every_field_and_form():
    page = text_of("docs/reports.md")
    schema = json.loads(text_of("pytest_istio_sidecar/reports/report.schema.json"))
    told = re.findall(r"^\| `(\w+)` \|", page.partition("## JSON")[2], re.MULTILINE)
    assert told == list(schema["properties"])
    assert all(f"--istio-report=report{form}" in page for form in ReportForm)


PICTURES = [
    (page, command, name)
    for page in PAGES
    for command, name in re.findall(r"<!-- drawn by: (.+) -->\n+!\[[^\]]+\]\(([^)]+\.svg)\)", text_of(page))
]


def test_every_picture_says_by_which_command_it_was_drawn():
    shown = {link for page in PAGES for link in links_of(page) if link.endswith(".svg")}
    assert shown
    assert shown == {name for _, _, name in PICTURES}


@pytest.mark.parametrize(("page", "command", "name"), PICTURES)
def test_a_picture_is_what_the_program_draws_today(page, command, name, tmp_path, monkeypatch):
    *words, option, file = shlex.split(command)
    assert (words[0], option) == ("istio-sidecar", "--svg")
    monkeypatch.chdir(CHECKOUT)
    assert main([*words[1:], "--svg", str(tmp_path / "now.svg")]) == 0
    assert (CHECKOUT / file) == (CHECKOUT / page).parent / name
    assert (CHECKOUT / file).read_text() == (tmp_path / "now.svg").read_text(), f"run: {command}"


def test_the_architecture_is_two_pages_at_most():
    assert len(text_of("ARCHITECTURE.md").splitlines()) <= 110


def test_the_architecture_names_every_module_at_the_top_and_every_folder_of_tests():
    text = text_of("ARCHITECTURE.md")
    words = {word for held in re.findall(r"`([^`]+)`", text) for word in held.split()}
    package = CHECKOUT / "pytest_istio_sidecar"
    modules = {path.name.removesuffix(".py") for path in package.iterdir() if path.suffix in ("", ".py")}
    assert modules - words - {"__init__", "__main__", "__pycache__", "manifests"} == set()
    folders = {f"tests/{path.name}" for path in (CHECKOUT / "tests").iterdir() if path.is_dir()}
    assert folders - words - {"tests/__pycache__"} == set()


REFERENCE = runpy.run_path(str(CHECKOUT / "scripts" / "reference.py"))["pages"]()


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference_is_what_the_code_says_today(name):
    assert text_of(f"docs/reference/{name}") == REFERENCE[name], "run .venv/bin/python scripts/reference.py"


def test_the_reference_has_every_option_public_name_and_command():
    options, names, commands = (
        text_of(f"docs/reference/{name}") for name in ("options.md", "python.md", "command-line.md")
    )
    for option in OPTIONS:
        assert f"| `{option.name}" in options
    for name in pytest_istio_sidecar.__all__:
        assert f"### {name}\n" in names
    assert len(re.findall(r"^## ", commands, re.MULTILINE)) == len(_COMMANDS) + 1


def test_the_reference_has_every_fixture_that_pytest_knows_of_the_plugin(pytester):
    shown = pytester.runpytest_subprocess("--fixtures", "-q").stdout.str()
    section = shown.partition("from pytest_istio_sidecar.plugin.fixtures")[2].partition(
        "fixtures defined from"
    )[0]
    known = set(re.findall(r"^(\w+) \[session scope\]|^(\w+) --", section, re.MULTILINE))
    assert known
    page = text_of("docs/reference/fixtures.md")
    for one, other in known:
        assert f"## {one or other}\n" in page


SEMANTICS = text_of("docs/semantics.md")
CLAUSES = dict(re.findall(r"^- \*\*(\d+\.\d+)\*\* (.*(?:\n  .*)*)", SEMANTICS, re.MULTILINE))
DEFINITIONS = {"1.1", "1.2"}
"""Clauses that say what words mean; nothing could show them to be wrong."""


@cache
def known_experiments() -> set[str]:
    with gzip.open(CHECKOUT / "tests/data/netfilter-vectors.json.gz") as file:
        return {experiment["id"] for experiment in json.load(file)["experiments"]}


@cache
def known_tests() -> set[str]:
    texts = (path.read_text() for path in (CHECKOUT / "tests").rglob("test_*.py"))
    return {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}


def test_clauses_are_numbered_without_a_gap():
    sections = [int(number) for number in re.findall(r"^## (\d+)\. ", SEMANTICS, re.MULTILINE)]
    assert sections == list(range(1, len(sections) + 1))
    for section in sections:
        own = [int(number.partition(".")[2]) for number in CLAUSES if number.startswith(f"{section}.")]
        assert own == list(range(1, len(own) + 1))


@pytest.mark.parametrize("number", sorted(CLAUSES.keys() - DEFINITIONS))
def test_a_clause_names_experiments_that_are_replayed_or_a_test_that_holds_it(number):
    cited = [
        name.strip() for names in re.findall(r"\[([^\]]*)\]", CLAUSES[number]) for name in names.split(",")
    ]
    assert cited, f"clause {number} rests on nothing"
    assert set(cited) <= known_experiments() | known_tests()


def test_every_section_is_named_by_the_modules_that_carry_it_out():
    texts = [path.read_text() for path in (CHECKOUT / "pytest_istio_sidecar/netfilter").rglob("*.py")]
    named = re.findall(r"^Semantics: docs/semantics\.md, (.*)\.$", "\n".join(texts), re.MULTILINE)
    sections = re.findall(r"^## (\d+)\. ", SEMANTICS, re.MULTILINE)
    assert set(re.findall(r"\d+", re.sub(r"\.\d+", "", " ".join(named)))) == set(sections)


def test_every_experiment_stands_under_a_clause():
    cited = set(re.findall(r"\b[A-Z]\d*[a-z]?\b", " ".join(re.findall(r"\[([^\]]*)\]", SEMANTICS))))
    assert known_experiments() <= cited


TROUBLES = text_of("docs/troubleshooting.md")
QUOTED = re.findall(r"^### `(.*)`$", TROUBLES, re.MULTILINE)
OTHERS = [text.replace("\\|", "|") for text in re.findall(r"^\| `(.*)` \| [^|]* \|$", TROUBLES, re.MULTILINE)]
ROWS = re.findall(r"^\| `+ ?(.*?) ?`+ \| (.*) \| (.*) \|$", TROUBLES, re.MULTILINE)


@cache
def written_texts() -> tuple[str, ...]:
    """Every text in the code that is not a docstring; `…` where a value is put in."""
    trees = [ast.parse(path.read_text()) for path in (CHECKOUT / "pytest_istio_sidecar").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = [written(node) for node in nodes if id(node) not in docstrings]
    return tuple(text for text in texts if text is not None)


def written(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(written(part) or "…" for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (written(left) or "…") + (written(right) or "…")
    return None


def test_every_trouble_is_headed_by_a_message():
    headings = re.findall(r"^### (.*)$", TROUBLES, re.MULTILINE)
    assert len(headings) == len(QUOTED) == len(set(QUOTED))


def pattern_of(message: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part.strip()) for part in message.split("…")), re.DOTALL)


@pytest.mark.parametrize("message", [*QUOTED, *OTHERS])
def test_a_message_in_troubleshooting_is_in_the_code(message):
    assert any(pattern_of(message).search(text) for text in written_texts())


@pytest.mark.parametrize(
    "message",
    [message for message in CATALOGUE if message.code[2] in "5678"],
    ids=lambda message: message.code,
)
def test_every_message_of_an_environment_or_reader_is_in_troubleshooting(message):
    text = re.sub(r"\{[^}]*\}", "…", message.summary)
    assert text == "…" or any(pattern_of(listed).search(text) for listed in (*QUOTED, *OTHERS))


@pytest.mark.parametrize(("message", "cause", "fix"), ROWS)
def test_a_message_of_iptables_has_the_cause_that_the_code_tells(message, cause, fix):
    known = diagnose(message)
    assert known is not None
    assert (known.cause, known.fix) == (cause, fix)


def test_every_message_of_iptables_that_the_code_knows_is_listed():
    assert {f"{cause}; {fix}" for _, cause, fix in ROWS} == {f"{known.cause}; {known.fix}" for known in KNOWN}
