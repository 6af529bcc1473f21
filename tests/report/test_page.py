"""The page as text: complete, self-contained, and safe from what a database may hold."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from autoprune.report import Group, ImportanceTable, StudyFacts, TrialFacts, page
from tests.report.conftest import make_study, make_trial

HOSTILE = "<script>window.hit=1</script>\"'><img src=x onerror=window.hit=1> ]]> </script> \u202e\x00 & `$(rm -rf)`"


class Reader(HTMLParser):
    """Elements with their attributes, and text by the element that it stands in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self._open = [""]
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        here = self._open[-1]
        self.text[here] = self.text.get(here, "") + data


def read(*studies: StudyFacts, version: str | None = None) -> Reader:
    return Reader(page(studies, made="now", version=version))


def test_every_chart_has_a_title_a_description_and_its_data() -> None:
    found = read(make_study())
    drawn = [attrs for tag, attrs in found.elements if tag == "svg" and "role" in attrs]
    ids = {attrs["id"] for _, attrs in found.elements if "id" in attrs}
    assert len(drawn) >= 9
    assert all({attrs["aria-labelledby"], attrs["aria-describedby"]} <= ids for attrs in drawn)
    figures = re.findall(r"<figure.*?</figure>", page([make_study()], made="now"), re.DOTALL)
    assert len(figures) >= 9
    assert [figure[:60] for figure in figures if "<table" not in figure and 'href="#trials-0"' not in figure] == []


@pytest.mark.parametrize("n_studies", [1, 2])
def test_no_id_twice_and_every_link_leads_somewhere(n_studies: int) -> None:
    found = read(*[make_study(f"study {i}") for i in range(n_studies)])
    ids = Counter(attrs["id"] for _, attrs in found.elements if "id" in attrs)
    assert [id_ for id_, n in ids.items() if n > 1] == []
    links = {attrs["href"] or "" for tag, attrs in found.elements if tag == "a"}
    assert {link for link in links if not link.startswith("#")} == set()
    # "#t0.3" is a trial, which the script picks.
    assert {link[1:] for link in links if not re.match(r"#t\d+\.\d+$", link)} <= set(ids)


def test_it_asks_for_nothing_outside_it() -> None:
    text = page([make_study()], made="now")
    assert re.findall(r"https?://|@import|url\(|\bsrc=", text) == []
    policy = next(a["content"] or "" for t, a in Reader(text).elements if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy


def test_a_live_page_may_ask_its_own_server_alone() -> None:
    found = read(make_study(), version="v7")
    policy = next(attrs["content"] or "" for _, attrs in found.elements if attrs.get("http-equiv"))
    assert policy.endswith("connect-src 'self'")
    assert ("html", {"lang": "en", "data-version": "v7"}) in found.elements


def hostile_study() -> StudyFacts:
    trials = {
        0: make_trial(0, 0.9, 0.5, searched={"method": HOSTILE, "width_rule": HOSTILE, HOSTILE: 1.0}, host=HOSTILE,
                      why=HOSTILE, widths={HOSTILE: 3}, seconds={HOSTILE: 2.0}),
        1: make_trial(1, 0.8, 0.4, searched={"method": "a", "width_rule": "b", HOSTILE: 2.0}),
        2: TrialFacts(number=2, state="FAIL", values={}, searched={}, reason=HOSTILE),
        3: TrialFacts(number=3, state="PRUNED", values={}, searched={}, reason=HOSTILE, host=HOSTILE, started_s=1.0),
    }  # fmt: skip
    return make_study(
        HOSTILE, trials=trials, front=(1, 0), uniform_front=(), about=((HOSTILE, HOSTILE),), devices=HOSTILE,
        groups=(Group(HOSTILE, 4, HOSTILE),), importances=(ImportanceTable("accuracy", note=HOSTILE),), growth=(),
        storage=f"sqlite:///{HOSTILE}",
    )  # fmt: skip


def test_hostile_text_makes_no_element() -> None:
    tame, hostile = read(make_study()), read(hostile_study())
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in tame.elements}
    assert not any(name.startswith("on") for _, attrs in hostile.elements for name in attrs)
    assert sum(tag == "script" for tag, _ in hostile.elements) == 2


