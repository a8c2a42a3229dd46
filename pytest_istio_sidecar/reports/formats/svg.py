"""A packet's way through a pod, drawn as SVG.

Knows how to draw: the hooks of the kernel that the packet passed, the chains in each, the deciding
rule marked, Envoy or the application at the end, what is let by beside it. Does not know how the
way was found. Invariant: a drawing stands on its own (no script, no font or style from elsewhere),
follows the reader's choice of light or dark, and cuts no rule short.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from pytest_istio_sidecar.failure import wrapped
from pytest_istio_sidecar.markup import Markup, join, tag
from pytest_istio_sidecar.reports.path import PathLine
from pytest_istio_sidecar.reports.way import Way

Beside = Sequence[tuple[str, Sequence[str]]]
"""Lists to show beside a way, each with its heading."""

_WIDTH = 760
_NARROW = 500
"""Width of a drawing with nothing beside the way: a telephone shows most of it unscrolled."""
_SIDE = 210
_ROW, _PAD, _GAP = 18, 8, 26
_LETTER = 7.4
"""Width of a letter at 12 px in the widest of the fonts below, in px."""

_STYLE = """
  .way { font: 12px "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1f2328 }
  .way text { white-space: pre }
  .way .name { font-weight: 700 }
  .way .quiet { fill: #59636e }
  .way rect { fill: #ffffff; stroke: #8c959f; stroke-width: 1.2 }
  .way .sheet { fill: #ffffff; stroke: none }
  .way .pod { fill: #f6f8fa; stroke-dasharray: 5 4 }
  .way .hook { fill: #eef1f4; stroke: none }
  .way .decides { fill: #fff3bf; stroke: #9a6700 }
  .way .envoy { fill: #dbf0ff; stroke: #0969da }
  .way .past { fill: #ffe3e0; stroke: #cf222e }
  .way path { stroke: #57606a; stroke-width: 1.6; fill: none }
  .way .head { fill: #57606a; stroke: none }
  @media (prefers-color-scheme: dark) {
    .way { fill: #e6edf3 }
    .way .quiet { fill: #9198a1 }
    .way rect { fill: #161b22; stroke: #6e7681 }
    .way .sheet { fill: #0d1117 }
    .way .pod { fill: #10151c }
    .way .hook { fill: #1c232d }
    .way .decides { fill: #4d3d00; stroke: #d29922 }
    .way .envoy { fill: #0c2d4d; stroke: #4493f8 }
    .way .past { fill: #4d1412; stroke: #f85149 }
    .way path { stroke: #9198a1 }
    .way .head { fill: #9198a1 }
  }
"""


@dataclass(slots=True)
class _Sheet:
    """What has been drawn so far, from the top."""

    width: int
    y: int = 0
    drawn: list[Markup] = field(default_factory=list)

    def text(self, words: str, *, x: int, y: int, style: str = "") -> None:
        self.drawn.append(tag("text", words, x=x, y=y, **({"class_": style} if style else {})))

    def frame(self, x: int, y: int, width: int, height: int, style: str = "", at: int | None = None) -> None:
        """A rectangle; `at`: below what was drawn from there on."""
        made = tag("rect", x=x, y=y, width=width, height=height, rx=6, **({"class_": style} if style else {}))
        self.drawn.insert(len(self.drawn) if at is None else at, made)

    def box(self, rows: Sequence[tuple[str, str]], *, x: int, style: str = "") -> None:
        """A box of rows, each with its style; the row of style "decides" is marked."""
        width = self.width - x
        lines = [(line, kind) for words, kind in rows for line in _wrapped(words, width - 20)]
        self.frame(x, self.y, width, len(lines) * _ROW + 2 * _PAD, style)
        top = self.y + _PAD
        for kind, run in groupby(lines, key=lambda line: line[1]):
            texts = [words for words, _ in run]
            if kind == "decides":
                self.frame(x + 4, top, width - 8, len(texts) * _ROW, "decides")
            for words in texts:
                self.text(words, x=x + 10, y=top + 13, style="name" if kind == "decides" else kind)
                top += _ROW
        self.y = top + _PAD

    def arrow(self, words: str = "") -> None:
        x, end = 84, self.y + _GAP
        self.drawn.append(tag("path", d=f"M{x} {self.y}V{end - 7}"))
        self.drawn.append(tag("path", class_="head", d=f"M{x - 5} {end - 8}L{x} {end}L{x + 5} {end - 8}Z"))
        if words:
            self.text(words, x=x + 14, y=self.y + 17, style="quiet")
        self.y = end


def render_way_svg(way: Way, *, beside: Beside = ()) -> Markup:
    """Draw a packet's way.

    Args:
        beside: what is let by, say.
    """
    inwards = way["direction"] == "inbound"
    width = _WIDTH if beside else _NARROW
    sheet = _Sheet(width=width - 24 - (_SIDE if beside else 0), y=32)
    for line in _wrapped(way["title"], width - 20):
        sheet.text(line, x=12, y=sheet.y - 10, style="name")
        sheet.y += _ROW
    sheet.y += 0 if inwards else 8
    first = len(sheet.drawn)
    top = sheet.y - 10
    sheet.y += 0 if inwards or beside else 16  # for the pod's own name
    sheet.box([(way["sender"], "name")], x=24)
    if inwards:
        top = sheet.y + _GAP // 2
        sheet.y += _GAP // 2
    sheet.arrow("into the pod" if inwards else "")
    for hook, rows in groupby(way["path"], key=lambda row: row["hook"]):
        _hook(sheet, hook, list(rows))
    bottom = _end(sheet, way, inwards=inwards)
    lists = _lists(sheet, beside, y=top + 24, room=_SIDE - 22)
    bottom = max(bottom, lists) if inwards or way["end"] != "network" else bottom
    height = max(sheet.y, bottom, lists) + 14
    sheet.frame(10, top, width - 20, bottom - top, "pod", at=first)
    sheet.text("the pod", x=width - 80, y=top + 18, style="quiet")
    return _drawing(sheet, width, height, _in_words(way))


def render_words_svg(text: str) -> Markup:
    """Draw a sentence, where there is no way to draw."""
    sheet = _Sheet(width=_NARROW - 12, y=12)
    sheet.box([(text, "name")], x=12)
    return _drawing(sheet, _NARROW, sheet.y + 12, text)


def _drawing(sheet: _Sheet, width: int, height: int, text: str) -> Markup:
    return tag(
        "svg",
        tag("style", Markup(_STYLE)),
        tag("rect", class_="sheet", x=0, y=0, width=width, height=height),
        join(*sheet.drawn),
        xmlns="http://www.w3.org/2000/svg",
        class_="way",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=text,
    )


def _hook(sheet: _Sheet, hook: str, rows: list[PathLine]) -> None:
    """A hook of the kernel with the chains that are run in it."""
    first, top = len(sheet.drawn), sheet.y
    sheet.y += 24
    sheet.text(f"kernel, {hook} hook" if hook else "kernel", x=34, y=top + 16, style="quiet")
    for number, (where, lines) in enumerate(groupby(rows, key=lambda row: row["where"])):
        if number:
            sheet.arrow()
        sheet.box([(where, "name"), *map(_row, lines)], x=34)
    sheet.frame(24, top, sheet.width - 14, sheet.y + 10 - top, "hook", at=first)
    sheet.y += 10
    sheet.arrow()


def _row(row: PathLine) -> tuple[str, str]:
    words = f"{row['numbers']} {row['text']}".strip()
    if row["decides"]:
        return f"{words} <- decides", "decides"
    missed = row["outcome"] == "no match"
    return (f"{words} (no match)", "quiet") if missed else (words, "")


def _end(sheet: _Sheet, way: Way, *, inwards: bool) -> int:
    """Draw what the packet comes to; where the pod ends."""
    if way["end"] == "proxy":
        sheet.box([(way["listener"], "name")], x=24, style="envoy")
        bottom = sheet.y + _GAP // 2
        sheet.arrow("as Envoy decides" if inwards else "")
        sheet.box([("the application" if inwards else "the network", "name")], x=24)
        return sheet.y + 12 if inwards else bottom
    if way["end"] == "network":
        bottom = sheet.y - _GAP // 2
        sheet.box([(f"the network, {way['destination']}: without Envoy", "name")], x=24, style="past")
        return bottom
    words = {
        "application": f"the application, {way['destination']}: without Envoy",
        "nowhere": "dropped by the kernel",
    }
    sheet.box([(words.get(way["end"], "what becomes of it cannot be told"), "name")], x=24, style="past")
    return sheet.y + 12


def _lists(sheet: _Sheet, beside: Beside, *, y: int, room: int) -> int:
    """Draw the lists; where they end."""
    x = sheet.width + 24
    y += _ROW if beside else 0
    for heading, entries in beside:
        for words, style in [(heading, "name"), *((entry, "") for entry in entries)]:
            for line in _wrapped(words, room):
                sheet.text(line, x=x, y=y, style=style)
                y += _ROW
        y += _ROW // 2
    return y


def _in_words(way: Way) -> str:
    """The drawing in words, for who does not see it."""
    rules = "; ".join(f"{row['where']} {row['numbers']} {row['text']}".strip() for row in way["path"])
    return f"{way['title']}. From {way['sender']}. {rules}. End: {way['end']}."


def _wrapped(words: str, width: int) -> list[str]:
    room = int(width / _LETTER)
    return wrapped(words, room, indent="   ", whole_words=False) or [""]
