"""`autoprune pareto`: the front, one network of it, several studies, and files."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from autoprune import methods
from autoprune.cli.main import build_parser, main
from autoprune.config import load_study
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Lifecycle, Proposal

CONFIG = load_study(Path(__file__).parents[2] / "studies" / "digits" / "study.toml", methods.catalogue())


def test_json_of_a_condition_equals_a_front_computed_by_brute_force(tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/study.db"
    db = Database.open(url, create=True)
    study = StudyHandle.create_or_join(
        db, name="s", identity={}, config={"config": CONFIG.to_dict()},
        directions=["maximize", "minimize"], objectives=["accuracy", "macs_ratio"],
    )  # fmt: skip
    lifecycle, draw, points = Lifecycle(study, owner="x", n_trials=120), random.Random(0), {}
    for i in range(120):
        claim = lifecycle.claim(Proposal(params={}, distributions={}, key=str(i), attrs={"method": "m"}))
        # Coarse values, so that there are ties in one objective and in both.
        ratio = draw.randrange(1, 41) / 40
        point = (round(0.6 + 0.3 * ratio + 0.02 * draw.randrange(-3, 4), 2), ratio)
        if i % 10 == 9:
            lifecycle.failed(claim.trial_id, "no")
        else:
            lifecycle.complete(claim.trial_id, point, {})
            points[claim.number] = point
    db.close()

    assert main(["pareto", "s", "--where", "macs_ratio <= 0.5", "--format", "json", "--storage", url]) == 0
    told = {row["number"]: (row["accuracy"], row["macs_ratio"]) for row in json.loads(capsys.readouterr().out)}

    cheap = {number: point for number, point in points.items() if point[1] <= 0.5}

    def dominated(a):
        return any(b[0] >= a[0] and b[1] <= a[1] and b != a for b in cheap.values())

    assert told == {number: point for number, point in cheap.items() if not dominated(point)}
    assert 3 < len(told) < len(cheap)


Run = Callable[..., Any]


def ok(answer: Any) -> str:
    assert (answer.code, answer.err) == (0, "")
    return str(answer.out)


def numbers(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines()[1:] if line.split()[0].isdigit()]


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["--best", "accuracy"], 0),
        (["--best", "macs"], 2),
        (["--knee"], 1),
        (["--under", "macs_ratio <= 0.5"], 1),
        (["--under", "macs_ratio <= 0.3", "--where", "number != 2"], 3),
    ],
)
def test_one_network_and_how_to_take_it_away(run: Run, finished: Any, flags: list[str], found: int) -> None:
    out = ok(run("pareto", "digits", *flags, "--storage", finished.url))
    assert numbers(out) == [str(found)]
    *_, volume, command = out.splitlines()
    assert volume.startswith("hypervolume 0.7100 ")  # of the whole front
    assert command == f"autoprune export digits {found} --to digits-{found}.onnx --storage {finished.url}"
    assert build_parser().parse_args(shlex.split(command)[1:]).trial == found


def test_a_few_points_and_all_of_them(run: Run, finished: Any) -> None:
    storage = ["--storage", finished.url]
    assert numbers(ok(run("pareto", "digits", "--top", 1, *storage))) == ["2"]
    assert numbers(ok(run("pareto", "digits", "--top", 9, *storage))) == ["2", "1"]  # 0 lies on the reference point
    lines = ok(run("pareto", "digits", "--dominated", *storage)).splitlines()
    assert lines[0].split()[:3] == ["front", "trial", "accuracy"]
    assert [line.split()[:2] for line in lines[1:5]] == [["*", "2"], ["3", "0.8800"], ["*", "1"], ["*", "0"]]
    records = json.loads(ok(run("pareto", "digits", "--dominated", "--format", "json", *storage)))
    assert [(row["number"], row["is_pareto"], row["rank"]) for row in records] == [
        (2, True, 0), (3, False, 1), (1, True, 0), (0, True, 0),
    ]  # fmt: skip
    assert [row["hv_contribution"] for row in records] == pytest.approx([0.4 * 0.3 / 0.5, 0, 0.07 * 0.5 / 0.5 + 0, 0])


def test_files_hold_what_would_be_printed(run: Run, finished: Any, tmp_path: Path) -> None:
    storage = ["--storage", finished.url]
    printed = pd.DataFrame(json.loads(ok(run("pareto", "digits", "--format", "json", *storage))))
    readers = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}
    for form, read in readers.items():
        for flags in (["--to", f"{tmp_path}/front.{form}"], ["--to", f"{tmp_path}/front.data", "--format", form]):
            assert ok(run("pareto", "digits", *flags, *storage)) == f"wrote {flags[1]} (3 rows)\n"
            found = read(flags[1])
            assert list(found.columns) == list(printed.columns)
            for column in ("number", "accuracy", "macs_ratio", "macs", "rank", "hv_contribution"):
                assert found[column].tolist() == pytest.approx(printed[column].tolist())
            assert found["method"].tolist() == printed["method"].tolist()


def test_columns_of_several_kinds_are_text_in_parquet(tmp_path: Path) -> None:
    from autoprune.cli.files import write_table

    frame = pd.DataFrame({"number": [1, 2, 3], "mixed": pd.Series(["a", 3, None], dtype=object)})
    write_table(frame, str(tmp_path / "t.parquet"), form="parquet")
    found = pd.read_parquet(tmp_path / "t.parquet")["mixed"]
    assert found.iloc[:2].tolist() == ["a", "3"]
    assert found.isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--knee", "--best", "macs"], "argument --best: not allowed with argument --knee"),
        (["--under", "macs_ratio < 0.1"], "a network must satisfy 'macs_ratio < 0.1', but no finished one does."),
        (["--under", "macs_ratio"], "`where` must be made of comparisons, but 'macs_ratio' has: macs_ratio."),
        (["--best", "mac"], "in `best`, there is no column 'mac'; did you mean 'macs'?"),
        (["--best", "test_accuracy"], "in `best`, there is no column 'test_accuracy'"),
        (["--where", "number < 2 and number > 0", "--knee", "--format", "tabl"], "there is no format 'tabl'"),
        (["--where", "number < 2", "--knee"], "a knee must lie below the chord between the front's ends, but none of"),
        (
            ["--dominated", "--spacing", "0.1"],
            "`spacing` leaves out points of a front, but `dominated` shows others too.",
        ),
        (["--top", "0"], "argument --top: must be a whole number of at least 1, but got '0'"),
        (["--format", "parquet"], "`--format parquet` must be written to a file, but none is named. Add --to"),
        (["--to", "front.xls"], "`--to` must end in .csv, .json, .parquet, but got 'front.xls'."),
        (["--to", "front.csv", "--format", "table"], "`--to` must end in .csv, .json, .parquet, but got 'front.csv'."),
        (["--to", "none/front.csv"], "`--to` must lead to a folder that exists, but got 'none/front.csv'."),
        (["other"], "there is no study 'other'"),
    ],
)
def test_what_can_t_be_asked(run: Run, finished: Any, flags: list[str], told: str) -> None:
    assert run("pareto", "digits", *flags, "--storage", finished.url).is_refusal(told)


@pytest.fixture
def two(finished: Any) -> Any:
    """Beside the finished study another one with trials of its own, in the same database."""
    beside(finished.url, finished.url, "other", [(0.95, 0.5), (0.93, 0.25), (0.5, 0.1)], reference_point=0.4)
    return finished


def beside(url: str, model: str, name: str, values: list[tuple[float, float]], *, reference_point: float) -> None:
    """Write a study of the kind that is in one database to another one."""
    like = StudyHandle.open(Database.open_readonly(model), "digits")
    config = json.loads(json.dumps(like.config))
    config["config"]["study"]["name"], config["config"]["study"]["sampler"] = name, "random"
    config["config"]["study"]["reference_point"][like.objectives[0]] = reference_point
    db = Database.open(url, create=False)
    study = StudyHandle.create_or_join(
        db, name=name, identity={**like.identity, "seed of tests": 1}, config=config,
        directions=like.directions, objectives=like.objectives,
    )  # fmt: skip
    lifecycle = Lifecycle(study, owner="x", n_trials=9)
    for i, point in enumerate(values):
        claim = lifecycle.claim(Proposal(params={}, distributions={}, key=str(i), attrs={}))
        lifecycle.complete(claim.trial_id, point, dict(zip(like.objectives, point, strict=True)))
    db.close()


def test_two_studies_on_one_front(run: Run, two: Any) -> None:
    out = ok(run("pareto", "digits", "other", "--storage", two.url)).splitlines()
    assert out[0].split()[:3] == ["study", "trial", "accuracy"]
    assert [line.split()[:3] for line in out[1:6]] == [
        ["other", "2", "0.5000"], ["digits", "2", "0.9000"], ["other", "1", "0.9300"], ["digits", "1", "0.9700"],
        ["digits", "0", "0.9800"],
    ]  # fmt: skip
    assert out[6].startswith("scores of these studies may not be comparable: `seed of tests` is ")
    # At the worse one of both reference points.
    share = (0.1 * 0.1 + 0.5 * 0.05 + 0.53 * 0.25 + 0.57 * 0.5) / 0.6
    assert out[7] == f"hypervolume {share:.4f} of the box up to the reference point (accuracy 0.4, macs_ratio 1)"
    best = ok(run("pareto", "digits", "other", "--under", "macs_ratio < 0.4", "--storage", two.url)).splitlines()
    assert best[1].split()[:2] == ["other", "1"]
    assert best[-1].startswith("autoprune export other 1 --to other-1.onnx --storage ")
    told = "`--plot` must be given with one study, but got digits, other. Name one of them."
    assert run("pareto", "digits", "other", "--plot", "x.png", "--storage", two.url).is_refusal(told)


def test_studies_of_other_objectives_do_not_meet(run: Run, finished: Any, finished_by_params: Any) -> None:
    beside(finished.url, finished_by_params.url, "by_params", [(0.5, 0.5)], reference_point=0.0)
    told = (
        "studies must have the same objectives to be compared, but 'digits' has accuracy (maximized), macs_ratio "
        "(minimized) and 'by_params' has accuracy (maximized), params_ratio (minimized)."
    )
    for command in ("pareto", "diff"):
        assert run(command, "digits", "by_params", "--storage", finished.url).is_refusal(told)


def test_two_studies_are_held_against_each_other(run: Run, two: Any) -> None:
    lines = ok(run("diff", "digits", "other", "--storage", two.url)).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["study", "hypervolume", "front", "beaten", "by", "the", "other"],
        ["digits", f"{(0.5 * 0.3 + 0.57 * 0.5) / 0.6:.4f}", "3", "0"],
        ["other", f"{(0.1 * 0.15 + 0.53 * 0.25 + 0.55 * 0.5) / 0.6:.4f}", "3", "1"],
        ["both", f"{(0.1 * 0.1 + 0.5 * 0.05 + 0.53 * 0.25 + 0.57 * 0.5) / 0.6:.4f}"],
    ]
    start = lines.index("best accuracy of networks up to a macs_ratio:")
    assert lines[start + 1 : start + 5] == [
        "  0.1 to 0.2: only other has a network, 0.5000 at 0.1",
        "  0.2 to 0.25: digits ahead, at most 0.9000 of digits to 0.5000 of other at 0.2",
        "  0.25 to 0.5: other ahead, at most 0.9000 of digits to 0.9300 of other at 0.25",
        "  0.5 and above: digits ahead, at most 0.9800 of digits to 0.9500 of other at 1",
    ]
    settings = {line.strip() for line in lines[lines.index("settings that differ:") + 1 :]}
    assert settings == {
        'study.sampler: tpe -> random', 'study.reference_point.accuracy: 0.5 -> 0.4',
        'identity.seed of tests: (absent) -> 1',
    }  # fmt: skip


def test_the_difference_for_programs(run: Run, two: Any) -> None:
    found = json.loads(ok(run("diff", "other", "digits", "--format", "json", "--storage", two.url)))
    assert found["studies"] == ["other", "digits"]
    assert found["n_beaten"] == {"other": 1, "digits": 0}
    assert found["hypervolumes"]["both"] == pytest.approx((0.1 * 0.1 + 0.5 * 0.05 + 0.53 * 0.25 + 0.57 * 0.5) / 0.6)
    assert [lead["ahead"] for lead in found["leads"]] == ["other", "digits", "other", "digits"]
    assert found["leads"][0]["scores"] == {"other": 0.5, "digits": None}
    assert found["settings"]["study.sampler"] == ["random", "tpe"]
    same = "two studies must be named to be compared, but got 'digits' twice."
    assert run("diff", "digits", "digits", "--storage", two.url).is_refusal(same)
