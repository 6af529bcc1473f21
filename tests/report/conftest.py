"""Studies made up by hand, and one browser for all tests that look at them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from autoprune.report import (
    Axis,
    Group,
    Growth,
    Importance,
    ImportanceTable,
    StudyFacts,
    TestedScore,
    TrialFacts,
)
from tests.chromium import Browser, chromium

GROUPS = (Group("conv1", 16, "stage1"), Group("layer1.conv1", 16, "stage1"), Group("layer2.conv1", 32, "stage2"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def make_trial(number: int, score: float, cost: float, **changes: object) -> TrialFacts:
    """A complete trial whose widths are as wide as it is costly."""
    facts: dict[str, object] = {
        "number": number,
        "state": "COMPLETE",
        "values": {"accuracy": score, "macs_ratio": cost, "params_ratio": cost, "latency_ms": 2 + 8 * cost,
                   "latency_ratio": 0.2 + 0.8 * cost},
        "searched": {"method": "slimming", "width_rule": "global", "macs_target": cost, "strength": 0.001 + number},
        "rungs": (score - 0.2, score - 0.05, score),
        "images": 1000,
        "lineage_images": 1000,
        "started_s": 1000.0 + 10 * number,
        "ended_s": 1015.0 + 10 * number,
        "host": "here",
        "seconds": {"finetune": 12.0},
        "widths": {group.name: max(1, round(group.width * cost)) for group in GROUPS},
        "why": "random",
    }  # fmt: skip
    return TrialFacts(**{**facts, **changes})  # type: ignore[arg-type]


def make_study(name: str = "made up", *, shift: float = 0.0, **changes: object) -> StudyFacts:
    """Five trials on a front, two dominated, one beyond a limit, one stopped, one failed, one running."""
    trials = [
        make_trial(0, 0.95 + shift, 0.8),
        make_trial(1, 0.93 + shift, 0.5, started_from=0, depth=1, lineage_images=2000,
                   tested=TestedScore(0.92, 0.01, 3, None)),
        make_trial(2, 0.90 + shift, 0.3, started_from=1, depth=2, lineage_images=3000,
                   tested=TestedScore(0.91, None, 1, False)),
        make_trial(3, 0.85 + shift, 0.2, searched={"method": "magnitude", "width_rule": "uniform", "macs_target": 0.2}),
        make_trial(4, 0.70 + shift, 0.1),
        make_trial(5, 0.80 + shift, 0.45, searched={"method": "slimming", "width_rule": "uniform", "macs_target": 0.4}),
        make_trial(6, 0.10, 0.6),
        make_trial(7, 0.96 + shift, 0.9, keeps_limits=False),
        make_trial(8, 0.5, 0.4, state="PRUNED", rungs=(0.4, 0.5), reason="rung 1: behind the others"),
        TrialFacts(number=9, state="FAIL", values={}, searched={"method": "slimming"}, started_s=1100.0, ended_s=1101.0,
                   reason="the loss became nan"),
        TrialFacts(number=10, state="RUNNING", values={}, searched={"method": "slimming"}, started_s=1105.0),
    ]  # fmt: skip
    facts: dict[str, object] = {
        "name": name,
        "about": (("Network", "resnet"),),
        "metric": "accuracy",
        "metric_is_maximised": True,
        "metric_digits": 4,
        "objectives": ("accuracy", "macs_ratio"),
        "cost": "macs_ratio",
        "reference_point": {"accuracy": 0.0, "macs_ratio": 1.0},
        "limits": {"params": 50_000.0},
        "n_wanted": 12,
        "trials": {trial.number: trial for trial in trials},
        "front": (4, 3, 2, 1, 0),
        "uniform_front": (3,),
        "dense_score": 0.96,
        "groups": GROUPS,
        "axes": {"macs_target": Axis(0.1, 0.9), "strength": Axis(1e-4, 1e-1, is_log=True)},
        "growth": tuple(Growth(n, 15.0 * (n + 1), 0.1 * (n + 1)) for n in range(5)),
        "importances": (
            ImportanceTable("accuracy", (Importance("macs_target", 0.7), Importance("method", 0.3))),
            ImportanceTable("macs_ratio", note="Too few trials to tell."),
        ),
        "devices": "1 CPU",
    }  # fmt: skip
    return StudyFacts(**{**facts, **changes})  # type: ignore[arg-type]
