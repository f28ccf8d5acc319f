"""The report as a dictionary, a table and a page."""

import base64
import copy
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis import DataError
from genesis.evaluation.report import Report
from genesis.evaluation.report.reading import READING
from genesis.evaluation.report.sections import AUDIT, EVALUATION
from tests.evaluation.report.samples import EVIL, ODD, SAMPLES, evaluation

FILES = resources.files("genesis.evaluation.report")
VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its scripts, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        """All that can be read, in one line."""
        return re.sub(r"\s+", " ", " ".join(self.words))

    def values(self, attribute: str) -> list[str]:
        """Every value of an attribute."""
        return [attrs[attribute] for _, attrs in self.elements if attribute in attrs]


@pytest.fixture(scope="module", params=SAMPLES)
def sample(request: pytest.FixtureRequest) -> Report:
    return Report(*SAMPLES[request.param]())


@pytest.fixture(scope="module")
def page(sample: Report) -> Page:
    return Page(sample.to_html())


def test_a_dictionary_is_a_copy(sample: Report) -> None:
    before = copy.deepcopy(sample.scores)
    got = sample.to_dict()
    assert json.loads(json.dumps(got, allow_nan=False)) == before
    got.get("fidelity", got)["quality"] = "changed"
    assert sample.scores == before


def test_rendering_changes_nothing_and_repeats(sample: Report) -> None:
    before = copy.deepcopy((sample.scores, sample.pictures))
    assert sample.to_html() == sample.to_html()
    assert (sample.scores, sample.pictures) == before


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.open == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    anchors = [link for link in page.values("href") if link.startswith("#")]
    assert {anchor[1:] for anchor in anchors} <= set(ids)
    assert {label for _, attrs in page.elements if (label := attrs.get("aria-labelledby"))} <= set(
        ids
    )


def test_nothing_comes_from_outside(page: Page) -> None:
    assert page.values("src") == []
    assert all(link.startswith("#") or link == "data:," for link in page.values("href"))
    style = FILES.joinpath("page.css").read_text("utf-8")
    assert "@import" not in style
    assert "url(" not in style


def test_only_our_scripts_may_run(page: Page) -> None:
    policy = page.values("content")[page.values("http-equiv").index("Content-Security-Policy")]
    kinds = [attrs.get("type") for tag, attrs in page.elements if tag == "script"]
    assert kinds == ["application/json", None, None]  # figures, Plotly, page.js
    for script in page.scripts[1:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert policy.split("script-src")[1].split(";")[0].count("'sha256-") == 2
    assert "unsafe-eval" not in policy
    assert sum("Plotly" in script for script in page.scripts[1:2]) == 1
    handlers = [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert handlers == []


def test_people_who_do_not_see_it_can_read_it(page: Page) -> None:
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))
    for tag, attrs in page.elements:
        if attrs.get("role") in ("img", "region"):
            assert attrs["aria-label"].strip()
        if tag == "th":
            assert "scope" in attrs
        if "scroll" in attrs.get("class", "").split():
            assert attrs["tabindex"] == "0"  # so that the keyboard can scroll it


def test_odd_names_stay_text() -> None:
    html = Report(*SAMPLES["wide"]()).to_html()
    page = Page(html)
    assert EVIL not in html
    assert all(name in page.text for name in ODD)
    drawn = json.loads(page.scripts[0])
    assert {figure["title"] for figure in drawn} >= set(ODD)


def test_it_never_calls_rows_private(page: Page) -> None:
    claims = re.findall(
        r"(?:\bis|\bare|\bas|fully|completely) (?:private|safe|anonymous)", page.text
    )
    assert claims == []
    assert "no guarantee" in page.text or "Not tested" in page.text


def test_power_stands_in_the_summary() -> None:
    text = Page(Report(*evaluation()).to_html()).text
    summary = text[: text.index("Beside the controls") + 2000]
    assert "3 of 4 planted leaks were found" in summary
    assert "copy 0.996, noisy copy 0.871, 5 % leak 0.546" in summary
    assert "2,400 members against 2,400 others" in summary


def test_missing_parts_are_named_with_their_reason() -> None:
    text = Page(Report(*SAMPLES["one_column"]()).to_html()).text
    missing = text[text.rindex("Not measured") :]
    for reason in ("No target column was named.", "No holdout was given.", "Too few rows"):
        assert reason in missing


@pytest.mark.parametrize("kind", ["evaluation", "audit", None])
def test_a_report_of_nothing_is_a_page(kind: str | None) -> None:
    report = Report({"kind": kind} if kind else {})
    page = Page(report.to_html())
    assert "Not tested" in page.text
    assert len(page.scripts) == 1  # nothing to draw: no Plotly
    assert report.to_frame().empty


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every part of a nested value."""
    keys = value if isinstance(value, dict) else ()
    return [path] * bool(path) + [p for key in keys for p in paths(value[key], (*path, key))]


@pytest.mark.parametrize("name", ["evaluation", "audit"])
@given(data=st.data())
@settings(max_examples=60)
def test_any_part_may_be_missing(name: str, data: st.DataObject) -> None:
    """Every score may be None, and every section; a page comes out nevertheless."""
    scores, pictures = SAMPLES[name]()
    pictures.pop("distributions")  # drawn from tables, so they are whole or not there
    every = [path for path in paths(scores) if path[-1] not in ("kind", "columns", "attack")]
    for path in data.draw(st.lists(st.sampled_from(every), max_size=12)):
        *way, last = path
        part: Any = scores
        for key in way:
            part = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict):
            part[last] = None
    report = Report(scores, {} if data.draw(st.booleans()) else pictures)
    Page(report.to_html().partition("<script>")[0])
    report.to_frame()


def test_numbers_that_are_none_do_not_stop_the_page() -> None:
    scores, pictures = evaluation()
    scores["detection"]["c2st_auc"] = float("nan")
    scores["fidelity"]["quality"] = float("inf")
    pictures["distributions"]["age"]["real"][3] = float("nan")
    pictures["trends"]["score"][0][1] = float("nan")
    pictures["curves"]["density"]["tpr"][0] = float("nan")
    page = Page(Report(scores, pictures).to_html())
    json.loads(page.scripts[0], parse_constant=lambda word: pytest.fail(word))
    assert "nan" not in page.text.split()


def test_it_is_saved_as_one_file(tmp_path: Path) -> None:
    scores, pictures = evaluation()
    scores["detection"]["columns"][0]["column"] = "half a pair \ud800"
    report = Report(scores, pictures)
    report.save(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_every_section_says_how_to_read_it() -> None:
    for section in {*EVALUATION, *AUDIT}:
        assert READING[section.id]
        assert FILES.joinpath("sections", f"{section.template or section.id}.html").is_file()
    assert set(READING) == {section.id for section in {*EVALUATION, *AUDIT}}


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_from_the_paper(scheme: str) -> None:
    """Texts have a contrast of at least 4.5 to 1, marks and lines of plots one of 3 to 1."""
    light, dark = FILES.joinpath("page.css").read_text("utf-8").split("prefers-color-scheme: dark")
    found = dict(re.findall(r"--(\w+): (#\w{6});", light if scheme == "light" else dark))
    least = dict.fromkeys(["ink", "soft", "alert", "caution", "plain"], 4.5)
    least |= dict.fromkeys(["synthetic", "holdout", "shuffled"], 3.0)
    for paper in ("paper", "card"):
        for name, needed in least.items():
            bright, dim = sorted((luminance(found[name]), luminance(found[paper])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= needed, (name, paper)


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        Report({"kind": "evaluation"}).save(tmp_path / "missing" / "page.html")
