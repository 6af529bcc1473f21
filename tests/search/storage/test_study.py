from __future__ import annotations

import json
import math
import os
import pickle
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import load_study
from optuna.trial import TrialState, create_trial

from autoprune.errors import ConfigError, IdentityError, StorageError
from autoprune.search.storage import Database, StudyHandle, StudyRow, list_studies, schema
from autoprune.search.trials import Claim, Lifecycle, Proposal

GOALS = ["maximize", "minimize"]
IDENTITY = {"network": {"name": "resnet20", "classes": 10}, "split": [1, 2, 3], "precision": "bf16"}


def make(db: Database, **changes: Any) -> StudyHandle:
    arguments: dict[str, Any] = {
        "name": "digits",
        "identity": IDENTITY,
        "config": {"n_trials": 3, "space": {"keep": [0.1, 1.0]}},
        "directions": GOALS,
    }
    return StudyHandle.create_or_join(db, **(arguments | changes))


def revisions(db: Database) -> list[tuple[int, dict[str, Any], str]]:
    with db.reading() as connection:
        rows = connection.execute(sa.select(schema.revisions).order_by(schema.revisions.c.number)).all()
    return [(row.number, json.loads(row.config), row.note) for row in rows]


def test_a_new_study(db: Database, clock: Any) -> None:
    study = make(db)
    assert (study.name, study.identity, study.revision) == ("digits", IDENTITY, 1)
    assert study.config == {"n_trials": 3, "space": {"keep": [0.1, 1.0]}}
    assert (study.objectives, study.directions) == (("accuracy", "macs_ratio"), ("maximize", "minimize"))
    assert repr(study) == f"StudyHandle('digits', revision=1, db={db!r})"
    assert list_studies(db) == [StudyRow("digits", n_finished=0, n_running=0, n_failed=0, created_at=clock.now)]
    assert revisions(db) == [(1, study.config, "first")]


