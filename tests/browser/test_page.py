"""The page of a run that failed, as a browser shows it: on a desk and on a telephone, by day and by night."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from pytest_istio_sidecar import expected_ruleset, render_save

WIDTHS = (1280, 390)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TESTS = """
from pytest_istio_sidecar import assert_inbound_exclusions, assert_redirected, inbound

def test_a_port_too_many_is_excluded(pod_rules):
    assert_inbound_exclusions(pod_rules, {15008, 22, 15090, 15021, 15020})

def test_of_rules_that_were_not_read(pod_rules):
    assert_redirected(pod_rules, inbound(80, family=6))
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "pytest.ini").write_text("[pytest]")
    (folder / "test_pod.py").write_text(TESTS)
    rules = expected_ruleset("1.8.3", inbound_ports_exclude="15090,15021,8443,15020")
    (folder / "pod.rules").write_text(render_save(rules))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--istio-environment=file"),
            *("--istio-table=pod.rules", "--istio-report=page.html"),
        ],
        cwd=folder,
        env={**os.environ, "GITHUB_ACTIONS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser():
    """The machine's own browser, without windows."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: looked for {', '.join(BROWSERS)} on the PATH")
    with sync_playwright() as playwright:
        # Its sandbox does not work for root, and the page is ours.
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=60_000)
        yield opened
        opened.close()


@pytest.fixture
def show(browser, page):
    """Open the page: `show(width=…, dark=…)`; with the addresses it asked for in `requested`."""
    contexts = []

    def show(*, width, dark):
        contexts.append(
            browser.new_context(
                viewport={"width": width, "height": 844}, color_scheme="dark" if dark else "light"
            )
        )
        tab = contexts[-1].new_page()
        tab.requested = []
        tab.on("request", lambda asked: tab.requested.append(asked.url))
        tab.goto(page.as_uri())
        return tab

    yield show
    for context in contexts:
        context.close()


@pytest.fixture(params=(False, True), ids=("light", "dark"))
def dark(request) -> bool:
    return request.param


@pytest.fixture(params=WIDTHS)
def width(request) -> int:
    return request.param


@pytest.fixture
def tab(show, width, dark):
    """The page, with all that can be opened open."""
    tab = show(width=width, dark=dark)
    tab.evaluate("document.querySelectorAll('details').forEach(held => { held.open = true })")
    return tab


def test_the_page_asks_for_itself_only(tab, page):
    assert tab.requested == [page.as_uri()]


def test_the_page_is_no_wider_than_the_window(tab, width):
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_the_answer_is_seen_without_scrolling(tab):
    top, bottom = tab.evaluate(
        "(() => { const at = document.querySelector('#answer').getBoundingClientRect();"
        " return [at.top, at.bottom] })()"
    )
    assert 0 < top < bottom < 844


DECIDING = """[...document.querySelectorAll('svg')].map(svg => {
  const frame = svg.querySelector('rect.decides'), at = frame.getBoundingClientRect()
  const text = [...svg.querySelectorAll('text')].find(held => held.textContent.includes('<- decides'))
  const words = text.getBoundingClientRect(), box = svg.parentElement.getBoundingClientRect()
  const plain = getComputedStyle(svg.querySelector('rect:not([class])')).fill
  return { words: text.textContent, marked: getComputedStyle(frame).fill !== plain,
    inside: at.left <= words.left && words.right <= at.right && at.top <= words.top + 1
      && words.bottom - 1 <= at.bottom,
    begins: words.left - box.left, room: box.width } })"""


def test_each_picture_marks_the_deciding_rule_where_it_is_seen(tab):
    drawn = tab.evaluate(DECIDING)
    assert [held["words"] for held in drawn] == [
        "5 -p tcp --dport 8443 -j RETURN <- decides",
        "1 -p tcp -j REDIRECT --to-ports 15006 <- decides",
        "1 -p tcp -j REDIRECT --to-ports 15001 <- decides",
    ]
    assert all(held["marked"] and held["inside"] for held in drawn)
    assert all(0 < held["begins"] < held["room"] / 4 for held in drawn)


BESIDE = """(() => { const drawn = document.querySelector('.drawn')
  const at = [...drawn.children].map(held => held.getBoundingClientRect())
  return { text: drawn.children[1].innerText, beside: at[1].left >= at[0].right,
    below: at[1].top >= at[0].bottom } })()"""


def test_the_ports_that_are_let_by_stand_beside_the_picture_or_below_where_there_is_no_room(tab, width):
    told = tab.evaluate(BESIDE)
    assert told["text"].splitlines()[0] == "Inbound without Envoy"
    assert "! tcp 8443" in told["text"]
    narrow = width == 390
    assert (told["beside"], told["below"]) == (not narrow, narrow)


# Of each text: its colour, and that of the ground behind it: an element's own, or the nearest one of the
# elements under its middle (in a drawing those are its siblings).
CONTRAST = """(() => {
  const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    return 0.2126*r + 0.7152*g + 0.0722*b }
  const ground = (element, at) => {
    for (const held of document.elementsFromPoint(at.left + 2, (at.top + at.bottom) / 2)) {
      const style = getComputedStyle(held)
      const colour = held.tagName === 'rect' ? style.fill : style.backgroundColor
      if (held.tagName !== 'text' && !/, 0\\)$|none/.test(colour)) return colour
    } }
  const low = []; let seen = 0
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement
    if (!walk.currentNode.data.trim() || element.tagName === 'STYLE' || element.className === 'skip') continue
    element.scrollIntoView({ block: 'center', inline: 'start' })
    const at = element.getClientRects()[0], under = at && ground(element, at)
    if (!under) continue
    const style = getComputedStyle(element)
    const [a, b] = [light(element.tagName === 'text' ? style.fill : style.color), light(under)]
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
    seen += 1
    if (ratio < 4.5) low.push([walk.currentNode.data.trim().slice(0, 40), Math.round(ratio * 10) / 10])
  }
  return { seen, low } })()"""


def test_every_text_stands_out_from_its_ground(tab):
    """Source: WCAG 2.2, success criterion 1.4.3: 4.5 to 1."""
    told = tab.evaluate(CONTRAST)
    assert told["low"] == []
    assert told["seen"] > 100


def test_night_is_darker_than_day(show):
    script = "getComputedStyle(document.body).backgroundColor"
    assert show(width=390, dark=False).evaluate(script) == "rgb(255, 255, 255)"
    assert show(width=390, dark=True).evaluate(script) == "rgb(13, 17, 23)"


FOCUS = """(() => { const held = document.activeElement, style = getComputedStyle(held)
  if (held === document.body) return null
  const all = [...document.querySelectorAll('a, summary, [tabindex="0"]')], at = held.getBoundingClientRect()
  return { place: all.indexOf(held), of: all.length, ring: style.outlineStyle,
    seen: at.bottom > 0 && at.top < innerHeight && at.right > 0 && at.left < innerWidth } })()"""


def test_the_tab_key_reaches_every_control_in_order_and_shows_where_it_is(show, width):
    tab = show(width=width, dark=False)
    tab.evaluate("document.querySelectorAll('details').forEach(held => { held.open = true })")
    count = tab.evaluate("document.querySelectorAll('a, summary, [tabindex=\"0\"]').length")
    reached = []
    for _ in range(count):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate(FOCUS))
    assert [held["place"] for held in reached] == list(range(count))
    assert all(held["seen"] and held["ring"] == "solid" for held in reached)


def test_the_first_tab_offers_to_skip_to_the_answer_and_enter_does(show):
    tab = show(width=1280, dark=False)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the answer"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "answer"


def test_enter_opens_the_list_of_tests(show):
    tab = show(width=1280, dark=False)
    tab.evaluate("document.querySelector('#tests summary').focus()")
    assert not tab.evaluate("document.querySelector('#tests details').open")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.querySelector('#tests details').open")


def test_an_arrow_key_scrolls_what_is_wider_than_a_telephone(show):
    tab = show(width=390, dark=False)
    tab.evaluate("document.querySelector('#failures .wide').focus()")
    tab.keyboard.press("ArrowRight")
    moved = "new Promise(done => setTimeout(() => done(document.activeElement.scrollLeft), 500))"
    assert tab.evaluate(moved) > 0
