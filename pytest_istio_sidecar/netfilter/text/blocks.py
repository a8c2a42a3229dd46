"""Where in a text there are listings, and of which kind.

Knows how the lines of each form begin, what ends a form that has no end of its own, and the lines of a log,
a shell or a page that say of which command the next listing is. Does not know what a rule says. Invariant:
a line that may be part of a listing belongs to one, or the text is refused; so is a text that somebody cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.model import Backend, Family
from pytest_istio_sidecar.netfilter.text import line_kinds as kinds
from pytest_istio_sidecar.netfilter.text.commands import COMMAND, FAILURE, is_change
from pytest_istio_sidecar.netfilter.text.logs import Line
from pytest_istio_sidecar.netfilter.text.parse_save import OWN
from pytest_istio_sidecar.netfilter.text.tokens import LINE


class Form(StrEnum):
    """A kind of listing, as messages name it."""

    SAVE = "iptables-save"
    RESTORE = "input of iptables-restore"
    S = "iptables -S"
    L = "iptables -L"
    COMMANDS = "commands of iptables"
    NATIVE = "nft list ruleset"


@dataclass(slots=True, kw_only=True)
class Block:
    """One listing.

    Attributes:
        family, backend: which the text around it says it is of; None: it says nothing.
        after: whether a program's log says that it is of a later moment than the ones above.
        of_part: whether the command above it asks nft for some of its tables only.
    """

    form: Form
    lines: list[Line] = field(default_factory=list)
    family: Family | None = None
    backend: Backend | None = None
    after: bool = False
    of_part: bool = False
    failures: list[int] = field(default_factory=list)
    """Lines at which iptables says that the command above failed."""

    @property
    def begin(self) -> int:
        return next((number for number, line in self.lines if line.strip()[:1] not in ("", "#")), 1)


@dataclass(slots=True)
class Contents:
    """What a text holds.

    Attributes:
        blocks: its listings, in their order.
        left_out: the lines that are no part of one.
        prompts: those of them at which somebody typed a command.
        log: whether programs logged something there.
    """

    blocks: list[Block] = field(default_factory=list)
    left_out: list[Line] = field(default_factory=list)
    prompts: list[Line] = field(default_factory=list)
    log: bool = False


_LISTINGS = 200
"""Listings in one text at most; of two families, back ends and five tables, before and after."""


def find_blocks(lines: list[Line], logged: frozenset[int], contents: Contents) -> None:
    """Find every listing.

    Args:
        logged: numbers of the lines at which a program's message begins, where a logger says so.
        contents: is filled, also where the text is refused in the end.

    Raises:
        ParseError: lines were left out of a listing, or one may be part of a listing and belongs to none.
    """
    _Finder(lines, logged, contents).find()


class _Finder:
    """One text being looked through."""

    def __init__(self, lines: list[Line], logged: frozenset[int], contents: Contents) -> None:
        self.lines = lines
        self.logged = logged
        self.contents = contents
        contents.log = bool(logged)
        self.open: Block | None = None
        self.in_table = False
        self.blank = False
        self.family: Family | None = None
        self.backend: Backend | None = None
        self.loads = False
        self.after = False
        self.of_part = False
        self.comments: list[Line] = []
        self.tables: set[str] = set()
        self.holes: list[Line] = []
        self.filtered: Line | None = None
        self.quotes = False

    def find(self) -> None:
        index = 0
        while index < len(self.lines):
            index = self._take(index)
        if not self.contents.blocks and any(line.startswith(OWN) for _, line in self.comments):
            # What was written of a back end without a table.
            self._begin(Form.SAVE).lines += self.comments
            self.comments = []
        if self.comments and self.contents.blocks:
            self.contents.blocks[-1].lines += [each for each in self.comments if kinds.is_warning(each[1])]
        self._refuse_what_was_cut()

    def _take(self, index: int) -> int:
        """Take a line, or a native listing that begins with it; the index behind it."""
        number, line = self.lines[index]
        text = line.strip()
        blank, self.blank = self.blank, not text
        if self.quotes or (self.in_table and kinds.goes_on(text)):
            self._add(number, line)
        elif not text:
            pass
        elif kinds.NATIVE.fullmatch(text) or kinds.NATIVE_JSON.match(line) or self._json_begins(index):
            return self._take_native(index)
        elif len(line) > LINE:
            if text[0] in "-[*:":
                raise self._error(messages.LINE_TOO_LONG(length=len(line), program="iptables"), number, line)
            self._leave(number, line)
        elif self._is_of_list(number, text, blank):
            self._add(number, line)
        else:
            self._take_beginning(number, line, text)
        return index + 1

    def _take_beginning(self, number: int, line: str, text: str) -> None:
        """Take a line that begins a listing, or is of none."""
        command = kinds.RUNNING.sub("", text)
        if kinds.TABLE.fullmatch(text):
            self._begin_table(number, text)
        elif kinds.HEADER.fullmatch(text):
            self._add_to(Form.L, number, text)
        elif is_change(command) or (self._open_is(Form.COMMANDS) and COMMAND.fullmatch(command)):
            self._add_to(Form.COMMANDS, number, command)
        elif kinds.RULE_LINE.fullmatch(text) or kinds.CHAIN_LINE.fullmatch(text):
            self._add_to(Form.S, number, text)
        elif kinds.COMMENT.match(text):
            late = self.open is not None and (kinds.is_warning(text) or text.startswith("# Completed"))
            (self.open.lines if self.open and late else self.comments).append((number, text))
        else:
            self._take_other(number, line, text)

    def _open_is(self, form: Form) -> bool:
        return self.open is not None and self.open.form is form

    def _is_of_list(self, number: int, text: str, blank: bool) -> bool:
        """Whether a line is one of the listing of -L that is open, which has no end of its own."""
        if not self._open_is(Form.L):
            return False
        if kinds.HEADER.fullmatch(text) or kinds.COLUMNS.fullmatch(text) or kinds.is_warning(text):
            return True
        other = kinds.FENCE.fullmatch(text) or kinds.PROMPT.fullmatch(text) or kinds.RULE_LINE.fullmatch(text)
        other = other or kinds.COMMENT.match(text) or kinds.LOGGED.match(text) or kinds.TABLE.fullmatch(text)
        if (
            other
            or is_change(text)
            or kinds.is_hole(text)
            or number in self.logged
            or (blank and not kinds.is_row(text))
        ):
            self._close()
            return False
        return True

    def _begin(self, form: Form) -> Block:
        self._close()
        block = Block(form=form, family=self.family, backend=self.backend, after=self.after)
        self.contents.blocks.append(block)
        if len(self.contents.blocks) > _LISTINGS:
            raise ParseError(messages.TOO_MANY_LISTINGS(limit=_LISTINGS))
        self.open, self.after, self.tables = block, False, set()
        return block

    def _add_to(self, form: Form, number: int, line: str) -> None:
        """Add a line to the open listing of a form, or begin one with it."""
        if not self._open_is(form):
            self._begin(form).lines += self.comments
            self.comments = []
        self._add(number, line)

    def _add(self, number: int, line: str) -> None:
        if self.open is None:
            return
        raw = self.quotes or self.open.form is Form.L
        self.open.lines.append((number, line if raw else line.strip()))
        if '"' in line and self.open.form in (Form.SAVE, Form.RESTORE, Form.S):
            self.quotes ^= len(kinds.QUOTE.findall(line)) % 2 == 1
        if not self.quotes and line.strip() == "COMMIT":
            self.in_table = False

    def _begin_table(self, number: int, text: str) -> None:
        name = text[1:].strip()
        banner = kinds.writer(self.comments)
        block = self.open
        if (
            block is None
            or block.form not in (Form.SAVE, Form.RESTORE)
            or name in self.tables
            or (banner and banner != kinds.writer(block.lines))
        ):
            block = self._begin(Form.RESTORE if self.loads and not banner else Form.SAVE)
        block.lines += self.comments
        self.comments = []
        self.tables.add(name)
        self.in_table = True
        block.lines.append((number, f"*{name}"))

    def _take_other(self, number: int, line: str, text: str) -> None:
        hole = number not in self.logged and kinds.is_hole(text)
        prompt = kinds.PROMPT.fullmatch(text)
        if self.in_table:
            if not (hole or prompt or text == "--" or kinds.FENCE.fullmatch(text) or number in self.logged):
                raise self._error(messages.NO_LINE_OF_TABLE(), number, line)
            self._close()
        last = self.contents.blocks[-1] if self.contents.blocks else None
        if hole or (text == "--" and self.open is not None):
            self.holes.append((number, line))
        elif (
            kinds.is_row(text)
            or text == "COMMIT"
            or kinds.COLUMNS.fullmatch(text)
            or (
                kinds.TARGET.search(text)
                and not prompt
                and not COMMAND.fullmatch(kinds.RUNNING.sub("", text))
            )
        ):
            raise self._error(messages.BELONGS_TO_NONE(), number, line)
        elif last is not None and self._failed(last, text):
            last.failures.append(number)
        elif kinds.FENCE.fullmatch(text):
            self._close()
        elif kinds.LOGGED.match(text):
            self._heed(text, after=True, loads=bool(kinds.LOADS.search(text)))
            self.contents.log |= kinds.TYPED.fullmatch(text) is None
        elif prompt:
            self.contents.prompts.append((number, line))
            self._heed(prompt["command"] or "", after=False, loads=False)
            if kinds.FILTERED.search(text) and re.search(r"tables|nft", text):
                self.filtered = number, line
        elif len(text) <= kinds.SHORT and "tables" in text and (heading := kinds.HEADING.fullmatch(text)):
            self._heed(heading["command"], after=False, loads=False)
        self._leave(number, line)

    def _failed(self, block: Block, text: str) -> bool:
        """Whether a line says that the last command of a listing did nothing."""
        if block.form is Form.COMMANDS:
            return FAILURE.match(text) is not None
        own = ("ip6tables" in text) is (block.family == 6)
        said = FAILURE.match(text) is not None and "restore" in text and own
        return block.form is Form.RESTORE and (
            said or (self.loads and kinds.LOG_FAILURE.match(text) is not None)
        )

    def _heed(self, command: str, *, after: bool, loads: bool) -> None:
        """A line that says what the next listing is of."""
        if not self._open_is(Form.COMMANDS):
            self._close()
        if program := kinds.PROGRAM.search(command):
            self.family = 6 if "IPv6" in command or program["six"] else 4
            self.backend = {"legacy": Backend.LEGACY, "nft": Backend.NF_TABLES}.get(program["variant"] or "")
        self.of_part = kinds.NFT_OF_PART.search(command) is not None
        if not command.lower().startswith("command output"):
            self.loads = loads
        self.after = after

    def _leave(self, number: int, line: str) -> None:
        if self._open_is(Form.S):
            self._close()
        self.contents.left_out.append((number, line))

    def _close(self) -> None:
        self.open = None
        self.in_table = self.quotes = False

    def _json_begins(self, index: int) -> bool:
        """Whether JSON of nft that is printed on several lines begins here."""
        following = self.lines[index + 1 : index + 2]
        return (
            self.lines[index][1].strip() == "{"
            and bool(following)
            and '"nftables"' in following[0][1][: kinds.SHORT]
        )

    def _take_native(self, index: int) -> int:
        """Take the lines until all braces are closed."""
        block = self.open
        if block is None or block.form is not Form.NATIVE:
            block = self._begin(Form.NATIVE)
            block.of_part = self.of_part
        begin = self.lines[index]
        depth = 0
        while index < len(self.lines):
            number, line = self.lines[index]
            block.lines.append((number, line))
            index += 1
            bare = kinds.STRING.sub("", line)
            depth += bare.count("{") - bare.count("}")
            if depth <= 0:
                return index
        raise self._error(messages.NATIVE_CUT_OFF(), *begin)

    def _refuse_what_was_cut(self) -> None:
        if self.filtered is not None and self.contents.blocks:
            raise self._error(messages.FILTERED(), *self.filtered)
        if self.holes and self.contents.blocks:
            raise self._error(messages.SOMEBODY_CUT(), *self.holes[0])

    def _error(self, failure: Failure, number: int, line: str) -> ParseError:
        if self.holes:
            failure = messages.SOMEBODY_CUT()
            number, line = self.holes[0]
        return ParseError(failure, line=number, text=line)
