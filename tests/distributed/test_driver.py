from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from autoprune.config import Progressed, ResourcesConfig
from autoprune.distributed import drive, plan_slots
from autoprune.errors import StudyFailedError, TrialStoppedError
from autoprune.search.dispatch import Dispatcher, FailureCaps, Goals, Stopping, WindDown
from autoprune.search.phases import PhaseRows
from autoprune.search.trials import Lifecycle
from tests.search import fakes

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]  # Ray and Tune warn of themselves.
OBJECTIVES = ("accuracy", "macs_ratio")


def execute(config, report):
    """A trial in a worker: behaves as its number's entry in ``behaviour`` says."""
    how = config["behaviour"].get(str(config["number"]), "complete")
    report(Progressed(phase="finetune", progress=0.1, rung=0, score=0.5, macs_ratio=0.5))
    if how == "raise":
        raise ValueError("no such luck")
    if how == "die":
        os._exit(1)
    if how == "hang":
        time.sleep(600)
    if how == "silent":
        return None
    if how == "nan":
        return {"accuracy": float("nan"), "macs_ratio": 0.5}
    if how == "linger":
        for step in range(600):
            time.sleep(0.1)
            report(Progressed(phase="finetune", progress=step / 600))
    if how == "slow":
        raise TrialStoppedError("too slow", {"latency_ms": 9.0})
    if how.startswith("known"):
        _, result_key, folder = how.split(" ")
        file = {"key": "layer1.0/conv", "place": "/x", "sha256": "s", "size_bytes": 1}
        report(Progressed(phase="sparsify", progress=1.0, phase_file=file))
        report(Progressed(phase="surgery", progress=0.0, macs_ratio=0.5, result_key=result_key))
        Path(folder, str(config["number"])).touch()  # Goes on to fine-tune.
    result = fakes.run_trial(config["point"])
    if how.startswith("meet"):
        import ray

        _, n, folder = how.split(" ")
        started = time.time()
        Path(folder, str(config["number"])).touch()
        while len(list(Path(folder).iterdir())) < int(n) and time.time() < started + 30:
            time.sleep(0.05)
        time.sleep(0.5)
        result |= {"from": started, "to": time.time(), "gpu_ids": [str(gpu) for gpu in ray.get_gpu_ids()]}
    return result


def run(
    study,
    cluster,
    tmp_path,
    *,
    behaviour=None,
    n_trials=5,
    concurrency=2,
    resources=None,
    time_limit_s=None,
    limits=None,
    trial_limit_s=None,
):
    lifecycle = Lifecycle(study, owner="me", n_trials=n_trials)
    dispatcher = Dispatcher(
        lifecycle,
        fakes.proposer(fakes.space(), n_trials=n_trials),
        wind_down=WindDown(lifecycle, caps=FailureCaps(3, 20), time_limit_s=time_limit_s),
        goals=Goals(OBJECTIVES, limits or {}),
        concurrency=concurrency,
        trial_limit_s=trial_limit_s,
    )

    def make_config(claim):
        return {"number": claim.number, "point": claim.attrs["point"], "behaviour": behaviour or {}}

    slots = plan_slots(cluster, resources or ResourcesConfig())
    with dispatcher:
        drive(dispatcher, execute=execute, make_config=make_config, slots=slots, scratch=tmp_path / "ray")
    return dispatcher


def reasons(study):
    return {t.number: t.user_attrs["reason"] for t in study.trials() if t.state is TrialState.FAIL}


def test_failing_silent_dying_and_nan_trials_are_recorded_and_the_study_goes_on(study, cluster, tmp_path):
    # The lost worker's second try is trial 5 or 6, whichever worker is quicker.
    behaviour = {"0": "raise", "2": "silent", "4": "die", "7": "nan"}
    dispatcher = run(study, cluster, tmp_path, behaviour=behaviour, n_trials=5)
    assert dispatcher.finished
    states = [trial.state for trial in study.trials()]
    assert states.count(TrialState.COMPLETE) == 5
    assert set(states) == {TrialState.COMPLETE, TrialState.FAIL}
    found = reasons(study)
    assert "ValueError: no such luck (at test_driver.py:" in found[0]
    assert "ended without reporting a result" in found[2]
    assert "the worker died" in found[4]
    assert "accuracy" in found[7]
    (again,) = [trial for trial in study.trials() if trial.user_attrs.get("retry_of") == 4]
    assert again.state is TrialState.COMPLETE
    complete = [trial.user_attrs for trial in study.trials() if trial.state is TrialState.COMPLETE]
    assert len({attrs["key"] for attrs in complete}) == 5
    assert len({(attrs["host"], attrs["node"]) for attrs in complete}) == 1
    assert not list((tmp_path / "ray").iterdir())  # Tune's own files are gone.


