"""``autoprune latency``: what it prints and refuses; never how long anything takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import autoprune
from autoprune.engine.measuring import latency
from tests.real_trials import RealStudy, run_study

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> RealStudy:
    folder = tmp_path_factory.mktemp("study")
    return run_study(folder, [{"macs_target": 0.3}], network='factory = "tests.real_trials:concat_depthwise"')


def test_a_real_measurement(run: Any, study: RealStudy) -> None:
    answer = run("latency", "tiny", 0, "--batch", 1, 16, "--storage", study.url)
    assert (answer.code, answer.err) == (0, "")
    first, header, *rows = [line for line in answer.out.splitlines() if not line.startswith("warning: ")]
    assert first.startswith(
        f"macs_ratio {study.results[0].macs_ratio:.4f}; milliseconds, median and quartiles of 50, 50"
    )
    assert header.split() == ["batch", "dense", "pruned", "ratio"]
    assert [row.split()[0] for row in rows] == ["1", "16"]
    for row in rows:
        dense, low, high, pruned, *_, ratio = [float(text) for text in re.findall(r"\d+\.\d+", row)]
        assert low <= dense <= high
        assert ratio == pytest.approx(pruned / dense, rel=0.2, abs=0.02)  # of medians before they were rounded


def test_the_warning_of_a_network_that_got_no_faster(
    run: Any, study: RealStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(networks: Any, example: Any, *, batch: int, **_: Any) -> dict[str, latency.Latency]:
        assert list(networks) == ["dense", "pruned"]
        assert example.shape == (1, 1, 8, 8)
        dense, pruned = (10.0, 11.0) if batch == 1 else (80.0, 8.0)
        medians = {"dense": dense, "pruned": pruned}
        return {name: latency.Latency(batch, ms, 0.9 * ms, 1.1 * ms, 50) for name, ms in medians.items()}

    monkeypatch.setattr("autoprune.api._measuring.measure", measure)
    lines = run("latency", "tiny", 0, "--storage", study.url).out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["1", "64"]
    assert lines[2].endswith("1.100")
    assert lines[3].endswith("0.100")
    (told,) = lines[4:]
    assert told.startswith("warning: MACs fell to 0.")
    assert "at batch 1 it takes 11.00 ms instead of 10.00 ms" in told


def test_the_same_from_python(study: RealStudy) -> None:
    (measured,) = autoprune.measure_latency("tiny", 0, batches=[2], storage=study.url)
    assert measured.ratio == measured.pruned.median_ms / measured.dense.median_ms
    assert measured.macs_ratio == study.results[0].macs_ratio
    assert measured.dense.batch == measured.pruned.batch == 2
    with pytest.raises(autoprune.AutopruneError, match=r"must each be at least 1, but got \[0\]"):
        autoprune.measure_latency("tiny", 0, batches=[0], storage=study.url)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("0", "--device", "gpu"), "`--device` must be a device of this machine, which has cpu"),
        (("0", "--batch", "0"), "must be a whole number of at least 1, but got '0'"),
        (("0", "--batch"), "--batch"),
        (("1",), "must have finished to have a network, but it is RUNNING"),
        (("5",), "has no trial 5"),
    ],
)
def test_refusals(refused: Callable[..., None], study: RealStudy, arguments: tuple[str, ...], told: str) -> None:
    refused("latency", "tiny", *arguments, "--storage", study.url, told=told)
