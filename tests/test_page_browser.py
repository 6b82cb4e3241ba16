"""The report in a real browser: nothing is fetched, nothing complains, tables sort by keyboard, dark and print work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import edgepack
from tests.measured import diagnosis, saved
from tests.test_benchmark import SHORT
from tests.test_inspection import small_bundle
from tests.test_page import HOSTILE, everything, profile

pytestmark = pytest.mark.slow
pytest.importorskip("matplotlib", reason="the report extra is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; Debian's package is called chromium")
    with playwright.sync_playwright() as driver:
        # Root, as in a container, has no sandbox.
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a measurement that was really taken, and of all else that there is."""
    folder = tmp_path_factory.mktemp("report")
    bundle = small_bundle(tmp_path_factory)
    edgepack.bench(bundle, **SHORT, output=folder / "real.json")
    layers = saved(folder, "layers.json", diagnosis(("stem", HOSTILE, "dense")))
    times = saved(folder, "profile.json", profile(stem=10.0, dense=70.0, softmax=15.0))
    return edgepack.report([folder / "real.json", bundle, layers, times], folder / "report.html")


class Visit:
    """A page with what it said and asked for."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.page = browser.new_context(**settings).new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri(), wait_until="networkidle")

    def colour(self, selector: str, property_: str) -> str:
        return str(self.page.eval_on_selector(selector, f"e => getComputedStyle(e)['{property_}']"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_leaves_it_and_nothing_complains(scheme: str, width: int, browser: Any, report: Path) -> None:
    visit = Visit(browser, report, color_scheme=scheme, viewport={"width": width, "height": 900})
    assert visit.said == []
    assert visit.asked == [report.as_uri()]
    # What is wide scrolls in itself; the page does not.
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    assert visit.page.title() == "model 1, net 1"


def test_a_request_would_be_refused(browser: Any, report: Path) -> None:
    visit = Visit(browser, report)
    refused = visit.page.evaluate("fetch('https://example.org').then(() => false, () => true)")
    assert refused and any("Content Security Policy" in words for words in visit.said)


def test_markup_in_names_stays_text(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(everything(tmp_path, HOSTILE), encoding="utf-8")
    visit = Visit(browser, path)
    assert visit.said == [] and visit.asked == [path.as_uri()]
    assert visit.page.eval_on_selector_all("script", "all => all.length") == 1
    assert HOSTILE in visit.page.inner_text("h1")


def test_tables_are_sorted_by_keyboard(browser: Any, report: Path) -> None:
    page = Visit(browser, report).page
    table = page.locator("table", has=page.locator("caption", has_text="Layers"))
    head = table.locator("th", has_text="time").first
    assert head.get_attribute("aria-sort") == "none"

    def first_column() -> list[str]:
        return list(table.locator("tbody th").all_inner_texts())

    # By Tab from the button before it, as there is no other way without a mouse.
    table.locator("th button", has_text="operator").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    # The layer without a time is last both ways.
    assert first_column() == ["dense", "(Q/DQ)", "softmax", "stem", HOSTILE]
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "ascending"
    assert first_column() == ["stem", "softmax", "(Q/DQ)", "dense", HOSTILE]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "none"
    assert first_column() == ["(Q/DQ)", HOSTILE, "dense", "softmax", "stem"]


def test_dark_is_dark_in_the_plots_too(browser: Any, report: Path) -> None:
    light, dark = (Visit(browser, report, color_scheme=scheme) for scheme in ("light", "dark"))
    for selector, what in (("body", "backgroundColor"), ("body", "color"), ("figure svg text", "fill")):
        assert light.colour(selector, what) != dark.colour(selector, what)

    def brightness(colour: str) -> float:
        return sum(map(float, colour.strip("rgb()").split(",")[:3])) / 3

    assert brightness(dark.colour("body", "backgroundColor")) < 60 < 200 < brightness(dark.colour("body", "color"))
    assert brightness(dark.colour("figure svg text", "fill")) > 120


def test_print_is_dark_on_light_whatever_the_screen(browser: Any, report: Path, tmp_path: Path) -> None:
    visit = Visit(browser, report, color_scheme="dark")
    visit.page.emulate_media(media="print", color_scheme="dark")
    assert visit.colour("body", "backgroundColor") == "rgb(255, 255, 255)"
    assert visit.colour("body", "color") == "rgb(0, 0, 0)"
    assert visit.colour("nav", "display") == "none"
    pdf = visit.page.pdf(format="A4")
    assert pdf.startswith(b"%PDF") and 1 < pdf.count(b"/Type /Page\n") < 12 and visit.said == []


def test_headings_and_tables_have_names(browser: Any, report: Path) -> None:
    """What a screen reader hears of: every table and plot by name, headings in order."""
    page = Visit(browser, report).page
    tree = json.dumps(page.locator("main").aria_snapshot())
    assert 'table \\"Layers; SQNR' in tree and "img \\" in tree and "columnheader" in tree and "rowheader" in tree
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map(e => Number(e.tagName[1]))")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))
