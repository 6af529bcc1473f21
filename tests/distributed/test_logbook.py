"""What experiment trackers are told, read back from what they wrote."""

from __future__ import annotations

import os
import re
import sys

import pytest
from optuna.trial import TrialState

from autoprune.config import LoggersConfig, Progressed, ResourcesConfig
from autoprune.distributed import Destination, drive, plan_slots, require_loggers
from autoprune.distributed.logbook import facts_to_log, params_to_log
from autoprune.errors import ConfigError
from autoprune.search.dispatch import Dispatcher, FailureCaps, Goals, WindDown
from autoprune.search.trials import Lifecycle, Point
from tests.search import fakes

# Ray, Tune and the trackers warn of themselves.
with_ray = [pytest.mark.ray, pytest.mark.filterwarnings("default")]
OBJECTIVES = ("accuracy", "macs_ratio")


def test_what_is_told_of_a_point():
    plain = Point("slimming", "uniform", 0.5, {"strength": 0.01, "form": "prox"})
    told = {"method": "slimming", "width_rule": "uniform", "macs_target": 0.5}
    told |= {"slimming.strength": 0.01, "slimming.form": "prox"}
    assert params_to_log(plain) == told
    rich = Point("l1", "per_stage", 0.25, {}, {"stage1": 1.5}, parent=0, epochs=2.5, recipe={"distill.weight": 0.9})
    assert params_to_log(rich) == {
        "method": "l1", "width_rule": "per_stage", "macs_target": 0.25, "per_stage.stage1": 1.5,
        "finetune.distill.weight": 0.9, "epochs": 2.5, "parent": 0,
    }  # fmt: skip


def test_what_is_told_of_a_result():
    attrs = {
        "accuracy": 0.9, "macs": 1000, "latency_ms": 2.5, "widths": {"conv1": 7}, "rungs": {"0": 0.5, "1": 0.9},
        "weights": "7.safetensors", "started_from": 3, "wall_s": {"dense": 0.5, "finetune": 3.0},
    }  # fmt: skip
    assert facts_to_log(attrs) == {
        "accuracy": 0.9, "macs": 1000.0, "latency_ms": 2.5, "started_from": 3.0, "wall_s.dense": 0.5,
        "wall_s.finetune": 3.0,
    }  # fmt: skip


