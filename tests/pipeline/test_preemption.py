"""A trial that loses its worker goes on from its last checkpoint elsewhere, with the numbers of an undisturbed one."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from autoprune.config import DataSpec, NetworkSpec, Progressed, SettingSpec, TrainSpec, TrialResult, TrialSpec
from autoprune.engine.files import PhaseStore, keep_checkpoint, read_checkpoint
from autoprune.engine.training import Checkpoint
from autoprune.pipeline import run_trial
from autoprune.pipeline import workbench as workbench_module

torch.set_num_threads(1)

RECIPE = TrainSpec(epochs=0.6, batch=64, learning_rate=0.05)


class WorkerLostError(Exception):
    pass


def spec_in(folder: Path, number: int = 0, *, epochs: float = 0.6) -> TrialSpec:
    workbench_module._open.cache_clear()
    setting = SettingSpec(
        network=NetworkSpec(architecture="resnet_digits"),
        data=DataSpec(source="digits", validation="last:237"),
        dense=RECIPE, sparsify=RECIPE, finetune=dataclasses.replace(RECIPE, epochs=epochs),
        recalibration_images=128, rungs=(0.3, 0.6), artifacts=str(folder),
    )  # fmt: skip
    return TrialSpec(
        setting=setting, study="s", number=number, seed_number=0, method="slimming", hyper={"strength": 0.01},
        width_rule="global", macs_target=0.5,
    )  # fmt: skip


def run(spec: TrialSpec, told: list[Progressed], *, lost_in: str | None = None, at: float = 0.0) -> TrialResult:
    """Run a trial whose worker is lost in a phase, once so much of it is done."""

    def report(word: Progressed) -> None:
        told.append(word)
        if word.phase == lost_in and word.progress >= at:
            raise WorkerLostError

    return run_trial(spec, report, PhaseStore(Path(spec.setting.artifacts) / "phases"))


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in (folder / "checkpoints").glob("*.checkpoint"))


def findings(result: TrialResult) -> dict[str, object]:
    return {key: value for key, value in result.to_dict().items() if key not in ("weights", "wall_s")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TrialResult:
    return run(spec_in(tmp_path_factory.mktemp("undisturbed")), [])


@pytest.fixture
def always_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench_module, "Checkpoint", functools.partial(Checkpoint, every_s=0.0))
    monkeypatch.setattr("autoprune.engine.training.checkpoint._SHARE", 1e9)
    monkeypatch.setattr("autoprune.pipeline.progress._TELL_EVERY_S", 0.0)


@pytest.mark.parametrize("phase", ["dense", "sparsify", "finetune"])
def test_the_next_worker_goes_on_and_finds_the_same(
    undisturbed: TrialResult, tmp_path: Path, always_kept: None, phase: str
) -> None:
    with pytest.raises(WorkerLostError):
        run(spec_in(tmp_path), [], lost_in=phase, at=0.5)
    assert checkpoints(tmp_path) == [phase]
    told: list[Progressed] = []
    again = run(spec_in(tmp_path, number=1), told)
    shares = [word.progress for word in told if word.phase == phase and word.rung is None]
    assert 0.4 < shares[0] < 0.7  # The steps before were not taken again.
    assert findings(again) == findings(undisturbed)
    assert checkpoints(tmp_path) == []
    # A driver that knows nothing of the first worker hears of all rungs.
    rungs = {str(word.rung): word.score for word in told if word.rung is not None}
    assert rungs == {rung: score for rung, score in undisturbed.rungs.items() if rung in rungs}
    assert list(rungs) == ["0", "1", "2"]


def test_nobody_goes_on_with_what_is_another_training(tmp_path: Path, always_kept: None) -> None:
    with pytest.raises(WorkerLostError):
        run(spec_in(tmp_path), [], lost_in="finetune", at=0.5)
    told: list[Progressed] = []
    run(dataclasses.replace(spec_in(tmp_path, number=1), seed_number=1), told)
    assert min(word.progress for word in told if word.phase == "finetune" and word.rung is None) < 0.2
    assert checkpoints(tmp_path) == ["finetune"]  # That of the other one is left alone.


def test_a_damaged_checkpoint_counts_as_none(undisturbed: TrialResult, tmp_path: Path, always_kept: None) -> None:
    with pytest.raises(WorkerLostError):
        run(spec_in(tmp_path), [], lost_in="finetune", at=0.5)
    (path,) = (tmp_path / "checkpoints").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert findings(run(spec_in(tmp_path, number=1), [])) == findings(undisturbed)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.checkpoint"
    assert read_checkpoint(path) is None
    keep_checkpoint(path, {"x": torch.arange(3)}, {"reached": {"0": 0.1}})
    tensors, told = read_checkpoint(path) or ({}, {})
    assert told == {"reached": {"0": 0.1}}
    assert tensors["x"].tolist() == [0, 1, 2]
    assert [each.name for each in path.parent.iterdir()] == ["a.checkpoint"]
    path.write_bytes(path.read_bytes()[:-1])
    assert read_checkpoint(path) is None


def test_no_more_than_a_minute_is_lost_and_little_time_spent() -> None:
    now, kept_at = [0.0], list[float]()

    class Slow(Checkpoint):
        def keep(self, training: object, told: object) -> None:
            kept_at.append(now[0])
            super().keep(training, told)  # type: ignore[arg-type]

    class Trains:
        def run(self, on_step: object) -> None:
            for _ in range(300):
                now[0] += 1.0
                on_step(0.5)  # type: ignore[operator]

        def state_dict(self) -> dict[str, object]:
            now[0] += 5.0  # On a slow disk.
            return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autoprune.engine.training.checkpoint.keep_checkpoint", lambda path, tensors, told: None)
        Slow(Path("none"), clock=lambda: now[0]).run(Trains())  # type: ignore[arg-type]
    gaps = [after - before for before, after in zip(kept_at, kept_at[1:], strict=False)]
    assert kept_at[0] == 30.0
    assert max(gaps) <= 61.0
    assert min(gaps) >= 50.0


TRIAL = """
import sys, threading
from pathlib import Path
from tests.pipeline.test_preemption import run, spec_in

def work():
    run(spec_in(Path(sys.argv[1]), epochs=500.0), Told())

class Told(list):
    def append(self, word):
        if word.phase == "finetune" and word.rung is None:
            Path(sys.argv[1], "tunes").touch()

if sys.argv[2] == "thread":  # As Ray runs trials: the main thread hears of the signal, and leaves.
    import signal
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
else:
    work()
"""


@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_worker_that_is_told_to_end_keeps_what_it_has(tmp_path: Path, where: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TRIAL, str(tmp_path), where],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "tunes").exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1.0)
    assert checkpoints(tmp_path) == []  # Half a minute has not passed.
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 1
    assert checkpoints(tmp_path) == ["finetune"]
    (path,) = (tmp_path / "checkpoints").iterdir()
    state, told = read_checkpoint(path) or ({}, {})
    assert int(state["step"]) > 0
    assert list(told["reached"]) == ["0"]
