"""What holds, of several listings and commands in one text.

Knows which forms follow each other in a log, and which listings may stand beside each other. Does not know
where in a text they stand. Invariant: of two states of one table the later one holds where a log tells which
that is; everywhere else they are refused.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from operator import lt

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.model import (
    ALL_BUILT_IN,
    Backend,
    BuiltIn,
    Family,
    PodRules,
    Rule,
    Ruleset,
    Table,
    joined,
)
from pytest_istio_sidecar.netfilter.targets import Goto, Jump
from pytest_istio_sidecar.netfilter.text.blocks import Block, Form
from pytest_istio_sidecar.netfilter.text.commands import COMMAND, Loaded
from pytest_istio_sidecar.netfilter.text.line_kinds import (
    has_banner,
    is_warning,
    tells_family,
    tells_of_legacy,
)
from pytest_istio_sidecar.netfilter.text.logs import Line
from pytest_istio_sidecar.netfilter.text.nft_join import beside
from pytest_istio_sidecar.netfilter.text.nft_text import parse_nftables
from pytest_istio_sidecar.netfilter.text.parse_list import parse_iptables_list
from pytest_istio_sidecar.netfilter.text.parse_save import INCOMPATIBLE, parse_iptables_save

LOADED = "as loaded at start, not as now: what others loaded before or since is not in the text"
"""A note on a log, and on commands."""
_REFERENCES = re.compile(r"Chain (\S.*) \((\d{1,10}) references\)\s*")
_SIX = re.compile(
    r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f:.]*/\d{1,3}\b|::/0|ipv6-icmp|icmp6-|icmpv6"
    r"|\b(?:tcp|udp|all|sctp) {5,}(?!--|-f|!f)\S"
)
_FOUR = re.compile(r"(?<![\w.:])\d{1,3}(?:\.\d{1,3}){3}\b|(?:reject-with|reject-with:) icmp-")


@dataclass(slots=True)
class _Listed:
    """A listing that was read, and where it begins; the number of those taken before it."""

    ruleset: Ruleset
    begin: int
    block: Block | None = None
    order: int = 0


@dataclass(slots=True)
class State:
    """What holds, as the listings of a text are taken one after the other."""

    family: Family | None
    source: str | None
    log: bool
    one_pod: bool
    notes: list[str] = field(default_factory=list)
    beside_nft: bool = False
    """Whether the text has what nft lists of all that nf_tables has."""
    native_read: bool = False
    """Whether nft listed all that nf_tables has."""
    _failed: bool = False
    _taken: int = 0
    _natives: dict[Family, list[_Listed]] = field(default_factory=dict)
    _listed: dict[tuple[Family, Backend | None], list[_Listed]] = field(default_factory=dict)
    _loaded: dict[Family, Loaded] = field(default_factory=dict)
    _first: dict[Family, int] = field(default_factory=dict)

    def take(self, block: Block) -> None:
        """Take the next listing."""
        if block.form is Form.SAVE and _is_input(block):
            block.form = Form.RESTORE
        match block.form:
            case Form.NATIVE:
                self._list_natively(block)
            case Form.COMMANDS:
                self._follow(block)
            case Form.RESTORE:
                self._restore(block)
            case _:
                self._list(block)

    def rulesets(self, backend: Backend | None) -> tuple[Ruleset, ...]:
        """What holds at the end."""
        loaded = {family: commands for family, commands in self._loaded.items() if commands}
        for family, commands in loaded.items():
            self._hold_loaded(family, commands)
        if loaded or self.log:
            self.notes.insert(0, LOADED)
        for family in (4, 6):
            # What does not say its back end is of the one that the others are of.
            known = [key for key in self._listed if key[0] == family and key[1] is not None]
            if len(known) == 1 and (family, None) in self._listed:
                both = [*self._listed.pop((family, None)), *self._listed.pop(known[0])]
                for each in sorted(both, key=lambda listed: listed.order):
                    each.ruleset = replace(each.ruleset, backend=known[0][1])
                    self._hold(each)
        whole = []
        for (_, said), listed in self._listed.items():
            ruleset = joined([each.ruleset for each in listed])
            ruleset = replace(ruleset, parts=()) if ruleset.parts else ruleset
            whole.append(replace(ruleset, backend=said or backend))
        if not whole and not self._natives:
            raise ParseError(messages.RESTORE_FAILED() if self._failed else messages.NOTHING_BEGINS())
        if not self._natives:
            return tuple(whole)
        natives = tuple(joined([each.ruleset for each in listed]) for listed in self._natives.values())
        pod = beside(PodRules(rulesets=natives), whole)
        self.notes = list(dict.fromkeys((*self.notes, *pod.notes)))
        return pod.rulesets

    def _family_of(self, block: Block) -> Family:
        return self.family or block.family or _family_told(block.lines) or 4

    def _list(self, block: Block) -> None:
        # What a banner says is the parser's to read.
        family = 4 if self.family is None and tells_family(block.lines) else self._family_of(block)
        if self.beside_nft:
            # What iptables-nft cannot show is in nft's listing.
            block.lines = [each for each in block.lines if not re.search(INCOMPATIBLE, each[1])]
        if block.form is Form.S:
            _refuse_picked(block)
        if block.form is Form.L:
            ruleset = _parsed(block.lines, family, self.source, of_list=True)
            _refuse_missing_rules(block, ruleset.tables[0])
        else:
            ruleset = _parsed(block.lines, family, self.source)
        if ruleset.backend is None and block.backend is not None:
            ruleset = replace(ruleset, backend=block.backend)
        before = self._loaded.pop(ruleset.family, None)
        if before:
            self.notes.append(
                f"the listing at line {block.begin} shows what the commands before it left: it is what counts"
            )
        self._hold(_Listed(ruleset, block.begin, block))

    def _list_natively(self, block: Block) -> None:
        pod = _parsed_natively(block, self.source)
        self.native_read = self.native_read or not block.of_part
        self.notes += pod.notes
        for ruleset in pod.rulesets:
            listed = self._natives.setdefault(ruleset.family, [])
            self._hold(_Listed(ruleset, block.begin, block), listed)

    def _hold(self, new: _Listed, listed: list[_Listed] | None = None) -> None:
        self._taken += 1
        new.order = new.order or self._taken
        if listed is None:
            listed = self._listed.setdefault((new.ruleset.family, new.ruleset.backend), [])
        kept: list[_Listed] = []
        for old in listed:
            shared = [table for table in new.ruleset.tables if table.name in old.ruleset]
            differing = [table for table in shared if table != old.ruleset.table(table.name)]
            later = self.log and self.one_pod and (new.block is None or new.block.after)
            if differing and not later:
                raise ParseError(
                    messages.TWO_STATES(
                        table=differing[0].name, family=new.ruleset.family, first=old.begin, second=new.begin
                    ),
                    line=new.begin,
                )
            if shared:
                self.notes.append(
                    f"the listing at line {new.begin} is of a later moment than the one at line {old.begin}"
                    if differing
                    else f"the tables at line {old.begin} stand at line {new.begin} again, the same"
                )
                names = {table.name for table in shared}
                rest = tuple(table for table in old.ruleset.tables if table.name not in names)
                old.ruleset = replace(old.ruleset, tables=rest)
                if not rest:
                    # What it showed was read all the same.
                    new.ruleset = replace(new.ruleset, unread=new.ruleset.unread & old.ruleset.unread)
                    continue
            kept.append(old)
        listed[:] = [*kept, new]

    def _loading(self, family: Family, begin: int) -> Loaded:
        loaded = self._loaded.get(family)
        if loaded is None:
            loaded = self._loaded[family] = Loaded(family)
            self._first[family] = begin
            before = [each for key, listed in self._listed.items() if key[0] == family for each in listed]
            # Commands go on from a whole state only: -S and -L show a part.
            whole = all(each.block is not None and each.block.form is Form.SAVE for each in before)
            if before and not (self.log and self.one_pod and whole):
                raise ParseError(
                    messages.LOADED_AFTER(family=family, first=before[0].begin, second=begin), line=begin
                )
            for each in before:
                if each.block is not None:
                    loaded.restore(each.block.lines)
            if before:
                for key in [key for key in self._listed if key[0] == family]:
                    del self._listed[key]
        return loaded

    def _follow(self, block: Block) -> None:
        failures = sorted(block.failures)
        last: Loaded | None = None
        for number, line in block.lines:
            while failures and failures[0] <= number:
                failures.pop(0)
                if last is not None:
                    last.fail()
            shown = COMMAND.fullmatch(line)
            if shown is not None:
                last = self._loading(6 if shown["program"] == "ip6tables" else 4, number)
                last.take(number, line)
        if failures and last is not None:
            last.fail()

    def _restore(self, block: Block) -> None:
        family = self._family_of(block)
        if block.failures:
            self.notes.append(
                f"iptables-restore failed with the input at line {block.begin}: it was not loaded"
            )
            self._failed = True
            return
        _refuse_unfinished(block)
        self._loading(family, block.begin).restore(block.lines)

    def _hold_loaded(self, family: Family, loaded: Loaded) -> None:
        self.notes += loaded.notes
        ruleset = _parsed(loaded.listing(), family, self.source)
        self._hold(_Listed(replace(ruleset, backend=loaded.backend), self._first[family]))


def _parsed_natively(block: Block, source: str | None) -> PodRules:
    """What nft's parser makes of a listing; where it is of a part, what it does not show is unread."""
    shown = [each for each in block.lines if not is_warning(each[1])]
    numbers, lines = _padded(shown, begin=1)
    try:
        pod = parse_nftables("\n".join(lines), source=source)
    except ParseError as problem:
        problem.line = numbers[problem.line - 1] if problem.line else block.begin
        raise
    beside_legacy = tells_of_legacy(block.lines)
    rulesets = tuple(
        replace(
            ruleset, beside_legacy=beside_legacy, unread=_unshown(ruleset) if block.of_part else frozenset()
        )
        for ruleset in pod.rulesets
    )
    return replace(pod, rulesets=rulesets)


