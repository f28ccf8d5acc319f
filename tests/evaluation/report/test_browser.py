"""The page in a real browser: wide and narrow, light and dark, with and without a mouse."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from genesis.evaluation.report import Report
from tests.evaluation.report.samples import EVIL, ODD, SAMPLES

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ["chromium", "chromium-browser", "google-chrome"]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

DRAW_ALL = """async () => {
    document.querySelectorAll("details").forEach((part) => { part.open = true; });
    for (const plot of document.querySelectorAll(".plot")) {
        plot.scrollIntoView({ behavior: "instant" });
        while (!plot.querySelector(".main-svg")) await new Promise(requestAnimationFrame);
    }
    return document.querySelectorAll(".plot").length;
}"""

TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def without_a_browser(why: str) -> NoReturn:
    """Skip, unless the machine promised a browser."""
    if os.environ.get("GENESIS_NEEDS_BROWSER"):
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium with a profile of its own."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        without_a_browser("playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        without_a_browser("there is no Chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, headless=True)
        yield found
        found.close()


@pytest.fixture
def noise() -> list[str]:
    """What a page said, asked for or opened, though it should not."""
    return []


@pytest.fixture
def page(browser: Browser, noise: list[str]) -> Iterator[Page]:
    """An empty page whose every complaint is noted."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.on("console", lambda message: noise.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("request", lambda request: noise.append(request.url))
    page.on("dialog", lambda dialog: (noise.append(dialog.message), dialog.dismiss()))
    yield page
    context.close()


def show(page: Page, folder: Path, report: Report, noise: list[str]) -> None:
    """Open a report, which is the one file that may be asked for."""
    path = folder / "report.html"
    report.save(path)
    page.goto(path.as_uri())
    assert noise == [path.as_uri()]
    noise.clear()


@pytest.mark.parametrize("name", SAMPLES)
def test_it_shows_everywhere(name: str, page: Page, noise: list[str], tmp_path: Path) -> None:
    """All is drawn, nothing is too wide, and nothing is said or asked for."""
    scores, pictures = SAMPLES[name]()
    show(page, tmp_path, Report(scores, pictures), noise)
    for width in (1280, 390, 320):
        page.set_viewport_size({"width": width, "height": 800})
        plots = page.evaluate(DRAW_ALL)
        assert plots >= len(pictures.get("distributions", ()))
        assert page.evaluate(TOO_WIDE) <= 0
    page.emulate_media(color_scheme="dark")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    assert noise == []


def tick_colours(page: Page) -> set[str]:
    """Colours of the texts beside the axes."""
    script = "() => [...document.querySelectorAll('.plot .xtick text')].map((t) => t.style.fill)"
    return set(page.evaluate(script))


def test_plots_follow_the_colour_scheme(page: Page, noise: list[str], tmp_path: Path) -> None:
    show(page, tmp_path, Report(*SAMPLES["evaluation"]()), noise)
    page.evaluate(DRAW_ALL)
    papers, ticks = [], []
    for scheme in ("light", "dark", "light"):
        page.emulate_media(color_scheme=scheme)
        soft = page.evaluate(
            """() => {
                const probe = document.body.appendChild(document.createElement("i"));
                probe.style.color = "var(--soft)";
                const colour = getComputedStyle(probe).color;
                probe.remove();
                return colour;
            }"""
        )
        page.wait_for_function(
            """(soft) => [...document.querySelectorAll(".plot .xtick text")].every(
                (text) => getComputedStyle(text).fill === soft)""",
            arg=soft,
            timeout=10_000,
        )
        papers.append(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))
        ticks.append(tick_colours(page))
    assert papers[0] == papers[2] != papers[1]
    assert ticks[0] == ticks[2] != ticks[1]
    assert noise == []


def test_odd_names_are_drawn_as_they_are(page: Page, noise: list[str], tmp_path: Path) -> None:
    """In plots too, where Plotly would read them as HTML."""
    show(page, tmp_path, Report(*SAMPLES["wide"]()), noise)
    page.evaluate(DRAW_ALL)
    texts = page.evaluate(
        "() => [...document.querySelectorAll('.plot .ytick text')].map((t) => t.textContent)"
    )
    assert EVIL[:15] + "…" in texts
    assert "{{ 7 * 7 }}" in texts
    assert "--ink" in texts
    plot = page.locator("#distribution-0")
    plot.scroll_into_view_if_needed()
    box: Any = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 5)
    page.wait_for_selector(".hoverlayer .hovertext")
    said = page.locator(".hoverlayer .hovertext").first.text_content() or ""
    assert any(name in said for name in ODD if "<" in name)
    assert page.locator(".plot script, .plot b, .plot img, .plot a").count() == 0
    assert noise == []


def test_a_script_that_slips_in_does_not_run(page: Page, noise: list[str], tmp_path: Path) -> None:
    """The second fence: even if escaping failed, the policy would hold."""
    show(page, tmp_path, Report(*SAMPLES["one_column"]()), noise)
    page.evaluate(
        """() => {
            document.body.insertAdjacentHTML("beforeend", '<img src="x" onerror="window.hit = 1">');
            const script = document.createElement("script");
            script.textContent = "window.hit = 1";
            document.body.append(script);
            return new Promise((done) => setTimeout(done, 100));
        }"""
    )
    assert page.evaluate("() => window.hit") is None
    assert any("Content Security Policy" in line for line in noise)
    assert not any(line.startswith("http") for line in noise)


def test_it_can_be_used_without_a_mouse(page: Page, noise: list[str], tmp_path: Path) -> None:
    show(page, tmp_path, Report(*SAMPLES["evaluation"]()), noise)
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    page.locator("#controls summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#controls details").get_attribute("open") is not None
    regions = page.locator(".scroll")
    regions.first.focus()
    assert page.evaluate("() => document.activeElement.getAttribute('role')") == "region"
    assert noise == []


def test_printing_draws_and_opens_everything(page: Page, noise: list[str], tmp_path: Path) -> None:
    show(page, tmp_path, Report(*SAMPLES["evaluation"]()), noise)
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    drawn = page.evaluate("() => document.querySelectorAll('.plot:has(.main-svg)').length")
    assert drawn == page.locator(".plot").count()
    assert page.locator("details:not([open])").count() == 0
    assert noise == []
