"""The page in a real browser: silent, reachable by pointer and keyboard, and asking for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from autoprune.report import StudyFacts, page
from tests.chromium import Browser
from tests.report.conftest import make_study
from tests.report.test_page import hostile_study

Show = Callable[..., Browser]


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Show:
    """Open the page of some studies."""

    def call(*studies: StudyFacts, hash_: str = "", **window: object) -> Browser:
        file = tmp_path / "page.html"
        file.write_text(page(studies, made="now"), encoding="utf-8")
        browser.show(f"{file.as_uri()}{hash_}", **window)  # type: ignore[arg-type]
        return browser

    return call


def heading(browser: Browser) -> str:
    return str(browser.run("document.querySelector('#picked h2').textContent"))


def visible_curves(browser: Browser) -> int:
    return int(browser.run("document.querySelectorAll('#parallel-0 .curves .curve:not(.off)').length"))


def test_it_is_silent_and_loads_nothing(show: Show) -> None:
    browser = show(make_study(), make_study("other", shift=-0.01))
    assert browser.console == []
    assert [url.split(":")[0] for url in browser.requests] == ["file"]
    assert heading(browser) == "made up, trial 2"  # the knee


def test_hostile_text_does_nothing(show: Show) -> None:
    browser = show(hostile_study())
    for number in range(4):
        browser.run(f"location.hash = '#t0.{number}'")
        browser.until(f"document.querySelector('#picked h2').textContent === 'Trial {number}'")
    assert "<script>window.hit=1" in browser.run("document.querySelector('#picked').textContent")
    assert browser.run("window.hit === undefined && document.querySelectorAll('img').length === 0")
    assert browser.console == []


def test_the_pointer_picks_a_point(show: Show) -> None:
    browser = show(make_study())
    browser.click("#front svg [data-t='0.1']")
    assert heading(browser) == "Trial 1"
    panel = browser.run("document.querySelector('#picked').textContent")
    for told in (
        "0.9300",
        "0.9200 ± 0.0100, 3 seeds",
        "8 / 16",
        "autoprune export 'made up' 1 --to trial-1.onnx",
        "random",
    ):
        assert told in panel
    assert browser.run("location.hash") == "#t0.1"
    assert browser.run("document.querySelector('#widths-0 .column.picked').dataset.t") == "0.1"
    # Near is enough: points are small.
    x, y = browser.middle("#front svg circle[data-t='0.3']")
    browser.mouse("mousePressed", x + 9, y - 6)
    browser.mouse("mouseReleased", x + 9, y - 6)
    assert heading(browser) == "Trial 3"


def test_the_keyboard_picks_a_point(show: Show) -> None:
    browser = show(make_study())
    browser.run("document.querySelector('#front .scroll').focus()")
    browser.key("Tab")
    assert browser.run("document.activeElement.dataset.t") == "0.4"  # the cheapest
    browser.key("ArrowRight")
    browser.key("ArrowRight")
    browser.key("Enter")
    assert heading(browser) == "Trial 2"
    assert "Trial 2" in browser.run("document.querySelector('#said').textContent")
    browser.key("ArrowUp")  # the next of all points by cost: the stopped one
    browser.key("Enter")
    assert heading(browser) == "Trial 8"
    browser.key("Tab")
    assert browser.run("document.activeElement.closest('svg[data-marks]')") is None  # one stop a chart


def test_an_address_names_a_trial(show: Show) -> None:
    browser = show(make_study(), hash_="#t0.9")
    assert heading(browser) == "Trial 9"
    assert "the loss became nan" in browser.run("document.querySelector('#picked').textContent")


def test_brushing_by_pointer_narrows_lines_points_and_table(show: Show) -> None:
    browser = show(make_study())
    assert visible_curves(browser) == 8
    browser.middle("#parallel-0 [data-name='macs_ratio'] .grip")
    ends = browser.run(
        "(() => { const box = document.querySelector(\"#parallel-0 [data-name='macs_ratio'] .grip\")"
        ".getBoundingClientRect(); return [box.x + box.width / 2, ...[0.06, 0.45].map((s) => box.y + s * box.height)]; "
        "})()"
    )
    browser.drag((ends[0], ends[1]), (ends[0], ends[2]))
    kept = visible_curves(browser)
    assert 0 < kept < 8
    shown = browser.run("document.querySelectorAll('#trials-0 tbody tr:not(.off)').length")
    assert shown == kept
    assert browser.run("document.querySelector('.brushed').textContent") == f"{kept} of 8 trials"
    assert browser.run("document.querySelector(\"#front [data-t='0.4']\").classList.contains('off')")
    browser.click(".unbrush")
    browser.until("document.querySelectorAll('#parallel-0 .curve.off').length === 0")


def test_brushing_by_keyboard(show: Show) -> None:
    browser = show(make_study())
    selector = "#parallel-0 [data-name='accuracy'] .handle[data-end='lower']"
    browser.run(f"document.querySelector({json.dumps(selector)}).focus()")
    for _ in range(10):
        browser.key("ArrowUp")
    value = float(browser.run("document.activeElement.getAttribute('aria-valuetext')"))
    kept = [t for t in make_study().complete if t.values["accuracy"] >= value]
    assert visible_curves(browser) == len(kept) < 8
    browser.key("Escape")
    assert visible_curves(browser) == 8


def test_tables_are_sorted(show: Show) -> None:
    browser = show(make_study())
    browser.run("document.querySelector('#front details').open = true")
    column = "[...document.querySelectorAll('#front tbody tr')].map((row) => row.cells[1].textContent)"
    browser.click("#front th:nth-child(2) button")
    rising = browser.run(column)
    browser.click("#front th:nth-child(2) button")
    assert browser.run(column) == rising[::-1] == sorted(rising, reverse=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_window_of_320_pixels(show: Show, scheme: str) -> None:
    browser = show(make_study(), width=320, height=640, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_told_from_what_lies_behind_them(show: Show, scheme: str) -> None:
    browser = show(make_study(), scheme=scheme)
    names = ["ink", "quiet", "edge", "mark", "s0", "s1", "good", "note", "warning", "uniform", "dense", "focus"]
    ratios = browser.run(f"""(() => {{
      const light = (name) => {{
        const probe = document.createElement("i");
        probe.style.color = `var(--${{name}})`;
        document.body.append(probe);
        const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map((each) => {{
          const share = each / 255;
          return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        }});
        probe.remove();
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
      }};
      const behind = light("surface");
      return {json.dumps(names)}.map((name) => {{
        const [low, high] = [light(name), behind].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
      }});
    }})()""")
    told = dict(zip(names, ratios, strict=True))
    assert {name: ratio for name, ratio in told.items() if ratio < 3} == {}
    assert min(told["ink"], told["quiet"]) >= 4.5