def _unshown(ruleset: Ruleset) -> frozenset[BuiltIn]:
    """The built-in chains of iptables that a listing of some of nf_tables' tables does not show."""
    return ALL_BUILT_IN - {
        (table.name, chain.name)
        for table in ruleset.tables
        for chain in table.chains
        if chain.registered is not None
    }


def _refuse_picked(block: Block) -> None:
    """Refuse rules whose chain's own line is missing, which every listing has."""
    declared: set[str] = set()
    for number, line in block.lines:
        words = (line.partition("]")[2] if line.startswith("[") else line).split(maxsplit=2)
        if len(words) < len(("-N", "CHAIN")):
            continue  # blank, or within quotes
        if line.startswith(":"):
            declared.add(words[0][1:])
        elif words[0] in ("-N", "-P", "--new-chain", "--policy"):
            declared.add(words[1])
        elif words[0] in ("-A", "--append") and words[1] not in declared:
            raise ParseError(messages.TRIMMED(chain=words[1]), line=number, text=line)


def _refuse_unfinished(block: Block) -> None:
    """Refuse a table for iptables-restore without its COMMIT: the text is cut off, or nothing was loaded."""
    unfinished: Line | None = None
    for number, line in block.lines:
        if line == "COMMIT":
            unfinished = None
        elif line.startswith("*"):
            if unfinished is not None:
                break
            unfinished = number, line
    if unfinished is not None:
        number, line = unfinished
        raise ParseError(messages.CUT_OFF(table=line[1:]), line=number, text=line)