def test_optunas_own_tools_see_the_study_and_its_metric_names(db: Database) -> None:
    study = make(db, objectives=("top1", "cost"))
    optunas = load_study(study_name="digits", storage=db.storage)
    assert optunas._study_id == study.study_id
    assert optunas.metric_names == ["top1", "cost"]
    assert [direction.name for direction in optunas.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_joining_the_same_study_adds_no_revision(db: Database) -> None:
    first, second = make(db), make(db, identity=IDENTITY | {"split": (1, 2, 3)})
    assert (first.study_id, first.revision) == (second.study_id, second.revision)
    assert len(revisions(db)) == 1


def test_another_config_is_a_new_revision_that_says_what_changed(db: Database) -> None:
    first = make(db)
    config = {"n_trials": 5, "space": {"keep": [0.1, 1.0]}, "stopper": None}
    second = make(db, config=config)
    assert (second.revision, second.config) == (2, config)
    assert revisions(db)[1] == (2, config, "changed: n_trials, stopper")
    assert (first.revision, first.config["n_trials"]) == (1, 3)
    third = make(db)
    assert (third.revision, revisions(db)[2][2]) == (3, "changed: n_trials, stopper")
    assert StudyHandle.open(db, "digits").revision == 3
    assert first.revisions() == {1: first.config, 2: config, 3: first.config}  # those of others, too


def test_another_identity_is_refused_with_both_sides(db: Database) -> None:
    make(db)
    other = {"network": {"name": "vgg16", "classes": 10}, "split": list(range(100)), "device": "cpu"}
    with pytest.raises(IdentityError) as caught:
        make(db, identity=other)
    assert str(caught.value) == (
        "the study 'digits' must stay the study that it was, but `device` is absent there and \"cpu\" here; "
        '`network.name` is "resnet20" there and "vgg16" here; `precision` is "bf16" there and absent here; '
        "`split` is [1, 2, 3] there and [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16... here. "
        "Choose another name for the new study, or put the old values back."
    )
    assert len(revisions(db)) == 1


@pytest.mark.parametrize(
    "other",
    [{"directions": ["minimize", "minimize"]}, {"objectives": ["macs_ratio", "accuracy"]},
     {"directions": ["maximize"], "objectives": ["accuracy"]}],
)  # fmt: skip
def test_other_objectives_are_another_identity(db: Database, other: dict[str, Any]) -> None:
    make(db)
    with pytest.raises(
        IdentityError, match=r"but `objectives` is \[\"accuracy: maximize\", \"macs_ratio: minimize\"\] th"
    ):
        make(db, **other)


def test_a_study_of_another_metric_or_direction_is_another(db: Database) -> None:
    rmse = {"objectives": ["rmse", "macs_ratio"], "directions": ["minimize", "minimize"]}
    first = make(db, name="regression", **rmse)
    assert make(db, name="regression", **rmse).study_id == first.study_id
    for other, told in [
        ({"objectives": ["mae", "macs_ratio"]}, '["mae: minimize", "macs_ratio: minimize"] here'),
        ({"directions": ["maximize", "minimize"]}, '["rmse: maximize", "macs_ratio: minimize"] here'),
    ]:
        with pytest.raises(IdentityError) as caught:
            make(db, name="regression", **{**rmse, **other})
        assert f'`objectives` is ["rmse: minimize", "macs_ratio: minimize"] there and {told}' in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"directions": ["maximise", "minimize"]}, r"`directions` must give 'maximize' or 'minimize' for every obj"),
        (
            {"directions": ["maximize"]},
            r"but got directions=\['maximize'\] for objectives=\['accuracy', 'macs_ratio'\]",
        ),
        ({"directions": [], "objectives": []}, r"`directions` must give"),
        ({"objectives": ["a", "a"]}, r"`directions` must give"),
        ({"name": ""}, r"a study's name must be 1 to 200 printable characters, but got ''"),
        ({"name": "a\nb"}, r"a study's name must be"),
        ({"name": "a" * 201}, r"a study's name must be"),
        ({"identity": {"a": {1, 2}}}, r"`identity` must hold JSON values only, but Object of type set"),
        ({"config": {"a": float("nan")}}, r"`config` must hold JSON values only, but Out of range float"),
    ],
)
def test_wrong_arguments(db: Database, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(db, **wrong)
    assert list_studies(db) == []


def test_opening_what_is_not_there(db: Database) -> None:
    with pytest.raises(StorageError, match=r"there is no study 'digits'\. Valid: none\."):
        StudyHandle.open(db, "digits")
    make(db)
    make(db, name="cifar")
    with pytest.raises(StorageError, match=r"no study 'digit'; did you mean 'digits'\? Valid: cifar, digits\."):
        StudyHandle.open(db, "digit")


def test_a_study_is_opened_and_listed_read_only(db: Database, url: str) -> None:
    made = make(db)
    reader = Database.open_readonly(url)
    study = StudyHandle.open(reader, "digits")
    assert (study.identity, study.config, study.objectives) == (made.identity, made.config, made.objectives)
    assert study.trials() == []
    assert [row.name for row in list_studies(reader)] == ["digits"]
    with pytest.raises(StorageError, match="opened to read only"):
        study.request_stop()
    reader.close()


def test_a_creation_killed_between_optunas_part_and_ours_is_taken_up(db: Database, monkeypatch: Any) -> None:
    class KilledError(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("autoprune.search.storage.study._add_revision", killed)
        with pytest.raises(KilledError):
            make(db)
    assert list_studies(db) == []
    with pytest.raises(IdentityError, match=r"the name 'digits' must be free, but .* has an Optuna study of that name"):
        make(db, directions=["minimize", "minimize"])
    study = make(db)
    assert study.revision == 1
    assert len(db.storage.get_all_studies()) == 1


def test_threads_that_create_the_same_study(url: str) -> None:
    dbs = [Database.open(url, create=False) for _ in range(4)]
    found: list[tuple[int, int]] = []

    def work(i: int) -> None:
        study = make(dbs[i], config={"n_trials": i})
        found.append((study.study_id, study.revision))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({study_id for study_id, _ in found}) == 1
    assert sorted(revision for _, revision in found) == [1, 2, 3, 4]
    for db in dbs:
        db.close()


def test_the_list_counts_trials_by_state(db: Database) -> None:
    study, other = make(db), make(db, name="other")
    lifecycle = Lifecycle(study, owner="a", n_trials=9)
    ids = []
    for x in range(6):
        claim = lifecycle.claim(Proposal({"x": x}, {"x": IntDistribution(0, 9)}, f"key {x}"))
        assert isinstance(claim, Claim)
        ids.append(claim.trial_id)
    lifecycle.complete(ids[0], [0.5, 0.5], {})
    lifecycle.stopped(ids[1], {})
    lifecycle.failed(ids[2], "broken")
    lifecycle.release(ids[3], "interrupted")
    rows = {row.name: row for row in list_studies(db)}
    assert (rows["digits"].n_finished, rows["digits"].n_running, rows["digits"].n_failed) == (2, 2, 2)
    assert rows["other"] == StudyRow("other", 0, 0, 0, rows["other"].created_at)
    assert other.trials() == []


def test_trials_see_what_others_wrote(db: Database, url: str) -> None:
    study = make(db)
    lifecycle = Lifecycle(study, owner="a", n_trials=9)
    claim = lifecycle.claim(Proposal({"x": 1}, {"x": IntDistribution(0, 9)}, "key"))
    assert isinstance(claim, Claim)
    second = Database.open(url, create=False)
    seen = StudyHandle.open(second, "digits")
    assert [trial.state for trial in seen.trials()] == [TrialState.RUNNING]
    lifecycle.complete(claim.trial_id, [0.5, 0.25], {"macs": 7})
    (trial,) = seen.trials()
    assert (trial.state, trial.values, trial.user_attrs["macs"]) == (TrialState.COMPLETE, [0.5, 0.25], 7)
    assert seen.trials()[0] is trial
    second.close()


def test_trials_are_optunas_own_records(db: Database, url: str) -> None:
    study, other = make(db), make(db, name="other")
    lifecycle = Lifecycle(study, owner="a", n_trials=9)
    space: dict[str, BaseDistribution] = {
        "lam": FloatDistribution(1e-4, 1.0, log=True),
        "x": IntDistribution(0, 9),
        "m": CategoricalDistribution(["a", None]),
    }
    params = [{"lam": 0.1 * x, "x": x, "m": None if x % 2 else "a"} for x in range(1, 7)]
    taken = [lifecycle.claim(Proposal(given, space, str(given["x"]), {"point": {"x": 1}})) for given in params]
    ids = [claim.trial_id for claim in taken if isinstance(claim, Claim)]
    Lifecycle(other, owner="a", n_trials=9).claim(Proposal({}, {}, "key"))
    seen = StudyHandle.open(Database.open_readonly(url), "digits")
    steps: list[Callable[[], object]] = [
        lambda: lifecycle.complete(
            ids[1], [0.5, 0.25], {"macs": 7, "widths": {"conv": [1, 2]}, "nothing": float("nan")}
        ),
        lambda: lifecycle.stopped(ids[5], {"rungs": {"0": 0.5}}),
        lambda: lifecycle.failed(ids[0], "worker lost", retry=True),
        lambda: lifecycle.claim_waiting(),
        lambda: lifecycle.failed(ids[2], "broken"),
        lambda: lifecycle.complete(ids[3], [0.0, 1.0], {}),
        lambda: db.storage.create_new_trial(
            study.study_id, create_trial(values=[float("inf"), -float("inf")], state=TrialState.COMPLETE)
        ),
    ]
    odd = {'a, "quoted" \\ key': {"é": [None, '"}']}, "": "\n"}  # As another tool may write them.

    def tag() -> None:
        for key, value in odd.items():
            db.storage.set_trial_user_attr(ids[4], key, value)

    for step in (*steps, tag):
        step()
        assert seen.trials() == db.storage.get_all_trials(study.study_id)
    assert seen.trials()[0].params == {"lam": 0.1, "x": 1, "m": None}
    assert seen.trials()[1].user_attrs["nothing"] is None
    db.storage.set_trial_user_attr(ids[4], "nan", float("nan"))  # Which is no JSON.
    assert math.isnan(seen.trials()[4].user_attrs["nan"])
    seen.db.close()


def test_a_record_knows_what_another_one_has_read(db: Database, url: str) -> None:
    study, other = make(db), make(db, name="other")
    lifecycle = Lifecycle(study, owner="a", n_trials=9)
    claims = [lifecycle.claim(Proposal({}, {}, key)) for key in ("one", "two")]
    ids = [claim.trial_id for claim in claims if isinstance(claim, Claim)]
    lifecycle.complete(ids[0], [0.5, 0.25], {})
    second = Database.open_readonly(url)
    ahead = StudyHandle.open(second, "digits")
    one, two = ahead.history()
    second.close()
    study.know(ahead)
    lifecycle.complete(ids[1], [0.5, 0.125], {})
    history = study.history()
    assert history[0] is one  # Read once; what ran then is read again.
    assert [trial.values for trial in history] == [[0.5, 0.25], [0.5, 0.125]]
    assert two.values is None
    with pytest.raises(ValueError, match="another study"):
        other.know(ahead)


def test_stop_requests(db: Database, clock: Any) -> None:
    study, other = make(db), make(db, name="other")
    started = clock.now
    assert not study.stop_requested_since(started)
    clock.now += 5
    study.request_stop()
    assert study.stop_requested_since(started)
    assert study.stop_requested_since(clock.now)
    assert not study.stop_requested_since(clock.now + 1)
    assert not other.stop_requested_since(0)


def test_drivers_enter_and_leave(db: Database, clock: Any) -> None:
    study, other = make(db), make(db, name="other")
    study.enter("a")
    clock.now += 1
    study.enter("b")
    other.enter("c")
    clock.now += 1
    study.leave("a")
    study.leave("c")
    first, second = study.drivers()
    assert (first.owner, first.host, first.pid) == ("a", socket.gethostname(), os.getpid())
    assert (first.started_at, first.seen_at, first.left_at) == (1_000, 1_002, 1_002)
    assert (second.owner, second.started_at, second.left_at) == ("b", 1_001, None)
    assert [row.left_at for row in other.drivers()] == [None]
    study.enter("a")
    assert {row.owner: row.left_at for row in study.drivers()} == {"a": None, "b": None}


def test_pickling_is_refused(db: Database) -> None:
    with pytest.raises(TypeError, match="a Database can't be pickled"):
        pickle.dumps(make(db))