def test_the_facts_are_json_and_commands_are_quoted() -> None:
    text = page([hostile_study()], made="now")
    (found,) = re.findall(r'<script type="application/json" id="facts">(.*?)</script>', text)
    (facts,) = json.loads(found)
    assert facts["quoted"].startswith("'<script>")
    assert facts["trials"][2]["x"].startswith("<script>window.hit=1</script>")
    assert "\u202e" not in facts["trials"][2]["x"]


def test_a_study_without_trials_is_a_page() -> None:
    empty = make_study(trials={}, front=(), uniform_front=(), growth=(), groups=(), dense_score=None, importances=())
    found = read(empty)
    assert "Only 0 trials with a result" in found.text["span"]
    links = {attrs["href"] for tag, attrs in found.elements if tag == "a"}
    assert links == {"#front", "#health", "#search", "#about"}  # to what there is


def test_a_minimised_metric_has_its_best_on_top() -> None:
    trials = {n: make_trial(n, 0, 0, values={"rmse": rmse, "macs_ratio": cost}, rungs=()) for n, (rmse, cost) in
              enumerate([(0.4, 1.0), (0.5, 0.5), (1.0, 0.2)])}  # fmt: skip
    study = make_study(
        metric="rmse", metric_is_maximised=False, metric_digits=None, objectives=("rmse", "macs_ratio"), trials=trials,
        front=(2, 1, 0), uniform_front=(), dense_score=0.39, reference_point={"rmse": 2.0, "macs_ratio": 1.0},
    )  # fmt: skip
    found = read(study)
    heights = {
        a["data-t"]: float(a["cy"] or 0) for _, a in found.elements if a.get("class") == "front s0" and a.get("data-t")
    }
    assert heights["0.0"] < heights["0.1"] < heights["0.2"]


def test_two_studies_are_told_apart_by_shape_and_compared() -> None:
    text = page([make_study("before"), make_study("after", shift=0.01)], made="now")
    assert "0 of the 5 networks on the front of after are dominated by one of before, and 5 of 5" in text
    assert re.search(r'<path d="[^"]*" class="front s1" data-t="1\.0"', text)  # a diamond
    assert re.search(r'<circle [^>]*class="front s0" data-t="0\.0"', text)
    assert "accuracy at macs_ratio ≤ 0.5" in text
    assert "+0.0100" in text


def test_three_objectives_have_no_line_that_would_not_be_true() -> None:
    study = make_study(objectives=("accuracy", "macs_ratio", "latency_ms"))
    figure = re.findall(r'<figure id="front".*?</figure>', page([study], made="now"), re.DOTALL)[0]
    drawing = figure[figure.index('aria-labelledby="front-title"') :]
    assert 'class="front line' not in drawing


def test_many_members_are_drawn_in_part_and_all_in_the_table() -> None:
    trials = {n: make_trial(n, 0.5 + 0.005 * n, 0.1 + 0.01 * n) for n in range(60)}
    text = page([make_study(trials=trials, front=tuple(range(60)), uniform_front=())], made="now")
    figure = re.findall(r'<figure id="widths-0".*?</figure>', text, re.DOTALL)[0]
    assert figure.count('class="column"') == 24
    assert "24 of 60 members are drawn" in figure
    assert figure.count('<th scope="col">trial ') == 60


def test_lineages_of_results_that_were_taken_over_go_on_at_their_source() -> None:
    study = make_study()
    taken = replace(study.trials[2], taken_over_from=1)
    assert make_study(trials={**study.trials, 2: taken}).lineage(2) == [0, 1]
