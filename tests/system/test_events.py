"""The log of a real study tells its whole history, and joins with the database."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.system.conftest import Sandbox


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_is_told_from_its_log(sandbox: Sandbox) -> None:
    sandbox.write(n_trials=5, epochs=0.3)
    first = sandbox.start("launch", "study.toml", "--log", "events.jsonl", "--concurrency", "2")
    sandbox.wait_for(lambda states: "COMPLETE" in states)
    os.kill(first.pid, signal.SIGINT)
    assert first.wait(timeout=120) == 130, sandbox.output(first)
    sandbox.run("resume", "tiny", "--log", "events.jsonl", "--concurrency", "2")

    lines = [json.loads(line) for line in (sandbox.folder / "events.jsonl").read_text().splitlines()]
    assert {line["study"] for line in lines} == {"tiny"}
    by_owner: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_owner.setdefault(line["owner"], []).append(line)
    one, two = by_owner.values()
    assert [one[0]["event"], one[-1]["event"], two[0]["event"], two[-1]["event"]] == ["launch", "end", "launch", "end"]
    assert (one[-1]["why"], one[-1]["finished"]) == ("interrupted", False)
    assert "signal" in {line["event"] for line in one}
    assert (two[-1]["finished"], two[-1]["n_finished"]) == (True, 5)

    events = Counter(line["event"] for line in lines)
    assert events.keys() >= {"launch", "proposal", "claim", "start", "report", "tell", "phase", "retention", "end"}
    trials = {trial._trial_id: trial for trial in sandbox.trials()}
    assert {line["trial_id"] for line in lines if line["event"] == "claim"} == trials.keys()
    told = {line["trial_id"]: line for line in lines if line["event"] == "tell"}
    assert told.keys() == trials.keys()  # Each trial ended once, and its end was told.
    for trial_id, trial in trials.items():
        line = told[trial_id]
        assert line["trial"] == trial.number
        assert line["owner"] == trial.user_attrs["owner"]
        state = {"complete": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL", "released": "FAIL"}[line["verdict"]]
        assert state == trial.state.name
        if trial.state is TrialState.COMPLETE:
            assert line["values"] == trial.values
    again = {line["trial_id"]: line["again"] for line in lines if line["event"] == "retry"}
    assert again == {
        next(i for i, t in trials.items() if t.number == trial.user_attrs["retry_of"]): trial_id
        for trial_id, trial in trials.items()
        if "retry_of" in trial.user_attrs
    }
