"""Commands that load rules, one after the other, to what they leave behind.

Knows `iptables` with its options, as a shell traces it and as istio-init logs it, and what stands in a text
for `iptables-restore --noflush`. Does not know what a rule says. Invariant: what a command did that is known
to have failed is not done; built-in chains are there from the start, as in the kernel.

Sources: iptables(8), iptables-restore(8); istio/istio tools/deb/istio-iptables.sh of 1.1,
tools/istio-iptables of 1.3 and later.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.model import TABLES, Backend, Family
from pytest_istio_sidecar.netfilter.text.logs import Line
from pytest_istio_sidecar.netfilter.text.tokens import words as words_of

COMMAND = re.compile(
    r"(?:\++ )?(?:sudo )?(?:/\S*/)?(?P<program>ip6?tables)(?P<variant>-legacy|-nft)?(?= )(?P<words>.*)",
    re.DOTALL,
)
"""A line that is one command of iptables, as a shell traces it or a program logs it."""
FAILURE = re.compile(r"(?:/\S*/)?ip6?tables(?:-\w+)*(?: v[0-9.]+(?: \(\w+\))?)?: \S")
"""What iptables says where the command before did nothing."""

_CHANGING = {
    "-A": "-A", "--append": "-A", "-I": "-I", "--insert": "-I", "-D": "-D", "--delete": "-D",
    "-R": "-R", "--replace": "-R", "-N": "-N", "--new-chain": "-N", "--new": "-N",
    "-X": "-X", "--delete-chain": "-X", "-F": "-F", "--flush": "-F", "-P": "-P", "--policy": "-P",
}  # fmt: skip
_LIMIT = 20_000_000
"""Rules looked at to delete or insert others, at most; istio-init looks at some hundred."""
_SHELL_ENDS = re.compile(r"\|\|?|&&?|;|\d?>&?\d?\S*")
"""A word at which a command ends in a shell, or its output is sent elsewhere."""
_ASIDE = frozenset(("-v", "--verbose", "-n", "--numeric", "-w", "--wait", "-W", "--wait-interval"))


def is_change(line: str) -> bool:
    """Whether a line is a command that changes rules."""
    shown = COMMAND.fullmatch(line)
    return shown is not None and not _CHANGING.keys().isdisjoint(shown["words"].split())


@dataclass(slots=True)
class _Table:
    """Chains of one table; rules as written, with the number of their line."""

    chains: dict[str, list[Line]]
    policies: dict[str, str] = field(default_factory=dict)
    unmade: set[str] = field(default_factory=set)
    """Chains of rules that nothing made: the beginning is missing."""


class Loaded:
    """What commands have loaded so far, of one family."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.backend: Backend | None = None
        self.notes: list[str] = []
        self._tables: dict[str, _Table] = {}
        self._pending: tuple[int, str, list[str]] | None = None
        self._work = 0

    def take(self, number: int, line: str) -> None:
        """Take a command, which is done unless `fail` says next that it failed."""
        self.settle()
        shown = COMMAND.fullmatch(line)
        if shown is None:
            return
        if shown["variant"]:
            self.backend = Backend.LEGACY if shown["variant"] == "-legacy" else Backend.NF_TABLES
        try:
            # A shell's trace quotes what needs it; what a program logs has no quotes.
            words = shlex.split(shown["words"])
        except ValueError:
            words = shown["words"].split()
        table, words = _of_table(words)
        self._pending = number, table, words

    def fail(self) -> None:
        """The command before did nothing."""
        self._pending = None

    def settle(self) -> None:
        """Do what was taken last."""
        pending, self._pending = self._pending, None
        if pending is not None:
            number, table, words = pending
            self._do(number, table, words)

    def restore(self, lines: Iterable[Line]) -> None:
        """Take the lines of one text for `iptables-restore --noflush`, or of a listing of iptables-save."""
        self.settle()
        table = ""
        for number, line in lines:
            text = line.strip()
            if text.startswith("*"):
                table = text[1:].strip()
                self._table(table)
            elif text.startswith(":"):
                name, _, rest = text[1:].partition(" ")
                policy = rest.split(" ")[0]
                self._table(table).chains[name] = []
                if policy != "-":
                    self._table(table).policies[name] = policy
            elif text.startswith("["):
                self._do(number, table, _unquoted(text.partition("]")[2]))
            elif text.startswith("-"):
                self._do(number, table, _unquoted(text))

    def listing(self) -> list[Line]:
        """What is there now, as iptables-save lists it; lines that no command stands for have number 0."""
        self.settle()
        return list(self._listed())

    def __bool__(self) -> bool:
        self.settle()
        return bool(self._tables)

    def _listed(self) -> Iterator[Line]:
        for name, table in self._tables.items():
            yield 0, f"*{name}"
            for chain in (chain for chain in table.chains if chain not in table.unmade):
                yield 0, f":{chain} {table.policies.get(chain, '-')} [0:0]"
            for rules in table.chains.values():
                yield from rules
            yield 0, "COMMIT"

    def _table(self, name: str) -> _Table:
        table = self._tables.get(name)
        if table is None:
            builtin = TABLES.get(name, ())
            table = _Table({chain: [] for chain in builtin}, dict.fromkeys(builtin, "ACCEPT"))
            self._tables[name] = table
        return table

    def _do(self, number: int, table_name: str, words: list[str]) -> None:
        place = next((place for place, word in enumerate(words) if word in _CHANGING), None)
        if place is None:
            return
        command = _CHANGING[words[place]]
        chain, *rest = words[place + 1 :] or [""]
        rest = words[:place] + rest
        if command in ("-D", "-F", "-X", "-R") and table_name not in self._tables:
            return  # an earlier run's, taken away before
        table = self._table(table_name)
        rules = table.chains.get(chain, [])
        self._work += 0 if command == "-A" else len(rules) if chain else len(table.chains)
        if self._work > _LIMIT:
            raise ParseError(messages.TOO_MANY_COMMANDS(), line=number)
        numbered = bool(rest) and rest[0].isdecimal() and len(rest[0]) < len("0000000")
        match command:
            case "-N" if chain in table.chains:
                self.notes.append(f"line {number} makes chain {chain}, which is there already: that failed")
            case "-N":
                table.chains[chain] = []
            case "-A" | "-I":
                if chain not in table.chains:
                    table.unmade.add(chain)
                    rules = table.chains[chain] = []
                at = len(rules) if command == "-A" else int(rest.pop(0)) - 1 if numbered else 0
                rules.insert(max(at, 0), (number, _rule(chain, rest)))
            case "-R" if numbered and 0 < int(rest[0]) <= len(rules):
                rules[int(rest[0]) - 1] = number, _rule(chain, rest[1:])
            case "-D":
                index = int(rest[0]) - 1 if numbered else _place(rules, _rule(chain, rest))
                if 0 <= index < len(rules):
                    del rules[index]
            case "-F":
                for name in [chain] if chain else list(table.chains):
                    table.chains.get(name, []).clear()
            case "-X":
                for name in [chain] if chain else list(table.chains):
                    if name not in table.policies and not table.chains.get(name):
                        table.chains.pop(name, None)
            case "-P" if chain in table.policies and rest:
                table.policies[chain] = rest[0]


def _of_table(words: list[str]) -> tuple[str, list[str]]:
    """The table that a command is for, and its other words; those of the shell are left out."""
    table = "filter"
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if _SHELL_ENDS.fullmatch(word):
            break
        if word in ("-t", "--table"):
            table = next(rest, "")
        elif word.startswith("--table="):
            table = word.partition("=")[2]
        elif kept and kept[-1] in ("-w", "-W") and word.isdecimal():
            kept.pop()
        elif not word.startswith(("--wait=", "--wait-interval=")):
            kept.append(word)
    return table, [word for word in kept if word not in _ASIDE]


def _rule(chain: str, given: list[str]) -> str:
    """A rule as iptables-save writes it, of its words."""
    return " ".join(("-A", *map(_quoted, (chain, *given))))


def _quoted(word: str) -> str:
    if word and not re.search(r"[\s\"'\\]", word):
        return word
    escaped = re.sub(r'(["\\])', r"\\\1", word)
    return f'"{escaped}"'


def _unquoted(text: str) -> list[str]:
    try:
        return words_of(text)
    except ValueError:
        return text.split()


def _place(rules: list[Line], wanted: str) -> int:
    return next((index for index, (_, text) in enumerate(rules) if text == wanted), -1)
