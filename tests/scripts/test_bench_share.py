"""`scripts/bench share`: what workers did, told by the trials."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from bench_share import timeline_of
from optuna.trial import FrozenTrial, TrialState

from autoprune.search.trials import StoredTrial

_DAY = datetime(2026, 11, 30, 12)


def trial(begin: float, end: float | None, **attrs: object) -> StoredTrial:
    moments = [None if s is None else _DAY + timedelta(seconds=s) for s in (begin, end)]
    state = TrialState.RUNNING if end is None else TrialState.PRUNED
    return StoredTrial(
        FrozenTrial(
            number=0,
            trial_id=0,
            state=state,
            value=None,
            values=None,
            params={},
            distributions={},
            datetime_start=moments[0],
            datetime_complete=moments[1],
            user_attrs=attrs,
            system_attrs={},
            intermediate_values={},
        )
    )


def test_the_share_of_two_workers_time() -> None:
    trials = [
        trial(0, 60, wall_s={"finetune": 50.0, "scoring": 5.0}),
        trial(5, 65, wall_s={"sparsify": 30.0, "finetune": 25.0}),
        trial(60, 100, wall_s={"finetune": 35.0, "save": 1.0}),  # in the place of the first
        trial(65, 66, taken_over_from=1, wall_s={"finetune": 99.0}),  # computed nothing
        trial(70, None),  # still runs
    ]
    found = timeline_of(trials)
    assert (found.n_workers, found.span_s) == (2, 100)
    assert found.share == pytest.approx((50 + 55 + 35) / 200)
    assert found.between == pytest.approx(1 - 146 / 200)
