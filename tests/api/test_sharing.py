"""Whole studies with one worker in this process: shared phases, results found twice, the same trials every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch

from autoprune.api import _numerics, _planning, _running, _specs
from autoprune.config import Completed, Progressed, Stopped, StudyConfig
from autoprune.engine.files import PhaseStore
from autoprune.errors import TrialStoppedError
from autoprune.pipeline import open_workbench
from autoprune.search.dispatch import Nothing
from autoprune.search.storage import Database, schema
from autoprune.search.trials import Claim, new_owner

torch.set_num_threads(1)

STUDY = """
[study]
name = "tiny"
n_trials = {n_trials}
seed = {seed}

[space]
{space}

[network]
architecture = "resnet_digits"

[data]
source = "digits"
validation = "random:0.25"

[train]
dense = {{ epochs = 0.5 }}
sparsify = {{ epochs = 0.25 }}
finetune = {{ epochs = {epochs} }}

[engine]
precision = "float32"
artifacts = "{folder}/artifacts"
recalibration_images = 64
{engine}

{more}
"""
TWO_METHODS = 'methods = ["magnitude", "slimming"]\nwidth_rules = ["uniform", "global"]'
ONE_STRENGTH = """methods = ["slimming"]
width_rules = ["uniform"]
[method.slimming]
strength = { values = [0.01] }
form = { values = ["subgradient"] }"""


class StopError(Exception):
    """What Tune does to a worker whose trial is stopped."""


@dataclass
class Place:
    """A study file, its database and the files of its trials, in a folder of its own."""

    folder: Path
    config: StudyConfig
    told: dict[int, list[Progressed]] = field(default_factory=dict)  # what each trial reported, by number

    @property
    def phases(self) -> Path:
        return self.folder / "artifacts" / "phases"

    def work(self, *, before: Callable[[int], None] = lambda number: None, interrupt_at: int | None = None) -> None:
        """Drive the study as a launch does, with one worker, to its end or to an interrupt.

        Args:
            before: Called with the number of each trial before it runs.
            interrupt_at: Number of the trial in whose fine-tuning the driver is interrupted.
        """
        config = self.config
        workbench = open_workbench(config.setting)
        space = _planning.space_of(config, workbench)
        db = Database.open(self.url, create=True)
        record = _numerics.join(config, workbench, db)
        dispatcher = _running._dispatcher(
            config, record, workbench, space, owner=new_owner(), concurrency=1, time_limit_s=None, planner=None
        )
        dense = workbench.dense(PhaseStore(self.phases))
        dispatcher.phases.publish("dense", holder="dense", file=dense.file)
        while (claim := dispatcher.next("worker")) is not Nothing.EVER:
            assert isinstance(claim, Claim)
            before(claim.number)
            told = self.told.setdefault(claim.number, [])

            def report(word: Progressed, claim: Claim = claim, told: list[Progressed] = told) -> None:
                told.append(word)
                if claim.number == interrupt_at and word.phase == "finetune":
                    dispatcher.interrupt()
                if dispatcher.should_stop("worker", word):
                    raise StopError
                dispatcher.heard("worker", word)

            spec = _specs.spec_of(config, space, claim, setting=config.setting, ancestors=())
            try:
                result = _running._execute(_specs.worker_config(spec, left_s=None), report)
            except StopError:
                dispatcher.ended("worker", told[-1])
            except TrialStoppedError as stop:
                dispatcher.ended("worker", Stopped(reason=str(stop), found=stop.found))
            else:
                dispatcher.ended("worker", Completed(result=result))
        dispatcher.raise_if_failed()
        db.close()

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder}/study.db"

    def trials(self) -> list[Any]:
        db = Database.open(self.url, create=False)
        try:
            return _numerics.join(self.config, open_workbench(self.config.setting), db).trials()
        finally:
            db.close()

    def rows(self) -> dict[str, Any]:
        """The ledger of phases, by kind and key."""
        db = Database.open(self.url, create=False)
        try:
            with db.reading() as connection:
                return {(row.kind, row.key): row for row in connection.execute(sa.select(schema.phases))}
        finally:
            db.close()

    def computed(self, number: int) -> bool:
        """Whether this trial trained its sparsify phase itself."""
        return any(told.phase == "sparsify" and told.progress < 1 for told in self.told[number])


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., Place]:
    def make(
        name: str, *, space: str, n_trials: int, seed: int = 0, epochs: float = 0.1, engine: str = "", more: str = ""
    ) -> Place:
        folder = tmp_path / name
        folder.mkdir()
        text = STUDY.format(
            folder=folder, space=space, n_trials=n_trials, seed=seed, epochs=epochs, engine=engine, more=more
        )
        (folder / "study.toml").write_text(text)
        return Place(folder, _planning.load_config(folder / "study.toml"))

    return make


def outcome(trial: Any) -> dict[str, Any]:
    """All that two runs of the same trial must agree on, to the last bit."""
    shared = (
        "point",
        "key",
        "phase",
        "result_key",
        "seed_number",
        "sha256",
        "accuracy",
        "macs",
        "params",
        "rungs",
        "widths",
    )
    return {"params": trial.params, "values": trial.values, **{name: trial.user_attrs.get(name) for name in shared}}


def test_the_same_seed_gives_the_same_trials_to_the_last_bit(place):
    first, second, other = (place(str(i), space=TWO_METHODS, n_trials=7, seed=seed) for i, seed in enumerate((5, 5, 6)))
    for each in (first, second, other):
        each.work()
    outcomes = [[outcome(trial) for trial in each.trials()] for each in (first, second, other)]
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0]) == 7
    assert len({found["sha256"] for found in outcomes[0]}) == 7
    # Another seed draws other points, and trains other weights at those that it shares.
    assert not {found["sha256"] for found in outcomes[0]} & {found["sha256"] for found in outcomes[2]}


def test_an_interrupted_study_ends_with_the_trials_of_one_that_was_not(place):
    whole, broken = (place(name, space=TWO_METHODS, n_trials=6) for name in ("whole", "broken"))
    whole.work()
    broken.work(interrupt_at=1)
    broken.work(interrupt_at=4)
    broken.work()
    ended = [trial for trial in broken.trials() if trial.state.name == "COMPLETE"]
    assert [trial.state.name for trial in broken.trials()].count("FAIL") == 2
    # The second tries have later numbers, and so files of other names; all else is as it would have been.
    assert [outcome(trial) for trial in ended] == [outcome(trial) for trial in whole.trials()]


def test_a_phase_is_computed_once_for_all_trials_that_start_from_it(place):
    here = place("here", space=TWO_METHODS, n_trials=12)
    here.work()
    by_phase: dict[str, list[int]] = {}
    for trial in here.trials():
        if "phase" in trial.user_attrs:
            by_phase.setdefault(trial.user_attrs["phase"], []).append(trial.number)
    assert sum(map(len, by_phase.values())) > len(by_phase) >= 2
    for numbers in by_phase.values():
        assert [number for number in numbers if here.computed(number)] == numbers[:1]
    rows = {key: row for (kind, key), row in here.rows().items() if kind == "sparsify"}
    assert rows.keys() == by_phase.keys()
    for key, row in rows.items():
        phase = PhaseStore(here.phases).find("sparsify", key)
        assert phase is not None
        assert phase.file == {"key": key, "place": row.place, "sha256": row.sha256, "size_bytes": row.size_bytes}


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(path.read_bytes()[:1000]),
    flip_a_bit,
    lambda path: path.with_suffix(".json").unlink(),
    lambda path: path.unlink(),
]


def test_a_damaged_phase_is_computed_again_though_its_row_says_that_it_is_there(place):
    here = place("here", space=ONE_STRENGTH, n_trials=2 * len(DAMAGE) + 1)
    waiting, damaged = list(DAMAGE), set()

    def damage(number: int) -> None:
        if number % 2 == 1:
            (path,) = here.phases.glob("sparsify-*.safetensors")
            waiting.pop(0)(path)
            damaged.add(number)

    here.work(before=damage)
    assert len(damaged) == len(DAMAGE)
    assert {number for number in here.told if here.computed(number)} == {0} | damaged
    assert [trial.state.name for trial in here.trials()] == ["COMPLETE"] * len(here.told)
    (row,) = [row for (kind, _), row in here.rows().items() if kind == "sparsify"]
    phase = PhaseStore(here.phases).find("sparsify", row.key)
    assert phase is not None
    assert row.sha256 == phase.sha256


def test_a_small_cache_loses_what_was_unused_longest_and_changes_no_result(place):
    wide = place("wide", space=TWO_METHODS, n_trials=10)
    wide.work()
    size_bytes = max(path.stat().st_size for path in wide.phases.glob("sparsify-*.safetensors"))
    # Room for the dense network and one and a half phases, so that each new phase ousts the one before it.
    small = place(
        "small", space=TWO_METHODS, n_trials=10, more=f"[retention]\nphase_cache_gb = {2.5 * size_bytes / 1e9}"
    )
    most = []
    small.work(before=lambda number: most.append(len(list(small.phases.glob("sparsify-*.safetensors")))))
    assert len(list(wide.phases.glob("sparsify-*.safetensors"))) > 2
    assert max(most) == 1
    assert len(list(small.phases.glob("dense-*.safetensors"))) == 1
    assert sum(map(small.computed, small.told)) > sum(map(wide.computed, wide.told))
    assert [outcome(trial) for trial in small.trials()] == [outcome(trial) for trial in wide.trials()]
    kept = {Path(row.place).name for row in small.rows().values() if row.kind == "sparsify"}
    assert kept == {path.name for path in small.phases.glob("sparsify-*.safetensors")}


def test_channels_that_were_chosen_before_are_not_fine_tuned_again(place):
    # MACs are whole numbers, so the second of each two targets buys no other channel than the first.
    targets = "macs_target = { values = [0.3, 0.3000000001, 0.6, 0.6000000001] }"
    space = f'methods = ["magnitude"]\nwidth_rules = ["global"]\n{targets}'
    here = place("here", space=space, n_trials=5, epochs=4, more='[retention]\nnetworks = "all"')
    here.work()
    trials = here.trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5
    twins = {trial.number: trial for trial in trials if "taken_over_from" in trial.user_attrs}
    assert len(twins) == 2
    assert len({trial.user_attrs["result_key"] for trial in trials}) == 3
    for number, twin in twins.items():
        original = trials[twin.user_attrs["taken_over_from"]]
        assert original.number not in twins
        shared = ("accuracy", "macs", "params", "widths", "rungs", "weights", "sha256", "result_key")
        assert [twin.user_attrs[name] for name in shared] == [original.user_attrs[name] for name in shared]
        assert twin.values == original.values
        assert here.told[number][-1].phase == "surgery"  # Nothing came after it.
        assert "wall_s" not in twin.user_attrs
    saved = sorted(path.stem for path in (here.folder / "artifacts" / "trials" / "tiny").glob("*.safetensors"))
    assert saved == [f"{trial.number:05d}" for trial in trials if trial.number not in twins]


def test_networks_over_the_latency_limit_are_stopped_and_infeasible(place):
    limits = "[constraints]\nlatency_ms = 1e-6\nparams = 1_000_000"
    here = place("here", space=ONE_STRENGTH, n_trials=3, engine="latency_batch = 2", more=limits)
    here.work()
    for trial in here.trials():
        assert trial.state.name == "PRUNED"
        assert trial.constraints["latency_ms"] == trial.user_attrs["latency_ms"] - 1e-6 > 0
        assert trial.user_attrs["stop_reason"].startswith("`latency_ms` must be at most 1e-06, but is ")
        assert trial.user_attrs["rungs"] == {"0": trial.user_attrs["partial_accuracy"]}
        assert 0 < trial.user_attrs["partial_macs_ratio"] <= 1
        assert not any(told.phase == "finetune" for told in here.told[trial.number])
