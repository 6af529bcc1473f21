"""The rows ``ours`` of the bench, called as a peer's script is: ``VARIANT STUDY.toml WALL_S OUT.json``.

It launches the study in the current folder for WALL_S seconds. After the clock has stopped, the networks of its front
are scored on the test split as they lie on disk: nothing is trained any more. Environment: DATA, a folder with
train.parquet and test.parquet; WEIGHTS, the dense weights; PRECISION; SEED; NETWORK, ``module:function``, where it is
another network than the study's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from optuna.trial import FrozenTrial
from search_scores import Point, busy_share, over_time

import autoprune
from autoprune.importing import import_named
from autoprune.pipeline import open_workbench

STORAGE = "sqlite:///study.db"
Tables = dict[str, Any]

_PLAIN = {"methods": ["magnitude"], "width_rules": ["global"], "macs_target": {"low": 0.05, "high": 0.9}}
VARIANTS: Mapping[str, Tables] = {
    "stock": {},
    "peers": {"train": {"finetune": {"learning_rate": 0.05, "distill": None}}},
    # What each part is worth: the stock study without it, or with something else in its place.
    "untaught": {"train": {"finetune": {"distill": None}}},
    "alone": {"study": {"inherit": False}, "space": _PLAIN, "train": {"finetune": {"epochs": 1.0}}},
    "damage": {"space": {**_PLAIN, "methods": ["damage"]}},
    "compensated": {"engine": {"compensate": True}},
}
"""What rows change of the kept study, key by key; None takes a key out."""


def changed(tables: Tables, changes: Tables) -> Tables:
    """Tables with some keys set, or taken out where the change says None."""
    found = dict(tables)
    for key, value in changes.items():
        if isinstance(value, dict):
            found[key] = changed(found.get(key, {}), value)
        elif value is None:
            found.pop(key, None)
        else:
            found[key] = value
    return found


def filled_in(tables: Tables, environment: Mapping[str, str], *, variant: str) -> Tables:
    """A study's tables with the paths, precision and seed of this run.

    Args:
        tables: Of the kept study file.
        environment: See the module.
        variant: One of `VARIANTS`.
    """
    machine = {
        "study": {"seed": int(environment["SEED"])},
        "network": {"weights": environment["WEIGHTS"], **_other_network(environment)},
        "data": {part: f"{environment['DATA']}/{part}.parquet" for part in ("train", "test")},
        "engine": {"precision": environment["PRECISION"]},
    }
    return changed(changed(tables, machine), VARIANTS[variant])


def _other_network(environment: Mapping[str, str]) -> Tables:
    factory = environment.get("NETWORK")
    return {"architecture": None, "factory": factory} if factory else {}


def as_toml(tables: Tables, *, above: str = "") -> str:
    """Tables of texts, numbers, truth values and lists of them as TOML."""
    own = {key: value for key, value in tables.items() if not isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in own.items()]  # What JSON writes of these is TOML.
    for key, value in tables.items():
        if isinstance(value, dict):
            lines.append(f"\n[{above}{key}]\n{as_toml(value, above=f'{above}{key}.')}")
    return "".join(lines)


def launched(file: Path, *, wall_s: float) -> tuple[float, float]:
    """Launch the study; when that was, in seconds since 1970, and how long it took to the end of the process."""
    start = time.time()
    limit = ["--time-limit", f"{wall_s:g}s", "--storage", STORAGE]
    done = subprocess.run([sys.executable, "-m", "autoprune", "launch", str(file), *limit], check=False)
    if done.returncode not in (0, 1):  # 1: the time was over before the study was.
        raise SystemExit(done.returncode)
    return start, time.time() - start


def front_of(study: autoprune.Study) -> list[Point]:
    """Test error and MACs ratio of each network on the study's front."""
    setting = study.config.setting
    workbench = open_workbench(setting)
    test = workbench.work.test()
    named = setting.network.factory
    factory = None if named is None else import_named(named, key="factory", what="function")
    return sorted(
        (1 - test.score(autoprune.load_model(row["weights"], factory=factory)), row["macs_ratio"])
        for row in study.front().to_dict("records")
    )


def found_by(trials: list[FrozenTrial], *, started: float, wall_s: float, concurrency: int) -> Tables:
    """What the trials say of the search itself.

    Args:
        trials: Of every state; those that are complete have accuracy and MACs ratio as values.
        started: When the study was launched, in seconds since 1970.
        wall_s: From there to the end of the process.
        concurrency: Trials at once.

    Returns:
        ``trials`` by state; ``first_s``, launch to the first trial; ``busy_share``; ``history``, see
        `search_scores.over_time`, on the validation split, in seconds since the launch.
    """
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    starts = [trial.datetime_start.timestamp() for trial in trials if trial.datetime_start is not None]
    ended = [
        (trial.datetime_complete.timestamp() - started, (1 - trial.values[0], trial.values[1]))
        for trial in complete
        if trial.datetime_complete is not None
    ]
    walls = [trial.user_attrs.get("wall_s", {}) for trial in complete]
    return {
        "trials": dict(Counter(trial.state.name for trial in trials)),
        "first_s": round(min(starts) - started, 1) if starts else None,
        "busy_share": round(busy_share(walls, concurrency=concurrency, wall_s=wall_s), 4),
        "history": [(round(at_s, 1), round(volume, 6)) for at_s, volume in over_time(ended)],
    }


def main() -> None:
    """Launch, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("study", type=Path)
    parser.add_argument("wall_s", type=float)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    tables = filled_in(tomllib.loads(args.study.read_text()), os.environ, variant=args.variant)
    file = Path("study.toml")
    file.write_text(as_toml(tables).lstrip())
    started, wall_s = launched(file, wall_s=args.wall_s)
    torch.set_num_threads(os.cpu_count() or 1)  # The clock has stopped.
    with autoprune.open_study(tables["study"]["name"], STORAGE) as study:
        concurrency = study.config.resources.concurrency or 1
        found = found_by(study.handle.trials(), started=started, wall_s=wall_s, concurrency=concurrency)
        if "COMPLETE" not in found["trials"]:
            raise SystemExit(f"at least one trial must be complete, but there are {found['trials'] or 'none at all'}.")
        found |= {"front": front_of(study), "validation_hypervolume": round(study.hypervolume(), 6)}
    args.out.write_text(json.dumps({"wall_s": round(wall_s, 1), **found}, indent=1))


if __name__ == "__main__":
    main()