def _refuse_missing_rules(block: Block, table: Table) -> None:
    """Refuse a listing of -L that tells of more jumps to a chain than it shows."""
    headers = [
        (number, line, shown) for number, line in block.lines if (shown := _REFERENCES.fullmatch(line))
    ]
    if len(table.chains) == 1:
        return  # of a chain listed alone the others' rules are not shown
    seen = Counter(rule.target.chain for rule in table.rules() if isinstance(rule.target, Jump | Goto))
    for number, line, shown in headers:
        if seen[shown[1]] < int(shown[2]):
            raise ParseError(
                messages.REFERENCES(chain=shown[1], said=shown[2], seen=seen[shown[1]]),
                line=number,
                text=line,
            )


def _is_input(block: Block) -> bool:
    """Whether tables are input of iptables-restore: it makes chains by -N, or names none before its rules."""
    if has_banner(block.lines):
        return False
    firsts = {line[:1] for _, line in block.lines}
    return any(line.startswith("-N ") for _, line in block.lines) or ("-" in firsts and ":" not in firsts)


def _family_told(lines: list[Line]) -> Family | None:
    """The family of the addresses in a listing; None where it has none, or both."""
    six = any(_SIX.search(line) for _, line in lines if ":" in line or "      " in line or "ipv6" in line)
    return 6 if six and not any(_FOUR.search(line) for _, line in lines) else None


def _parsed(lines: list[Line], family: Family, source: str | None, *, of_list: bool = False) -> Ruleset:
    """What one form's own parser makes of lines, placed where they stand in the text."""
    numbers, padded = _padded(lines, begin=lines[0][0])
    parse = parse_iptables_list if of_list else parse_iptables_save
    try:
        ruleset = parse("\n".join(padded), family=family, source=source)
    except ParseError as problem:
        problem.line = numbers[problem.line - 1] if problem.line else 0
        raise
    if numbers == list(range(1, len(numbers) + 1)):
        return ruleset
    where = source or "<text>"

    def placed(_: str, rule: Rule) -> Rule:
        return replace(rule, location=f"{where}:{numbers[int(rule.location.rpartition(':')[2]) - 1]}")

    return ruleset.map_rules(placed)


def _padded(lines: list[Line], *, begin: int) -> tuple[list[int], list[str]]:
    """The number of each line, and the lines: where numbers rise, with blank ones for what is missing."""
    numbers = [number for number, _ in lines]
    if not all(map(lt, numbers, numbers[1:])):
        return numbers, [line for _, line in lines]
    padded: list[str] = []
    for number, line in lines:
        padded += [""] * (number - begin - len(padded))
        padded.append(line)
    return list(range(begin, begin + len(padded))), padded
