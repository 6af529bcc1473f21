"""What a launch makes of a study's configuration before its first trial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

import autoprune
from autoprune.api import Study, _numerics, _phases, _planning, _running, _specs
from autoprune.config import Completed, StudyConfig, duration_text
from autoprune.distributed import Cluster
from autoprune.distributed.cores import Cores
from autoprune.errors import IdentityError
from autoprune.pipeline import open_workbench
from autoprune.search.proposals import Pace, Proposer
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Point, Proposal
from tests.conftest import FinishedStudy
from tests.digits_task import TABLES

Write = Callable[..., Path]
SECOND = 'name = "second"\nn_trials = 30\nstart_from = ["digits"]\n'


def proposer_of(config: StudyConfig, db: Database) -> tuple[Proposer, StudyHandle]:
    workbench, search = open_workbench(config.setting), config.study
    record = StudyHandle.create_or_join(
        db,
        name=search.name,
        identity=_planning.identity_of(config, workbench),
        config={},
        directions=search.directions,
        objectives=search.objectives,
    )
    space = _planning.space_of(config, workbench)
    return _running.proposer_of(config, space, record, planner=None, has_phase=lambda point: False), record


def test_a_study_starts_from_the_front_of_an_earlier_one(
    finished: FinishedStudy, write_study: Write, tmp_path: Path
) -> None:
    study = SECOND + "reference_point = { accuracy = 0.5, macs_ratio = 1.0 }"
    config = _planning.load_config(write_study(tmp_path, study=study))
    db = Database.open(finished.url, create=False)
    proposer, record = proposer_of(config, db)
    lifecycle = Lifecycle(record, owner="me", n_trials=30)
    for _ in range(4):
        assert isinstance(lifecycle.claim(proposer.propose(record.trials())), Claim)
    # Of the four complete trials one is dominated, and one is the dense network, which comes first anyway.
    earlier = [trial.user_attrs["point"] for trial in StudyHandle.open(db, "digits").trials()]
    points = [trial.user_attrs["point"] for trial in record.trials()]
    assert points[0]["macs_target"] == earlier[0]["macs_target"] == 1.0
    assert points[1:3] == earlier[1:3]
    assert points[3] not in earlier[:4]
    db.close()


def test_the_front_of_a_study_with_another_identity_is_refused(
    finished: FinishedStudy, write_study: Write, tmp_path: Path
) -> None:
    study = SECOND + "reference_point = { accuracy = 0.6, macs_ratio = 1.0 }"
    config = _planning.load_config(write_study(tmp_path, study=study))
    db = Database.open(finished.url, create=False)
    with pytest.raises(IdentityError, match=r"in 'digits' `reference point.accuracy` is 0.5 there and 0.6 here"):
        proposer_of(config, db)
    db.close()


def test_a_trial_is_told_multipliers_and_limits(write_study: Write, tmp_path: Path) -> None:
    space = 'methods = ["magnitude"]\nwidth_rules = ["per_stage"]\nmacs_target = { low = 0.1, high = 0.9 }'
    limits = "params = 30_000\nlatency_ms = 20.0"
    engine = f'artifacts = "{tmp_path}"\nlatency_batch = 8'
    config = _planning.load_config(write_study(tmp_path, space=space, constraints=limits, engine=engine))
    workbench = open_workbench(config.setting)
    point = Point("magnitude", "per_stage", 0.5, multipliers={"stage1": 0.5, "stage2": 1.0, "stage3": 1.5})
    claim = Claim(trial_id=1, number=7, params={}, attrs={"point": point.to_dict()}, attempt=0, seed_number=5)
    spec = _specs.spec_of(config, _planning.space_of(config, workbench), claim, setting=config.setting, ancestors=())
    assert spec.multipliers == {
        "conv1": 0.5, "layer1.0.conv1": 0.5, "layer2.0.conv1": 1.0,
        "layer2.0.conv2": 1.0, "layer3.0.conv1": 1.5, "layer3.0.conv2": 1.5,
    }  # fmt: skip
    assert (spec.params_limit, spec.latency_limit_ms, spec.number, spec.seed_number) == (30_000, 20.0, 7, 5)


def test_a_study_knows_how_many_examples_its_accuracies_are_shares_of(write_study: Write, tmp_path: Path) -> None:
    config = _planning.load_config(write_study(tmp_path))
    workbench = open_workbench(config.setting)
    db = Database.open(f"sqlite:///{tmp_path}/study.db", create=True)
    record = _numerics.join(config, workbench, db)
    assert Study(db, record).source.n_validation == workbench.work.n_validation == 359  # a quarter of 1,437
    db.close()


def test_a_machine_is_timed_once_for_a_study_where_its_cluster_is_its_own(tmp_path: Path) -> None:
    db = Database.open(f"sqlite:///{tmp_path}/study.db", create=True)
    record = StudyHandle.create_or_join(
        db, name="study", identity={}, config={}, directions=["maximize"], objectives=["accuracy"]
    )
    own, of_others = Cluster(nodes=(), cores=Cores(there=2, allowed=2)), Cluster(nodes=())
    lifecycle = Lifecycle(record, owner="first", n_trials=3)
    assert not _running._has_run_here(record, own)
    record.enter("first")
    claim = lifecycle.claim(Proposal({}, {}, "key", {}))
    assert isinstance(claim, Claim)
    record.leave("first")
    assert not _running._has_run_here(record, own)  # It was interrupted, perhaps while it timed this machine.
    lifecycle.complete(claim.trial_id, [0.9], {})
    assert _running._has_run_here(record, own)
    assert not _running._has_run_here(record, of_others)
    db.close()


RMSE = """
name = "regression"
n_trials = 16
reference_point = { rmse = 2.0, macs_ratio = 1.0 }
"""


def test_a_study_that_minimises_rmse_from_its_first_trial_to_its_front(write_study: Write, tmp_path: Path) -> None:
    space = 'methods = ["magnitude"]\nwidth_rules = ["global"]\nmacs_target = { low = 0.1, high = 0.9 }'
    recipe = "\n[space.finetune]\nlearning_rate = [0.01, 0.1]"
    config = _planning.load_config(
        write_study(tmp_path, study=RMSE, space=space + recipe, engine=f'artifacts = "{tmp_path}"', **TABLES)
    )
    workbench = open_workbench(config.setting)
    db = Database.open(f"sqlite:///{tmp_path}/study.db", create=True)
    record, of = _numerics.join(config, workbench, db), _planning.space_of(config, workbench)
    planner = _planning.planner_of(config, of, workbench)
    desk = _running._dispatcher(
        config, record, workbench, of, owner="me", concurrency=1, time_limit_s=None, planner=planner
    )
    found: dict[int, tuple[float, float]] = {}
    with desk:
        while isinstance(claim := desk.next("a"), Claim):
            ratio, is_dense = claim.point.macs_target, claim.point.macs_target == 1.0
            # A recipe of the slower rate ends with half of the error; what comes later is a little better.
            rmse = (0.2 if is_dense else 0.3 / ratio**0.5) - 0.001 * claim.number
            rmse *= 0.5 if claim.point.recipe.get("learning_rate") == 0.01 else 1.0
            result = {
                "rmse": rmse, "macs_ratio": ratio, "images": 0 if is_dense else 1000, "wall_s": {"finetune": 1.0},
                "weights": f"{tmp_path}/{claim.number}.safetensors", "sha256": f"{claim.number:064d}",
                "started_from": claim.point.parent,
            }  # fmt: skip
            desk.ended("a", Completed(result=result))
            found[claim.number] = rmse, ratio
    trials = record.trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 16
    chosen = [claim["point"]["recipe"]["learning_rate"] for claim in (trial.user_attrs for trial in trials[4:])]
    assert set(chosen) == {0.01}
    assert "rmse 0." in trials[-1].user_attrs["why"]
    assert " hypervolume expected in " in trials[-1].user_attrs["why"]

    study = autoprune.Study(db, StudyHandle.open(db, "regression"))
    points = set(found.values())
    best = [p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)]
    front = study.front()
    assert list(zip(front["rmse"], front["macs_ratio"], strict=True)) == sorted(best, key=lambda p: p[1])
    edges = [*front["macs_ratio"], 1.0]
    steps = [(2.0 - rmse) * (edges[i + 1] - edges[i]) for i, rmse in enumerate(front["rmse"])]
    assert study.hypervolume() == pytest.approx(sum(steps) / 2.0, rel=1e-9)
    child = next(trial.number for trial in trials if trial.user_attrs.get("parent") is not None)
    rmse, ratio = found[child]
    last = study.trial(child)["lineage"].splitlines()[-1]
    assert last.strip() == f"-> trial {child}: {ratio:.3f} of the MACs, rmse {rmse:#.4g}"
    db.close()


def test_a_dense_training_that_takes_most_of_the_time_is_told(write_study: Write, tmp_path: Path) -> None:
    workbench = open_workbench(_planning.load_config(write_study(tmp_path)).setting)
    epochs, notes = workbench.setting.dense.epochs, list[str]()

    class Told(autoprune.api.Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    a_second_an_epoch = Pace(base_s=1 / workbench.work.n_examples, macs_s=0.0, overhead_s=0.0)
    for seconds_left in (None, 2.1 * epochs, 1.9 * epochs):
        _phases.warn_where_long(workbench, a_second_an_epoch, seconds_left, progress=Told())
    (note,) = notes
    assert note.startswith(f"the {epochs:g} epochs of [train.dense] take about {duration_text(epochs)} of the ")
