"""A launch that tells every experiment tracker of its trials, read back from what they wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import STUDY, Sandbox

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LOGGERS = '\n[loggers]\nuse = ["tensorboard", "mlflow", "wandb"]\nfolder = "logs"\n'


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run: a log in blocks of 32 KiB, as LevelDB writes one, behind a header of 7 bytes."""
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # A whole record, or the last part of one.
            record = proto.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def wandb_runs(folder: Path) -> dict[str, tuple[Any, list[dict[str, Any]]]]:
    """Each run and the steps of its history, by its name."""
    runs = {}
    for path in folder.glob("offline-run-*/*.wandb"):
        records = list(wandb_records(path))
        (run,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
        history = [record.history.item for record in records if record.WhichOneof("record_type") == "history"]
        steps = [{".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items} for items in history]
        runs[run.display_name] = run, steps
    return runs


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own use of SQLAlchemy.
def test_every_logger_shows_parameters_rungs_and_results(lone_sandbox: Sandbox) -> None:
    for package in ("tensorboard", "tensorboardX", "mlflow", "wandb"):
        pytest.importorskip(package)
    import mlflow
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lone_sandbox.write(n_trials=4, epochs=0.5, text=STUDY + LOGGERS)
    told = lone_sandbox.run("launch", "study.toml")
    logs = lone_sandbox.folder / "logs"
    assert f"logging to wandb: {logs}/wandb" in told
    assert "has failed" not in told
    trials = lone_sandbox.trials()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{logs}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    by_name, offline = {run.info.run_name: run for run in found}, wandb_runs(logs / "wandb")
    assert set(by_name) == set(offline) == {f"trial {trial.number}" for trial in trials}
    for trial in trials:
        attrs, name = trial.user_attrs, f"trial {trial.number}"
        rungs = {int(rung): score for rung, score in attrs["rungs"].items()}
        accuracy = {**rungs, max(rungs, default=0): trial.values[0]}

        events = EventAccumulator(str(logs / f"tensorboard/tiny/trial-{trial.number:05d}"))
        events.Reload()
        assert {e.step: e.value for e in events.Scalars("ray/tune/accuracy")} == pytest.approx(accuracy)
        assert events.Scalars("ray/tune/macs")[-1].value == pytest.approx(attrs["macs"])
        assert "_hparams_/session_start_info" in events.Tags()["tensors"] or events.summary_metadata

        run = by_name[name]
        assert (run.info.status, run.data.params["method"]) == ("FINISHED", trial.params["method"])
        steps = client.get_metric_history(run.info.run_id, "accuracy")
        assert {each.step: each.value for each in steps} == pytest.approx(accuracy)
        assert run.data.metrics["params"] == attrs["params"]
        assert run.data.metrics["wall_s.finetune"] == pytest.approx(attrs["wall_s"]["finetune"])

        run, history = offline[name]
        config = {entry.key: json.loads(entry.value_json) for entry in run.config.update}
        assert (run.run_group, config["macs_target"]) == ("tiny", trial.params["macs_target"])
        assert {each["_step"]: each["accuracy"] for each in history} == pytest.approx(accuracy)
        assert history[-1]["macs"] == attrs["macs"]


def test_runs_of_wandb_that_die_cost_no_trial(lone_sandbox: Sandbox) -> None:
    pytest.importorskip("wandb")
    lone_sandbox.write(n_trials=3, epochs=0.25)
    logs = lone_sandbox.folder / "autoprune_artifacts" / "logs"
    logs.mkdir(parents=True)
    (logs / "wandb").touch()  # A file where a folder has to be.
    told = lone_sandbox.run("launch", "study.toml", "--logger", "wandb")
    assert lone_sandbox.states() == ["COMPLETE"] * 3
    assert told.count("the logger 'wandb', which writes to") == 1
