"""A report as one HTML page that needs nothing else.

Knows the page's order and that everybody has to be able to read it: by keyboard, on a telephone, in
the dark, on paper. Does not know how a report was made. Invariant: no script, nothing fetched, and
text of a pod is never markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pytest_istio_sidecar.checks.bypass.rows import HEADS, POLICY, rows_of
from pytest_istio_sidecar.markup import Markup, join, tag
from pytest_istio_sidecar.reports.document import (
    Judged,
    Report,
    Test,
    against,
    counted_by_outcome,
    first_line,
)
from pytest_istio_sidecar.reports.formats.svg import render_way_svg
from pytest_istio_sidecar.reports.summary import Capture, Section
from pytest_istio_sidecar.reports.way import Way

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --quiet: #59636e; --ground: #ffffff; --raised: #f6f8fa;
  --line: #d1d9e0; --good: #116329; --bad: #b42318; --open: #7d4e00; --link: #0550ae }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --quiet: #9198a1; --ground: #0d1117;
  --raised: #161b22; --line: #3d444d; --good: #56d364; --bad: #ff7b72; --open: #e3b341; --link: #79c0ff } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif }
main, header { max-width: 70rem; margin: 0 auto; padding: 0 1rem }
main { padding-bottom: 4rem }
h1 { font-size: 1rem; font-weight: 600; color: var(--quiet); margin: 1.5rem 0 0 }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; border-bottom: 1px solid var(--line) }
p, li { overflow-wrap: anywhere }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; overflow-wrap: anywhere }
a { color: var(--link) }
.skip { position: absolute; left: -100rem } .skip:focus { left: 1rem; top: .5rem; background: var(--ground) }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 3px }
.answer { font-size: 1.35rem; line-height: 1.3; margin: .25rem 0 .5rem; padding: .75rem 1rem;
  border-left: .4rem solid; background: var(--raised); overflow-wrap: anywhere }
.holds { border-color: var(--good) } .against { border-color: var(--bad) }
.undecided { border-color: var(--open) }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; font-size: .9375rem; padding: 0; list-style: none }
.wide { overflow-x: auto; margin: .5rem 0 }
.drawn { display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: start }
.drawn > .wide { flex: 0 1 36rem; min-width: 0 }
.drawn > div:not(.wide) { flex: 1 1 15rem; margin-bottom: 1rem }
.wide svg { display: block; min-width: 27rem; border: 1px solid var(--line) }
.drawn h3 { margin-top: .5rem } .list { margin: 0; padding: 0; list-style: none }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top }
th, td { padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line) }
code, pre { font: .875rem/1.5 "DejaVu Sans Mono", Menlo, Consolas, monospace }
td code { white-space: nowrap }
pre { background: var(--raised); padding: .75rem 1rem; margin: 0 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: 0 }
dt { color: var(--quiet) } dd { margin: 0; overflow-wrap: anywhere }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr } dd { margin-bottom: .5rem }
  table, tbody, tr, td { display: block } thead { position: absolute; left: -100rem }
  tr { padding: .5rem 0; border-bottom: 1px solid var(--line) } td { padding: 0; border: 0 }
  td::before { content: attr(data-label) ": "; color: var(--quiet) }
  td code { white-space: normal; overflow-wrap: anywhere }
}
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0 }
summary { padding: .5rem .75rem; cursor: pointer; overflow-wrap: anywhere }
details > div { padding: 0 .75rem .75rem }
.no { color: var(--bad); font-weight: 600 } .may { color: var(--open); font-weight: 600 }
.quiet { color: var(--quiet) }
"""

_OUTCOMES = {"failed": "no", "undecided": "may", "error": "may", "skipped": "quiet"}


