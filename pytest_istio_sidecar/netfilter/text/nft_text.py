"""The text that nft prints, to the objects of its JSON.

Knows tables with what stands in them, priorities by name, and where lines end. Does not know rules
(`nft_text_rules`) nor what objects mean (`nft_json`). Invariant: a text that is not whole raises
`ParseError`, and nothing else is ever raised.

Source: nft(8); src/rule.c of nftables for what is printed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pytest_istio_sidecar.errors import ParseError
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.diagram.memory import no_collection
from pytest_istio_sidecar.netfilter.model import TABLES, PodRules
from pytest_istio_sidecar.netfilter.text.nft_json import LINE, parse_json, rules_of
from pytest_istio_sidecar.netfilter.text.nft_render import HEADER
from pytest_istio_sidecar.netfilter.text.nft_statements import NOT_PRINTED
from pytest_istio_sidecar.netfilter.text.nft_text_expressions import elements
from pytest_istio_sidecar.netfilter.text.nft_text_rules import statements
from pytest_istio_sidecar.netfilter.text.nft_tokens import (
    HANDLE,
    LINE_END,
    NoToken,
    NotUnderstood,
    Token,
    Words,
    text_of,
    tokens_of,
)
from pytest_istio_sidecar.netfilter.text.parse_save import LIMIT

Json = Any
_PRIORITIES: Mapping[str, int] = {
    "raw": -300,
    "mangle": -150,
    "dstnat": -100,
    "filter": 0,
    "security": 50,
    "srcnat": 100,
}
"""Names that nft gives to priorities, of every family but bridge (nft(8), "Chains")."""
_FAMILIES = ("ip", "ip6", "inet", "arp", "bridge", "netdev")
_SETS = ("set", "map", "meter")
_OBJECTS = ("counter", "quota", "limit", "synproxy", "secmark", "flowtable", "tunnel")
_OF_CONNECTIONS = ("helper", "timeout", "expectation")


@no_collection()
def parse_nftables(text: str, *, source: str | None = None) -> PodRules:
    """Parse what `nft -j list ruleset` prints, or `nft list ruleset` with or without `-a -n -s`.

    nft 0.9 to 1.1. Of each family of packets there is a ruleset, with the tables that its packets meet: those
    of nft's family inet are in both.

    Args:
        text: the whole standard output.
        source: names the text in messages and in `Rule.location`.

    Raises:
        ParseError: the text is no such listing, or not a whole one; the empty text too.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > LIMIT:
        raise ParseError(messages.TEXT_TOO_LONG(length=len(text), limit=LIMIT), source=source)
    if not text.strip():
        raise ParseError(messages.NFT_EMPTY(), source=source)
    if text.lstrip().startswith(("{", "[")):
        return parse_json(text, source)
    return rules_of(_Text(text, source).objects(), source)


def _may_hide_a_target(place: Mapping[str, str], expressions: Sequence[Mapping[str, Json]]) -> bool:
    """Whether a rule may have a target of iptables' that nft leaves out.

    nft 1.0.6 prints nothing for REDIRECT, DNAT or TPROXY of a family once it has printed one of the other:
    the line ends with the blank before it (seen on Linux 6.18).
    """
    by_iptables = place["family"] in ("ip", "ip6") and place["table"] in TABLES
    return by_iptables and all(each.keys() <= {"match", "counter"} for each in expressions)


