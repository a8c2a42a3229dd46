"""The code blocks of the documentation, and what the comments above them say about running them.

Knows Markdown (markdown-it-py) and the directives. Does not run anything. Invariant: a block has a
language and is of one kind; what cannot be classified is refused.

A directive is an HTML comment right above a block, `<!-- key: value -->`; `_KEYS` has the keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

CHECKOUT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("docs/**/*.md")))

REASONS = frozenset(
    {
        "a cluster of yours",
        "a package registry",
        "an image registry",
        "a test run inside a test",
        "GitHub Actions",
    }
)
"""What a block may need that a test cannot give it."""

_KEYS = {
    "not run": "why the block is not run: one of `REASONS`",
    "file": "the name under which the blocks below it in its section find it",
    "run with": "pytest's arguments for a block of tests",
    "exit status": "of its last command; 0 unless said",
    "drawn by": "the command that makes the picture right below; held by test_pages",
    "needs": "embedded: skipped where this machine can have no embedded pod",
}
_DIRECTIVE = re.compile(r"<!--\s*([a-z ]+?)\s*:\s*(.*?)\s*-->", re.DOTALL)
_COMMANDS = ("sh", "console")
_DATA = ("text", "py", "yaml", "toml", "ini", "iptables", "json")


class Kind(StrEnum):
    """What is done with a block."""

    COMMANDS = "commands"
    SESSION = "session"
    """Commands, each with what it prints."""
    SCRIPT = "script"
    TESTS = "tests"
    DATA = "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block.

    Attributes:
        page: path in the checkout.
        line: 1-based, of the fence.
        section: number of the heading of level 1 or 2 that it is under.
        directives: by key.
    """

    page: str
    line: int
    section: int
    language: str
    text: str
    directives: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def not_run(self) -> str | None:
        return self.directives.get("not run")

    @property
    def file(self) -> str | None:
        return self.directives.get("file")

    @property
    def status(self) -> int:
        return int(self.directives.get("exit status", "0"))

    @property
    def kind(self) -> Kind:
        if self.language == "sh":
            return Kind.COMMANDS
        if self.language == "console":
            return Kind.SESSION
        if self.language != "python":
            return Kind.DATA
        holds_tests = re.search(r"^def test_|^@pytest\.fixture", self.text, re.MULTILINE)
        return Kind.TESTS if holds_tests else Kind.SCRIPT

    @property
    def runs(self) -> bool:
        """Whether it is run as it stands; a file is run by the blocks below it."""
        return self.kind is not Kind.DATA and self.not_run is None and self.file is None


@cache
def blocks_of(page: str) -> tuple[Block, ...]:
    """Every block of a page.

    Raises:
        ValueError: a block that says not what it is, or a directive that is none.
    """
    return tuple(_blocks(page, (CHECKOUT / page).read_text(encoding="utf-8")))


def every_block() -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page)]


def tokens_of(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def _blocks(page: str, text: str) -> Iterator[Block]:
    section = 0
    directives: dict[str, str] = {}
    for token in tokens_of(text):
        line = (token.map or [0])[0] + 1
        if token.type == "heading_open" and token.tag in ("h1", "h2"):
            section += 1
        if token.type == "html_block":
            directives |= _directives(f"{page}:{line}", token.content)
        elif token.type == "code_block":
            raise ValueError(f"{page}:{line}: a block without fences has no language")
        elif token.type == "fence":
            language = token.info.strip()
            if language not in ("python", *_COMMANDS, *_DATA):
                raise ValueError(f"{page}:{line}: unknown language {language!r}")
            yield Block(
                page=page, line=line, section=section, language=language, text=token.content,
                directives=directives,
            )  # fmt: skip
            directives = {}
        elif token.type.endswith("_open"):
            directives = {}


def _directives(place: str, comment: str) -> dict[str, str]:
    found = dict(_DIRECTIVE.findall(comment))
    unknown = found.keys() - _KEYS.keys()
    if unknown:
        raise ValueError(f"{place}: no directive is called {', '.join(unknown)}")
    if found.get("not run", next(iter(REASONS))) not in REASONS:
        raise ValueError(f"{place}: {found['not run']!r} is not among the reasons for not running a block")
    return found


def commands_of(block: Block) -> list[tuple[str, str | None]]:
    """The commands of a block, each with what it prints; None where the block does not say."""
    if block.kind is Kind.COMMANDS:
        joined = block.text.replace("\\\n", " ")
        return [(line, None) for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    commands: list[tuple[str, str | None]] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            commands.append((line.removeprefix("$ "), ""))
        elif not commands:
            raise ValueError(f"{block.place}: begins without a command")
        else:
            command, printed = commands[-1]
            commands[-1] = (command, f"{printed}{line}\n")
    return commands


def matches(printed: str, shown: str) -> bool:
    """Whether output is what a page shows; `...` alone stands for any lines, within a line for anything."""
    parts = [r"(?:.*\n)*?" if line == "..." else _line(line) for line in shown.rstrip().splitlines()]
    lines = "".join(f"{line.rstrip()}\n" for line in printed.rstrip().splitlines())
    return re.fullmatch("".join(parts), lines) is not None


def _line(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.rstrip().split("...")) + r"\n"
