"""What a worker is told of its trial."""

from __future__ import annotations

import dataclasses
from typing import Any

from autoprune.api._places import network_paths
from autoprune.api._reading import Study
from autoprune.config import Ancestor, SettingSpec, StudyConfig, TrialSpec
from autoprune.search.proposals import Space
from autoprune.search.storage import StudyHandle
from autoprune.search.trials import Claim, StoredTrial, lineage_of

__all__ = ["ancestors_of", "spec_in", "spec_of", "worker_config"]

_SPEC, _LEAST_S = "spec", 0.1


def spec_of(
    config: StudyConfig,
    space: Space,
    claim: Claim,
    *,
    setting: SettingSpec,
    ancestors: tuple[Ancestor, ...],
    data_digest: str | None = None,
) -> TrialSpec:
    """A claimed trial as its worker runs it.

    Args:
        config: Of the study.
        space: Its search space.
        claim: The trial.
        setting: Of the study, with what is known of this launch.
        ancestors: See `ancestors_of`.
        data_digest: Of the data, where it is known.
    """
    fields = space.trial_fields(claim.point)
    seed_number = claim.seed_number if claim.point.finetune_seed is None else claim.point.finetune_seed
    fields |= {"number": claim.number, "seed_number": seed_number}
    study = config.study.name
    return TrialSpec(setting=setting, study=study, ancestors=ancestors, data_digest=data_digest, **fields)


def ancestors_of(claim: Claim, record: StudyHandle) -> tuple[Ancestor, ...]:
    """The trials whose networks a claimed trial may start from, its parent first.

    Raises:
        StorageError: The database names a file outside of the study's folders.
    """
    if claim.point.parent is None:
        return ()
    trials = {trial.number: StoredTrial(trial) for trial in record.history()}
    line = lineage_of(trials[claim.point.parent], trials)[::-1]
    paths = network_paths(Study(record.db, record), [str(trial.weights) for trial in line])
    return tuple(
        Ancestor(number=trial.number, weights=str(path), sha256=str(trial.sha256))
        for trial, path in zip(line, paths, strict=True)
    )


def worker_config(spec: TrialSpec, *, left_s: float | None) -> dict[str, Any]:
    """A spec as plain data, with the seconds that are left of the launch; None where it has no time limit."""
    limit_s = None if left_s is None else max(left_s, _LEAST_S)
    return {_SPEC: dataclasses.replace(spec, time_limit_s=limit_s).to_dict()}


def spec_in(config: dict[str, Any]) -> TrialSpec:
    """The spec of what `worker_config` gave."""
    return TrialSpec.from_dict(config[_SPEC])