def test_places(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    to = Destination(LoggersConfig(use=("tensorboard", "mlflow")), "digits", "accuracy", "/a")
    assert (to.place("tensorboard"), to.place("mlflow")) == ("/a/logs/tensorboard", "sqlite:////a/logs/mlflow.db")
    assert str(to.trial_folder(7)) == "/a/logs/tensorboard/digits/trial-00007"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@there:5000/x")
    assert (to.mlflow_uri, to.place("mlflow")) == ("https://me:secret@there:5000/x", "https://***@there:5000/x")
    own = Destination(LoggersConfig(use=("wandb",), folder="/b", mlflow_uri="http://x:1"), "digits", "accuracy", "/a")
    assert (own.place("wandb"), own.place("mlflow"), str(own.trial_folder(7))) == ("/b/wandb", "http://x:1", "/b")


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow"), ("wandb", "wandb")]
)
def test_a_logger_that_is_not_installed(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # As Python has it for what can't be imported.
    told = f"the logger {name!r} needs the package {package}, which is not installed. `pip install 'autoprune[{name}]'`"
    with pytest.raises(ConfigError, match=re.escape(told)):
        require_loggers(LoggersConfig(use=(name,)))
    require_loggers(LoggersConfig())


# Real runs


def execute(config, report):
    """A trial in a worker: two rungs, then its result, unless its behaviour says otherwise."""
    number = config["number"]
    result = fakes.run_trial(config["point"])
    for rung in (0, 1):
        report(
            Progressed(phase="finetune", progress=rung / 2, rung=rung, score=rung / 4 + number / 100, macs_ratio=0.5)
        )
    if number == config.get("raises"):
        raise ValueError("no such luck")
    return {**result, "rungs": {"0": 0.0, "1": 0.25, "2": result["accuracy"]}, "wall_s": {"finetune": 1.5}}


def run(study, cluster, tmp_path, *, use, n_trials=2, raises=None, **places):
    """Drive a study with loggers; returns what the driver warned of."""
    lifecycle, warnings = Lifecycle(study, owner="me", n_trials=n_trials), []
    dispatcher = Dispatcher(
        lifecycle,
        fakes.proposer(fakes.space(), n_trials=n_trials),
        wind_down=WindDown(lifecycle, caps=FailureCaps(3, 20)),
        goals=Goals(OBJECTIVES, {}),
        concurrency=2,
    )

    def make_config(claim):
        return {"number": claim.number, "point": claim.attrs["point"], "raises": raises}

    with dispatcher:
        drive(
            dispatcher,
            execute=execute,
            make_config=make_config,
            slots=plan_slots(cluster, ResourcesConfig()),
            scratch=tmp_path / "ray",
            log_to=Destination(LoggersConfig(use=use, **places), "s", "accuracy", str(tmp_path)),
            warn=warnings.append,
        )
    return warnings


def scalars(folder):
    """What TensorBoard shows of a run: by tag, its steps and values."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def mlflow_runs(uri):
    """What MLflow shows of experiment ``s``, by the runs' names."""
    client = pytest.importorskip("mlflow").MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    steps = {r.info.run_name: client.get_metric_history(r.info.run_id, "accuracy") for r in runs}
    return {r.info.run_name: (r, [(m.step, m.value) for m in steps[r.info.run_name]]) for r in runs}


class TestRuns:
    pytestmark = with_ray

    @pytest.mark.slow
    def test_tensorboard_and_mlflow_show_parameters_rungs_and_results(self, study, cluster, tmp_path):
        pytest.importorskip("tensorboard")
        pytest.importorskip("mlflow")
        assert run(study, cluster, tmp_path, use=("tensorboard", "mlflow"), n_trials=2, raises=1) == []
        complete = [trial for trial in study.trials() if trial.state is TrialState.COMPLETE]
        assert [trial.number for trial in complete] == [0, 2]
        runs = mlflow_runs(f"sqlite:///{tmp_path}/logs/mlflow.db")
        assert sorted(runs) == ["trial 0", "trial 1", "trial 2"]
        for trial in complete:
            number, (accuracy, ratio) = trial.number, trial.values
            shown = scalars(tmp_path / f"logs/tensorboard/s/trial-{number:05d}")
            steps = [(0, number / 100), (1, 0.25 + number / 100), (2, accuracy)]
            assert shown["ray/tune/accuracy"] == [(step, pytest.approx(value)) for step, value in steps]
            assert shown["ray/tune/macs_ratio"][-1] == (2, pytest.approx(ratio))
            assert shown["ray/tune/wall_s.finetune"] == [(2, 1.5)]
            found, history = runs[f"trial {number}"]
            assert history == [(step, pytest.approx(value)) for step, value in steps]
            assert found.info.status == "FINISHED"
            assert found.data.params == {key: str(value) for key, value in trial.params.items()}
            assert found.data.metrics["macs_ratio"] == pytest.approx(ratio)
        failed, history = runs["trial 1"]
        assert (failed.info.status, [step for step, _ in history]) == ("FAILED", [0, 1])

    def test_a_logger_that_fails_is_told_of_once_and_costs_no_trial(self, study, cluster, tmp_path, monkeypatch):
        pytest.importorskip("tensorboard")
        pytest.importorskip("mlflow")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        uri = "http://127.0.0.1:9"  # Nobody listens there: this one can't even start.
        place = tmp_path / "logs/tensorboard/s"
        place.mkdir(parents=True)
        (place / "trial-00001").touch()  # A file where a folder has to be: this one fails under way.
        warnings = run(study, cluster, tmp_path, use=("mlflow", "tensorboard"), mlflow_uri=uri, n_trials=3)
        assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 3
        first, second = warnings
        assert first.startswith(f"the logger 'mlflow', which writes to {uri}, has failed and is told nothing more: ")
        assert second.startswith(f"the logger 'tensorboard', which writes to {tmp_path}/logs/tensorboard, has failed")
        assert "trial-00001" in second
        assert not (place / "trial-00002").exists()
        assert "MLFLOW_TRACKING_URI" not in os.environ  # Where MLflow leaves it for the next study to find.