class _Text:
    """One text being read; holds where it is, for the errors."""

    def __init__(self, text: str, source: str | None) -> None:
        self.text = text
        self.source = source
        self.lines = text.split("\n")
        self.is_own = HEADER in self.lines
        self.made: list[Json] = []
        try:
            self.words = Words(tokens_of(text))
        except NoToken as problem:
            self.refuse(messages.NFT_WORD(problem="a quote is not closed"), problem.line)

    def refuse(self, failure: Failure, line: int) -> NoReturn:
        shown = self.lines[line - 1].strip() if 0 < line <= len(self.lines) else ""
        raise ParseError(failure, source=self.source, line=line, text=shown) from None

    def objects(self) -> list[Json]:
        try:
            while True:
                self.words.skip_ends()
                if not self.words.left:
                    break
                self._table()
        except NotUnderstood as problem:
            self.refuse(messages.NFT_WORD(problem=str(problem)), self.words.line)
        except RecursionError:
            self.refuse(messages.NFT_WORD(problem="it is nested too deep"), self.words.line)
        if not self.made and self.is_own:
            return [{"metainfo": {}}]
        if not self.made:
            raise ParseError(messages.NFT_EMPTY(), source=self.source)
        return self.made

    def _add(self, kind: str, value: Mapping[str, Json], line: int) -> None:
        self.made.append({kind: value, LINE: line})

    def _table(self) -> None:
        words = self.words
        if words.next != "table":
            raise NotUnderstood("a table should begin here")
        line = words.line
        words.take()
        family = words.word() if words.next in _FAMILIES and words.after_next != "{" else "ip"
        table: dict[str, Json] = {"family": family, "name": words.word()}
        self._add("table", table, line)
        words.expect("{")
        # Rules stand in chains that may call chains further down: those are declared first, as in JSON.
        rules: list[Json] = []
        place = {"family": family, "table": table["name"]}
        while True:
            words.skip_ends()
            if words.takes("}"):
                break
            if words.takes(";"):
                continue
            word = words.next
            if word == "chain":
                rules += self._chain(place)
            elif word in _SETS:
                self._set(place)
            elif word in _OBJECTS or (word == "ct" and words.after_next in _OF_CONNECTIONS):
                self._object(place)
            elif word == "flags":
                words.take()
                table["flags"] = self._rest()
            elif word == "comment":
                self._rest()
            else:
                raise NotUnderstood(f"{word!r} stands in no table")
        self.made += rules

    def _rest(self) -> list[str]:
        """The words up to the end of the line."""
        return [token.text for token in self._line() if token.text != ","]

    def _line(self) -> Sequence[Token]:
        """The tokens up to the end of the line, or a semicolon, outside of braces."""
        words = self.words
        start, depth = words.place, 0
        while True:
            if not words.left:
                raise NotUnderstood("the text breaks off here")
            token = words.tokens[words.place]
            if depth == 0 and (
                token.kind in (LINE_END, HANDLE) or token[:2] in (("word", ";"), ("word", "}"))
            ):
                return words.tokens[start : words.place]
            if token.kind == "word":
                depth += (token.text == "{") - (token.text == "}")
            words.place += 1

    def _handle(self) -> dict[str, int]:
        """The handle that stands here, if one does."""
        words = self.words
        if words.left and words.tokens[words.place].kind == HANDLE:
            return {"handle": int(words.take().text)}
        return {}

    def _ends_openly(self, line: int) -> bool:
        """Whether something may be left out at a rule's end: a blank stands there, or all were taken off."""
        if self.is_own:
            return False
        if "\n\t" not in self.text:
            return True  # pasted: nft indents by tabs
        return re.sub(r" # handle \d+$", "", self.lines[line - 1]).endswith(" ")

    def _chain(self, place: Mapping[str, str]) -> list[Json]:
        words = self.words
        line = words.line
        words.expect("chain")
        chain: dict[str, Json] = {**place, "name": words.word()}
        words.expect("{")
        chain |= self._handle()
        self._add("chain", chain, line)
        rules: list[Json] = []
        while True:
            words.skip_ends()
            if words.takes("}"):
                return rules
            if words.takes(";"):
                continue
            word, after = words.next, words.after_next
            if word == "type" and after in ("filter", "nat", "route"):
                self._hook(chain)
            elif word == "policy":
                words.take()
                chain["policy"] = words.word()
            elif word == "comment" and not rules:
                self._line()
            else:
                at = words.line
                expressions, comment = statements(self._line())
                if self._ends_openly(at) and _may_hide_a_target(place, expressions):
                    expressions.append({"xt": {"type": "target", "name": NOT_PRINTED}})
                rule = {**place, "chain": chain["name"], "expr": expressions, **self._handle()}
                rules.append({"rule": {**rule, "comment": comment} if comment else rule, LINE: at})

    def _hook(self, chain: dict[str, Json]) -> None:
        """`type nat hook output priority dstnat; policy accept;`."""
        words = self.words
        words.expect("type")
        chain["type"] = words.word()
        words.expect("hook")
        chain["hook"] = words.word()
        if words.takes("device"):
            chain["dev"] = words.word()
        elif words.takes("devices"):
            words.expect("=")
            chain["dev"] = elements(words)
        words.expect("priority")
        name = words.word()
        priority = _PRIORITIES.get(name)
        if priority is None:
            try:
                priority = int(name)
            except ValueError:
                raise NotUnderstood(f"{name!r} is no priority") from None
        if words.next in ("+", "-"):
            sign = -1 if words.word() == "-" else 1
            priority += sign * words.number()
        chain["prio"] = priority

    def _set(self, place: Mapping[str, str]) -> None:
        words = self.words
        line = words.line
        kind = words.word()
        own: dict[str, Json] = {**place, "name": words.word()}
        words.expect("{")
        own |= self._handle()
        while True:
            words.skip_ends()
            if words.takes("}"):
                break
            if words.takes(";"):
                continue
            word = words.word()
            if word == "elements":
                words.expect("=")
                own["elem"] = elements(words)
            elif word in ("type", "typeof"):
                keyed, _, mapped = text_of(self._line()).partition(" : ")
                own["type"] = keyed.split(" . ") if " . " in keyed else keyed
                if mapped:
                    own["map"] = mapped
                if word == "typeof":
                    own["typeof"] = True
            elif word == "flags":
                own["flags"] = self._rest()
            elif word in ("size", "timeout"):
                own[word] = text_of(self._line())
            elif word in ("gc-interval", "policy", "comment", "auto-merge"):
                self._line()
            else:
                # A statement that hangs at every element.
                self._line()
                if word not in ("counter", "last"):
                    own["stmt"] = [word]
        self._add(kind, own, line)

    def _object(self, place: Mapping[str, str]) -> None:
        words = self.words
        line = words.line
        kind = words.word()
        if kind == "ct":
            kind = f"ct {words.word()}"
        name = words.word()
        words.expect("{")
        start, depth = words.place, 1
        while depth:
            word = words.word()
            depth += (word == "{") - (word == "}")
        body = text_of([t for t in words.tokens[start : words.place - 1] if t.kind in ("word", "quoted")])
        self._add(kind, {**place, "name": name, "body": body}, line)