def test_a_trial_that_hangs_is_ended_and_tried_again(study, cluster, tmp_path):
    dispatcher = run(study, cluster, tmp_path, behaviour={"1": "hang"}, n_trials=3, trial_limit_s=6.0)
    assert dispatcher.finished
    ((number, reason),) = reasons(study).items()
    assert number == 1
    assert reason == "the trial took longer than `trial_time_limit`, 6 s, and was last heard of at finetune 10%"
    (again,) = [trial for trial in study.trials() if trial.user_attrs.get("retry_of") == 1]
    assert again.state is TrialState.COMPLETE


def test_a_broken_trainable_ends_the_study_with_the_first_error(study, cluster, tmp_path):
    with pytest.raises(StudyFailedError, match=r"3 of them in a row.*of trial \d: ValueError: no such luck"):
        run(study, cluster, tmp_path, behaviour={str(i): "raise" for i in range(99)}, n_trials=50)
    assert not [trial for trial in study.trials() if trial.state is TrialState.RUNNING]


def test_a_time_limit_stops_running_trials_with_their_best_rung(study, cluster, tmp_path):
    behaviour = {str(i): "linger" for i in range(2, 99)}
    dispatcher = run(study, cluster, tmp_path, behaviour=behaviour, n_trials=50, time_limit_s=8.0)
    assert dispatcher.stopping is Stopping.TIME
    states = [trial.state for trial in study.trials()]
    assert states[:3] == [TrialState.COMPLETE] * 2 + [TrialState.PRUNED]
    assert set(states[2:]) == {TrialState.PRUNED}  # two, unless the machine is slow to start workers
    assert study.trials()[2].user_attrs["partial_accuracy"] == 0.5


def test_a_result_that_is_known_stops_a_trial_before_it_is_computed_again(study, cluster, tmp_path):
    (computed := tmp_path / "computed").mkdir()
    behaviour = {str(number): f"known {number % 2} {computed}" for number in range(6)}
    run(study, cluster, tmp_path, behaviour=behaviour, n_trials=6, concurrency=1)
    trials = study.trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    assert sorted(path.name for path in computed.iterdir()) == ["0", "1"]
    assert [trial.user_attrs.get("taken_over_from") for trial in trials] == [None, None, 0, 1, 0, 1]
    assert [trial.values for trial in trials[2:]] == [trials[number].values for number in (0, 1, 0, 1)]
    # Names with dots and slashes in them arrive as they were sent.
    assert [row.key for row in PhaseRows(study.db).by_last_use()] == ["layer1.0/conv"]


def test_a_trial_that_ends_early_by_itself_is_stopped_and_says_where_it_ran(study, cluster, tmp_path):
    import ray

    run(study, cluster, tmp_path, behaviour={"0": "slow"}, n_trials=1, limits={"latency_ms": 4.0, "macs_ratio": 1.0})
    (stopped,) = study.trials()
    assert stopped.state is TrialState.PRUNED
    assert stopped.user_attrs["stop_reason"] == "too slow"
    assert stopped.constraints == {"latency_ms": 5.0, "macs_ratio": -0.5}
    assert stopped.user_attrs["host"] == socket.gethostname()
    assert stopped.user_attrs["node"] == ray.get_runtime_context().get_node_id()


@pytest.mark.parametrize(
    ("resources", "most"),
    [
        (ResourcesConfig(cpu=0.25, gpu=0.5), 2),
        (ResourcesConfig(cpu=0.25, gpu=0.3), 3),
        (ResourcesConfig(cpu=0.25, memory_gb=3), 1),
    ],
)
def test_no_more_trials_at_once_than_fit_on_the_device_and_in_memory(study, cluster, tmp_path, resources, most):
    assert plan_slots(cluster, resources).concurrency == most
    # The driver itself would run five, as two drivers that share the cluster do.
    (meeting := tmp_path / "meeting").mkdir()
    behaviour = {str(number): f"meet {most} {meeting}" for number in range(6)}
    run(study, cluster, tmp_path, behaviour=behaviour, n_trials=6, concurrency=5, resources=resources)
    facts = [trial.user_attrs for trial in study.trials()]
    at_once = [sum(other["from"] <= one["from"] < other["to"] for other in facts) for one in facts]
    assert max(at_once) == most
    assert [one["gpu_ids"] for one in facts] == [["0"] if resources.gpu else []] * 6


def test_the_scratch_folder_names_its_driver(study, cluster, tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr("autoprune.distributed.driver.remove_scratch", left.append)
    run(study, cluster, tmp_path, n_trials=1)
    (scratch,) = (tmp_path / "ray").iterdir()
    assert left == [scratch]
    assert scratch.name.startswith("tune-")
    assert (scratch / "owner").read_text() == "me"