def render_page(report: Report) -> str:
    """The page."""
    answer = report["answer"]
    text = _sentence(answer["text"])
    sections = list(_sections(report))
    links = [tag("li", tag("a", heading, href=f"#{name}")) for name, heading, _ in sections]
    body = [
        tag("a", "Skip to the answer", class_="skip", href="#answer"),
        tag("header", tag("h1", "Istio sidecar: does the traffic go through Envoy?")),
        tag(
            "main",
            tag("p", text, id="answer", class_=f"answer {answer['verdict']}", tabindex=-1),
            tag("p", _counts(report), class_="quiet"),
            tag("nav", tag("ul", *links), aria_label="Contents"),
            *(tag("section", tag("h2", heading), content, id=name) for name, heading, content in sections),
        ),
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"Istio sidecar: {answer['text']}"),
        tag("style", Markup(_STYLE)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *body), lang='en')}\n"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _counts(report: Report) -> str:
    counted = [f"{count} {outcome}" for outcome, count in counted_by_outcome(report).items()]
    return f"Tests: {', '.join(counted) or 'none'}. By {report['tool']['name']} {report['tool']['version']}."


def _sections(report: Report) -> Iterator[tuple[str, str, Markup]]:
    capture, failed = report["capture"], against(report)
    captures = {each["name"]: each["capture"] for each in report["workloads"]}
    if failed:
        shown = (_failure(test, captures.get(test["workload"], capture)) for test in failed)
        yield "failures", "What is not as wanted", join(*shown)
    for number, each in enumerate(report["workloads"], 1):
        yield f"workload-{number}", each["name"], _workload(each)
    if capture is not None and not report["workloads"]:
        if capture["ways"]:
            yield "ways", "The way of a packet", _ways(capture["ways"], capture)
        yield "bypasses", "What gets by without Envoy", _bypasses(capture)
        yield "difference", f"Beside the rules of {capture['release']}", _difference(capture)
    yield "under-test", "What was under test", _facts(_under_test(report))
    yield "tests", "Tests", _tests(report["tests"])


def _workload(each: Judged) -> Markup:
    """One of several workloads: its answer, and what a page on one has of it."""
    capture = each["capture"]
    facts = [*each["environment"].items(), *(map(_pair, capture["lines"]) if capture else ())]
    parts = [
        tag("p", _sentence(each["answer"]["text"]), class_=f"answer {each['answer']['verdict']}"),
        _facts([*facts, *map(_pair, each["requests"])]),
    ]
    if capture is not None:
        heading = f"Beside the rules of {capture['release']}"
        parts += [
            _ways(capture["ways"], capture),
            tag("h3", "What gets by without Envoy"),
            _bypasses(capture),
        ]
        parts += [tag("h3", heading), _difference(capture)]
    return join(*parts)


def _pair(line: Sequence[str]) -> tuple[str, str]:
    return line[0], line[1]


def _failure(test: Test, capture: Capture | None) -> Markup:
    ways = [problem["way"] for problem in test["problems"] if problem["way"] is not None]
    labelled = {"Workload": test["workload"], "Evidence": test["evidence"]}
    kept = [tag("p", f"{label}: {text}", class_="quiet") for label, text in labelled.items() if text]
    return tag(
        "details",
        tag("summary", tag("strong", first_line(test)), tag("br"), tag("code", test["id"])),
        tag("div", _wide("Message", tag("pre", test["message"])), _ways(ways[:1], capture), *kept),
        open="open",
    )


def _ways(ways: Sequence[Way], capture: Capture | None) -> Markup:
    """Each way, and beside it what gets by in its direction."""
    lists = capture["beside"] if capture else []
    return join(*(_way(way, [section for section in lists if _is_beside(section, way)]) for way in ways))


def _is_beside(section: Section, way: Way) -> bool:
    direction = section["heading"].partition(" ")[0]
    return direction == way["direction"] or direction not in ("inbound", "outbound")


def _way(way: Way, lists: Sequence[Section]) -> Markup:
    columns = [
        join(
            tag("h3", _sentence(section["heading"])),
            tag("ul", *(tag("li", _entry(text)) for text in section["entries"]), class_="list"),
        )
        for section in lists
    ]
    picture = _wide(f"Picture: {way['title']}", render_way_svg(way))
    return tag("div", picture, *([tag("div", *columns)] if columns else []), class_="drawn")


