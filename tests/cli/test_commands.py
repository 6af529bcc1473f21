"""What the commands print about a study with known trials."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Lifecycle

Run = Callable[..., Any]


def ok(answer: Any) -> str:
    assert (answer.code, answer.err) == (0, "")
    return str(answer.out)


def test_the_front(run: Run, finished: Any) -> None:
    lines = ok(run("pareto", "digits", "--storage", finished.url)).splitlines()
    assert lines[0].split() == [
        "trial",
        "accuracy",
        "macs_ratio",
        "MACs",
        "parameters",
        "method",
        "widths",
        "strengths",
    ]
    assert [line.split()[:5] for line in lines[1:4]] == [
        ["2", "0.9000", "0.2000", "152,704", "15,270"],
        ["1", "0.9700", "0.5000", "381,760", "38,176"],
        ["0", "0.9800", "1.0000", "763,520", "76,352"],
    ]
    # (0.97 - 0.5) * (1 - 0.5) + (0.9 - 0.5) * (0.5 - 0.2) of a box of 0.5; the dense network lies on the edge.
    assert lines[4:] == ["hypervolume 0.7100 of the box up to the reference point (accuracy 0.5, macs_ratio 1)"]


def test_the_front_in_other_forms(run: Run, finished: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(ok(run("pareto", "digits", "--storage", finished.url, "--format", "csv")))))
    assert [(row["number"], row["accuracy"], row["macs_ratio"]) for row in rows] == [
        ("2", "0.9", "0.2"), ("1", "0.97", "0.5"), ("0", "0.98", "1.0"),
    ]  # fmt: skip
    records = json.loads(ok(run("pareto", "digits", "--storage", finished.url, "--format", "json")))
    assert [record["number"] for record in records] == [2, 1, 0]
    assert {record["state"] for record in records} == {"COMPLETE"}


@pytest.mark.parametrize(
    ("flags", "numbers"),
    [
        (["--where", "macs_ratio <= 0.5"], ["2", "1"]),
        (["--where", "accuracy < 0.89"], ["3"]),  # the front of those that satisfy it
        (["--where", "macs_ratio < 0.1"], []),
        (["--sort", "accuracy"], ["0", "1", "2"]),
        (["--spacing", "0.4"], ["2", "0"]),
        (["--spacing", "0"], ["2", "1", "0"]),
    ],
)
def test_questions(flags: list[str], numbers: list[str], run: Run, finished: Any) -> None:
    out = ok(run("pareto", "digits", *flags, "--storage", finished.url, "--format", "csv"))
    assert [row["number"] for row in csv.DictReader(io.StringIO(out))] == numbers


def test_an_empty_front(run: Run, finished: Any) -> None:
    out = ok(run("pareto", "digits", "--where", "accuracy > 1", "--storage", finished.url))
    assert out.splitlines()[0] == "no trial is on the front yet."


@pytest.mark.parametrize(
    ("name", "magic"), [("front.png", b"\x89PNG"), ("front.svg", b"<?xml"), ("front.pdf", b"%PDF")]
)
def test_a_plot(name: str, magic: bytes, run: Run, finished: Any) -> None:
    pytest.importorskip("matplotlib")
    ok(run("pareto", "digits", "--plot", name, "--storage", finished.url))
    assert Path(name).read_bytes().startswith(magic)


def test_a_front_by_parameters(run: Run, finished_by_params: Any) -> None:
    pytest.importorskip("matplotlib")
    flags = ["--spacing", "0.4", "--plot", "front.svg", "--storage", finished_by_params.url]
    lines = ok(run("pareto", "digits", *flags)).splitlines()
    assert lines[0].split()[:3] == ["trial", "accuracy", "params_ratio"]
    assert [line.split()[0] for line in lines[1:-1]] == ["2", "0"]
    assert Path("front.svg").read_text().count("<svg") == 1
    told = "`spacing` must be in [0, 1], a distance in params_ratio, but got spacing=-1.0."
    assert run("pareto", "digits", "--spacing", "-1", "--storage", finished_by_params.url).is_refusal(told)


def test_status(run: Run, finished: Any) -> None:
    lines = ok(run("status", "digits", "--storage", finished.url)).splitlines()
    assert lines[0] == "study 'digits': 5 of 10 trials finished, revision 1"
    assert lines[1] == "complete 4, stopped 1, running 1, waiting for another try 0, failed 1"
    (driver,) = (line for line in lines if line.startswith("  at work: "))
    assert driver.endswith(" s ago: trial 6")
    assert lines[-2:] == ["failed", "  trial 5: the loss became nan"]


def test_status_tells_interrupted_trials_from_failed_ones(run: Run, finished: Any) -> None:
    db = Database.open(finished.url, create=False)
    study = StudyHandle.open(db, "digits")
    (running,) = (trial for trial in study.trials() if trial.number == 6)
    Lifecycle(study, owner="here:1:abc", n_trials=10).release(running._trial_id, "interrupted")
    db.close()
    lines = ok(run("status", "digits", "--storage", finished.url)).splitlines()
    counts = "complete 4, stopped 1, running 0, waiting for another try 1, failed 1"
    assert lines[1] == f"{counts}, interrupted or lost and tried again 1"
    at = lines.index("failed, interrupted or lost")
    assert sorted(lines[at + 1 :]) == ["  trial 5: the loss became nan", "  trial 6 (tried again): interrupted"]
    shown = ok(run("show", "digits", 6, "--storage", finished.url)).splitlines()
    assert shown[0] == "trial 6 of study 'digits': interrupted or lost, and tried again"


def test_show(run: Run, finished: Any) -> None:
    def facts(number: int) -> dict[str, Any]:
        out = ok(run("show", "digits", number, "--format", "json", "--storage", finished.url))
        return dict(json.loads(out))

    first = facts(1)
    assert (first["trial"], first["state"], first["accuracy"], first["macs"]) == (1, "COMPLETE", 0.97, 381_760)
    assert first["rungs"] == {"0": 0.1}
    assert (facts(4)["state"], facts(4)["stop_reason"]) == ("PRUNED", "the time limit is reached")
    assert (facts(5)["state"], facts(5)["reason"]) == ("FAIL", "the loss became nan")
    assert facts(6)["state"] == "RUNNING"


def test_stop(run: Run, finished: Any) -> None:
    out = ok(run("stop", "digits", "--storage", finished.url))
    assert out.startswith("asked the driver on ")
    assert out.endswith(" to stop.\n")
    assert out.count("\n") == 1


def test_list(run: Run, finished: Any) -> None:
    assert ok(run("list", "studies", "--storage", finished.url)) == "digits  5 finished, 1 running, 1 failed\n"
    spaces = dict(line.split(maxsplit=1) for line in ok(run("list", "spaces")).splitlines())
    assert {"resnet_cifar", "resnet_digits", "torchvision"} <= spaces.keys()
    assert spaces["vgg_cifar"] == "VGG-16 and VGG-19 for 32 x 32 images: most of their channels can go."
    listed = [line.split()[0] for line in ok(run("list", "methods")).splitlines()]
    assert {"magnitude", "slimming"} <= set(listed)
    assert listed == sorted(listed)
    networks = ok(run("list", "architectures")).splitlines()
    assert networks[-1].split()[0] == "torchvision/NAME"
    assert all(len(line.split()) >= 3 for line in networks)  # a name and words on it


def test_the_environment_names_the_database(run: Run, finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPRUNE_STORAGE", finished.url)
    assert ok(run("list", "studies")).startswith("digits  ")
    monkeypatch.setenv("AUTOPRUNE_STORAGE", "")  # as if it were not set
    assert run("list", "studies").is_refusal("/here/autoprune.db. `autoprune launch` makes one")


def test_reading_changes_nothing(run: Run, finished: Any) -> None:
    before = finished.database.read_bytes()
    for command in (["pareto", "digits"], ["status", "digits"], ["show", "digits", "1"], ["list", "studies"]):
        ok(run(*command, "--storage", finished.url))
    assert finished.database.read_bytes() == before


def test_inspect(run: Run, write_study: Callable[..., Path]) -> None:
    lines = ok(run("inspect", write_study(Path()))).splitlines()
    assert lines[0] == "resnet_digits on 1 x 8 x 8 images: 763,520 MACs (1,527,040 FLOPs), 77,754 parameters"
    assert lines[1] == "peak activation memory of one input, float32: 12,288 bytes"  # Three maps of 16 × 8 × 8.
    assert lines[3].split() == ["channel", "group", "width", "layers", "share", "of", "MACs"]
    assert lines[4].split()[:2] == ["conv1", "16"]
    assert lines[-1].startswith("reachable: macs_ratio 0.00")
    assert [path.name for path in Path().iterdir()] == ["study.toml"]


def test_dry_run_starts_nothing(run: Run, write_study: Callable[..., Path]) -> None:
    path = write_study(Path(), space="[method.slimming]\nstrength = [0.001, 0.01]")
    lines = ok(run("launch", path, "--dry-run", "--trials", 12, "--storage", "sqlite:///new.db")).splitlines()
    assert lines[0] == "study 'digits': 12 trials, tpe sampler, seed 0"
    assert lines[1] == "network resnet_digits: 763,520 MACs, 6 channel groups"
    assert lines[3] == "computed in: float32 channels-last"
    assert lines[6].split() == ["magnitude", "uniform", "macs_target", "1.000"]  # the dense network first
    assert len(lines[6:-1]) == 4  # a third of the trials
    assert lines[-1] == "nothing was trained, and no database was changed."
    assert [path.name for path in Path().iterdir()] == ["study.toml"]
    path = write_study(Path(), study='name = "timed"\nseed = 3', engine='artifacts = "here"')
    lines = ok(run("launch", path, "--dry-run", "--time-limit", "10m", "--storage", "sqlite:///new.db")).splitlines()
    assert lines[0] == "study 'timed': as many trials as fit, tpe sampler, seed 3"
    assert lines[3].startswith("computed in: what trains fastest, measured for seconds by the launch that makes the ")
    assert len(lines[6:-1]) == 1 + 9  # the dense network, and the ladder


def test_dry_run_tells_of_the_study_that_would_be_joined(run: Run, finished: Any) -> None:
    lines = ok(run("launch", finished.file, "--dry-run", "--trials", 12, "--storage", finished.url)).splitlines()
    joins = f"joins the study in sqlite:///{finished.database}: 5 trials finished, revision 1; changing study"
    assert lines[-2:] == [joins, "nothing was trained, and no database was changed."]
    told = ok(run("launch", finished.file, "--dry-run", "--storage", finished.url))
    assert "5 trials finished, revision 1; changing nothing\n" in told


# A study that minimises rmse


def test_a_front_by_rmse(run: Run, finished_by_rmse: Any) -> None:
    lines = ok(run("pareto", "digits", "--storage", finished_by_rmse.url)).splitlines()
    assert lines[0].split()[:4] == ["trial", "rmse", "macs_ratio", "MACs"]
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["2", "1.000", "0.2000"], ["1", "0.5000", "0.5000"], ["0", "0.4000", "1.0000"],
    ]  # fmt: skip
    # (2 - 0.5) * (1 - 0.5) + (2 - 1) * (0.5 - 0.2) of a box of 2; the dense network lies on the edge.
    assert lines[4:] == ["hypervolume 0.5250 of the box up to the reference point (rmse 2, macs_ratio 1)"]


@pytest.mark.parametrize(
    ("flags", "numbers"),
    [
        (["--where", "rmse < 0.5"], ["0"]),
        (["--where", "rmse > 1.1"], ["3"]),
        (["--where", "rmse > 0.4 and macs_ratio >= 0.3"], ["3", "1"]),
        (["--sort", "rmse"], ["0", "1", "2"]),
        (["--spacing", "0.4"], ["2", "0"]),
    ],
)
def test_questions_about_rmse(flags: list[str], numbers: list[str], run: Run, finished_by_rmse: Any) -> None:
    out = ok(run("pareto", "digits", *flags, "--storage", finished_by_rmse.url, "--format", "csv"))
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["number"] for row in rows] == numbers
    assert "accuracy" not in rows[0]


def test_a_plot_names_the_metric(run: Run, finished: Any, finished_by_rmse: Any) -> None:
    pytest.importorskip("matplotlib")
    for study, name in ((finished, "accuracy"), (finished_by_rmse, "rmse")):
        ok(run("pareto", "digits", "--plot", f"{name}.svg", "--storage", study.url))
        assert f"validation {name}" in Path(f"{name}.svg").read_text()


def test_a_study_of_four_objectives_is_shown_without_a_hypervolume(
    run: Run, finished_by_four: Any, tmp_path: Path
) -> None:
    page = ok(run("status", "digits", "--storage", finished_by_four.url))
    assert "accuracy 0.9800 at macs_ratio 1, trial 0" in page
    told = json.loads(ok(run("status", "digits", "--format", "json", "--storage", finished_by_four.url)))
    assert told["hypervolume"] is None
    front = ok(run("pareto", "digits", "--storage", finished_by_four.url))
    assert "hypervolume" not in page + front
    ok(run("report", "digits", "--to", tmp_path / "page.html", "--storage", finished_by_four.url))


def test_show_and_status_of_a_study_by_rmse(run: Run, finished_by_rmse: Any) -> None:
    out = ok(run("show", "digits", 1, "--storage", finished_by_rmse.url))
    assert "  validation  rmse 0.5000\n" in out
    assert "accuracy" not in out
    lines = ok(run("status", "digits", "--storage", finished_by_rmse.url)).splitlines()
    assert lines[0] == "study 'digits': 5 of 10 trials finished, revision 1"
    assert "  best         rmse 0.4000 at macs_ratio 1, trial 0" in lines
