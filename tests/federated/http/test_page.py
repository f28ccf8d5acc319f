"""The live page in a real browser, which asks a real server."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from genesis.federated.transport.http.page import POLICY, page
from tests.evaluation.report.test_browser import ARGUMENTS, BROWSERS, TOO_WIDE, without_a_browser
from tests.federated.http import EVIL, HOSTILE, Stub, client, report, status

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Dialog, Page

HEADERS = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": POLICY}

FAST = """
    // A second of the page takes ten milliseconds here, and what it waits for is written down.
    window.pauses = [];
    const wait = window.setTimeout;
    window.setTimeout = (then, pause) => {
        window.pauses.push(pause);
        return wait(then, pause / 100);
    };
"""

POINTS = """() => {
    const count = (part) => part.getAttribute("points")?.split(" ").length ?? 1;
    const groups = [...document.querySelectorAll("[data-metric]")];
    return Object.fromEntries(
        groups.map((group) => [group.getAttribute("data-metric"), [...group.children].map(count)]));
}"""
"""Metric -> points of each piece of its curve."""


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
def stub() -> Iterator[Stub]:
    """A server with the page, and with the status of a run."""
    with Stub() as stub:
        stub.answers["/"] = (200, HEADERS, page().encode())
        stub.tell(status())
        yield stub


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Where a page can be opened."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    context.set_default_timeout(10_000)
    yield context
    context.close()


@pytest.fixture
def noise() -> list[str]:
    """What a page said or opened, though it should not."""
    return []


@pytest.fixture
def tab(context: BrowserContext, noise: list[str]) -> Page:
    """An empty page whose every complaint is noted."""
    tab = context.new_page()
    tab.on("console", lambda message: noise.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: noise.append(str(error)))

    def close(dialog: Dialog) -> None:
        noise.append(dialog.message)
        dialog.dismiss()

    tab.on("dialog", close)
    return tab


def show(tab: Page, url: str) -> None:
    """Open the page, and wait for its first picture."""
    tab.goto(f"{url}/")
    tab.wait_for_selector("#run:not([hidden])")


def wait_for(tab: Page, selector: str, text: str) -> None:
    """Wait until an element holds a text."""
    script = "([id, text]) => document.querySelector(id).textContent.includes(text)"
    tab.wait_for_function(script, arg=[selector, text])


def texts(tab: Page, selector: str) -> list[str]:
    """What the elements hold, to the letter."""
    found: list[str] = tab.eval_on_selector_all(
        selector, "(all) => all.map((each) => each.textContent)"
    )
    return found


def test_it_shows_what_the_server_tells(tab: Page, stub: Stub, noise: list[str]) -> None:
    clients = [
        client("north", rounds=4),
        client("south", state="absent", last_seen=83.2, rows=None, task=None, rounds=0),
        client("west", state="waiting", last_seen=None, rows=1_234_567, task=None),
    ]
    stub.tell(status(clients=clients, epsilon=1.2345678, secure_aggregation="masking"))
    show(tab, stub.url)
    shown = {
        "#state": "Training",
        "#plan": "ctgan · fedavg · version 0.3.0",
        "#round": "3",
        "#planned": "of 10 rounds",
        "#left": "about 3 min 20 s left",
        "#seconds": "1 min 23 s",
        "#last": "1.3 s",
        "#epsilon": "ε = 1.235; secure sums by masking",
        "#speed": "5,432 rows/s",
        "#received": "12.3 MB",
        "#sent": "1.0 MB",
        "#here": "2 of 3 here",
    }
    assert {selector: tab.text_content(selector) for selector in shown} == shown
    assert tab.evaluate("() => [progress.value, progress.max]") == [3, 10]
    assert tab.title() == "3/10 Training · Genesis"
    rows = [texts(tab, f"#clients tr:nth-child({i}) > *") for i in (1, 2, 3)]
    assert rows == [
        ["north", "working", "1 s ago", "12,345", "train", "4"],
        ["south", "absent", "1 min ago", "–", "–", "0"],
        ["west", "waiting", "–", "1,234,567", "–", "3"],
    ]
    metrics = status()["rounds"][-1]["metrics"]
    assert texts(tab, ".legend bdi") == ["generator", "condition", "discriminator"]
    assert texts(tab, ".legend b") == [f"{value:.4g}" for value in metrics.values()]
    assert not tab.is_visible("#missed")
    assert not tab.is_visible("#reason")
    assert noise == []


def test_it_follows_the_run(tab: Page, stub: Stub, noise: list[str]) -> None:
    """From the first client to the end, without being loaded again; ticks of two seconds."""
    tab.add_init_script(FAST)
    waiting = status(0, (), state="waiting", seconds_left=None, rows_per_second=None)
    stub.tell(waiting)
    show(tab, stub.url)
    assert tab.text_content("#reason") == "0 of the 2 that it needs are here"
    assert tab.text_content("#epsilon") == "no differential privacy"
    assert tab.text_content("#speed") == "– rows/s"
    assert tab.is_visible("#no-clients")
    assert tab.is_visible("#no-losses")
    stub.tell(status(1, ("north", "south")))
    wait_for(tab, "#state", "Training")
    assert texts(tab, "#clients th") == ["north", "south"]
    assert tab.evaluate(POINTS) == {name: [1] for name in report(1, [])["metrics"]}
    stub.tell(status(10, ("north",), state="complete", seconds_left=0))
    wait_for(tab, "#state", "Complete")
    assert texts(tab, "#clients th") == ["north"]
    assert tab.evaluate(POINTS) == {name: [10] for name in report(1, [])["metrics"]}
    assert tab.text_content("#left") == ""
    assert set(tab.evaluate("() => pauses")) == {2000}
    assert [path for path, _ in stub.asked].count("/") == 1
    assert noise == []


@pytest.mark.parametrize(("clients", "rounds"), [(0, 0), (3, 1), (50, 300)])
def test_it_fits_everywhere(
    clients: int, rounds: int, tab: Page, stub: Stub, noise: list[str]
) -> None:
    names = tuple(f"hospital_{i:02d}" for i in range(clients))
    stub.tell(status(rounds, names, n_rounds=max(10, rounds)))
    show(tab, stub.url)
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        for width in (1920, 1280, 390, 320):
            tab.set_viewport_size({"width": width, "height": 800})
            tab.evaluate("() => new Promise(requestAnimationFrame)")
            assert tab.evaluate(TOO_WIDE) <= 0
            drawn = tab.evaluate(POINTS)
            assert list(drawn.values()) == [[rounds]] * (3 if rounds else 0)
            widths = tab.eval_on_selector_all(
                ".chart > svg",
                """(all) => all.map((svg) => svg.viewBox.baseVal.width - svg.clientWidth)""",
            )
            assert all(abs(gap) <= 1 for gap in widths)
    assert tab.locator("#clients tr").count() == clients
    assert noise == []


def test_both_colour_schemes_can_be_read(tab: Page, stub: Stub) -> None:
    """Letters have a contrast of 4.5 to what is behind them, curves one of 3."""
    show(tab, stub.url)
    script = """() => {
        const probe = document.body.appendChild(document.createElement("i"));
        const colour = (name) => {
            probe.style.color = `var(--${name})`;
            return getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map(Number);
        };
        const names = ["paper", "card", "ink", "soft", "good", "busy", "alert", "caution"];
        names.push("c0", "c1", "c2", "c3", "c4", "c5");
        return Object.fromEntries(names.map((name) => [name, colour(name)]));
    }"""

    def light(colour: list[float]) -> float:
        """Relative luminance, as in the accessibility guidelines."""
        parts = [part / 255 for part in colour]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    found = []
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        colours = {name: light(colour) for name, colour in tab.evaluate(script).items()}
        found.append(colours["paper"])
        for behind in (colours.pop("paper"), colours.pop("card")):
            for name, colour in colours.items():
                high, low = max(colour, behind) + 0.05, min(colour, behind) + 0.05
                assert high / low >= (3 if name[1:].isdigit() else 4.5), (scheme, name)
    assert found[0] > 0.5 > found[1]


def test_hostile_names_are_text(tab: Page, stub: Stub, noise: list[str]) -> None:
    rounds = [
        report(1, [], failed={EVIL: "<b>why</b>" * 20}, dropped=HOSTILE[1:3]),
        report(2, [], metrics={"<b>x</b>_loss": 1.0, EVIL: 2.0, "__proto__": 3.0, "y" * 99: 4.0}),
    ]
    hostile = {"state": "failed", "reason": EVIL, "method": EVIL, "version": EVIL}
    stub.tell(status(2, tuple(HOSTILE), **hostile, rounds=rounds))
    show(tab, stub.url)
    assert texts(tab, "#clients th") == HOSTILE
    assert tab.text_content("#reason") == EVIL
    assert tab.text_content("#plan") == f"{EVIL} · fedavg · version {EVIL}"
    assert texts(tab, "#failures th") == [EVIL, *HOSTILE[1:3]]
    assert texts(tab, "#failures td.why") == ["<b>why</b>" * 20, *["did not answer"] * 2]
    assert {"<b>x</b>", EVIL, "  proto  ", "y" * 99} < set(texts(tab, ".legend bdi"))
    assert tab.locator("img, script:not(:last-child), .chart b b, .why b").count() == 0
    for width in (1280, 320):
        tab.set_viewport_size({"width": width, "height": 800})
        tab.evaluate("() => new Promise(requestAnimationFrame)")
        assert tab.evaluate(TOO_WIDE) <= 0
    assert noise == []


def test_a_script_that_slips_in_does_not_run(tab: Page, stub: Stub, noise: list[str]) -> None:
    """The second fence: even if a name became HTML, the policy would hold."""
    show(tab, stub.url)
    refused = tab.evaluate(
        """() => {
            const tries = [
                () => document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=hit()>"),
                () => { document.body.innerHTML = "<b>hit</b>"; },
                () => { document.createElement("script").textContent = "window.hit = 1"; },
                () => setTimeout("window.hit = 1"),
            ];
            return tries.filter((each) => { try { each(); } catch { return true; } }).length;
        }"""
    )
    assert refused == 4
    assert tab.evaluate("() => window.hit") is None
    failed = tab.evaluate("() => fetch('http://127.0.0.1:9/').catch(() => 'refused')")
    assert failed == "refused"
    assert any("Content Security Policy" in line for line in noise)


def test_a_server_that_goes_away_and_returns(tab: Page, stub: Stub) -> None:
    tab.add_init_script(FAST)
    show(tab, stub.url)
    stub.stop()
    tab.wait_for_selector("body.lost")
    assert "The server does not answer." in (tab.text_content("#contact") or "")
    assert tab.text_content("#state") == "Training"
    assert texts(tab, "#clients th") == ["north", "south"]
    tab.wait_for_function("() => pauses.filter((pause) => pause === 10000).length >= 3")
    away = [pause for pause in tab.evaluate("() => pauses") if pause > 2000]
    assert away[:4] == [4000, 8000, 10_000, 10_000]
    stub.tell(status(4))
    stub.start()
    tab.wait_for_selector("body:not(.lost)")
    assert tab.text_content("#round") == "4"
    assert tab.text_content("#contact") == ""
    tab.wait_for_function("() => pauses[pauses.length - 1] === 2000")


def test_a_run_that_is_over_needs_no_server(tab: Page, stub: Stub) -> None:
    tab.add_init_script(FAST)
    stub.tell(status(10, state="complete"))
    show(tab, stub.url)
    stub.stop()
    wait_for(tab, "#contact", "The run is over and the server has gone.")
    assert tab.text_content("#state") == "Complete"
    stub.start()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, {}, b""), "The server wants a token"),
        ((403, {}, b""), "The server wants a token"),
        ((503, {}, b""), "The server answers with an error (503)."),
        ((200, {}, b"<html>"), "not the status of a run"),
        ((200, {}, b"null"), "not the status of a run"),
        ((200, {}, b'{"state": NaN}'), "not the status of a run"),
        ((200, {}, b'{"status": "ok"}'), "not the status of a run"),
    ],
)
def test_wrong_answers(
    answer: tuple[int, dict[str, str], bytes], said: str, tab: Page, stub: Stub
) -> None:
    """Are said, with no picture, and are asked for again."""
    tab.add_init_script(FAST)
    stub.answers["/v1/status"] = answer
    tab.goto(f"{stub.url}/")
    wait_for(tab, "#contact", said)
    assert tab.text_content("#state") == "No answer"
    assert not tab.is_visible("#run")
    stub.tell(status())
    wait_for(tab, "#state", "Training")
    assert tab.text_content("#contact") == ""


@pytest.mark.parametrize(
    "value",
    [
        {"state": "training"},
        {"state": "of affairs", "clients": "north", "rounds": {}, "round": "1", "n_rounds": None},
        {"state": "training", "clients": [None, 1, {}, {"rows": "x"}], "rounds": [None, {}, 7]},
        {"state": "", "rounds": [{"round": 1, "metrics": None, "failed": None, "dropped": 3}]},
        {"state": "__proto__", "n_rounds": -1, "round": 1e300, "bytes_sent": 1e300},
    ],
)
def test_half_a_status(value: Any, tab: Page, stub: Stub, noise: list[str]) -> None:
    """Of a server of another version, say: what is there is shown, the rest is a dash."""
    stub.tell(value)
    show(tab, stub.url)
    assert tab.text_content("#state") == {"training": "Training"}.get(
        value["state"], value["state"]
    )
    assert noise == []


def test_gaps_and_wild_numbers(tab: Page, stub: Stub, noise: list[str]) -> None:
    """A round without a value breaks its curve; no scale is without an end."""
    values: dict[str, list[float | None]] = {
        "gap_loss": [1.0, None, 2.0, 3.0, None, None, 4.0],
        "none_loss": [None] * 7,
        "flat": [0.0] * 7,
        "huge": [1e308, -1e308, 1e300, -1e300, 1.0, 2.0, 3.0],
        "tiny": [5e-324, 0.0, -5e-324, 1e-310, 0.0, 0.0, 0.0],
        "close": [1.0, 1.0 + 2e-16, 1.0, 1.0, 1.0, 1.0, 1.0],
        "column.age": [1.0] * 7,
    }
    rounds = [
        report(i + 1, [], metrics={name: each[i] for name, each in values.items()})
        for i in range(7)
    ]
    stub.tell(status(7, rounds=rounds))
    show(tab, stub.url)
    assert tab.evaluate(POINTS) == {
        "gap_loss": [1, 2, 1],
        "flat": [7],
        "huge": [5],
        "tiny": [7],
        "close": [7],
    }
    shapes = tab.eval_on_selector_all(
        ".chart svg *", "(all) => all.map((each) => each.outerHTML).join()"
    )
    assert not re.search(r"NaN|Infinity|undefined", shapes)
    assert noise == []


def test_pointing_at_a_round_tells_its_values(tab: Page, stub: Stub) -> None:
    show(tab, stub.url)
    first, *_, last = status()["rounds"]
    picture = tab.locator(".chart > svg")
    box: Any = picture.bounding_box()
    for place, shown in ((0.12, first), (0.99, last)):
        picture.hover(position={"x": box["width"] * place, "y": box["height"] / 2})
        assert texts(tab, ".legend b") == [f"{value:.4g}" for value in shown["metrics"].values()]
        assert texts(tab, ".chart h3") == [f"Loss, round {shown['round']}"]
    tab.mouse.move(0, 0)
    assert tab.get_attribute(".guide", "visibility") == "hidden"


def test_it_can_be_heard(tab: Page, stub: Stub) -> None:
    """Headings, headers of tables, and names for what is drawn."""
    failed = report(3, ["north"], failed={"south": "no rows"})
    stub.tell(status(rounds=[report(1, []), report(2, []), failed]))
    show(tab, stub.url)
    tree = tab.locator("main").aria_snapshot()
    for line in [
        'heading "Training" [level=1]',
        'heading "Rounds" [level=2]',
        'progressbar "Rounds"',
        'heading "Losses" [level=2]',
        'img "Loss, rounds 1 to 3"',
        'heading "Clients 2 of 2 here" [level=2]',
        'columnheader "Last seen"',
        'rowheader "north"',
        'rowheader "south"',
        'cell "no rows"',
    ]:
        assert line in tree
    assert tab.get_attribute("#state", "aria-live") == "polite"
    assert tab.get_attribute("#contact", "role") == "status"
    scopes = tab.eval_on_selector_all("th", "(all) => all.map((each) => each.scope)")
    assert set(scopes) == {"col", "row"}


def test_what_is_selected_stays_selected(tab: Page, stub: Stub) -> None:
    """A picture is changed where it differs, not made anew."""
    tab.add_init_script(FAST)
    show(tab, stub.url)
    tab.evaluate("() => getSelection().selectAllChildren(document.querySelector('#clients th'))")
    stub.tell(status(4))
    wait_for(tab, "#round", "4")
    assert tab.evaluate("() => getSelection().toString()") == "north"


@pytest.mark.parametrize("prefix", ["", "/federations/one"])
def test_it_asks_beside_its_own_address(
    prefix: str, tab: Page, stub: Stub, noise: list[str]
) -> None:
    """Also behind a path, and also when that address holds a token."""
    stub.answers = {f"{prefix}{path}": answer for path, answer in stub.answers.items()}
    tab.goto(f"{stub.url.replace('//', '//operator:secret@')}{prefix}/")
    tab.wait_for_selector("#run:not([hidden])")
    assert {path for path, _ in stub.asked} == {f"{prefix}/", f"{prefix}/v1/status"}
    assert noise == []


def test_the_password_of_the_page_is_that_of_the_status(browser: Browser, stub: Stub) -> None:
    stub.token = "a token of sixteen letters"
    credentials: Any = {"username": "operator", "password": stub.token}
    context = browser.new_context(http_credentials=credentials)
    show(context.new_page(), stub.url)
    context.close()


def test_nothing_comes_from_elsewhere() -> None:
    text = page()
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, which nobody asks for
    assert text.count("<script>") == text.count("</script>") == 1
    assert "innerHTML" not in text
    assert "unsafe" not in POLICY
