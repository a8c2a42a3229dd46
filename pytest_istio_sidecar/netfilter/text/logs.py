r"""Lines out of what programs wrap them in: container runtimes, loggers, JSON.

Knows the wrappings: docker's JSON, the container runtime interface's lines, a logger's JSON, logfmt, the
console form of Istio's and Kubernetes' loggers. Does not know what stands in them. Invariant: every line
keeps the number of the line it came from; the time taken is linear in the text.

Sources: k8s.io/cri-api and kubernetes/pkg/kubelet/kuberuntime/logs (`TIME STREAM F|P TEXT`); docker's
json-file driver; istio.io/pkg/log (`TIME\tLEVEL\tSCOPE\tTEXT`, or JSON with `msg`); logrus, as Linkerd
uses it; k8s.io/klog (`I0612 20:59:22.598644 1 FILE:LINE] TEXT`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

Line = tuple[int, str]
"""The number of the line in the text, from 1, and what it says."""

_ROUNDS = 4
"""Wrappings within each other that are taken off: docker's JSON around a logger's, and room for more."""
_TEXTS = ("log", "msg", "message", "textPayload", "MESSAGE", "line", "body")
_JSON = re.compile(r'\s*\{\s*"')
_CRI = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP])(?:[\w:]*)? ?")
_LOGFMT = re.compile(r'(?:\w+=(?:"(?:[^"\\]|\\.)*"|[^\s"]*) )*?msg="((?:[^"\\]|\\.)*)"')
_LEVEL = re.compile(r"\s*(?:time|ts|level|lvl)=")
_ESCAPED = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r"}
_CONSOLE = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?[ \t]+"
    r"(?:trace|debug|info|warn|warning|error|fatal)(?:\t|[ ]+)(?:(?P<scope>[\w-]+)(?:\t| {2,}))?(?P<text>.*)",
    re.IGNORECASE | re.DOTALL,
)
_KLOG = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+:\d+\] ?")


class Unwrapped(NamedTuple):
    """What was taken out of wrappings.

    Attributes:
        lines: the lines, each with the number of the one it came from.
        of: the names of the wrappings, for people.
        logged: numbers of the lines at which a program's own message begins.
        scopes: who logged, as Istio's loggers name it: "cni".
    """

    lines: list[Line]
    of: tuple[str, ...]
    logged: frozenset[int]
    scopes: frozenset[str]


def unwrap(lines: list[Line]) -> Unwrapped:
    """Take off every wrapping that is known, one within another too."""
    of: dict[str, None] = {}
    logged: set[int] = set()
    scopes: set[str] = set()
    for _ in range(_ROUNDS):
        before = len(of), lines
        for name, take_off in _WRAPPINGS.items():
            taken = list(take_off(lines, logged, scopes))
            if taken != lines:
                of[name] = None
                lines = taken
        if before == (len(of), lines):
            break
    return Unwrapped(lines, tuple(of), frozenset(logged), frozenset(scopes))


def _from_json(lines: list[Line], logged: set[int], scopes: set[str]) -> Iterator[Line]:
    rest = ""
    at = 0
    for number, line in lines:
        inner = _text_of(line) if _JSON.match(line) else None
        if inner is None:
            if rest:
                yield at, rest
                rest = ""
            yield number, line
            continue
        key, text, scope = inner
        scopes |= {scope} if scope else set()
        if key == "log":
            # Docker's: a line that it cut has no line end, and goes on in the next.
            at = at if rest else number
            rest += text
            if not text.endswith("\n"):
                continue
            text, rest = rest, ""
            yield from ((at, part) for part in text.removesuffix("\n").split("\n"))
            continue
        logged.add(number)
        yield from ((number, part) for part in text.removesuffix("\n").split("\n"))
    if rest:
        yield at, rest


def _text_of(line: str) -> tuple[str, str, str] | None:
    """The key, the text and the scope of a logged object; None for JSON of another kind."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    for fields in (document, document.get("jsonPayload"), document.get("result")):
        if isinstance(fields, dict):
            for key in _TEXTS:
                if isinstance(fields.get(key), str):
                    return key, fields[key], str(fields.get("scope") or "")
    return None


def _from_cri(lines: list[Line], logged: set[int], scopes: set[str]) -> Iterator[Line]:  # noqa: ARG001
    parts: dict[str, tuple[int, str]] = {}
    for number, line in lines:
        shown = _CRI.match(line)
        if shown is None:
            yield number, line
            continue
        stream, tag = shown[1], shown[2]
        begin, text = parts.pop(stream, (number, ""))
        text += line[shown.end() :]
        if tag == "P":
            parts[stream] = begin, text
        else:
            yield begin, text
    yield from parts.values()


def _from_logfmt(lines: list[Line], logged: set[int], scopes: set[str]) -> Iterator[Line]:  # noqa: ARG001
    for number, line in lines:
        shown = _LOGFMT.match(line.strip()) if _LEVEL.match(line) else None
        if shown is None:
            yield number, line
            continue
        logged.add(number)
        text = _ESCAPED.sub(_unescaped, shown[1])
        yield from ((number, part) for part in text.removesuffix("\n").split("\n"))


def _unescaped(match: re.Match[str]) -> str:
    """What Go's %q writes so (strconv.Quote)."""
    word = match[1]
    if len(word) > 1:
        return chr(int(word[1:], 16))
    return _CONTROLS.get(word, word)


def _from_console(lines: list[Line], logged: set[int], scopes: set[str]) -> Iterator[Line]:
    for number, line in lines:
        shown = _CONSOLE.fullmatch(line) if line[:1].isdecimal() else None
        if shown is not None:
            logged.add(number)
            scopes |= {shown["scope"]} if shown["scope"] else set()
            yield number, shown["text"]
        elif klog := _KLOG.match(line):
            logged.add(number)
            yield number, line[klog.end() :]
        else:
            yield number, line


_WRAPPINGS: dict[str, Callable[[list[Line], set[int], set[str]], Iterator[Line]]] = {
    "JSON": _from_json,
    "the container runtime's time and stream": _from_cri,
    "logfmt": _from_logfmt,
    "the logger's time and level": _from_console,
}
