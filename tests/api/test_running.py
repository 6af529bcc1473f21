"""What a launch makes of a study's configuration before its first trial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autoprune.api import _planning, _running
from autoprune.config import StudyConfig
from autoprune.errors import IdentityError
from autoprune.pipeline import open_workbench
from autoprune.search.proposals import Proposer
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Point
from tests.conftest import FinishedStudy

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
    return _running._proposer(config, space, record, planner=None, has_phase=lambda point: False), record


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
    spec = _running._spec(config, _planning.space_of(config, workbench), claim, config.setting, ancestors=())
    assert spec.multipliers == {
        "conv1": 0.5, "layer1.0.conv1": 0.5, "layer2.0.conv1": 1.0,
        "layer2.0.conv2": 1.0, "layer3.0.conv1": 1.5, "layer3.0.conv2": 1.5,
    }  # fmt: skip
    assert (spec.params_limit, spec.latency_limit_ms, spec.number, spec.seed_number) == (30_000, 20.0, 7, 5)
