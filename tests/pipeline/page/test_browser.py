"""In a browser the page says no error, fits its width, shows every picture, and has no text too small to read."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.page import browser
from tests.pipeline.page.browser import Page
from tests.pipeline.page.written import build, write_augmented, write_everything, write_json

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser.found() is None, reason=browser.INSTALL),
]
WIDTHS = (390, 1400)  # of a phone and of a desk, in CSS pixels
LEAST = 9  # pixels of the smallest text

PICTURES = """[...document.images].map(image => ({
  name: image.alt, loaded: image.complete && image.naturalWidth > 0,
  text: image.dataset.text ? image.dataset.text * image.width / image.dataset.width : null}))"""
SMALLEST = """(() => { let least = 99; const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) if (walker.currentNode.data.trim())
    least = Math.min(least, parseFloat(getComputedStyle(walker.currentNode.parentElement).fontSize));
  return least; })()"""
OVERFLOW = """(() => { const wide = document.documentElement.clientWidth;
  return [...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll, .frame, nav, .skip') &&
    one.getBoundingClientRect().right > wide + 1).map(one => one.outerHTML.slice(0, 90)); })()"""
CUT = """[...document.querySelectorAll('figcaption, p, dd, h1, h2')]
  .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent.slice(0, 60))"""
HEADER = """(() => {
  const box = [...document.querySelectorAll('.scroll')].find(one => one.scrollHeight > one.clientHeight);
  box.scrollTop = 200; const top = box.getBoundingClientRect().top;
  return box.querySelector('th').getBoundingClientRect().top - top; })()"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every section that needs no sweep."""
    root = tmp_path_factory.mktemp("site")
    write_everything(root)
    write_augmented(root / "augmented.parquet", blockwise=False)
    row = {"method": "nbp", "step_ms": 588.1, "step_ratio": 0.963, "peak_mib": 1402.5, "peak_ratio": 0.44}
    write_json(root / "bench.json", {"rows": [row], "batch": 128})
    build(root)
    yield root / "out/index.html"
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser.browser() as page:
        yield page


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_is_whole_at_the_width_of_a_phone_and_of_a_desk(tab: Page, site: Path, width: int) -> None:
    tab.open(site, width)
    assert tab.complaints() == []
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run(OVERFLOW) == []
    assert tab.run(CUT) == []
    assert tab.run(SMALLEST) >= LEAST
    pictures = tab.run(PICTURES)
    assert [picture["name"] for picture in pictures if not picture["loaded"] or not picture["name"]] == []
    assert [picture for picture in pictures if picture["text"] is not None and picture["text"] < LEAST] == []
    assert len([picture for picture in pictures if picture["text"] is not None]) > 8


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_table_scrolls_below_its_header(tab: Page, site: Path, width: int) -> None:
    tab.open(site, width)
    assert abs(tab.run(HEADER)) <= 1


@pytest.mark.parametrize("width", WIDTHS)
def test_the_contents_stay_in_view(tab: Page, site: Path, width: int) -> None:
    tab.open(site, width)
    tab.run("window.scrollTo(0, 3000)")
    assert 0 <= tab.run("document.querySelector('nav li').getBoundingClientRect().top") < 100


def test_the_first_key_press_offers_to_skip_to_the_results(tab: Page, site: Path) -> None:
    tab.open(site, 1400)
    for kind in ("keyDown", "keyUp"):
        tab.ask("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert json.loads(tab.run("JSON.stringify([document.activeElement.className, document.activeElement.hash])")) == [
        "skip",
        "#content",
    ]
    assert tab.run("document.activeElement.getBoundingClientRect().left") >= 0


def test_a_script_that_fails_is_found(tab: Page, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<script>nothing()</script><img src='none.png'>")
    tab.open(tmp_path / "bad.html", 390)
    assert len(tab.complaints()) == 2