def _entry(text: str) -> Markup:
    return tag("code", text, **({"class_": "no"} if text.startswith("! ") else {}))


def _bypasses(capture: Capture) -> Markup:
    if capture["bypasses"] is None:
        return tag("p", f"Cannot be told: {'; '.join(capture['problems'])}")
    rows = [
        (tag("code", row.packets), _rules(row.rules), tag("span", row.meant, **_MEANT[row.by_design]))
        for row in rows_of(capture["bypasses"])
    ]
    unseen = tag("ul", *(tag("li", sentence) for sentence in capture["unseen"]))
    return join(
        _table("Bypasses", HEADS, rows) if rows else tag("p", "Nothing does."),
        tag("h3", "What rules cannot show"),
        unseen,
    )


_MEANT: dict[str, dict[str, str]] = {
    "yes": {},
    "no": {"class_": "no"},
    "accepted": {"class_": "may"},
    "moved": {"class_": "may"},
    "reviewed": {"class_": "may"},
    "cannot be told": {"class_": "may"},
}


def _rules(rules: Sequence[str]) -> Markup:
    if not rules:
        return tag("span", POLICY)
    return join(*(part for rule in rules for part in (tag("code", rule), tag("br"))))


def _difference(capture: Capture) -> Markup:
    compared = capture["comparison"]
    if compared is None:
        return tag("p", f"Cannot be told: {'; '.join(capture['problems'])}")
    if compared["equal_text"]:
        return tag("p", "The same, rule for rule.")
    effects = [
        (
            tag("code", effect["text"]),
            Markup(tag("span", effect["expected"])),
            tag("span", effect["observed"]),
        )
        for effect in compared["effects"]
    ]
    return join(
        _wide("Rules that differ", tag("pre", "\n".join(capture["difference"]))),
        tag("h3", "What becomes of packets"),
        _table("Effects", ("Packets", "Expected", "Here"), effects)
        if effects
        else tag("p", "The same for every packet."),
    )


def _under_test(report: Report) -> Iterator[tuple[str, str]]:
    capture = report["capture"]
    yield from report["environment"].items()
    if not report["workloads"]:
        yield from map(_pair, (*(capture["lines"] if capture else ()), *report["requests"]))
    yield from (("notice", text) for text in report["notices"])
    if report["evidence"]:
        yield "evidence", report["evidence"]


def _facts(facts: Iterable[tuple[str, str]]) -> Markup:
    return tag("dl", *(join(tag("dt", label), tag("dd", text)) for label, text in facts))


def _tests(tests: Sequence[Test]) -> Markup:
    rows = [
        (
            tag("span", test["outcome"], class_=_OUTCOMES.get(test["outcome"], "")),
            join(tag("code", test["id"]), *_why(test)),
        )
        for test in tests
    ]
    return tag(
        "details",
        tag("summary", f"All {len(tests)}"),
        tag("div", _table("Tests", ("Outcome", "Test"), rows)),
    )


def _why(test: Test) -> tuple[Markup, ...]:
    return () if test["outcome"] == "passed" else (tag("br"), tag("span", first_line(test)))


def _table(name: str, heads: Sequence[str], rows: Iterable[Sequence[Markup]]) -> Markup:
    head = tag("tr", *(tag("th", text, scope="col") for text in heads))
    body = (
        tag("tr", *(tag("td", cell, data_label=head) for head, cell in zip(heads, row, strict=True)))
        for row in rows
    )
    return _wide(name, tag("table", tag("thead", head), tag("tbody", *body)))


def _wide(name: str, content: Markup) -> Markup:
    """What may be wider than the page: it scrolls by itself, by keyboard too."""
    return tag("div", content, class_="wide", role="region", aria_label=name, tabindex=0)
