"""The picture of the README: its points are those of the card."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.search_scores import LEVELS, best_at, hypervolume
from studies.bench_search.picture import ROWS, draw, points

FOLDER = Path(__file__).parents[2] / "studies" / "bench_search"


@pytest.fixture(scope="module")
def fronts():
    return points(FOLDER / "fronts.csv")


def as_errors(front):
    return [(1 - accuracy, ratio) for ratio, accuracy in front]


def test_whole_fronts_have_the_hypervolume_of_the_card(fronts):
    card = (FOLDER / "results.md").read_text()
    ours = re.search(r"`ours` \| 0, 1 \| \*\*[\d.]+\*\* \(([\d.]+), ([\d.]+)\)", card)
    chain = re.search(r"`chain` \| 0 \| \*\*([\d.]+)\*\*", card)
    for key, told in ((("ours", 0), ours[1]), (("ours", 1), ours[2]), (("chain", 0), chain[1])):
        assert f"{hypervolume(as_errors(fronts[key])):.4f}" == told


@pytest.mark.parametrize("row", ["fastnas", "ladder_global", "ladder_uniform", "diy"])
def test_the_other_rows_are_the_card_s_accuracies_at_its_levels(fronts, row):
    (cells,) = re.findall(
        rf"^\| `{row}` \| 0\.\d{{3}} \| 0\.\d{{3}} \| (.*) \|$", (FOLDER / "README.md").read_text(), re.M
    )
    told = [float(cell) for cell in cells.split(" | ")]
    assert list(best_at(as_errors(fronts[row, 0])).values()) == pytest.approx(told)
    assert len(told) == len(LEVELS)


def test_every_row_is_drawn(fronts, tmp_path):
    draw(fronts, tmp_path / "front.svg")
    drawn = (tmp_path / "front.svg").read_text()
    assert all(ROWS[row][0] in drawn for row, _ in fronts)
    assert len(drawn) < 60_000
